"""Extractors that compute in bfloat16."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.interest.din import DIN
from lcn_tf.interest.lap import LAP
from lcn_tf.interest.twin import TWIN
from tests.support.layers import NEWEST, far_from_zero, random_inputs, tensors


@pytest.mark.parametrize("make", [lambda **more: LAP(top_k=(4, 2), **more), lambda **more: TWIN(top_k=4, **more)])
def test_search_and_exact_scores_need_no_cast_in_half_precision(make):
  inputs = tensors(random_inputs(6))
  half = make(dtype="mixed_bfloat16")
  half_inputs = tf.nest.map_structure(lambda x: tf.cast(x, tf.bfloat16) if x.dtype.is_floating else x, inputs)
  half(*half_inputs)
  for scores in (half.search_scores(*half_inputs), half.exact_scores(*half_inputs)):
    assert (scores.dtype, scores.shape) == (tf.float32, (3, 4, 11))


@pytest.mark.parametrize("make", [lambda **more: LAP(top_k=(200, 50), **more), lambda **more: DIN(**more)])
def test_the_age_of_many_behaviours_survives_half_precision(make):
  """Two thousand behaviours of one age: sums of so many small terms in bfloat16 stop at a quarter."""
  candidates, behaviours = random_inputs(8, B=1, N=2, L=2000)
  behaviours = behaviours._replace(
    times=np.full([1, 2000], NEWEST),
    visible=np.ones([1, 2, 2000], bool),
    embedding=0.01 * behaviours.embedding,
    side=0.01 * behaviours.side,
  )
  candidates = candidates._replace(times=np.full([1, 2], NEWEST + 30))
  found = {}
  for dtype in ("float32", "mixed_bfloat16"):
    recency = tf.Variable(behaviours.recency)
    layer = far_from_zero(make(dtype=dtype))
    with tf.GradientTape() as tape:
      read = tensors(behaviours)._replace(recency=tf.convert_to_tensor(recency))
      interest = tf.cast(layer(tensors(candidates), read), tf.float32)
      loss = tf.reduce_sum(interest)
    found[dtype] = interest.numpy(), tf.convert_to_tensor(tape.gradient(loss, recency)).numpy()[0]
  for half, full in zip(found["mixed_bfloat16"], found["float32"], strict=True):
    np.testing.assert_allclose(half, full, rtol=0.05, atol=0.02 * np.abs(full).max())
