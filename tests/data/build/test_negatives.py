import numpy as np
import pytest

from lcn_tf.data.build.negatives import ItemLog, sample_negatives


def random_log(seed=0, size=600, users=12, items=40, span=300):
  rng = np.random.default_rng(seed)
  popularity = 1 / np.arange(1, items - 1)
  drawn = 2 + rng.choice(items - 2, size, p=popularity / popularity.sum())
  return ItemLog(rng.integers(1, users, size), drawn.astype(np.int32), np.sort(rng.integers(0, span, size)), items)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_a_negative_was_seen_before_that_moment_and_is_never_met_by_the_user(exponent):
  log = random_log()
  positives = np.arange(len(log.items))
  drawn = sample_negatives(log, positives, 3, exponent, np.random.default_rng(1))
  assert drawn.shape == (len(positives), 3)
  assert (drawn > 0).mean() > 0.5
  for p, row in zip(positives, drawn, strict=True):
    met = set(log.items[log.users == log.users[p]])
    earlier = set(log.items[log.times < log.times[p]])
    real = row[row > 0].tolist()
    assert set(real) <= earlier - met
    assert len(set(real)) == len(real)


@pytest.mark.parametrize("exponent", [0.0, 0.75, 1.0])
def test_as_many_negatives_as_there_are_acceptable_items_are_found(exponent):
  # User 1 meets item 2; items 3 and 4 are seen before, item 5 at the same second.
  log = ItemLog(np.array([2, 2, 3, 1, 3]), np.array([3, 4, 4, 2, 5], np.int32), np.array([0, 1, 2, 9, 9]), 6)
  drawn = sample_negatives(log, np.array([3, 0]), 4, exponent, np.random.default_rng(0))
  assert sorted(drawn[0].tolist()) == [0, 0, 3, 4]
  assert drawn[1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5])
def test_a_negative_is_drawn_in_proportion_to_earlier_count_to_the_exponent(exponent):
  rng = np.random.default_rng(3)
  items = rng.permutation(np.repeat([2, 3, 4, 5], [10, 40, 90, 160]))
  later = np.full(500, 2)  # after the moment: must not make item 2 more likely
  log = ItemLog(
    np.concatenate([np.full(300, 1), [2], np.full(500, 1)]),
    np.concatenate([items, [6], later]).astype(np.int32),
    np.concatenate([np.arange(300), [300], np.full(500, 300)]),
    7,
  )
  tries = 40_000
  drawn = sample_negatives(log, np.full(tries, 300), 1, exponent, np.random.default_rng(4))[:, 0]
  weights = np.array([10, 40, 90, 160.0]) ** exponent
  expected = weights / weights.sum()
  found = np.bincount(drawn, minlength=7)[2:6] / tries
  assert found.sum() == 1
  np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / tries))


def test_counts_at_the_very_moment_decide_between_the_ends_of_blocks():
  # Item 2 comes only first, item 3 only last: halfway there is nothing but item 2.
  log = ItemLog(np.ones(1001, int), np.repeat([2, 4, 3], [500, 1, 500]).astype(np.int32), np.arange(1001), 5)
  log.users[500] = 2
  drawn = sample_negatives(log, np.full(200, 500), 1, 0.5, np.random.default_rng(0))
  assert set(drawn[:, 0]) == {2}
