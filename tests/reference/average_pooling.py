"""Twin of lcn_tf/interest/average_pooling.py."""

import numpy as np

from tests.reference import masked
from tests.reference.behaviours import behaviour_row, side_width


def average_pooling(candidates, behaviours):
  width = behaviours.embedding.shape[-1] + side_width(behaviours)
  requests, count = candidates.times.shape
  output = np.zeros([requests, count, width])
  for b in range(requests):
    for n in range(count):
      rows = [behaviour_row(candidates, behaviours, b, n, i) for i in masked.visible(behaviours.visible[b, n])]
      output[b, n] = masked.mean(rows, width)
  return output
