import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers.masked import attend, gather_rows, masked_mean, masked_softmax, masked_top_k, repeat_rows
from tests.reference import masked as twin


def _random(seed, *, requests=3, candidates=4, length=9, width=5):
  random = np.random.default_rng(seed)
  scores = random.normal(size=(requests, candidates, length)).astype(np.float32)
  mask = random.random((requests, candidates, length)) < 0.6
  mask[0, 0] = False
  values = random.normal(size=(requests, length, width)).astype(np.float32)
  return scores, mask, values


def _rows(mask):
  return np.ndindex(mask.shape[:2])


def test_softmax_equals_its_twin():
  scores, mask, _ = _random(0)
  weights = masked_softmax(scores, mask).numpy()
  for b, n in _rows(mask):
    kept = twin.visible(mask[b, n])
    expected = np.zeros(mask.shape[-1])
    expected[kept] = twin.softmax(scores[b, n][kept])
    np.testing.assert_allclose(weights[b, n], expected, rtol=1e-5)


@pytest.mark.parametrize("offset", [-1e33, -1e30, -88.0, 0.0, 88.0, 1e30])
def test_softmax_of_equal_scores_is_uniform_whatever_their_size(offset):
  weights = masked_softmax(tf.constant([[offset, offset, 7.0]]), tf.constant([[True, True, False]]))
  np.testing.assert_allclose(weights, [[0.5, 0.5, 0.0]])


def test_softmax_in_float16_is_computed_in_float32():
  weights = masked_softmax(tf.constant([[60000.0, 60000.0, 1.0]], tf.float16), tf.constant([[True, True, False]]))
  assert weights.dtype == tf.float32
  np.testing.assert_allclose(weights, [[0.5, 0.5, 0.0]])


def test_a_row_without_entries_gives_zeros_and_finite_gradients():
  scores = tf.Variable([[1.0, 2.0], [3.0, -4.0]])
  values = tf.Variable(tf.ones([1, 2, 3]))
  mask = tf.constant([[False, False], [True, True]])
  with tf.GradientTape() as tape:
    weights = masked_softmax(scores, mask)
    mean = masked_mean(values, mask[tf.newaxis])
    loss = tf.reduce_sum(weights**2) + tf.reduce_sum(mean**2)
  np.testing.assert_array_equal(weights[0], [0.0, 0.0])
  np.testing.assert_array_equal(mean[0, 0], [0.0, 0.0, 0.0])
  gradients = tape.gradient(loss, [scores, values])
  assert all(np.isfinite(gradient).all() for gradient in gradients)
  np.testing.assert_array_equal(gradients[0][0], [0.0, 0.0])


@pytest.mark.parametrize("shared", [False, True])
def test_attending_is_the_softmax_times_the_rows_and_so_is_its_gradient(shared):
  scores, mask, rows = _random(5)
  mask = mask[:, :1] if shared else mask
  upstream = np.random.default_rng(6).normal(size=(3, 4, 5)).astype(np.float32)
  results = []
  for pool in (attend, lambda s, m, r: masked_softmax(s, m) @ r):
    inputs = tf.constant(scores), tf.constant(rows)
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      pooled = pool(inputs[0], tf.constant(mask), inputs[1])
      loss = tf.reduce_sum(pooled * upstream)
    results.append((pooled, *tape.gradient(loss, inputs)))
  for actual, expected in zip(*results, strict=True):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(results[0][0][0, 0], np.zeros(5))
  np.testing.assert_array_equal(results[0][1][~np.broadcast_to(mask, scores.shape)], 0.0)


@pytest.mark.parametrize("k", [1, 4, 30])
def test_top_k_in_any_order_is_the_same_set(k):
  scores, mask, _ = _random(7)
  sets = []
  for ordered in (True, False):
    indices, valid = (tensor.numpy() for tensor in masked_top_k(scores, mask, k, ordered=ordered))
    sets.append([set(indices[b, n][valid[b, n]]) for b, n in _rows(mask)])
  assert sets[0] == sets[1]


def test_mean_equals_its_twin():
  _, mask, values = _random(1)
  mean = masked_mean(values, mask).numpy()
  for b, n in _rows(mask):
    expected = twin.mean(values[b][twin.visible(mask[b, n])], values.shape[-1])
    np.testing.assert_allclose(mean[b, n], expected, rtol=1e-5, atol=1e-6)


def test_mean_of_three_rows_is_two_thirds():
  values = tf.constant([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [50.0, 50.0]]])
  mean = masked_mean(values, tf.constant([[[True, True, True, False]]]))
  np.testing.assert_allclose(mean, [[[2 / 3, 2 / 3]]], rtol=1e-6)


def test_mean_seen_alike_by_all_candidates_has_one_row():
  _, mask, values = _random(2)
  shared = mask[:, :1]
  np.testing.assert_allclose(
    masked_mean(values, np.repeat(shared, 4, axis=1)), np.repeat(masked_mean(values, shared), 4, axis=1), rtol=1e-6
  )
  assert masked_mean(values, shared).shape == (3, 1, 5)


def test_mean_in_float16_survives_a_long_history():
  values = tf.fill([1, 4000, 1], tf.constant(1000.0, tf.float16))
  mean = masked_mean(values, tf.ones([1, 1, 4000], tf.bool))
  assert mean.dtype == tf.float16
  np.testing.assert_allclose(mean, [[[1000.0]]], rtol=2e-3)


@pytest.mark.parametrize("k", [1, 4, 9, 20])
def test_top_k_equals_its_twin(k):
  scores, mask, _ = _random(3)
  indices, valid = masked_top_k(scores, mask, k)
  assert indices.shape == valid.shape == (3, 4, k)
  for b, n in _rows(mask):
    kept = twin.visible(mask[b, n])
    expected = [kept[i] for i in twin.top_k(scores[b, n][kept], k)]
    assert list(indices.numpy()[b, n][valid.numpy()[b, n]]) == expected
    np.testing.assert_array_equal(indices.numpy()[b, n, len(expected) :], 0)


def test_top_k_of_a_short_history_keeps_all_of_it():
  scores, mask, _ = _random(4)
  _, valid = masked_top_k(scores, mask, 30)
  np.testing.assert_array_equal(tf.reduce_sum(tf.cast(valid, tf.int32), axis=-1), mask.sum(axis=-1))


def test_top_k_has_static_width_when_the_length_is_unknown():
  traced = tf.function(
    lambda scores, mask: masked_top_k(scores, mask, 6),
    input_signature=[tf.TensorSpec([None, None, None]), tf.TensorSpec([None, None, None], tf.bool)],
  )
  for length in (2, 6, 11):
    scores, mask, _ = _random(5, length=length)
    for actual, expected in zip(traced(scores, mask), masked_top_k(scores, mask, 6), strict=True):
      np.testing.assert_array_equal(actual, expected)
  assert traced.get_concrete_function().output_shapes[0][-1] == 6


def test_top_k_prefers_real_behaviours_to_padding_however_low_they_score():
  indices, valid = masked_top_k(tf.constant([[-1.0, -2.0, 0.0]]), tf.constant([[True, True, False]]), 2)
  np.testing.assert_array_equal(indices, [[0, 1]])
  lowest = tf.constant([[5.0, -1e38, -1e35, float("inf")]])
  indices, valid = masked_top_k(lowest, tf.constant([[False, True, True, False]]), 3)
  np.testing.assert_array_equal(indices, [[2, 1, 0]])
  np.testing.assert_array_equal(valid, [[True, True, False]])


def test_top_k_breaks_ties_toward_recent_behaviours():
  indices, _ = masked_top_k(tf.zeros([1, 2, 6]), tf.constant([[[True, False, True, True, True, True]]]), 3)
  np.testing.assert_array_equal(indices, [[[0, 2, 3], [0, 2, 3]]])


def test_a_row_that_is_repeated_often_gets_its_whole_gradient_in_half_precision():
  rows = tf.constant([[1.0], [2.0]], tf.bfloat16)
  index = tf.constant([0] * 3000 + [1], tf.int64)
  with tf.GradientTape() as tape:
    tape.watch(rows)
    taken = repeat_rows(rows, index)
    loss = tf.reduce_sum(taken[:, 0] * tf.constant(1.0, tf.bfloat16))
  np.testing.assert_array_equal(tf.cast(taken[-1], tf.float32), [2.0])
  np.testing.assert_allclose(tf.cast(tape.gradient(loss, rows), tf.float32)[:, 0], [3000, 1], rtol=0.01)


def test_gathered_rows_are_the_chosen_ones_and_alone_get_gradient():
  _, _, values = _random(6)
  indices = np.random.default_rng(6).integers(0, 4, size=(3, 2, 5))
  values = tf.Variable(values)
  with tf.GradientTape() as tape:
    rows = gather_rows(values, indices)
    loss = tf.reduce_sum(rows)
  gradient = tf.convert_to_tensor(tape.gradient(loss, values)).numpy()
  counts = np.zeros((3, 9))
  for b, n, k in np.ndindex(indices.shape):
    np.testing.assert_array_equal(rows[b, n, k], values[b, indices[b, n, k]])
    counts[b, indices[b, n, k]] += 1
  np.testing.assert_array_equal(gradient, np.repeat(counts[..., np.newaxis], 5, axis=-1))


def test_a_row_that_many_candidates_choose_gets_its_whole_gradient_in_half_precision():
  values = tf.constant(np.arange(12.0).reshape([2, 3, 2]), tf.bfloat16)
  indices = tf.constant([[[1] * 40] * 75, [[2] * 40] * 75], tf.int64)
  with tf.GradientTape() as tape:
    tape.watch(values)
    rows = gather_rows(values, indices)
    loss = tf.reduce_sum(rows[..., 0] * tf.constant(1.0, tf.bfloat16))
  assert rows.shape == [2, 75, 40, 2]
  np.testing.assert_array_equal(tf.cast(rows[:, 0, 0], tf.float32), [[2, 3], [10, 11]])
  gradient = tf.cast(tape.gradient(loss, values), tf.float32)
  np.testing.assert_allclose(gradient[..., 0], [[0, 3000, 0], [0, 0, 3000]], rtol=0.01)


@pytest.mark.parametrize("padding", [1, 7, 100])
def test_padding_changes_nothing(padding):
  scores, mask, values = _random(7)
  junk = 1e4 * np.random.default_rng(8).normal(size=(3, 4, padding)).astype(np.float32)
  longer_scores = np.concatenate([scores, junk], axis=-1)
  longer_mask = np.concatenate([mask, np.zeros_like(junk, bool)], axis=-1)
  longer_values = np.concatenate([values, 1e4 * np.ones([3, padding, 5], np.float32)], axis=1)
  np.testing.assert_allclose(
    masked_softmax(longer_scores, longer_mask)[..., :9], masked_softmax(scores, mask), rtol=1e-6
  )
  np.testing.assert_allclose(masked_mean(longer_values, longer_mask), masked_mean(values, mask), rtol=1e-6, atol=1e-7)
  for k in (3, 12):
    for longer, original in zip(
      masked_top_k(longer_scores, longer_mask, k), masked_top_k(scores, mask, k), strict=True
    ):
      np.testing.assert_array_equal(longer, original)
