"""All metrics of one set of scored candidates: the body of `metrics.json`."""

import dataclasses
from typing import Any

import numpy as np

from lcn_tf.metrics import bootstrap, probability
from lcn_tf.metrics.scored import Scored


@dataclasses.dataclass(frozen=True)
class Measured:
  """Metrics of some candidates and their bootstrap.

  Attributes:
    summary: Result of `summary`.
    names: Names of the metrics that have replicates.
    own: Replicates of the model.
    baseline: Replicates of the baseline, under the same users; None without one.
  """

  summary: dict[str, Any]
  names: tuple[str, ...]
  own: bootstrap.Replicates
  baseline: bootstrap.Replicates | None = None

  def interval(self, name: str, level: float = 0.95) -> list[float]:
    """Interval of a metric."""
    return bootstrap.interval(self.own.values[:, self.names.index(name)], level)

  def difference(self, name: str, level: float = 0.95) -> dict[str, Any]:
    """A metric of the model minus that of the baseline: `{"model", "baseline", "difference", "interval"}`.

    Raises:
      ValueError: There is no baseline.
    """
    if self.baseline is None:
      raise ValueError("these candidates were measured without a baseline")
    i = self.names.index(name)
    model, other = float(self.own.point[i]), float(self.baseline.point[i])
    between = bootstrap.interval(self.own.values[:, i] - self.baseline.values[:, i], level)
    return {"model": model, "baseline": other, "difference": model - other, "interval": between}


def summary(scored: Scored, *, replicates: int = 200, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
  """AUC, GAUC, logloss and calibration with user-level bootstrap intervals.

  Args:
    scored: Scored candidates.
    replicates: Number of bootstrap replicates; 0 = no intervals (`[nan, nan]`).
    level: Level of the intervals, between 0 and 1.
    seed: Seed of the bootstrap.

  Returns:
    `{"auc", "gauc", "logloss", "calibration", "ece", "candidates", "positives", "users", "gauc_users", "confidence"}`.
    `gauc_users` counts the users with both classes. A metric that is undefined is NaN. Logloss, calibration and `ece`,
    the expected calibration error, are NaN if the scores are no probabilities.
  """
  return measure(scored, replicates=replicates, level=level, seed=seed).summary


def measure(
  scored: Scored,
  *,
  requests: np.ndarray | None = None,
  baseline: Scored | None = None,
  replicates: int = 200,
  level: float = 0.95,
  seed: int = 0,
) -> Measured:
  """`summary` with its replicates.

  Args:
    scored: Scored candidates.
    requests: Request of each candidate, an integer `[n]`. It adds `requests` to the summary: their number `count`,
      `ndcg@k`, `hit_rate@k` and `confidence`.
    baseline: Scores of another model for the same candidates in the same order.
    replicates, level, seed: As in `summary`.
  """
  models = [scored] if baseline is None else [scored, baseline]
  resamplers = [bootstrap.Resampler(model, requests) for model in models]
  own, *other = bootstrap.replicates_by(resamplers, replicates=replicates, seed=seed)
  resampler = resamplers[0]
  value = dict(zip(resampler.names, map(float, own.point), strict=True))
  between = {name: bootstrap.interval(own.values[:, i], level) for i, name in enumerate(resampler.names)}
  curve = probability.calibration_curve(scored.scores, scored.labels, scored.weights)
  found: dict[str, Any] = {
    **{name: value[name] for name in bootstrap.NAMES},
    "ece": probability.calibration_error(curve) if probability.are_probabilities(scored.scores) else float("nan"),
    "candidates": len(scored),
    "positives": int(np.count_nonzero(scored.labels)),
    "users": resampler.users,
    "gauc_users": int(np.count_nonzero(resampler.gauc_weight)),
    "confidence": {"level": level, "replicates": replicates, **{name: between[name] for name in bootstrap.NAMES}},
  }
  if requests is not None:
    names = resampler.names[len(bootstrap.NAMES) :]
    found["requests"] = {
      "count": resampler.requests,
      **{name: value[name] for name in names},
      "confidence": {name: between[name] for name in names},
    }
  return Measured(found, resampler.names, own, other[0] if other else None)
