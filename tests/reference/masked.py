"""Twins of lcn_tf/layers/masked.py for one row: lists of the entries that are really there, no masks."""

import numpy as np


def softmax(scores):
  exponentials = [np.exp(score - max(scores)) for score in scores]
  return np.array([e / sum(exponentials) for e in exponentials])


def mean(rows, width):
  total = np.zeros(width)
  for row in rows:
    total += row
  return total / max(len(rows), 1)


def top_k(scores, k):
  """Positions of the k highest scores, the lower position first among equals."""
  return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def visible(mask_row):
  """Positions that a mask row keeps."""
  return [i for i, kept in enumerate(mask_row) if kept]
