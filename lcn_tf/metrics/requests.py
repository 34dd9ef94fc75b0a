"""Metrics of requests: is a positive among the first candidates? NumPy only.

Candidates of equal scores are in random order: NDCG and the hit rate are expected values over it.
"""

from typing import NamedTuple

import numpy as np

from lcn_tf.metrics.scored import BLOCK, Scored

CUTS = (1, 5, 10)
NAMES = (*(f"ndcg@{k}" for k in CUTS), *(f"hit_rate@{k}" for k in CUTS))


class OfRequests(NamedTuple):
  """The requests that count: those with more than one candidate, one of them a positive.

  Attributes:
    users: User of each, `[requests]`.
    values: Metrics of `NAMES` of each, `[requests, len(NAMES)]`.
  """

  users: np.ndarray
  values: np.ndarray


def of_requests(scored: Scored, requests: np.ndarray) -> OfRequests:
  """NDCG and hit rate of every request. Weights of candidates do not count.

      NDCG@k = sum_{i <= k} y_i / log2(i + 1)  /  sum_{i <= min(k, positives)} 1 / log2(i + 1)

  Args:
    scored: Candidates.
    requests: Request of each candidate, an integer `[n]`. Candidates of one request have one user.

  Returns:
    By rising number of the request.
  """
  order = np.argsort(requests, kind="stable")
  sizes = np.unique(requests[order], return_counts=True)[1]
  found = []
  ends = np.cumsum(sizes)
  start = first = 0
  while start < len(order):
    last = min(int(np.searchsorted(ends, start + BLOCK)), len(ends) - 1)
    rows = order[start : ends[last]]
    found.append(_some(scored.scores[rows], scored.labels[rows], scored.users[rows], sizes[first : last + 1]))
    start, first = int(ends[last]), last + 1
  if not found:
    return OfRequests(scored.users[:0], np.zeros((0, len(NAMES))))
  return OfRequests(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _some(scores: np.ndarray, labels: np.ndarray, users: np.ndarray, sizes: np.ndarray) -> OfRequests:
  """`of_requests` of whole requests of `sizes` that follow each other."""
  starts = np.cumsum(sizes) - sizes
  positives = np.add.reduceat(labels.astype(np.int64), starts)
  kept = (sizes > 1) & (positives > 0)
  if not kept.any():
    return OfRequests(users[:0], np.zeros((0, len(NAMES))))
  mine = np.repeat(kept, sizes)
  scores, labels, users, sizes, positives = scores[mine], labels[mine], users[mine], sizes[kept], positives[kept]
  starts = np.cumsum(sizes) - sizes
  request = np.repeat(np.arange(len(sizes)), sizes)
  order = np.lexsort((-scores, request))
  scores, labels = scores[order], labels[order]
  # A tie group is a run of one request's equal scores; `place` counts within the request, from 0.
  group = np.flatnonzero(np.append(True, (scores[1:] != scores[:-1]) | (request[1:] != request[:-1])))
  members = np.diff(np.append(group, len(scores)))
  place = group - starts[request[group]]
  good = np.add.reduceat(labels.astype(np.int64), group)
  first_group = np.searchsorted(group, starts)
  discounts = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, int(sizes.max()) + 2))))
  ndcg, hits = [], []
  for k in CUTS:
    begin, end = np.minimum(place, k), np.minimum(place + members, k)
    gain = good / members * (discounts[end] - discounts[begin])
    ideal = discounts[np.minimum(positives, k)]
    ndcg.append(np.add.reduceat(gain, first_group) / ideal)
    missed = np.multiply.reduceat(_none_drawn(members, good, end - begin), first_group)
    hits.append(1 - missed)
  return OfRequests(users[starts], np.stack(ndcg + hits, 1))


def _none_drawn(members: np.ndarray, good: np.ndarray, drawn: np.ndarray) -> np.ndarray:
  """Probability that none of the `good` is among `drawn` of `members`, drawn without replacement."""
  probability = np.ones(len(members))
  for i in range(int(drawn.max(initial=0))):
    left = np.maximum(members - good - i, 0) / np.maximum(members - i, 1)
    probability *= np.where(i < drawn, left, 1.0)
  return probability
