"""Which behaviours an extractor's result depends on."""

import numpy as np
import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.structures import Behaviours, Candidates
from tests.support.layers import tensors

_EVERYTHING = slice(None)


def behaviours_read(
  layer: keras.layers.Layer, candidates: Candidates, behaviours: Behaviours, columns: slice = _EVERYTHING
) -> dict[tuple[int, int], set[int]]:
  """The behaviours whose item embeddings get gradient from candidate n of request b, by (b, n).

  Args:
    layer: Extractor.
    candidates: Candidates, arrays.
    behaviours: Behaviours, arrays.
    columns: Columns of the interest `[B, N, W]` that are looked at.
  """
  inputs, past = tensors((candidates, behaviours))
  requests, count = candidates.times.shape
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(past.embedding)
    output = layer(inputs, past)[..., columns]
    # what one request reads, no other does; a sum of squares would not move where the interest has a fixed length
    losses = [tf.reduce_sum(output[:, n] * np.arange(1.0, output.shape[-1] + 1)) for n in range(count)]
  read = {}
  for n, loss in enumerate(losses):
    gradient = tf.convert_to_tensor(tape.gradient(loss, past.embedding)).numpy()
    for b in range(requests):
      read[b, n] = set(np.flatnonzero((gradient[b] != 0).any(axis=-1)))
  return read
