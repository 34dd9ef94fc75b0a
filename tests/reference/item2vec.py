"""Twin of lcn_tf/pretraining/item2vec.py: pairs one by one, and a dense SVD."""

import math

import numpy as np


def cooccurrences(users, items, size, window):
  counts = np.zeros([size, size])
  for one in range(len(users)):
    for other in range(len(users)):
      if one != other and abs(one - other) <= window and users[one] == users[other]:
        counts[items[one], items[other]] += 1
  return counts


def shifted_ppmi(counts, negatives):
  total = counts.sum()
  matrix = np.zeros(counts.shape)
  for i in range(len(counts)):
    for j in range(len(counts)):
      if counts[i, j]:
        pmi = math.log(counts[i, j] * total / (counts[i].sum() * counts[j].sum()))
        matrix[i, j] = max(pmi - math.log(negatives), 0)
  return matrix


def inner_products(matrix, dim):
  """What p p^T must be, whatever the signs of the singular vectors."""
  left, singular, _ = np.linalg.svd(matrix)
  vectors = left[:, :dim] * np.sqrt(singular[:dim])
  return vectors @ vectors.T


def behaviours(requests, unknown):
  """{user: {(domain, item, time)}} of decoded records."""
  found = {}
  for request in requests:
    for domain in ("target", "source"):
      history = request.history(domain)
      for item, time in zip(history.items, history.times, strict=True):
        if item > unknown:
          found.setdefault(request.user, set()).add((domain, int(item), int(time)))
  return found
