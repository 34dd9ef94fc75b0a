"""Vocabularies: from the values of a field to the rows of an embedding table."""

import numpy as np
import polars as pl

from lcn_tf.data.id_mapping import BucketTable, ValueTable
from lcn_tf.schema import Vocabulary


def build_vocabulary(name: str, counted: list[pl.DataFrame], declared: Vocabulary, seed: int = 0) -> ValueTable:
  """The vocabulary of all fields that share it.

  Args:
    name: Name of the vocabulary.
    counted: Per field, columns `value` (strings) and `count` (in the training interactions); a value may occur in
      several rows and frames, its counts are added.
    declared: The cut (`min_count`) and the out-of-vocabulary rows.
    seed: Seed of the out-of-vocabulary hash.
  """
  empty = pl.DataFrame(schema={"value": pl.String, "count": pl.Int64})
  rows = [empty, *(frame.select(pl.col("value").cast(pl.String), pl.col("count").cast(pl.Int64)) for frame in counted)]
  kept = (
    pl.concat(rows)
    .drop_nulls("value")
    .group_by("value")
    .agg(pl.col("count").sum())
    .filter(pl.col("count") >= declared.min_count)
    .sort(["count", "value"], descending=[True, False])
  )
  return ValueTable(name, kept["value"], kept["count"], declared.oov, seed)


def build_buckets(name: str, counted: list[pl.DataFrame], buckets: int) -> BucketTable:
  """The buckets of all numeric fields that share them: each has about as many training interactions as the others.

  Args:
    name: Name of the vocabulary.
    counted: Per field, columns `value` (numbers) and `count` (in the training interactions).
    buckets: Largest number of buckets.
  """
  empty = pl.DataFrame(schema={"value": pl.Float64, "count": pl.Int64})
  rows = pl.concat([empty, *(frame.select(pl.col("value"), pl.col("count").cast(pl.Int64)) for frame in counted)])
  kept = rows.drop_nulls("value").group_by("value").agg(pl.col("count").sum()).sort("value")
  values, counts = kept["value"].to_numpy(), kept["count"].to_numpy()
  below = np.cumsum(counts) - counts  # training interactions with smaller values
  wanted = counts.sum() * np.arange(1, buckets) / buckets
  # the value nearest to each quantile from above; a bucket below the smallest value would be empty
  starts = np.unique(np.searchsorted(below, wanted, "left"))
  edges = values[starts[(starts > 0) & (starts < len(values))]]
  per_bucket = np.bincount(np.searchsorted(edges, values, "right"), counts, len(edges) + 1).astype(np.int64)
  return BucketTable(name, pl.Series([str(-np.inf), *map(str, edges.tolist())]), pl.Series(per_bucket))


def count_values(column: pl.Series, weights: pl.Series, max_values: int) -> pl.DataFrame:
  """Columns `value` and `count`: `weights` (rows that are worth 0 do not count) summed over the rows of a value."""
  frame = pl.DataFrame({"value": column, "count": weights}).filter(pl.col("count") > 0)
  if column.dtype == pl.List:
    frame = frame.with_columns(pl.col("value").list.drop_nulls().list.head(max_values)).explode("value")
  return frame.drop_nulls("value").group_by("value").agg(pl.col("count").sum())
