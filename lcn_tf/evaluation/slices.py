"""Metrics of parts of the candidates: by length of the histories, by how often the item was seen in training."""

from typing import Any

import numpy as np
import polars as pl

from lcn_tf import metrics
from lcn_tf.evaluation import predictions
from lcn_tf.schema import DOMAINS

STEPS = (0, 1, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)


def slices(
  frame: pl.DataFrame, item_counts: np.ndarray | None, *, replicates: int = 100, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
  """Buckets of the candidates, with metrics and their intervals.

  Args:
    frame: Predictions.
    item_counts: Training interactions of each catalogue row; None leaves out the slices by item.
    replicates: Bootstrap samples of each bucket.
    seed: Seed of the bootstrap.

  Returns:
    `{"history_target": [bucket, ...], "history_source": ..., "item_count": ...}`. A bucket has the entries of
    `metrics.summary`, its name `bucket` ("30-99") and its lower end `low`. Empty buckets are left out.
  """
  values = {f"history_{d}": frame[f"history_{d}"].to_numpy() for d in DOMAINS}
  if item_counts is not None:
    values["item_count"] = item_counts[frame["item"].to_numpy()]
  found: dict[str, list[dict[str, Any]]] = {}
  for name, value in values.items():
    bucket_of = np.searchsorted(STEPS, value, side="right") - 1
    found[name] = []
    for bucket in np.unique(bucket_of):
      part = predictions.scored(frame.filter(pl.Series(bucket_of == bucket)))
      summary = metrics.summary(part, replicates=replicates, seed=seed)
      found[name].append({"bucket": label(int(bucket)), "low": STEPS[bucket], **summary})
  return found


def label(bucket: int) -> str:
  """Name of bucket number `bucket` of `STEPS`: '0', '1-9', ..., '100000+'."""
  low = STEPS[bucket]
  if bucket + 1 == len(STEPS):
    return f"{low}+"
  last = STEPS[bucket + 1] - 1
  return str(low) if last == low else f"{low}-{last}"
