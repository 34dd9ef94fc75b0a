"""Logloss and calibration against their definitions."""

import numpy as np
import pytest
import sklearn.metrics

from lcn_tf import metrics
from tests.reference import metrics as reference


@pytest.fixture
def rows():
  rng = np.random.default_rng(0)
  probabilities = rng.random(2000)
  return probabilities, (rng.random(2000) < probabilities).astype(np.float32), rng.random(2000)


def test_logloss_is_its_definition(rows):
  probabilities, labels, weights = rows
  assert metrics.logloss(probabilities, labels) == pytest.approx(reference.logloss(probabilities, labels))
  assert metrics.logloss(*rows) == pytest.approx(reference.logloss(*rows))
  assert metrics.logloss(probabilities, labels) == pytest.approx(sklearn.metrics.log_loss(labels, probabilities))
  assert weights.min() < 0.5  # the weighted case differs from the plain one


def test_certain_and_wrong_costs_what_the_clip_allows():
  assert metrics.logloss([0.0, 1.0], [1, 0]) == pytest.approx(-np.log(1e-7))
  assert metrics.logloss(np.array([0.0, 1.0], np.float32), [0, 1]) == pytest.approx(1e-7)


def test_logloss_of_one_candidate():
  assert metrics.logloss([0.8], [1]) == pytest.approx(0.2231, abs=5e-5)


def test_logloss_of_nothing_is_nan():
  assert np.isnan(metrics.logloss([], []))


def test_logloss_refuses_what_is_no_probability():
  with pytest.raises(ValueError, match="1 of 2 scores are no probabilities"):
    metrics.logloss([0.5, 1.5], [0, 1])


def test_calibration_is_predicted_over_observed(rows):
  assert metrics.calibration([0.5, 0.5, 0.5], [1, 0, 0]) == pytest.approx(1.5)
  assert metrics.calibration(*rows) == pytest.approx(reference.calibration(*rows))


def test_calibration_without_positives_is_nan():
  assert np.isnan(metrics.calibration([0.5], [0]))
  assert np.isnan(metrics.calibration([], []))


def test_curve_bins_hold_every_candidate_once(rows):
  probabilities, labels, weights = rows
  curve = metrics.calibration_curve(probabilities, labels, weights, bins=10)
  assert len(curve.count) == 10
  assert curve.count.sum() == 2000
  assert curve.count.min() >= 199
  assert curve.weight.sum() == pytest.approx(weights.sum())
  assert np.dot(curve.observed, curve.weight) == pytest.approx(np.dot(labels, weights))
  assert np.dot(curve.predicted, curve.weight) == pytest.approx(np.dot(probabilities, weights))
  assert (np.diff(curve.predicted) > 0).all()


def test_curve_keeps_equal_probabilities_in_one_bin():
  curve = metrics.calibration_curve(np.repeat([0.1, 0.7], [9, 1]), np.arange(10) % 3 == 0, bins=5)
  np.testing.assert_allclose(curve.predicted, [0.1, 0.7])
  np.testing.assert_array_equal(curve.count, [9, 1])
  np.testing.assert_allclose(curve.observed, [1 / 3, 1.0])


def test_curve_of_nothing_is_empty():
  assert len(metrics.calibration_curve([], []).count) == 0


def test_curve_needs_a_bin():
  with pytest.raises(ValueError, match="bins must be at least 1, found 0"):
    metrics.calibration_curve([0.5], [1], bins=0)
