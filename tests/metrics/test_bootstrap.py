"""The bootstrap: a replicate is exact, an interval covers, pairing helps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcn_tf import metrics
from lcn_tf.metrics.bootstrap import Resampler
from tests.reference import metrics as reference


def _simulate(users, per_user, seed, noise=1.0):
  """Users differ in difficulty; the second model is the first plus its own noise."""
  rng = np.random.default_rng(seed)
  user = np.repeat(np.arange(users), per_user)
  logit = rng.normal(-0.5, 1, user.size) * rng.uniform(0, 2, users)[user]
  label = rng.random(user.size) < 1 / (1 + np.exp(-logit))
  sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
  return metrics.Scored(sigmoid(logit), label, user), metrics.Scored(
    sigmoid(logit + rng.normal(0, noise, user.size)), label, user
  )


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_replicate_equals_the_metrics_of_the_copied_users(data):
  size = data.draw(st.integers(1, 25))
  rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
  scores, labels = rng.integers(0, 6, size) / 6, rng.integers(0, 2, size)
  users = rng.integers(0, 4, size)
  users = np.unique(users, return_inverse=True)[1]
  weights = rng.choice([0.0, 0.5, 1.0, 2.0], size) if data.draw(st.booleans()) else None
  counts = rng.integers(0, 4, users.max() + 1)
  found = Resampler(metrics.Scored(scores, labels, users, weights)).metrics(counts)
  columns = [scores, labels, np.ones(size) if weights is None else weights, users]
  s, y, w, u = reference.resample(counts, *(column.tolist() for column in columns))
  expected = [reference.auc(s, y, w), reference.gauc(s, y, u, w), reference.logloss(s, y, w)]
  expected.append(reference.calibration(s, y, w))
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_same_seed_same_interval():
  scored, _ = _simulate(50, 20, 0)
  assert metrics.confidence(scored, seed=1) == metrics.confidence(scored, seed=1)
  assert metrics.confidence(scored, seed=1) != metrics.confidence(scored, seed=2)


def test_interval_holds_the_estimate_and_narrows_with_users():
  few, many = (_simulate(users, 20, 1)[0] for users in (100, 1600))
  widths = []
  for scored in (few, many):
    found = metrics.summary(scored, replicates=200)
    for name in ("auc", "gauc", "logloss"):
      low, high = found["confidence"][name]
      assert low < found[name] < high
    widths.append(np.ptp(found["confidence"]["auc"]))
  assert 2 < widths[0] / widths[1] < 8  # about 4 = sqrt(16)


def test_interval_covers_the_truth_about_as_often_as_it_says():
  truth = metrics.summary(_simulate(20000, 10, 99)[0], replicates=0)
  inside = {"auc": 0, "gauc": 0, "logloss": 0}
  for seed in range(100):
    found = metrics.confidence(_simulate(150, 10, seed)[0], replicates=100, seed=seed)
    for name in inside:
      inside[name] += found[name][0] <= truth[name] <= found[name][1]
  assert all(86 <= count <= 100 for count in inside.values()), inside


def test_users_are_resampled_not_candidates():
  """Copying every candidate of a user adds no information: the interval must not shrink."""
  scored, _ = _simulate(200, 5, 3)
  copied = metrics.Scored(*(np.repeat(column, 50) for column in (scored.scores, scored.labels, scored.users)))
  once, often = (metrics.confidence(s, seed=0)["auc"] for s in (scored, copied))
  np.testing.assert_allclose(once, often, atol=1e-9)


def test_paired_interval_is_that_of_the_difference():
  better, worse = _simulate(800, 20, 5, noise=0.7)
  found = metrics.paired([better], [worse], replicates=200)
  for name, sign in (("auc", 1), ("gauc", 1), ("logloss", -1)):
    low, high = found[name]["interval"]
    assert sign * found[name]["difference"] > 0
    assert low < found[name]["difference"] < high
    assert sign * low > 0
    assert sign * high > 0
  assert found["auc"]["difference"] == pytest.approx(
    metrics.auc(better.scores, better.labels) - metrics.auc(worse.scores, worse.labels)
  )
  alone = metrics.confidence(better)["auc"]
  assert np.ptp(found["auc"]["interval"]) < 0.8 * np.ptp(alone)


def test_a_model_does_not_differ_from_itself():
  scored, _ = _simulate(50, 10, 0)
  found = metrics.paired([scored], [scored], replicates=20)
  assert all(entry["difference"] == 0 and entry["interval"] == [0, 0] for entry in found.values())


def test_seeds_are_averaged():
  a, b = _simulate(60, 10, 0)
  found = metrics.paired([a, b], [b, b], replicates=50)
  single = metrics.paired([a], [b], replicates=50)
  for name in found:
    assert found[name]["difference"] == pytest.approx(single[name]["difference"] / 2)
    np.testing.assert_allclose(found[name]["interval"], np.array(single[name]["interval"]) / 2)
    assert found[name]["a_seeds"] == [single[name]["a"], single[name]["b"]]


def test_pairing_refuses_other_candidates():
  scored, _ = _simulate(50, 10, 0)
  other, _ = _simulate(50, 10, 1)
  with pytest.raises(ValueError, match="model 1 does not hold the candidates of model 0: the labels differ"):
    metrics.paired([scored], [other])
  with pytest.raises(ValueError, match="at least one model on each side, found 1 and 0"):
    metrics.paired([scored], [])


def test_replicates_without_both_classes_are_left_out():
  scored = metrics.Scored([0.9, 0.1, 0.2], [1, 0, 0], [1, 2, 3])
  low, high = metrics.confidence(scored, replicates=100)["auc"]
  assert low == high == 1.0
  assert np.isnan(metrics.confidence(metrics.Scored([0.5], [1], [1]), replicates=10)["auc"]).all()
