"""Confidence intervals by resampling users, because the candidates of one user are not independent.

A replicate draws as many users as there are, with replacement. A user drawn c times counts c times, so a replicate is
the same metric under integer user weights. Candidates are sorted once, and each user's own AUC and loss are computed
once. A replicate then costs one cumulative sum (AUC) and two dot products (GAUC, logloss). Nothing is approximated.
"""

import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lcn_tf.metrics import probability, ranking
from lcn_tf.metrics.scored import Scored, dense

NAMES = ("auc", "gauc", "logloss")
_THREADS = 2


class Resampler:
  """Scored candidates of one model, ready to be evaluated under user weights.

  Attributes:
    users: Number of users.
    gauc_weight: Weight n_u of each user in GAUC, `[users]`; 0 for a user with one class only.
  """

  def __init__(self, scored: Scored):
    index, self.users = dense(scored.users)
    order = ranking.Ranking(scored.scores, scored.labels)
    self._ranking = order
    self._positive_users, self._negative_users = index[order.positives], index[order.negatives]
    weights = scored.weights
    self._positive_weights = None if weights is None else weights[order.positives]
    self._negative_weights = None if weights is None else weights[order.negatives]
    auc_u, self._weight_u = ranking.user_auc_of(scored.scores, scored.labels, index, self.users, weights)
    both = ~np.isnan(auc_u)
    self.gauc_weight = np.where(both, self._weight_u, 0.0)
    self._gauc_sum = np.where(both, auc_u, 0.0) * self.gauc_weight
    self._loss_sum: np.ndarray | None = None
    if probability.are_probabilities(scored.scores):
      loss = probability.losses(scored.scores, scored.labels)
      self._loss_sum = np.bincount(index, loss if weights is None else loss * weights, minlength=self.users)

  def metrics(self, counts: np.ndarray | None = None) -> np.ndarray:
    """`[auc, gauc, logloss]` with user `u` counted `counts[u]` times (once if None). NaN where undefined."""
    if counts is None:
      pooled = self._ranking.auc_of(self._positive_weights, self._negative_weights)
      counts = np.ones(self.users)
    else:
      counts = np.asarray(counts, np.float64)
      positive, negative = counts[self._positive_users], counts[self._negative_users]
      if self._positive_weights is not None and self._negative_weights is not None:
        positive, negative = positive * self._positive_weights, negative * self._negative_weights
      pooled = self._ranking.auc_of(positive, negative)
    loss = np.nan if self._loss_sum is None else _ratio(counts, self._loss_sum, self._weight_u)
    return np.array([pooled, _ratio(counts, self._gauc_sum, self.gauc_weight), loss])


def confidence(
  scored: Scored, *, replicates: int = 200, level: float = 0.95, seed: int = 0
) -> dict[str, list[float] | float | int]:
  """Percentile intervals of AUC, GAUC and logloss.

  A replicate in which a metric is undefined (one class only) is left out of that metric's interval.

  Returns:
    `{"level", "replicates", "auc": [low, high], "gauc", "logloss"}`. An interval is `[nan, nan]` if no replicate is
    left. The one of logloss is `[nan, nan]` also if the scores are no probabilities.
  """
  return intervals(Resampler(scored), replicates=replicates, level=level, seed=seed)


def intervals(
  resampler: Resampler, *, replicates: int, level: float = 0.95, seed: int = 0
) -> dict[str, list[float] | float | int]:
  """`confidence` of candidates that are already sorted."""
  values = _replicate([resampler], replicates, level, seed)[:, 0]
  return {"level": level, "replicates": replicates} | {
    name: _interval(values[:, i], level) for i, name in enumerate(NAMES)
  }


def paired(
  a: Sequence[Scored], b: Sequence[Scored], *, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, dict[str, object]]:
  """Difference of model `a` and model `b` on the same candidates.

  Both models are evaluated under the same resampled users, so their common part (hard users) cancels: the interval is
  that of the difference. With several seeds the statistic is the mean of the metric over the seeds. Users are resampled
  jointly for all seeds, so the interval is about users, not about seeds.

  Args:
    a: Scored candidates of model `a`, one entry per seed. All entries of `a` and `b` hold the same candidates in the
      same order.
    b: Scored candidates of model `b`, one entry per seed.
    replicates: Number of bootstrap replicates.
    level: Level of the intervals, between 0 and 1.
    seed: Seed of the bootstrap.

  Returns:
    For `auc`, `gauc` and `logloss`: `{"a", "b", "difference" (a - b), "interval": [low, high], "a_seeds", "b_seeds"}`.

  Raises:
    ValueError: `a` or `b` is empty, or the candidates (labels, users, weights) are not the same everywhere.
  """
  everyone = [*a, *b]
  _check_sides(a, b)
  for i, other in enumerate(everyone):
    _check_same(everyone[0], other, i)
  found = _replicates([Resampler(scored) for scored in everyone], replicates, level, seed)
  return paired_replicates(found[: len(a)], found[len(a) :], level=level)


class Replicates(NamedTuple):
  """Metrics of one model, in the order of `NAMES`.

  Attributes:
    point: Metrics of its candidates, `[metrics]`.
    values: Metrics under resampled users, `[replicates, metrics]`.
  """

  point: np.ndarray
  values: np.ndarray


def replicates_of(scored: Scored, *, replicates: int = 1000, seed: int = 0) -> Replicates:
  """Replicates of one model for `paired_replicates`. Models with the same candidates get the same resampled users."""
  return _replicates([Resampler(scored)], replicates, 0.95, seed)[0]


def paired_replicates(
  a: Sequence[Replicates], b: Sequence[Replicates], *, level: float = 0.95
) -> dict[str, dict[str, object]]:
  """`paired` of models whose replicates are known: one model can be compared with many at the cost of one.

  All models must have the same candidates in the same order, the same number of replicates and the same seed.
  """
  _check_sides(a, b)
  point_a, point_b = (np.stack([of.point for of in side]) for side in (a, b))
  values_a, values_b = (np.stack([of.values for of in side], 1) for side in (a, b))
  difference = values_a.mean(1) - values_b.mean(1)
  result = {}
  for i, name in enumerate(NAMES):
    of_a, of_b = point_a[:, i], point_b[:, i]
    result[name] = {
      "a": float(of_a.mean()),
      "b": float(of_b.mean()),
      "difference": float(of_a.mean() - of_b.mean()),
      "interval": _interval(difference[:, i], level),
      "a_seeds": [float(value) for value in of_a],
      "b_seeds": [float(value) for value in of_b],
    }
  return result


def _check_sides(a: Sequence[object], b: Sequence[object]) -> None:
  if not a or not b:
    raise ValueError(f"expected at least one model on each side, found {len(a)} and {len(b)}")


def _replicates(resamplers: Sequence[Resampler], replicates: int, level: float, seed: int) -> list[Replicates]:
  values = _replicate(resamplers, replicates, level, seed)
  return [Replicates(resampler.metrics(), values[:, i]) for i, resampler in enumerate(resamplers)]


def _replicate(resamplers: Sequence[Resampler], replicates: int, level: float, seed: int) -> np.ndarray:
  """Metrics `[replicates, models, metrics]`. All models see the same users in a replicate."""
  if replicates < 0 or not 0 < level < 1:
    raise ValueError(f"expected replicates >= 0 and 0 < level < 1, found {replicates} and {level}")
  users = resamplers[0].users
  seeds = np.random.SeedSequence(seed).spawn(replicates)

  def one(stream: np.random.SeedSequence) -> np.ndarray:
    drawn = np.random.default_rng(stream).integers(0, users, users) if users else np.zeros(0, np.int64)
    counts = np.bincount(drawn, minlength=users).astype(np.float64)
    return np.stack([resampler.metrics(counts) for resampler in resamplers])

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = list(pool.map(one, seeds))
  return np.stack(found) if found else np.zeros((0, len(resamplers), len(NAMES)))


def _interval(values: np.ndarray, level: float) -> list[float]:
  values = values[~np.isnan(values)]
  if not len(values):
    return [float("nan"), float("nan")]
  low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
  return [float(low), float(high)]


def _ratio(counts: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> float:
  total = float(np.dot(counts, denominator))
  return float(np.dot(counts, numerator)) / total if total > 0 else float("nan")


def _check_same(one: Scored, other: Scored, position: int) -> None:
  for name in ("labels", "users", "weights"):
    mine, theirs = getattr(one, name), getattr(other, name)
    if (mine is None) != (theirs is None) or (mine is not None and not np.array_equal(mine, theirs)):
      raise ValueError(f"model {position} does not hold the candidates of model 0: the {name} differ")
