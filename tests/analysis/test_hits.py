"""Consistency, hits and drift of scores whose answer is known, against loops."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.analysis import hits
from lcn_tf.analysis.hits import Depths
from tests.reference import masked


def _hits(search, exact, visible, sizes, oracle):
  """Hits of one candidate."""
  arrays = (np.array([[row]]) for row in (search, exact, visible))
  search, exact, visible = arrays
  return hits.hits_curve(
    tf.constant(search, tf.float32), tf.constant(exact, tf.float32), tf.constant(visible, tf.bool), sizes, oracle
  ).numpy()[0, 0]


def test_equal_orders_hit_as_many_as_the_search_hands_over():
  scores = [5, 9, 1, 7, 3, 8, 2, 6]
  np.testing.assert_array_equal(_hits(scores, scores, [1] * 8, [1, 2, 4, 6, 8], 4), [1, 2, 4, 4, 4])


def test_the_opposite_order_hits_only_when_everything_is_handed_over():
  scores = np.arange(6)
  np.testing.assert_array_equal(_hits(-scores, scores, [1] * 6, [1, 3, 4, 5, 6], 3), [0, 0, 1, 2, 3])


def test_equal_scores_are_taken_newest_first():
  equal = [1.0] * 5
  np.testing.assert_array_equal(_hits(equal, [5, 4, 3, 2, 1], [1] * 5, [1, 2, 3], 2), [1, 2, 2])
  np.testing.assert_array_equal(_hits([5, 4, 3, 2, 1], equal, [1] * 5, [1, 2, 3], 2), [1, 2, 2])
  np.testing.assert_array_equal(_hits([1, 2, 3, 4, 5], equal, [1] * 5, [3, 4, 5], 2), [0, 1, 2])


def test_what_is_invisible_is_neither_found_nor_looked_for():
  search, exact, visible = [9, 1, 9, 2], [9, 1, 9, 2], [0, 1, 0, 1]
  np.testing.assert_array_equal(_hits(search, exact, visible, [1, 2, 4], 3), [1, 2, 2])


def test_what_a_hard_filter_left_out_comes_last_and_newest_first():
  lowest = tf.float32.min
  search = [lowest, 1.0, lowest, 1.0]
  np.testing.assert_array_equal(_hits(search, [9, 1, 8, 2], [1] * 4, [1, 2, 3, 4], 2), [0, 0, 1, 2])
  np.testing.assert_array_equal(_hits([lowest, 1.0, -np.inf, 1.0], [9, 1, 8, 2], [1] * 4, [3, 4], 2), [1, 2])


def test_hits_equal_loops_over_requests_and_candidates():
  random = np.random.default_rng(0)
  shape, sizes, oracle = (3, 4, 17), [1, 5, 11, 17], 6
  search, exact = (random.integers(0, 6, shape).astype(np.float32) for _ in range(2))
  visible = random.random(shape) < 0.7
  visible[0, 0] = False
  actual = hits.hits_curve(tf.constant(search), tf.constant(exact), tf.constant(visible), sizes, oracle)
  for b in range(3):
    for n in range(4):
      seen = masked.visible(visible[b, n])
      best = set(masked.top_k(exact[b, n][seen], oracle))
      expected = [len(best & set(masked.top_k(search[b, n][seen], size))) for size in sizes]
      np.testing.assert_array_equal(actual[b, n], expected)


def test_only_candidates_that_see_more_than_what_is_compared_count():
  length = np.array([[2, 3, 5, 5]])
  visible = np.arange(6) < length[..., np.newaxis]
  search = tf.constant(np.tile(-np.arange(6.0, dtype=np.float32), (1, 4, 1)))
  exact = tf.constant(np.tile(np.arange(6.0, dtype=np.float32), (1, 4, 1)))
  real = np.array([[True, True, True, False]])
  found = hits.tally(search, exact, tf.constant(visible), real, Depths(top=2, oracle=3, sizes=(2, 6)))
  # the candidates of 3 and of 5 behaviours: one of two best in common, none
  assert found.counted == 2
  assert found.consistency == pytest.approx((0.5 + 0.0) / 2)
  assert found.expected == pytest.approx((2 / 3 + 2 / 5) / 2)
  # the oracle's three: the candidate of 5 alone
  assert found.curve_counted == 1
  np.testing.assert_array_equal(found.curve, [0, 3])


def test_shared_visibility_counts_for_every_candidate():
  search = tf.random.stateless_normal([2, 3, 8], [1, 2])
  exact = tf.random.stateless_normal([2, 3, 8], [3, 4])
  shared = tf.constant(np.arange(8) < np.array([[[8]], [[4]]]))
  real, depths = np.ones([2, 3], bool), Depths(top=3, oracle=5, sizes=(2, 8))
  one = hits.tally(search, exact, shared, real, depths)
  other = hits.tally(search, exact, tf.repeat(shared, 3, axis=1), real, depths)
  assert (one.counted, one.curve_counted) == (6, 3)
  assert one.overlap == other.overlap
  np.testing.assert_array_equal(one.hits, other.hits)
