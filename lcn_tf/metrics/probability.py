"""Logloss and calibration: the quality of scores as probabilities. NumPy only."""

import dataclasses

import numpy as np

from lcn_tf.metrics.scored import BLOCK, as_labels, check_scores

CLIP = 1e-7


def are_probabilities(scores: np.ndarray) -> bool:
  """Whether every score lies in [0, 1]."""
  return not len(scores) or bool(scores.min() >= 0 and scores.max() <= 1)


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Cross-entropy of every candidate, `[n]`, with probabilities clipped to [1e-7, 1 - 1e-7].

  Raises:
    ValueError: A score is NaN or outside [0, 1], or a label is neither 0 nor 1.
  """
  probabilities, labels = np.asarray(probabilities), as_labels(labels)
  check_scores(probabilities)
  if not are_probabilities(probabilities):
    wrong = np.count_nonzero((probabilities < 0) | (probabilities > 1))
    raise ValueError(f"{wrong} of {probabilities.size} scores are no probabilities (outside [0, 1])")
  clipped = np.clip(probabilities.astype(np.float64), CLIP, 1 - CLIP)
  return -np.log(np.where(labels, clipped, 1 - clipped))


def logloss(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
  """Mean cross-entropy over candidates, with probabilities clipped to [1e-7, 1 - 1e-7]. NaN without a candidate.

  Raises:
    ValueError: A score is NaN or outside [0, 1], or a label is neither 0 nor 1.
  """
  return _mean(losses(probabilities, labels), weights)


def calibration(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
  """Predicted over observed positives: 1 is perfect, above 1 promises too much. NaN without a positive.

  Raises:
    ValueError: A score is NaN, or a label is neither 0 nor 1.
  """
  probabilities, labels = np.asarray(probabilities), as_labels(labels)
  check_scores(probabilities)
  if weights is None:
    predicted, observed = float(probabilities.sum(dtype=np.float64)), float(np.count_nonzero(labels))
  else:
    predicted, observed = float(np.dot(probabilities, weights)), float(np.dot(labels, weights))
  return predicted / observed if observed > 0 else float("nan")


@dataclasses.dataclass(frozen=True)
class CalibrationCurve:
  """Bins of candidates with similar probabilities, in rising order. All arrays are `[bins]`.

  Attributes:
    predicted: Mean probability of each bin.
    observed: Share of positives in each bin.
    count: Number of candidates in each bin.
    weight: Sum of the candidates' weights in each bin.
  """

  predicted: np.ndarray
  observed: np.ndarray
  count: np.ndarray
  weight: np.ndarray


def calibration_curve(
  probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, bins: int = 20
) -> CalibrationCurve:
  """At most `bins` bins with about equally many candidates. Equal probabilities share a bin; empty bins are left out.

  Raises:
    ValueError: `bins` is not positive, a score is NaN, or a label is neither 0 nor 1.
  """
  if bins < 1:
    raise ValueError(f"bins must be at least 1, found {bins}")
  probabilities, labels = np.asarray(probabilities), as_labels(labels)
  check_scores(probabilities)
  if not len(probabilities):
    return CalibrationCurve(*(np.zeros(0) for _ in range(4)))
  edges = np.unique(np.quantile(probabilities, np.arange(1, bins) / bins, method="higher"))
  size = len(edges) + 1
  count = np.zeros(size, np.int64)
  mass, predicted, observed = np.zeros((3, size))
  for start in range(0, len(probabilities), BLOCK):
    some = slice(start, start + BLOCK)
    bin_of = np.searchsorted(edges, probabilities[some], side="left")
    weight = np.ones(len(bin_of)) if weights is None else np.asarray(weights[some], np.float64)
    count += np.bincount(bin_of, minlength=size)
    mass += np.bincount(bin_of, weight, minlength=size)
    predicted += np.bincount(bin_of, weight * probabilities[some], minlength=size)
    observed += np.bincount(bin_of, weight * labels[some], minlength=size)
  kept = mass > 0
  mass = mass[kept]
  return CalibrationCurve(predicted[kept] / mass, observed[kept] / mass, count[kept], mass)


def calibration_error(curve: CalibrationCurve) -> float:
  """Expected calibration error (ECE): mean distance of predicted and observed over the bins, by their weights. NaN
  without a bin."""
  total = float(curve.weight.sum())
  return float(np.dot(curve.weight, np.abs(curve.predicted - curve.observed)) / total) if total > 0 else float("nan")


def _mean(values: np.ndarray, weights: np.ndarray | None) -> float:
  if not len(values):
    return float("nan")
  if weights is None:
    return float(values.mean())
  total = float(np.sum(weights, dtype=np.float64))
  return float(np.dot(values, weights) / total) if total > 0 else float("nan")
