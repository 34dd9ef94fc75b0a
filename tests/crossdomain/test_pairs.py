import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.crossdomain.pairs import first_occurrence, is_among, noises, pick, row_noise, sample_pairs
from tests.crossdomain.batches import random_batch
from tests.reference import crp as twin
from tests.support.layers import tensors


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 1), (0.32, 1), (0.34, 4), (0.67, 5), (0.9999999, 5)])
def test_pick_takes_the_entry_that_the_noise_points_at(noise, expected):
  picks = pick(tf.constant([[[False, True, False, False, True, True]]]), tf.constant([[[noise]]]))
  assert (int(picks.index[0, 0, 0]), bool(picks.found[0, 0, 0])) == (expected, True)


def test_pick_from_nothing_finds_nothing():
  picks = pick(tf.zeros([1, 1, 3], tf.bool), tf.constant([[[0.0, 0.9]]]))
  np.testing.assert_array_equal(picks.index, [[[0, 0]]])
  np.testing.assert_array_equal(picks.found, [[[False, False]]])


def test_pick_is_uniform_over_the_eligible():
  eligible = np.tile([True, False, True, True, False], (3000, 2, 1))
  noise = tf.random.stateless_uniform([3000, 2, 1], [1, 2])
  counts = np.bincount(pick(tf.constant(eligible), noise).index.numpy().ravel(), minlength=5)
  assert counts[1] == counts[4] == 0
  np.testing.assert_allclose(counts[[0, 2, 3]] / 6000, 1 / 3, atol=0.03)


def test_pick_never_leaves_a_long_row_with_the_highest_noise():
  highest = np.nextafter(np.float32(1), np.float32(0))
  picks = pick(tf.ones([1, 1, 100_000], tf.bool), tf.constant([[[highest]]]))
  assert int(picks.index[0, 0, 0]) == 99_999


@pytest.mark.parametrize(("anchors", "partners"), [(1, 1), (2, 3), (5, 2)])
def test_every_eligible_pair_is_drawn_and_no_other(anchors, partners):
  batch = random_batch(3, requests=4, candidates=3, length=8)
  width = noises(3, anchors, partners)
  draw = tf.function(
    lambda seed: sample_pairs(tensors(batch), row_noise(seed, (tf.constant(4),), width)[0], anchors, partners),
    autograph=False,
  )
  positive = batch.mask & (batch.label == 1)
  met = [set() for _ in range(4)]
  for step in range(400):
    anchor, own, other = tf.nest.map_structure(lambda array: array.numpy(), draw(tf.constant([7, step])))
    np.testing.assert_array_equal(anchor.found.sum(axis=1), np.minimum(positive.sum(axis=1), anchors))
    for b, a in np.argwhere(anchor.found):
      n = anchor.index[b, a]
      assert n not in anchor.index[b, :a], "an anchor is drawn once"
      met[b].add(("anchor", n))
      for side, picks in (("own", own), ("other", other)):
        met[b].update(
          (side, n, i if found else None) for i, found in zip(picks.index[b, a], picks.found[b, a], strict=True)
        )
  for b in range(4):
    expected = set()
    for n in np.flatnonzero(positive[b]):
      own, other = twin.eligible(batch, b, n)
      expected.add(("anchor", n))
      expected.update(("own", n, i) for i in own or [None])
      expected.update(("other", n, i) for i in other or [None])
    assert met[b] == expected


def test_noise_depends_on_the_seed_only():
  sizes = (tf.constant(3), tf.constant(5))
  first, second = row_noise(tf.constant([1, 2]), sizes, 4)
  again, _ = row_noise(tf.constant([1, 2]), sizes, 4)
  other, _ = row_noise(tf.constant([1, 3]), sizes, 4)
  assert (first.shape, second.shape) == ((3, 4), (5, 4))
  np.testing.assert_array_equal(first, again)
  assert not np.isclose(first, other).any()
  assert not np.isclose(first, second[:3]).any()


def test_first_occurrence_marks_each_value_once():
  keys = np.random.default_rng(0).integers(-1, 9, size=40) * 2**33
  expected = [key not in keys[:i] for i, key in enumerate(keys)]
  np.testing.assert_array_equal(first_occurrence(tf.constant(keys)), expected)


def test_is_among_finds_items_in_each_list():
  random = np.random.default_rng(1)
  items, lists = random.integers(0, 30, size=25), random.integers(-1, 30, size=(4, 2, 7))
  expected = [[[item in row for item in items] for row in rows] for rows in lists]
  np.testing.assert_array_equal(is_among(tf.constant(items), tf.constant(lists)), expected)
