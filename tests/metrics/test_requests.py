"""NDCG, hit rate and ECE against scikit-learn and against loops over all orders of ties."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from lcn_tf import metrics
from lcn_tf.metrics import requests as by_request
from lcn_tf.metrics import scored as blocks
from lcn_tf.metrics.bootstrap import Resampler


def _candidates(seed=0, requests=60):
  """Requests of one to twelve candidates, in no order, many scores tied; some without a positive."""
  rng = np.random.default_rng(seed)
  request = np.repeat(np.arange(requests), rng.integers(1, 13, requests))
  request = request[rng.permutation(len(request))]
  labels = rng.random(len(request)) < 0.25
  scores = (rng.integers(0, 6, len(request)) + labels) / 7
  return metrics.Scored(scores, labels, request // 3), request


def _counted(scored, request):
  for number in np.unique(request):
    mine = request == number
    if mine.sum() > 1 and scored.labels[mine].any():
      yield scored.scores[mine], scored.labels[mine]


def _hit(scores, labels, k):
  """Share of the orders of ties that have a positive among the first k."""
  orders = [o for o in itertools.permutations(range(len(scores))) if all(np.diff(scores[list(o)]) <= 0)]
  return np.mean([labels[list(order[:k])].any() for order in orders])


def test_ndcg_is_that_of_scikit_learn():
  scored, request = _candidates()
  found = by_request.of_requests(scored, request)
  expected = [[ndcg_score([y], [s], k=k) for k in by_request.CUTS] for s, y in _counted(scored, request)]
  assert 20 < len(expected) < 60
  np.testing.assert_allclose(found.values[:, : len(by_request.CUTS)], expected, atol=1e-9)


def test_a_hit_counts_every_order_of_ties():
  scored, request = _candidates(1)
  found = by_request.of_requests(scored, request).values[:, len(by_request.CUTS) :]
  few = [(i, s, y) for i, (s, y) in enumerate(_counted(scored, request)) if len(s) < 7]
  assert len(few) > 5
  for i, scores, labels in few:
    np.testing.assert_allclose(found[i], [_hit(scores, labels, k) for k in by_request.CUTS], atol=1e-12)
  assert ((found > 0) & (found < 1)).any(), "ties at the cut"


def test_blocks_change_nothing(monkeypatch):
  scored, request = _candidates(2)
  whole = metrics.measure(scored, requests=request, replicates=5).summary
  for module in (by_request, blocks):
    monkeypatch.setattr(module, "BLOCK", 7)
  for module in ("bootstrap", "probability"):
    monkeypatch.setattr(f"lcn_tf.metrics.{module}.BLOCK", 7)
  parts = metrics.measure(scored, requests=request, replicates=5).summary
  for name in ("auc", "gauc", "logloss", "calibration", "ece"):
    assert parts[name] == pytest.approx(whole[name], abs=1e-12)
  assert parts["requests"]["ndcg@5"] == pytest.approx(whole["requests"]["ndcg@5"], abs=1e-12)
  assert parts["requests"]["count"] == whole["requests"]["count"]


def test_a_replicate_repeats_the_requests_of_a_user():
  scored, request = _candidates(3)
  resampler = Resampler(scored, request)
  counts = np.random.default_rng(0).integers(0, 3, resampler.users)
  found = by_request.of_requests(scored, request)
  expected = np.repeat(found.values, counts[found.users], axis=0).mean(axis=0)
  np.testing.assert_allclose(resampler.metrics(counts)[len(metrics.NAMES) :], expected, atol=1e-12)


def test_requests_that_say_nothing_do_not_count():
  scored = metrics.Scored([0.5, 0.4, 0.3], [1, 0, 0], [1, 2, 2])
  found = metrics.measure(scored, requests=np.array([0, 1, 1]), replicates=2).summary["requests"]
  assert found["count"] == 0
  assert np.isnan(found["ndcg@1"])
  assert np.isnan(found["confidence"]["hit_rate@5"]).all()


def test_ece_is_the_mean_distance_of_the_bins():
  scored, _ = _candidates(4)
  total = distance = 0.0
  for score in np.unique(scored.scores):  # fewer than bins: each is one
    mine = scored.scores == score
    distance += abs(scored.scores[mine].mean() - scored.labels[mine].mean()) * mine.sum()
    total += mine.sum()
  assert metrics.summary(scored, replicates=0)["ece"] == pytest.approx(distance / total, abs=1e-12)
