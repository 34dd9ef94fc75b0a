import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.crossdomain.losses import click_losses, info_nce
from tests.reference import crp as twin


def _info_nce(query, positive, *arguments):
  """With one positive per query: `[A]`."""
  return info_nce(query, tf.convert_to_tensor(positive)[:, tf.newaxis], *arguments)[:, 0]


def _orthogonal(negatives):
  """A query, its equal as positive, and negatives at right angles to it."""
  query = np.array([[1.0, 0.0]], np.float32)
  return query, 3 * query, np.tile([[0.0, 0.5]], (negatives, 1)).astype(np.float32)


@pytest.mark.parametrize(
  ("columns", "temperature", "expected"),
  [(4, 1.0, 0.7437), (4, 0.5, 0.3408), (4, 0.1, 1.36e-4), (2048, 0.1, 0.0889), (2048, 1.0, 6.6255)],
)
def test_info_nce_of_orthogonal_negatives(columns, temperature, expected):
  query, positive, negatives = _orthogonal(columns - 1)
  loss = _info_nce(query, positive, negatives, tf.ones([1, columns - 1], tf.bool), temperature)
  np.testing.assert_allclose(loss, [expected], rtol=3e-3 if expected < 1e-3 else 0, atol=6e-5 if expected > 1e-3 else 0)


@pytest.mark.parametrize(("columns", "expected"), [(4, 1.3863), (2048, 7.6246)])
@pytest.mark.parametrize("alike", [True, False])
def test_info_nce_of_equal_similarities_is_the_log_of_their_number(columns, expected, alike):
  query = np.array([[1.0, 0.0]], np.float32)
  other = query if alike else np.array([[0.0, 1.0]], np.float32)
  loss = _info_nce(query, other, np.tile(other, (columns - 1, 1)), tf.ones([1, columns - 1], tf.bool), 0.1)
  np.testing.assert_allclose(loss, [expected], atol=1e-4)


def test_a_zero_vector_has_no_direction_and_gets_no_gradient():
  """Out-of-vocabulary rows begin at 0, where the cosine's gradient has no bound."""
  rows = [tf.Variable([[0.0, 0.0], [1.0, 2.0]]), tf.Variable([[[1.0, 1.0]], [[0.0, 0.0]]]), tf.Variable([[0.0, 0.0]])]
  with tf.GradientTape() as tape:
    losses = info_nce(*rows, tf.ones([2, 1], tf.bool), 0.1)
  np.testing.assert_allclose(losses, [[np.log(2)], [np.log(2)]], rtol=1e-6)
  for gradient in tape.gradient(losses, rows):
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_a_false_negative_costs_less_when_it_is_masked():
  query, positive, negatives = _orthogonal(3)
  negatives[1] = query
  everything = _info_nce(query, positive, negatives, tf.constant([[True, True, True]]), 1.0)
  masked = _info_nce(query, positive, negatives, tf.constant([[True, False, True]]), 1.0)
  np.testing.assert_allclose([everything, masked], [[1.0064], [0.5514]], atol=1e-4)


def test_without_negatives_loss_and_gradient_are_zero():
  query, positive, negatives = (tf.Variable(array) for array in _orthogonal(3))
  with tf.GradientTape() as tape:
    loss = _info_nce(query, positive + [[0.0, 1.0]], negatives, tf.zeros([1, 3], tf.bool), 0.1)
  np.testing.assert_array_equal(loss, [0.0])
  for gradient in tape.gradient(loss, [query, positive, negatives]):
    np.testing.assert_array_equal(gradient, tf.zeros_like(gradient))


def test_zero_vectors_give_finite_losses_and_gradients():
  query = tf.Variable(tf.zeros([2, 3]))
  with tf.GradientTape() as tape:
    loss = _info_nce(query, query, query, tf.ones([2, 2], tf.bool), 0.1)
  np.testing.assert_allclose(loss, [np.log(3)] * 2, rtol=1e-6)
  assert np.isfinite(tape.gradient(loss, query)).all()


def test_info_nce_does_not_depend_on_length():
  random = np.random.default_rng(0)
  query, positive, negatives = (random.normal(size=(n, 4)).astype(np.float32) for n in (3, 3, 5))
  keep = tf.constant(random.random((3, 5)) < 0.7)
  np.testing.assert_allclose(
    _info_nce(7 * query, 0.1 * positive, 30 * negatives, keep, 0.2),
    _info_nce(query, positive, negatives, keep, 0.2),
    rtol=1e-5,
  )


def test_info_nce_equals_its_twin_and_is_computed_in_float32():
  random = np.random.default_rng(1)
  query, positive, negatives = (random.normal(size=(n, 4)).astype(np.float32) for n in (3, 3, 5))
  keep = random.random((3, 5)) < 0.7
  expected = [twin.info_nce(query[i], positive[i], negatives[keep[i]], 0.3) for i in range(3)]
  np.testing.assert_allclose(_info_nce(query, positive, negatives, tf.constant(keep), 0.3), expected, rtol=1e-5)
  halves = [tf.constant(array, tf.float16) for array in (query, positive, negatives)]
  half = _info_nce(*halves, tf.constant(keep), 0.3)
  assert half.dtype == tf.float32
  np.testing.assert_allclose(half, expected, rtol=0.01)


def test_click_losses_weigh_real_candidates_and_drop_padding():
  losses = click_losses(
    tf.constant([[0.0, 2.0, float("inf")]]),
    tf.constant([[1.0, 0.0, 0.0]]),
    tf.constant([[3.0, 0.5, 1.0]]),
    tf.constant([[True, True, False]]),
  )
  np.testing.assert_allclose(losses, [[3 * np.log(2), 0.5 * np.log1p(np.exp(2)), 0.0]], rtol=1e-6)


def test_several_positives_of_a_query_are_each_held_against_the_negatives_alone():
  random = np.random.default_rng(2)
  query, negatives = (random.normal(size=(n, 4)).astype(np.float32) for n in (3, 5))
  positives = random.normal(size=(3, 2, 4)).astype(np.float32)
  keep = random.random((3, 5)) < 0.7
  expected = [[twin.info_nce(query[a], positives[a, p], negatives[keep[a]], 0.2) for p in range(2)] for a in range(3)]
  np.testing.assert_allclose(info_nce(query, positives, negatives, tf.constant(keep), 0.2), expected, rtol=1e-5)
