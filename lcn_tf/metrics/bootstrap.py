"""Confidence intervals by resampling users, because the candidates of one user are not independent.

A replicate draws as many users as there are, with replacement. A user drawn c times counts c times, so a replicate is
the same metric under integer user weights. Candidates are sorted once, and each user's own AUC and loss are computed
once. A replicate then costs one cumulative sum (AUC) and a few dot products (GAUC, logloss, calibration). Nothing is
approximated.
"""

import concurrent.futures
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lcn_tf.metrics import probability, ranking
from lcn_tf.metrics import requests as by_request
from lcn_tf.metrics.scored import BLOCK, Scored, dense

NAMES = ("auc", "gauc", "logloss", "calibration")
_THREADS = 2


class Resampler:
  """Scored candidates of one model, ready to be evaluated under user weights.

  Args:
    scored: Candidates.
    requests: Request of each candidate, an integer `[n]`; None leaves out the metrics of requests.

  Attributes:
    names: Names of the metrics: `NAMES`, then those of `requests.NAMES` if there are requests.
    users: Number of users.
    requests: Number of requests that count; 0 without any.
    gauc_weight: Weight n_u of each user in GAUC, `[users]`; 0 for a user with one class only.
  """

  def __init__(self, scored: Scored, requests: np.ndarray | None = None):
    index, self.users = dense(scored.users)
    order = ranking.Ranking(scored.scores, scored.labels)
    self._ranking = order
    self._positive_users, self._negative_users = index[order.positives], index[order.negatives]
    weights = scored.weights
    self._positive_weights = None if weights is None else weights[order.positives]
    self._negative_weights = None if weights is None else weights[order.negatives]
    del order.positives, order.negatives  # 4 bytes a candidate
    auc_u, self._weight_u = ranking.user_auc_of(scored.scores, scored.labels, index, self.users, weights)
    both = ~np.isnan(auc_u)
    self.gauc_weight = np.where(both, self._weight_u, 0.0)
    self._gauc_sum = np.where(both, auc_u, 0.0) * self.gauc_weight
    self._sums = _user_sums(scored, index, self.users) if probability.are_probabilities(scored.scores) else None
    self.names: tuple[str, ...] = NAMES
    self.requests = 0
    self._requests: tuple[np.ndarray, np.ndarray] | None = None
    if requests is not None:
      self.names += by_request.NAMES
      found = by_request.of_requests(dataclasses.replace(scored, users=index), requests)
      self.requests = len(found.users)
      sums = [np.bincount(found.users, column, minlength=self.users) for column in found.values.T]
      self._requests = np.stack(sums), np.bincount(found.users, minlength=self.users)

  def metrics(self, counts: np.ndarray | None = None) -> np.ndarray:
    """The metrics of `names` with user `u` counted `counts[u]` times (once if None). NaN where undefined."""
    if counts is None:
      pooled = self._ranking.auc_of(self._positive_weights, self._negative_weights)
      counts = np.ones(self.users)
    else:
      counts = np.asarray(counts, np.float64)
      positive, negative = counts[self._positive_users], counts[self._negative_users]
      if self._positive_weights is not None and self._negative_weights is not None:
        positive, negative = positive * self._positive_weights, negative * self._negative_weights
      pooled = self._ranking.auc_of(positive, negative)
    loss = calibration = np.nan
    if self._sums is not None:
      losses, predicted, observed = self._sums
      loss, calibration = _ratio(counts, losses, self._weight_u), _ratio(counts, predicted, observed)
    found = [pooled, _ratio(counts, self._gauc_sum, self.gauc_weight), loss, calibration]
    if self._requests is not None:
      sums, many = self._requests
      found += [_ratio(counts, of_metric, many) for of_metric in sums]
    return np.array(found)


def _user_sums(scored: Scored, index: np.ndarray, users: int) -> np.ndarray:
  """Weighted sums of losses, probabilities and labels of each user, `[3, users]`."""
  sums = np.zeros((3, users))
  for start in range(0, len(scored), BLOCK):
    some = slice(start, start + BLOCK)
    scores, labels = scored.scores[some], scored.labels[some]
    weight = 1.0 if scored.weights is None else scored.weights[some]
    for i, values in enumerate((probability.losses(scores, labels), scores.astype(np.float64), labels)):
      sums[i] += np.bincount(index[some], values * weight, minlength=users)
  return sums


def confidence(
  scored: Scored, *, replicates: int = 200, level: float = 0.95, seed: int = 0
) -> dict[str, list[float] | float | int]:
  """Percentile intervals of AUC, GAUC, logloss and calibration.

  A replicate in which a metric is undefined (one class only) is left out of that metric's interval.

  Returns:
    `{"level", "replicates", "auc": [low, high], "gauc", "logloss", "calibration"}`. An interval is `[nan, nan]` if no
    replicate is left. Those of logloss and calibration are `[nan, nan]` also if the scores are no probabilities.
  """
  found = replicates_of(scored, replicates=replicates, seed=seed)
  return {"level": level, "replicates": replicates} | {
    name: interval(found.values[:, i], level) for i, name in enumerate(NAMES)
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
    For each of `NAMES`: `{"a", "b", "difference" (a - b), "interval": [low, high], "a_seeds", "b_seeds"}`.

  Raises:
    ValueError: `a` or `b` is empty, or the candidates (labels, users, weights) are not the same everywhere.
  """
  everyone = [*a, *b]
  _check_sides(a, b)
  for i, other in enumerate(everyone):
    _check_same(everyone[0], other, i)
  found = replicates_by([Resampler(scored) for scored in everyone], replicates=replicates, seed=seed)
  return paired_replicates(found[: len(a)], found[len(a) :], level=level)


class Replicates(NamedTuple):
  """Metrics of one model, in the order of `Resampler.names`.

  Attributes:
    point: Metrics of its candidates, `[metrics]`.
    values: Metrics under resampled users, `[replicates, metrics]`.
  """

  point: np.ndarray
  values: np.ndarray


def replicates_of(scored: Scored, *, replicates: int = 1000, seed: int = 0) -> Replicates:
  """Replicates of one model for `paired_replicates`. Models with the same candidates get the same resampled users."""
  return replicates_by([Resampler(scored)], replicates=replicates, seed=seed)[0]


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
      "interval": interval(difference[:, i], level),
      "a_seeds": [float(value) for value in of_a],
      "b_seeds": [float(value) for value in of_b],
    }
  return result


def _check_sides(a: Sequence[object], b: Sequence[object]) -> None:
  if not a or not b:
    raise ValueError(f"expected at least one model on each side, found {len(a)} and {len(b)}")


def replicates_by(resamplers: Sequence[Resampler], *, replicates: int, seed: int = 0) -> list[Replicates]:
  """Replicates of models with the same candidates. All models see the same users in a replicate."""
  if replicates < 0:
    raise ValueError(f"expected replicates >= 0, found {replicates}")
  users = resamplers[0].users
  seeds = np.random.SeedSequence(seed).spawn(replicates)

  def one(stream: np.random.SeedSequence) -> list[np.ndarray]:
    drawn = np.random.default_rng(stream).integers(0, users, users) if users else np.zeros(0, np.int64)
    counts = np.bincount(drawn, minlength=users).astype(np.float64)
    return [resampler.metrics(counts) for resampler in resamplers]

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = list(pool.map(one, seeds))
  return [
    Replicates(resampler.metrics(), np.array([each[i] for each in found]).reshape(-1, len(resampler.names)))
    for i, resampler in enumerate(resamplers)
  ]


def interval(values: np.ndarray, level: float) -> list[float]:
  """Percentile interval of the replicates `[replicates]` of a metric, of those in which it is defined.

  Raises:
    ValueError: `level` is not between 0 and 1.
  """
  if not 0 < level < 1:
    raise ValueError(f"expected 0 < level < 1, found {level}")
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
