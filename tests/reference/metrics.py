"""Metrics with plain loops, as they are defined."""

import math


def auc(scores, labels, weights=None):
  weights = [1.0] * len(scores) if weights is None else weights
  won = pairs = 0.0
  for i in range(len(scores)):
    for j in range(len(scores)):
      if labels[i] == 1 and labels[j] == 0:
        weight = weights[i] * weights[j]
        pairs += weight
        if scores[i] > scores[j]:
          won += weight
        elif scores[i] == scores[j]:
          won += weight / 2
  return won / pairs if pairs else math.nan


def gauc(scores, labels, users, weights=None):
  weights = [1.0] * len(scores) if weights is None else weights
  numerator = denominator = 0.0
  for user in set(users):
    mine = [i for i in range(len(scores)) if users[i] == user]
    own = auc([scores[i] for i in mine], [labels[i] for i in mine], [weights[i] for i in mine])
    if not math.isnan(own):
      size = sum(weights[i] for i in mine)
      numerator += size * own
      denominator += size
  return numerator / denominator if denominator else math.nan


def logloss(probabilities, labels, weights=None):
  weights = [1.0] * len(labels) if weights is None else weights
  loss = total = 0.0
  for p, label, weight in zip(probabilities, labels, weights, strict=True):
    p = min(max(p, 1e-7), 1 - 1e-7)
    loss -= weight * math.log(p if label == 1 else 1 - p)
    total += weight
  return loss / total if total else math.nan


def calibration(probabilities, labels, weights=None):
  weights = [1.0] * len(labels) if weights is None else weights
  predicted = sum(p * w for p, w in zip(probabilities, weights, strict=True))
  observed = sum(label * w for label, w in zip(labels, weights, strict=True))
  return predicted / observed if observed else math.nan


def resample(counts, *columns):
  """Columns in which every candidate of user u (the last column) is there counts[u] times, as separate users."""
  users = columns[-1]
  rows = [(i, copy) for i, user in enumerate(users) for copy in range(counts[user])]
  copies = [[column[i] for i, _ in rows] for column in columns[:-1]]
  return [*copies, [(users[i], copy) for i, copy in rows]]
