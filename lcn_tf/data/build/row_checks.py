"""Interactions in parts: which rows are good, and why the others are not."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lcn_tf.config import Labels, Split
from lcn_tf.data.build import parquet
from lcn_tf.data.build.columns import read_interactions
from lcn_tf.data.build.raw_table import ROW, RawTable
from lcn_tf.data.build.values import MILLISECONDS
from lcn_tf.data.record_set import SPLITS
from lcn_tf.schema import DOMAINS, DomainName, Schema

HAS_DOMAIN = pl.col("domain").is_in(DOMAINS).fill_null(False)
NO_DOMAIN = f"domain is not one of {', '.join(DOMAINS)}"


@dataclasses.dataclass(frozen=True)
class Met:
  """The interactions of a domain, and those on items that the items file lacks.

  Attributes:
    rows, missing: Numbers of them.
    first: Position and item of the first one on a missing item; None = there is none.
  """

  rows: int = 0
  missing: int = 0
  first: tuple[int, Any] | None = None

  @classmethod
  def of(cls, rows: pl.DataFrame) -> "Met":
    """Those of interactions with `known_item`, in the order of the input."""
    missing = rows.filter(pl.col("known_item").is_null())
    return cls(len(rows), len(missing), missing.select(ROW, "item_id").row(0) if len(missing) else None)

  def __add__(self, other: "Met") -> "Met":
    first = min((one for one in (self.first, other.first) if one is not None), default=None)
    return Met(self.rows + other.rows, self.missing + other.missing, first)


@dataclasses.dataclass(frozen=True)
class SortedOut:
  """A part of the interactions.

  Attributes:
    good: Rows as `tables.Checked.interactions` has them, or none where they are elsewhere.
    rows: Number of good rows.
    rejected: Rows as `tables.Checked.rejected` has them.
    met: Numbers per domain.
  """

  good: pl.DataFrame
  rows: int
  rejected: pl.DataFrame
  met: dict[DomainName, Met]


@dataclasses.dataclass(frozen=True)
class RowChecks:
  """What is checked of each interaction: `read` and `sort_out` for each part, which has all rows of its users.

  Attributes:
    name: Name of the table in messages.
    source: Files that it is read from; None = none.
    whole: Columns of floats -> whether all of the log's are whole; None = the rows say it.
    schema, labels, split: Rules.
    profiles: True if the users' fields are in a table of their own.
    catalogue: `domain`, `item_id` and `known_item` of all items.
    ids: Types of `user_id` and `item_id`.
  """

  name: str
  source: parquet.Source | None
  whole: Mapping[str, bool] | None
  schema: Schema
  labels: Labels
  split: Split
  profiles: bool
  catalogue: pl.DataFrame
  ids: dict[str, pl.DataType]

  def _part(self, frame: pl.DataFrame, rows: pl.Series) -> RawTable:
    return RawTable(frame, self.name, "interactions", self.source, self.whole, rows)

  def user_ids(self, frame: pl.DataFrame) -> pl.Series:
    """The user ids of rows of the input, as `Checked` has them."""
    table = self._part(frame, pl.int_range(len(frame), dtype=pl.Int64, eager=True))
    table.identifier("user_id")
    return table.frame["user_id"].cast(self.ids["user_id"])

  def read(self, frame: pl.DataFrame, rows: pl.Series) -> RawTable:
    """A part of the interactions: rows of the input, and their positions there."""
    table = self._part(frame, rows)
    table.identifier("item_id")
    table.text("domain", "domain", "every row of the interactions has one", DOMAINS)
    table.identifier("user_id")
    table.frame = table.frame.cast(self.ids)  # type: ignore[arg-type]
    read_interactions(table, self.schema, self.labels)
    if not self.profiles:
      for feature in self.schema.user_fields:
        table.field(feature, "a user field of the schema")
        table.field_values(feature)
    if self.split.kind == "column":
      table.text(self.split.column, "split", "records.split.kind is column", SPLITS)
    return table

  def sort_out(self, table: RawTable) -> SortedOut:
    """The good interactions of a part, and the others."""
    labels, split = self.labels, self.split
    table.reject(pl.col("user_id").is_null(), "null user_id")
    table.reject(pl.col("item_id").is_null(), "null item_id")
    table.reject(~HAS_DOMAIN, NO_DOMAIN)
    table.reject(pl.col("timestamp").is_null(), "timestamp is null or not a number")
    table.reject(pl.col("timestamp") < 0, "negative timestamp")
    table.reject(pl.col("timestamp") >= MILLISECONDS, "timestamp is of the year 5138 or later: milliseconds?")
    if labels.kind == "given":
      table.reject(~pl.col("label").is_in([0.0, 1.0]), f"{labels.column} is neither 0 nor 1")
    elif labels.kind == "threshold":
      table.reject(pl.col("label").is_nan(), f"{labels.column} is not a number")
    if split.kind == "column":
      table.reject(~pl.col("split").is_in(SPLITS), f"{split.column} is not one of {', '.join(SPLITS)}")
    weight = pl.col("weight")
    table.reject(~(weight.is_finite() & (weight >= 0)), "weight is not a number of at least 0")
    table.reject(weight > float(np.finfo(np.float32).max), "weight is too large for a 32-bit float")
    table.reject_unfit(self.schema)
    table.frame = table.frame.join(self.catalogue, on=["domain", "item_id"], how="left", maintain_order="left")
    table.reject(pl.col("known_item").is_null(), "item is not in the items file")
    table.add("repeated", _repeated(table.raw))
    table.reject(pl.col("repeated"), "repeated row (the first is kept)")
    met = {d: Met.of(table.frame.filter((pl.col("domain") == d) & pl.col("item_id").is_not_null())) for d in DOMAINS}
    good = table.good().drop("known_item", "repeated")
    return SortedOut(good, len(good), table.rejected(), met)


def _repeated(frame: pl.DataFrame) -> pl.Series:
  """Whether each row repeats an earlier one in every column."""
  rows = frame.select(pl.all().name.prefix("column:")).with_row_index(ROW)
  first = rows.unique(subset=rows.columns[1:], keep="first")[ROW]
  return pl.Series(np.isin(np.arange(len(rows)), first.to_numpy(), invert=True))
