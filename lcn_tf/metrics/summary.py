"""All metrics of one set of scored candidates: the body of `metrics.json`."""

from typing import Any

import numpy as np

from lcn_tf.metrics import bootstrap, probability
from lcn_tf.metrics.scored import Scored


def summary(scored: Scored, *, replicates: int = 200, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
  """AUC, GAUC, logloss and calibration with user-level bootstrap intervals.

  Args:
    scored: Scored candidates.
    replicates: Number of bootstrap replicates; 0 = no intervals (`[nan, nan]`).
    level: Level of the intervals, between 0 and 1.
    seed: Seed of the bootstrap.

  Returns:
    `{"auc", "gauc", "logloss", "calibration", "candidates", "positives", "users", "gauc_users", "confidence"}`.
    `gauc_users` counts the users with both classes. A metric that is undefined is NaN. Logloss and calibration are NaN
    if the scores are no probabilities.
  """
  resampler = bootstrap.Resampler(scored)
  auc, gauc, logloss = (float(value) for value in resampler.metrics())
  probable = probability.are_probabilities(scored.scores)
  return {
    "auc": auc,
    "gauc": gauc,
    "logloss": logloss,
    "calibration": probability.calibration(scored.scores, scored.labels, scored.weights) if probable else float("nan"),
    "candidates": len(scored),
    "positives": int(np.count_nonzero(scored.labels)),
    "users": resampler.users,
    "gauc_users": int(np.count_nonzero(resampler.gauc_weight)),
    "confidence": bootstrap.intervals(resampler, replicates=replicates, level=level, seed=seed),
  }
