"""AUC and GAUC: exact, with any sample weights; a tie counts one half. NumPy only."""

from typing import NamedTuple

import numpy as np

from lcn_tf.metrics.scored import BLOCK, as_labels, blocks, check_scores, dense


class Ranking:
  """Candidates sorted once, so that the AUC under any weights costs one pass. The bootstrap repeats this pass.

  With negatives sorted by score and `C` their cumulative weight, positive `i` outranks `C[low_i]` of them and ties
  with `C[high_i] - C[low_i]`:

      AUC = sum_i w_i (C[low_i] + C[high_i]) / 2  /  (W+ W-)
  """

  def __init__(self, scores: np.ndarray, labels: np.ndarray):
    scores, labels = np.asarray(scores), as_labels(labels)
    check_scores(scores)
    negatives = np.flatnonzero(~labels)
    positives = np.flatnonzero(labels)
    place = np.int32 if len(scores) < 2**31 else np.int64
    self.negatives = negatives[np.argsort(scores[negatives])].astype(place)
    self.positives = positives[np.argsort(scores[positives])].astype(place)
    below, above = scores[self.negatives], scores[self.positives]
    self._low = np.searchsorted(below, above, side="left").astype(place)
    high = np.searchsorted(below, above, side="right").astype(place)
    self._high = None if np.array_equal(high, self._low) else high
    self._below = len(below)

  def auc(self, weights: np.ndarray | None = None) -> float:
    """AUC under `weights [n]` (1 each if None). NaN if a class has no weight."""
    if weights is None:
      return self.auc_of(None, None)
    return self.auc_of(weights[self.positives], weights[self.negatives])

  def auc_of(self, positive: np.ndarray | None, negative: np.ndarray | None) -> float:
    """AUC under weights in the order of `positives` and `negatives` (1 each if None). NaN if a class has no weight."""
    if negative is None:
      cumulative = np.arange(self._below + 1, dtype=np.float64)
    else:
      cumulative = np.zeros(self._below + 1)
      np.cumsum(negative, dtype=np.float64, out=cumulative[1:])
    outranked = cumulative[self._low]
    if self._high is not None:
      outranked = (outranked + cumulative[self._high]) / 2
    mass = float(len(self._low)) if positive is None else float(np.sum(positive, dtype=np.float64))
    pairs = mass * cumulative[-1]
    if not pairs > 0:
      return float("nan")
    won = np.sum(outranked) if positive is None else np.dot(outranked, positive)
    return float(won / pairs)


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
  """Probability that a random positive outscores a random negative; a tie counts one half.

      AUC = sum_{i in P, j in N} w_i w_j ([s_i > s_j] + [s_i = s_j] / 2)  /  sum_{i in P, j in N} w_i w_j

  Args:
    scores: Scores, `[n]`, on any scale.
    labels: Labels, `[n]`, 0 or 1.
    weights: Weights, `[n]`, not negative; None = 1 each.

  Returns:
    AUC. NaN (never 0.5) with one class only, or without a candidate.

  Raises:
    ValueError: A score is NaN, or a label is neither 0 nor 1.
  """
  return Ranking(scores, labels).auc(None if weights is None else np.asarray(weights, np.float64))


class ThresholdCurve(NamedTuple):
  """What is above each of some thresholds, from none of the candidates to all; weighted.

  Attributes:
    true_positives: Positives above each threshold, `[points]`, rising.
    false_positives: Negatives above it, `[points]`, rising.
    positives: All positives.
    negatives: All negatives.
  """

  true_positives: np.ndarray
  false_positives: np.ndarray
  positives: float
  negatives: float


def threshold_curve(
  scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, points: int = 400
) -> ThresholdCurve:
  """The curve behind ROC, precision and recall, and cumulative gain.

  Candidates of equal scores are above a threshold together or not at all.

  Args:
    scores, labels, weights: As in `auc`.
    points: Number of thresholds at most, at quantiles of the scores.

  Raises:
    ValueError: A score is NaN, or a label is neither 0 nor 1.
  """
  scores, labels = np.asarray(scores), as_labels(labels)
  check_scores(scores)
  if not len(scores):
    return ThresholdCurve(np.zeros(1), np.zeros(1), 0.0, 0.0)
  # none has a score that is no candidate's: what is at least a threshold is a whole group of ties
  thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, points - 1), method="higher"))
  above = np.zeros((2, len(thresholds) + 1))
  for start in range(0, len(scores), BLOCK):
    some = slice(start, start + BLOCK)
    place = np.searchsorted(thresholds, scores[some], "right")
    weight = np.ones(len(place)) if weights is None else np.asarray(weights[some], np.float64)
    for i, of_class in enumerate((labels[some], ~labels[some])):
      above[i] += np.bincount(place, weight * of_class, minlength=len(thresholds) + 1)
  falling = np.cumsum(above[:, :0:-1], axis=1)
  found = np.concatenate([np.zeros((2, 1)), falling], axis=1)
  return ThresholdCurve(found[0], found[1], float(found[0, -1]), float(found[1, -1]))


def user_auc(
  scores: np.ndarray, labels: np.ndarray, users: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """AUC of every user's own candidates.

  Returns:
    (auc `[users]`, NaN for a user with one class only; weight n_u `[users]`, the number of candidates or the sum of
    their weights), with users in ascending order of their ids.
  """
  check_scores(np.asarray(scores))
  index, count = dense(users)
  return user_auc_of(np.asarray(scores), as_labels(labels), index, count, weights)


def user_auc_of(
  scores: np.ndarray, labels: np.ndarray, index: np.ndarray, count: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """`user_auc` of checked arrays, with users as indices below `count`."""
  auc_u, weight_u = np.full(count, np.nan), np.zeros(count)
  by_user = np.argsort(index, kind="stable")
  for start, stop in blocks(np.bincount(index, minlength=count)):
    rows = by_user[start:stop]
    _fill(auc_u, weight_u, scores[rows], labels[rows], index[rows], None if weights is None else weights[rows])
  return auc_u, weight_u


def _fill(
  auc_u: np.ndarray,
  weight_u: np.ndarray,
  scores: np.ndarray,
  labels: np.ndarray,
  index: np.ndarray,
  weights: np.ndarray | None,
) -> None:
  """Sets the entries of the users whose candidates these are, all of them."""
  order = np.lexsort((scores, index))
  score, user, positive = scores[order], index[order], labels[order]
  new_user = np.concatenate([[True], user[1:] != user[:-1]])
  # A tie group is a run of one user's equal scores.
  group = np.flatnonzero(new_user | np.concatenate([[True], score[1:] != score[:-1]]))
  weight = np.ones(len(order)) if weights is None else np.asarray(weights, np.float64)[order]
  positives = np.add.reduceat(weight * positive, group)
  negatives = np.add.reduceat(weight * ~positive, group)
  first = np.flatnonzero(new_user[group])
  sizes = np.diff(np.append(first, len(group)))
  before = np.cumsum(negatives) - negatives
  won = positives * (before - np.repeat(before[first], sizes) + negatives / 2)
  present = user[group[first]]
  mass, other = np.add.reduceat(positives, first), np.add.reduceat(negatives, first)
  with np.errstate(invalid="ignore", divide="ignore"):
    auc_u[present] = np.where(mass * other > 0, np.add.reduceat(won, first) / (mass * other), np.nan)
  weight_u[present] = mass + other


def gauc(scores: np.ndarray, labels: np.ndarray, users: np.ndarray, weights: np.ndarray | None = None) -> float:
  """Mean of the users' own AUCs, weighted by their numbers of candidates (TWIN, arXiv 2302.02352, section 4.1).

      GAUC = sum_u n_u AUC_u / sum_u n_u,  over the users that have both classes

  n_u is the user's number of candidates, or the sum of their weights. A user with one class only is dropped from
  both sums.

  Returns:
    GAUC. NaN (never 0.5) if no user has both classes, or without a candidate.

  Raises:
    ValueError: A score is NaN, or a label is neither 0 nor 1.
  """
  return mean_auc(*user_auc(scores, labels, users, weights))


def mean_auc(auc_u: np.ndarray, weight_u: np.ndarray) -> float:
  """GAUC from the two results of `user_auc`."""
  both = ~np.isnan(auc_u)
  total = float(weight_u[both].sum())
  return float(np.dot(auc_u[both], weight_u[both]) / total) if total > 0 else float("nan")
