import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers.din_attention import DINAttention
from tests.reference import din as twin
from tests.support.layers import check_layer

WEIGHTS = ("kernel_1", "bias_1", "kernel_2", "bias_2", "kernel_3", "bias_3")


def _inputs(seed=0, B=2, N=3, K=5, D=4, X=6):
  random = np.random.default_rng(seed)
  valid = random.random((B, N, K)) < 0.7
  valid[0, 0] = False
  candidates, rows = random.normal(size=(B, N, D)), random.normal(size=(B, N, K, X))
  return candidates.astype(np.float32), rows.astype(np.float32), valid


def _randomised(layer, *inputs):
  """The layer after a first call, with weights that are all far from zero."""
  layer(*inputs)
  random = np.random.default_rng(7)
  for weight in layer.weights:
    weight.assign(0.7 * random.normal(size=weight.shape))
  return layer


def _weights(layer):
  return {name: getattr(layer, name).numpy() for name in WEIGHTS if hasattr(layer, name)}


def _reads_its_input(width=1, **options):
  """A layer whose logit is the item of the row itself: D = 1, linear."""
  layer = DINAttention((1, 1), "linear", **options)
  layer.make_weights(1, width)
  for name, value in {
    "kernel_1": [[0.0], *[[1.0]] * width, [0.0], [0.0]],
    "kernel_2": [[1.0]],
    "kernel_3": [[1.0]],
  }.items():
    getattr(layer, name).assign(value)
  return layer


@pytest.mark.parametrize("shared", [False, True])
def test_survives_every_use_that_keras_makes_of_a_layer(shared):
  candidates, rows, valid = _inputs()
  bad = {"units": [[4], [4, 0], [4, 3, 2]], "norm": "sum", "activation": "sigmoidal"} if not shared else {}
  options = {"units": (4, 3), "activation": "relu", "norm": "none"}
  check_layer(DINAttention, options, (candidates, rows[:, 0] if shared else rows, valid), bad=bad)
  check_layer(DINAttention, {"units": (4, 3)}, (candidates, rows, valid))


@pytest.mark.parametrize("norm", ["softmax", "none"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_it_is_the_network_over_pairs_of_its_docstring(activation, norm):
  candidates, rows, valid = _inputs()
  layer = _randomised(DINAttention((4, 3), activation, norm), candidates, rows, valid)
  found, attention = layer(candidates, rows, valid).numpy(), layer.attention(candidates, rows, valid).numpy()
  weights = _weights(layer)
  assert ("bias_3" in weights) == (norm == "none")
  for b, n in np.ndindex(2, 3):
    seen = np.flatnonzero(valid[b, n])
    own = [rows[b, n, k] for k in seen]
    expected = np.zeros(5)
    expected[seen] = twin.attention(candidates[b, n], own, weights, activation, norm)
    np.testing.assert_allclose(attention[b, n], expected, rtol=1e-4, atol=1e-5)
    expected = twin.pooled(candidates[b, n], own, weights, 6, activation, norm)
    np.testing.assert_allclose(found[b, n], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found[0, 0], 0)


@pytest.mark.parametrize("norm", ["softmax", "none"])
def test_shared_rows_give_what_a_copy_for_each_candidate_gives(norm):
  candidates, rows, valid = _inputs(1)
  layer = _randomised(DINAttention((4, 3), norm=norm), candidates, rows, valid)
  copied = np.repeat(rows[:, :1], 3, axis=1)
  for arguments in ((valid,), (valid[:, :1],)):
    np.testing.assert_allclose(
      layer(candidates, rows[:, 0], *arguments), layer(candidates, copied, *arguments), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("norm", ["softmax", "none"])
def test_recency_of_shared_rows_is_as_if_it_stood_in_each_row(norm):
  candidates, rows, valid = _inputs(2)
  recency = np.random.default_rng(3).normal(size=(4, 2)).astype(np.float32)
  buckets = np.random.default_rng(4).integers(0, 4, size=valid.shape)
  copied = np.concatenate([np.repeat(rows[:, :1], 3, axis=1), recency[buckets]], axis=-1)
  layer = _randomised(DINAttention((4, 3), norm=norm), candidates, copied, valid)
  copied, shared = (tf.constant(x) for x in (copied, rows[:, 0]))
  table = tf.constant(recency)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch([copied, table])
    expected = layer(candidates, copied, valid)
    found = layer(candidates, shared, valid, (table, tf.constant(buckets)))
    loss, expected_loss = tf.reduce_sum(found**2), tf.reduce_sum(expected**2)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  of_rows = tape.gradient(expected_loss, copied).numpy()[..., 6:]
  summed = np.zeros_like(recency)
  np.add.at(summed, buckets, of_rows)
  np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(loss, table)), summed, rtol=1e-4, atol=1e-5)


def test_first_layer_is_initialised_as_the_one_matrix_that_it_is():
  layer = DINAttention((80, 40))
  layer.make_weights(64, 72)
  assert [tuple(weight.shape) for weight in layer.weights] == [(264, 80), (80,), (80, 40), (40,), (40, 1)]
  limit = np.sqrt(6 / (264 + 80))
  assert 0.97 * limit < np.abs(layer.kernel_1).max() <= limit


def test_logits_two_and_zero_give_the_weights_of_a_plain_softmax_in_one_dimension():
  rows = tf.constant([[[[2.0], [0.0], [50.0]]]])
  valid = tf.constant([[[True, True, False]]])
  weights = _reads_its_input().attention(tf.ones([1, 1, 1]), rows, valid)
  np.testing.assert_allclose(weights[0, 0], [0.8808, 0.1192, 0.0], atol=5e-5)
  weights = _reads_its_input(norm="none").attention(tf.ones([1, 1, 1]), rows, valid)
  np.testing.assert_allclose(weights[0, 0], [2.0, 0.0, 0.0])


def test_softmax_divides_the_logits_by_the_root_of_the_item_width():
  candidates, rows, valid = _inputs(5)
  layer = _randomised(DINAttention((4, 3)), candidates, rows, valid)
  raw = DINAttention((4, 3), norm="none")
  raw.make_weights(4, 6)
  for name in WEIGHTS[:-1]:
    getattr(raw, name).assign(getattr(layer, name))
  logits = np.where(valid, raw.attention(candidates, rows, valid), -np.inf)[1]
  expected = np.exp(logits / 2.0)
  np.testing.assert_allclose(
    layer.attention(candidates, rows, valid)[1], expected / expected.sum(-1, keepdims=True), rtol=1e-4
  )


def test_sigmoid_stays_exact_where_it_saturates():
  """It is computed as a tanh."""
  layer = _randomised(DINAttention((4, 3), "sigmoid", "none"), *_inputs(6))
  candidates, rows, valid = _inputs(6)
  rows *= 50.0
  for b, n in np.ndindex(2, 3):
    own = [rows[b, n, k].astype(np.float64) for k in np.flatnonzero(valid[b, n])]
    expected = twin.attention(candidates[b, n], own, _weights(layer), "sigmoid", "none")
    found = layer.attention(candidates, rows, valid).numpy()[b, n][valid[b, n]]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
