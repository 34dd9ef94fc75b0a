"""Vocabularies: from the values of a field to the rows of an embedding table."""

import polars as pl

from lcn_tf.data.id_mapping import ValueTable
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


def count_values(column: pl.Series, weights: pl.Series, max_values: int) -> pl.DataFrame:
  """Columns `value` and `count`: `weights` (rows that are worth 0 do not count) summed over the rows of a value."""
  frame = pl.DataFrame({"value": column, "count": weights}).filter(pl.col("count") > 0)
  if column.dtype == pl.List:
    frame = frame.with_columns(pl.col("value").list.drop_nulls().list.head(max_values)).explode("value")
  return frame.drop_nulls("value").group_by("value").agg(pl.col("count").sum())
