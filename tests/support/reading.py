"""Which behaviours an extractor's result depends on."""

import numpy as np
import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.structures import Behaviours, Candidates
from tests.support.layers import tensors


def behaviours_read(
  layer: keras.layers.Layer, candidates: Candidates, behaviours: Behaviours
) -> dict[tuple[int, int], set[int]]:
  """The behaviours whose item embeddings candidate n of request b gets gradient from, by (b, n)."""
  inputs, past = tensors((candidates, behaviours))
  requests, count = candidates.times.shape
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(past.embedding)
    output = layer(inputs, past)
    # what one request reads, no other does
    losses = [tf.reduce_sum(output[:, n] ** 2) for n in range(count)]
  read = {}
  for n, loss in enumerate(losses):
    gradient = tf.convert_to_tensor(tape.gradient(loss, past.embedding)).numpy()
    for b in range(requests):
      read[b, n] = set(np.flatnonzero((gradient[b] != 0).any(axis=-1)))
  return read
