"""How the twins read one behaviour."""

import numpy as np


def age_bucket(age_seconds, buckets):
  """Bucket 0 is younger than a minute, bucket r at least 60 * 2 ** (r - 1) seconds, the last is open."""
  bucket = 0
  while bucket < buckets - 1 and age_seconds >= 60 * 2**bucket:
    bucket += 1
  return bucket


def side_information(candidates, behaviours, b, n, i):
  """Stored cross fields of behaviour i, and its recency as candidate n sees it."""
  side = behaviours.side[b, i]
  buckets = len(behaviours.recency)
  if buckets == 0:
    return side
  age = int(candidates.times[b, n]) - int(behaviours.times[b, i])
  return np.concatenate([side, behaviours.recency[age_bucket(age, buckets)]])


def side_width(behaviours):
  return behaviours.side.shape[-1] + (behaviours.recency.shape[-1] if len(behaviours.recency) else 0)


def behaviour_row(candidates, behaviours, b, n, i):
  """[embedding ; side information]."""
  return np.concatenate([behaviours.embedding[b, i], side_information(candidates, behaviours, b, n, i)])
