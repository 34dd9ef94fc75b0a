"""Vocabularies: from the values of a field to the rows of an embedding table."""

import dataclasses
import functools
import hashlib

import numpy as np
import polars as pl

from lcn_tf.schema import PADDING, Vocabulary

NULL = 1  # the index of a missing value: the first out-of-vocabulary row


@dataclasses.dataclass(frozen=True)
class ValueTable:
  """A built vocabulary. Values are compared as strings, so 7 and '7' are the same value.

  Index 0 is padding, 1..oov are out of vocabulary, then `values` in their order.

  Attributes:
    name: Of the vocabulary.
    values: Strings `[V]`, by falling frequency in the training interactions; ties by value.
    counts: How often each occurs there `[V]`.
    oov: Rows that the other values share: index `1 + hash(value) % oov`; a missing value has index 1.
    seed: Of the hash.
  """

  name: str
  values: pl.Series
  counts: pl.Series
  oov: int = 1
  seed: int = 0

  @property
  def size(self) -> int:
    """Rows in all."""
    return 1 + self.oov + len(self.values)

  @functools.cached_property
  def _table(self) -> pl.DataFrame:
    index = pl.int_range(1 + self.oov, self.size, dtype=pl.Int32, eager=True)
    return pl.DataFrame({"value": self.values, "index": index})

  def indices(self, values: pl.Series, null: int = NULL) -> np.ndarray:
    """The index of every value: `[len(values)]` int32.

    Args:
      values: Strings.
      null: The index of a missing value.
    """
    frame = pl.DataFrame({"value": values.cast(pl.String)})
    known = frame.unique().drop_nulls().join(self._table, on="value", how="left")
    if self.oov > 1:
      unseen = known.filter(pl.col("index").is_null()).select("value")
      rows = pl.Series("index", [oov_index(v, self.oov, self.seed) for v in unseen["value"]], dtype=pl.Int32)
      known = pl.concat([known.drop_nulls(), unseen.with_columns(rows)])
    known = known.with_columns(pl.col("index").fill_null(1))
    found = frame.join(known, on="value", how="left", maintain_order="left")["index"]
    return found.fill_null(null).to_numpy().astype(np.int32)

  def frame(self) -> pl.DataFrame:
    """Columns `index`, `value`, `count`; padding and the out-of-vocabulary rows have no value and are not listed."""
    return self._table.select("index", "value").with_columns(self.counts.alias("count"))


def oov_index(value: str, oov: int, seed: int = 0) -> int:
  """The row, 1..oov, of a value that is out of vocabulary: the same on every machine and in every version."""
  digest = hashlib.blake2b(value.encode(), digest_size=8, key=str(seed).encode()).digest()
  return 1 + int.from_bytes(digest, "little") % oov


def build_vocabulary(name: str, counted: list[pl.DataFrame], declared: Vocabulary, seed: int = 0) -> ValueTable:
  """The vocabulary of all fields that share it.

  Args:
    name: Of the vocabulary.
    counted: Per field, columns `value` (strings) and `count` (in the training interactions); a value may occur in
      several rows and frames, its counts are added.
    declared: The cut (`min_count`) and the out-of-vocabulary rows.
    seed: Of the out-of-vocabulary hash.
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


def field_indices(column: pl.Series, max_values: int, table: ValueTable) -> np.ndarray:
  """The indices of a field's column: `[rows, max_values]` int32.

  The column is of strings or of lists of strings. Missing elements of a list are dropped, values beyond `max_values`
  too. A single-valued field without a value has index 1, shorter lists (a missing one is empty) are padded with 0.
  """
  if max_values == 1:
    first = column.list.drop_nulls().list.get(0, null_on_oob=True) if column.dtype == pl.List else column
    return table.indices(first)[:, np.newaxis]
  lists = column.list.drop_nulls()
  parts = [table.indices(lists.list.get(i, null_on_oob=True), null=PADDING) for i in range(max_values)]
  return np.stack(parts, axis=1)


def count_values(column: pl.Series, weights: pl.Series, max_values: int) -> pl.DataFrame:
  """Columns `value` and `count`: `weights` (rows that are worth 0 do not count) summed over the rows of a value."""
  frame = pl.DataFrame({"value": column, "count": weights}).filter(pl.col("count") > 0)
  if column.dtype == pl.List:
    frame = frame.with_columns(pl.col("value").list.drop_nulls().list.head(max_values)).explode("value")
  return frame.drop_nulls("value").group_by("value").agg(pl.col("count").sum())
