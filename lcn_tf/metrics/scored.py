"""Scored candidates: the input of every metric, checked once, and the joining of chunks."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

BLOCK = 2**20  # candidates whose intermediate results are held at a time


@dataclasses.dataclass(frozen=True)
class Scored:
  """Candidates with their scores and labels; arrays of one length.

  Attributes:
    scores: Scores, any real numbers; higher = more likely a positive. Logloss and calibration need probabilities.
    labels: Labels, 0 or 1.
    users: User of each candidate, an integer or a string. GAUC groups by user, and the bootstrap resamples users.
    weights: Weights, not negative; None = 1 each.

  Raises:
    ValueError: The lengths differ, scores are NaN (the message has their number), a label is neither 0 nor 1, or a
      weight is negative or not finite.
  """

  scores: np.ndarray
  labels: np.ndarray
  users: np.ndarray
  weights: np.ndarray | None = None

  def __post_init__(self) -> None:
    scores, labels, users = np.asarray(self.scores), np.asarray(self.labels), np.asarray(self.users)
    if not np.issubdtype(scores.dtype, np.floating):
      scores = scores.astype(np.float64)
    weights = None if self.weights is None else np.asarray(self.weights, np.float64)
    check_scores(scores)
    labels = as_labels(labels)
    if weights is not None:
      wrong = np.count_nonzero(~(weights >= 0) | np.isinf(weights))
      if wrong:
        raise ValueError(f"{wrong} of {weights.size} weights are negative or not finite")
    lengths = {"scores": scores.shape, "labels": labels.shape, "users": users.shape}
    lengths |= {} if weights is None else {"weights": weights.shape}
    if scores.ndim != 1 or len(set(lengths.values())) > 1:
      raise ValueError(f"expected arrays [n] of one length, found {lengths}")
    for name, value in zip(("scores", "labels", "users", "weights"), (scores, labels, users, weights), strict=True):
      object.__setattr__(self, name, value)

  def __len__(self) -> int:
    return len(self.scores)

  @classmethod
  def concatenate(cls, parts: Iterable["Scored"]) -> "Scored":
    """All candidates of `parts` (files, workers) as one; every metric of the result is exact."""
    parts = list(parts)
    if not parts:
      return cls(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64))
    weighted = any(part.weights is not None for part in parts)
    return cls(
      np.concatenate([part.scores for part in parts]),
      np.concatenate([part.labels for part in parts]),
      np.concatenate([part.users for part in parts]),
      np.concatenate([np.ones(len(part)) if part.weights is None else part.weights for part in parts])
      if weighted
      else None,
    )


class Accumulator:
  """Collects candidates chunk by chunk. Accumulators of several files or workers merge exactly, in any order.

  The ranking metrics need every score, so an accumulator keeps all of them: 13 bytes per candidate with float32 scores
  and int64 users, 21 with weights.
  """

  def __init__(self) -> None:
    self._parts: list[Scored] = []

  def add(
    self, scores: np.ndarray, labels: np.ndarray, users: np.ndarray, weights: np.ndarray | None = None
  ) -> "Accumulator":
    """Adds a chunk.

    Raises:
      ValueError: The chunk is not valid; see `Scored`.
    """
    self._parts.append(Scored(scores, labels, users, weights))
    return self

  def merge(self, other: "Accumulator") -> "Accumulator":
    """Adds the candidates of `other`."""
    self._parts += other._parts
    return self

  def result(self) -> Scored:
    """All candidates added so far."""
    return Scored.concatenate(self._parts)


def as_labels(labels: np.ndarray) -> np.ndarray:
  """Labels as bool `[n]`.

  Raises:
    ValueError: A label is neither 0 nor 1.
  """
  labels = np.asarray(labels)
  if labels.dtype == bool:
    return labels
  positive = labels == 1
  wrong = labels.size - np.count_nonzero(positive) - np.count_nonzero(labels == 0)
  if wrong:
    found = labels[~positive & (labels != 0)].flat[0]
    raise ValueError(f"{wrong} of {labels.size} labels are neither 0 nor 1, such as {found}")
  return positive


def check_scores(scores: np.ndarray) -> None:
  """Refuses NaN scores.

  Raises:
    ValueError: Some scores are NaN. The message has their number.
  """
  missing = np.count_nonzero(np.isnan(scores))
  if missing:
    raise ValueError(f"{missing} of {scores.size} scores are NaN")


def dense(users: np.ndarray) -> tuple[np.ndarray, int]:
  """Users as indices 0..count-1, in ascending order of their ids, and their count."""
  users = np.asarray(users)
  if users.size and np.issubdtype(users.dtype, np.integer):
    low, high = int(users.min()), int(users.max())
    if high - low < 4 * users.size:
      shifted = users - low
      seen = np.zeros(high - low + 1, bool)
      seen[shifted] = True
      position = np.cumsum(seen, dtype=np.int32) - np.int32(1)
      return position[shifted], int(position[-1]) + 1
  values, index = np.unique(users, return_inverse=True)
  return index.astype(np.int32), len(values)


def blocks(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
  """Spans `(start, stop)` of about `BLOCK` candidates that divide no group, where groups of `sizes [g]` follow each
  other."""
  ends = np.cumsum(sizes)
  start = 0
  while start < (int(ends[-1]) if len(ends) else 0):
    stop = int(ends[min(np.searchsorted(ends, start + BLOCK), len(ends) - 1)])
    yield start, stop
    start = stop
