"""Vocabularies: from the values of a field to the rows of an embedding table."""

import numpy as np
import polars as pl

from lcn_tf.data.field_values import Scale
from lcn_tf.data.id_mapping import BucketTable, ValueTable
from lcn_tf.schema import Feature, Vocabulary


def total_counts(counted: list[pl.DataFrame], dtype: type[pl.DataType] = pl.String) -> pl.DataFrame:
  """Columns `value` and `count` of all fields that share a vocabulary, each value once, in no order.

  Args:
    counted: Per field, columns `value` and `count` (in the training interactions); a value may occur in several rows
      and frames, whose counts are added.
    dtype: Type of the values.
  """
  empty = pl.DataFrame(schema={"value": dtype, "count": pl.Int64})
  rows = [empty, *(frame.select(pl.col("value").cast(dtype), pl.col("count").cast(pl.Int64)) for frame in counted)]
  return pl.concat(rows).drop_nulls("value").group_by("value").agg(pl.col("count").sum())


def frequent(counts: pl.DataFrame, declared: Vocabulary) -> pl.DataFrame:
  """The rows of `counts` that reach `min_count`, by falling frequency; ties by value."""
  kept = counts.filter(pl.col("count") >= declared.min_count)
  return kept.sort(["count", "value"], descending=[True, False])


def build_vocabulary(name: str, counts: pl.DataFrame, declared: Vocabulary) -> ValueTable:
  """The vocabulary of all fields that share it.

  Args:
    name: Name of the vocabulary.
    counts: Columns `value` (strings) and `count`, see `total_counts`.
    declared: The cut (`min_count`), the bound and the out-of-vocabulary rows.
  """
  kept = frequent(counts, declared)
  if declared.max_known:
    kept = kept.head(declared.max_known)
  return ValueTable(name, kept["value"], kept["count"], declared.oov)


def extend_vocabulary(table: ValueTable, totals: pl.DataFrame, part: int, declared: Vocabulary) -> ValueTable:
  """The vocabulary with rows for new values. The values that it has stay where they are, unless one has to give way.

  With a bound, the values that were met in the newest parts have rows. Of values of one part those that have a row
  already keep it, then the more frequent ones come first.

  Args:
    table: Vocabulary of the records that are extended.
    totals: Columns `value`, `count` and `last` (number of the part that met the value last) over all parts.
    part: Number of the part that is added.
    declared: The cut (`min_count`, which counts over all parts) and the bound.
  """
  known = pl.DataFrame({"value": table.values, "row": pl.int_range(len(table.values), eager=True)})
  found = known.join(totals, on="value", how="left", maintain_order="left")
  # a value beyond the bound of before may reach it again, but only one that this part met takes a row
  new = frequent(totals.filter(pl.col("last") == part).join(known, on="value", how="anti"), declared)
  values, counts = table.values, found["count"].fill_null(0)
  free = max(declared.max_known - len(known), 0) if declared.max_known else len(new)
  appended, waiting = new.head(free), new.slice(free)
  if len(waiting):
    # least recently met first
    stale = found.filter(pl.col("last").fill_null(-1) < part).sort(["last", "count", "value"], nulls_last=False)
    rows, waiting = stale["row"].head(len(waiting)), waiting.head(len(stale))
    # scatter changes a series in place
    values = values.clone().scatter(rows, waiting["value"])
    counts = counts.clone().scatter(rows, waiting["count"])
  values, counts = (pl.concat([kept, appended[kept.name]]) for kept in (values.alias("value"), counts.alias("count")))
  return ValueTable(table.name, values, counts, table.oov, table.seed)


def build_buckets(name: str, counts: pl.DataFrame, feature: Feature) -> BucketTable:
  """The buckets of all numeric fields that share them: each has about as many training interactions as the others.

  Args:
    name: Name of the vocabulary.
    counts: Columns `value` (numbers) and `count`, see `total_counts`.
    feature: One of the fields, which says how many buckets there are at most, and how numbers are standardised.
  """
  kept = counts.sort("value")
  values, numbers = kept["value"].to_numpy(), kept["count"].to_numpy()
  below = np.cumsum(numbers) - numbers  # training interactions with smaller values
  wanted = numbers.sum() * np.arange(1, feature.buckets) / feature.buckets
  # the value nearest to each quantile from above; a bucket below the smallest value would be empty
  starts = np.unique(np.searchsorted(below, wanted, "left"))
  edges = values[starts[(starts > 0) & (starts < len(values))]]
  per_bucket = np.bincount(np.searchsorted(edges, values, "right"), numbers, len(edges) + 1).astype(np.int64)
  scale = Scale.of(values, numbers, feature) if feature.standardise else None
  return BucketTable(name, pl.Series([str(-np.inf), *map(str, edges.tolist())]), pl.Series(per_bucket), scale=scale)


def count_values(column: pl.Series, weights: pl.Series, max_values: int) -> pl.DataFrame:
  """Columns `value` and `count`: `weights` (rows that are worth 0 do not count) summed over the rows of a value."""
  frame = pl.DataFrame({"value": column, "count": weights}).filter(pl.col("count") > 0)
  if column.dtype == pl.List:
    frame = frame.with_columns(pl.col("value").list.drop_nulls().list.head(max_values)).explode("value")
  return frame.drop_nulls("value").group_by("value").agg(pl.col("count").sum())
