import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers.union_walk import union_walk, walk_keys
from tests.reference.twin import walk


def _random(seed, B=5, N=4, H=4, L=60, decimals=None):
  random = np.random.default_rng(seed)
  scores = random.normal(size=(B, N, H, L)).astype(np.float32)
  visible = random.random([B, N, L]) < random.random([B, N, 1])
  visible[0, 0] = False
  visible[1, 0] = True
  return (scores if decimals is None else scores.round(decimals)), visible


def _kept(scores, visible, k):
  """Each row's kept behaviours, in the order returned."""
  indices, valid = union_walk(tf.constant(scores), tf.constant(visible), k)
  assert indices.shape == valid.shape == (*scores.shape[:2], k)
  assert (indices.numpy()[~valid.numpy()] == 0).all()
  return {(b, n): list(indices[b, n].numpy()[valid[b, n]]) for b, n in np.ndindex(*scores.shape[:2])}


def _expected(scores, visible):
  """Each row's visible behaviours in the order of the sequential walk."""
  order = {}
  for b, n in np.ndindex(*scores.shape[:2]):
    seen = np.flatnonzero(visible[b, n])
    order[b, n] = [seen[i] for i in walk(scores[b, n][:, seen])] if len(seen) else []
  return order


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["no ties", "ties", "many ties"])
@pytest.mark.parametrize(("heads", "k"), [(4, 12), (4, 1), (1, 10), (3, 7), (2, 59), (4, 100)])
def test_it_keeps_what_the_sequential_walk_meets(decimals, heads, k):
  for seed in range(3):
    scores, visible = _random(seed, H=heads, decimals=decimals)
    expected = _expected(scores, visible)
    for row, kept in _kept(scores, visible, k).items():
      assert len(kept) == len(set(kept)) == min(k, len(expected[row]))
      assert set(kept) == set(expected[row][:k])


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.9, 1.0])
def test_heads_that_agree_are_walked_to_the_end(agreement):
  scores, visible = _random(1, L=80)
  scores = agreement * scores[:, :, :1] + (1 - agreement) * scores
  expected = _expected(scores, visible)
  for row, kept in _kept(scores, visible, 20).items():
    assert set(kept) == set(expected[row][:20])


@pytest.mark.parametrize("agreeing", [0, 1, 4])
def test_one_request_whose_heads_agree_is_walked_to_the_end(agreeing):
  """The others need less, and requests 0 and 4 tell how deep to look."""
  scores, visible = _random(5, L=80)
  visible[:] = True
  scores[agreeing] = scores[agreeing, :, :1]
  expected = _expected(scores, visible)
  for row, kept in _kept(scores, visible, 20).items():
    assert set(kept) == set(expected[row][:20])


def test_the_example_of_two_heads():
  scores = np.array([[[[2, 4, 1, 3.5, 3], [2, 5, 4, 3, 1]]]], np.float32)
  visible = np.ones([1, 1, 5], bool)
  assert set(_kept(scores, visible, 3)[0, 0]) == {1, 3, 2}
  assert set(_kept(scores[:, :, :1], visible, 3)[0, 0]) == {1, 3, 4}
  # head 1 ranks 1, 3, 4, 0, 2 and head 2 ranks 1, 2, 3, 0, 4
  np.testing.assert_array_equal(walk_keys(scores, visible, 5)[0, 0], [6, 0, 3, 2, 4])


def test_keys_order_all_behaviours_as_the_walk_does():
  scores, visible = _random(2, decimals=1)
  keys = walk_keys(scores, visible, 1000).numpy()
  for (b, n), expected in _expected(scores, visible).items():
    seen = np.flatnonzero(visible[b, n])
    assert len(set(keys[b, n][seen])) == len(seen)
    assert sorted(seen, key=lambda i: keys[b, n, i]) == expected
    assert not len(seen) or keys[b, n][seen].max() < np.append(keys[b, n][~visible[b, n]], np.inf).min()


def test_one_visibility_for_all_candidates_is_that_of_each():
  scores, visible = _random(3)
  shared = visible[:, :1]
  repeated = np.repeat(shared, 4, axis=1)
  assert _kept(scores, shared, 10) == _kept(scores, repeated, 10)


def test_four_independent_heads_share_a_third_of_what_each_would_keep_alone():
  scores, _ = _random(4, B=2, N=5, L=1000)
  kept = _kept(scores, np.ones([2, 5, 1000], bool), 100)
  survive = [len(set(np.argsort(-scores[b, n, head])[:100]) & set(kept[b, n])) for b, n in kept for head in range(4)]
  assert 30 < np.mean(survive) < 35
