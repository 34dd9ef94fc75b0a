import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.gru import GRU
from tests.reference.pi_net import gru
from tests.support.layers import check_layer, ops_without_gpu_kernel


def inputs(seed=0, L=7, B=4, X=3):
  """Rows, the newest first, and a mask with holes; request 0 has no step."""
  random = np.random.default_rng(seed)
  mask = random.random((L, B)) < 0.7
  mask[:, 0] = False
  return random.normal(size=(L, B, X)).astype(np.float32), mask


def built(units=5, X=3, seed=0):
  """With biases that differ from where they start."""
  layer = GRU(units)
  layer.build(tf.TensorShape([None, None, X]))
  random = np.random.default_rng(seed)
  layer.set_weights([random.normal(size=weight.shape) * 0.7 for weight in layer.get_weights()])
  return layer


def test_survives_every_use_that_keras_makes_of_a_layer():
  check_layer(GRU, {"units": 5}, inputs(), bad={"units": [0, -3]})


def test_equals_its_twin():
  (rows, mask), layer = inputs(), built()
  actual = layer(rows, mask).numpy()
  for b in range(4):
    steps = np.flatnonzero(mask[:, b])[::-1]
    expected = gru(layer, [rows[i, b] for i in steps])
    for i, state in zip(steps, expected, strict=True):
      np.testing.assert_allclose(actual[i, b], state, rtol=1e-5, atol=1e-6)
  assert np.abs(actual).max() > 0.3


def test_values_and_gradients_are_those_of_keras():
  rows, mask = inputs(L=9)
  mask[:, 0] = True
  layer = built()
  other = keras.layers.GRU(5, return_sequences=True, reset_after=True)
  other.build((None, None, 3))
  kernel, recurrent, bias = layer.get_weights()
  other.set_weights([kernel, recurrent, np.stack([bias, np.zeros_like(bias)])])
  weighting = np.random.default_rng(1).normal(size=(9, 4, 5)).astype(np.float32)
  turned = lambda x: tf.transpose(x, [1, 0, 2])  # noqa: E731
  results = []
  for one in (
    lambda x: layer(x, mask),
    lambda x: turned(other(turned(x)[:, ::-1], mask=tf.constant(mask.T[:, ::-1]))[:, ::-1]),
  ):
    x = tf.constant(rows)
    with tf.GradientTape() as tape:
      tape.watch(x)
      states = one(x)
      loss = tf.reduce_sum(states * weighting)
    weights = layer.weights if len(results) == 0 else other.weights
    results.append([states, *tape.gradient(loss, [x, *weights])])
  ours, keras_own = results
  keras_own[-1] = keras_own[-1][0]  # of its two biases, the first is ours
  for one, expected in zip(ours, keras_own, strict=True):
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


def test_masked_steps_leave_the_state_as_it_is():
  (rows, mask), layer = inputs(), built()
  states = layer(rows, mask).numpy()
  for i, b in np.argwhere(~mask):
    np.testing.assert_array_equal(states[i, b], states[i + 1, b] if i < 6 else 0)
  mask[2:4] = False
  shorter = layer(np.delete(rows, [2, 3], axis=0), np.delete(mask, [2, 3], axis=0))
  np.testing.assert_allclose(np.delete(layer(rows, mask), [2, 3], axis=0), shorter, rtol=1e-5, atol=1e-6)


def test_masked_rows_get_no_gradient_whatever_they_hold():
  (rows, mask), layer = inputs(), built()
  rows = tf.where(mask[..., np.newaxis], rows, 1e4)
  with tf.GradientTape() as tape:
    tape.watch(rows)
    loss = tf.reduce_sum(tf.square(layer(rows, mask)))
  moved = tape.gradient(loss, rows).numpy() != 0
  np.testing.assert_array_equal(moved.any(axis=-1), mask)


def test_gates_start_open_and_the_rest_at_zero():
  layer = GRU(2)
  layer(*inputs())
  np.testing.assert_array_equal(layer.bias, [1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("length", [0, 1, 7])
def test_any_number_of_steps_and_requests_is_one_graph(length):
  layer = built()
  specification = [tf.TensorSpec([None, None, 3]), tf.TensorSpec([None, None], tf.bool)]
  graph = tf.function(lambda *x: layer(*x), input_signature=specification, autograph=False)
  rows, mask = inputs(L=length)
  assert graph(rows, mask).shape == (length, 4, 5)
  np.testing.assert_allclose(graph(rows, mask), layer(rows, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_in_a_graph_are_those_of_eager_and_run_on_gpus(jit_compile):
  (rows, mask), layer = inputs(), built()

  def gradients(rows):
    with tf.GradientTape() as tape:
      tape.watch(rows)
      loss = tf.reduce_sum(tf.square(layer(rows, mask)))
    return tape.gradient(loss, [rows, *layer.weights])

  graph = tf.function(gradients, autograph=False, jit_compile=jit_compile)
  for one, expected in zip(graph(tf.constant(rows)), gradients(tf.constant(rows)), strict=True):
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)
  assert ops_without_gpu_kernel(graph.get_concrete_function(tf.constant(rows))) == set()
