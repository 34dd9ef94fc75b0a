"""One raw table while its columns are read and its rows are checked."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from lcn_tf.data.build import parquet
from lcn_tf.data.build.values import EXACT, MILLISECONDS
from lcn_tf.data.field_values import weights_column
from lcn_tf.data.id_mapping import field_column
from lcn_tf.errors import UserError, nearest
from lcn_tf.schema import DOMAINS, Domain, Feature, ItemVector, Schema, UserVector

ROW = "row"  # position in the input, which orders behaviours of one second
RESERVED = ("user_id", "item_id", "domain", "timestamp")
_LATEST = 2**62  # of what 64 bits hold


class RawTable:
  """A table while it is checked. `raw` is what came, `frame` what `Checked` will hold, with a `reason` per bad row.

  Args:
    raw: Rows.
    name: Name of the table in messages.
    kind: `interactions`, `items` or `users`.
    source: Files that it was read from; None = none.
    whole: Columns of floats -> whether all of the log's are whole, where the rows are a part of it.
    rows: Positions of the rows in the input `[rows]` int64; None = from 0 on.
  """

  def __init__(
    self,
    raw: pl.DataFrame,
    name: str,
    kind: str,
    source: parquet.Source | None,
    whole: Mapping[str, bool] | None = None,
    rows: pl.Series | None = None,
  ):
    self.raw = raw
    self.name = name
    self.kind = kind
    self.files = source.files if source and len(source.files) > 1 else ()
    self.unreadable = source.unreadable if source else {}
    self.vague = source.vague if source else parquet.vague([raw], [name])
    self.unfit: list[tuple[str, pl.Series, str]] = []  # column (or what of it, see `_keys`), rows, reason
    self._whole = whole or {}
    rows = pl.int_range(len(raw), dtype=pl.Int64, eager=True) if rows is None else rows
    self.frame = pl.DataFrame({ROW: rows}).with_columns(reason=pl.lit(None, pl.String))

  def column(self, name: str, role: str) -> pl.Series:
    if name in self.unreadable:
      raise UserError(f"{self.name}: column {name!r} ({role}) cannot be read: {self.unreadable[name]}")
    if name not in self.raw.columns:
      have = ", ".join(self.raw.columns)
      raise UserError(f"{self.name}: no column {name!r} ({role}).{nearest(name, self.raw.columns)} Columns: {have}")
    return self.raw[name]

  def exact(self, name: str, role: str, most: int = EXACT["float64"]) -> pl.Series:
    """A column whose whole numbers are told apart; from `most` on it does not matter."""
    limit, reason = self.vague.get(name, (0, ""))
    if 0 < limit <= most:
      raise UserError(reason)
    return self.column(name, role)

  def wrong_type(self, column: pl.Series, expected: str) -> UserError:
    return UserError(f"{self.name}: column {column.name!r} holds {column.dtype}, expected {expected}")

  def add(self, name: str, column: pl.Series) -> None:
    self.frame = self.frame.with_columns(column.alias(name))

  def identifier(self, name: str) -> None:
    column = self.exact(name, f"every row of the {self.kind} has one")
    values = self._plain(column)
    if values is None or column.dtype == pl.Boolean:
      raise self.wrong_type(column, "integers or strings")
    self.add(name, values)

  def text(self, name: str, alias: str, role: str, known: Sequence[str]) -> None:
    column = self.column(name, role)
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
      raise self.wrong_type(column, f"strings: {' or '.join(map(repr, known))}")
    self.add(alias, column.cast(pl.String))

  def time(self, name: str) -> None:
    # larger numbers are no seconds, and are sorted out row by row
    column = self.exact(name, f"every row of the {self.kind} has one", MILLISECONDS)
    if not column.dtype.is_numeric():
      raise self.wrong_type(column, "numbers: seconds since 1970")
    if column.dtype.is_float() or column.dtype.is_decimal():
      column = column.cast(pl.Float64).floor()
      column = pl.select(pl.when(column.is_finite() & (column.abs() < _LATEST)).then(column)).to_series()
    self.add(name, column.cast(pl.Int64, strict=False))

  def number(self, name: str, alias: str, role: str) -> None:
    column = self.column(name, role)
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
      raise self.wrong_type(column, f"numbers ({role})")
    self.add(alias, column.cast(pl.Float64))

  def weight(self, labelled: bool) -> None:
    """NaN where a row has none, 1 where it needs none: with labels in a column, rows that are no candidates."""
    if "weight" in (*self.raw.columns, *self.unreadable):
      self.number("weight", "weight", "the weight of a candidate in the loss")
      missing = pl.lit(float("nan"))
      if labelled:
        missing = pl.when(pl.col("label").is_null()).then(1.0).otherwise(missing)
      self.frame = self.frame.with_columns(weight=pl.col("weight").fill_null(missing))
    else:
      self.frame = self.frame.with_columns(weight=pl.lit(1.0))

  def field(self, feature: Feature, role: str) -> None:
    """Adds a field as strings, as lists of strings if it has several values, or as floats if it is numeric."""
    if feature.numeric:
      self._numbers(feature, role)
      return
    column = self.exact(feature.name, role)
    nested = isinstance(column.dtype, pl.List | pl.Array)
    if nested and feature.max_values == 1:
      advice = "set max_values of that field in the schema"
      if self.kind == "interactions" and feature.name != "user_id":
        advice = f"{role} holds one value of each row"
      raise UserError(f"{self.name}: column {feature.name!r} holds lists ({column.dtype}): {advice}")
    if nested:
      lists = parquet.plain(column, self._whole.get(column.name))
      inner = self._plain(lists.explode())
      values = None if inner is None else lists.cast(pl.List(inner.dtype)).cast(pl.List(pl.String))
    else:
      values = self._plain(column)
      values = None if values is None else values.cast(pl.String)
      if values is not None and feature.max_values > 1:
        values = values.reshape((-1, 1)).cast(pl.List(pl.String))
    if values is None:
      advice = ". For numbers whose order counts set kind: numeric of that field" if column.dtype.is_numeric() else ""
      raise self.wrong_type(column, f"integers or strings, or lists of them{advice}")
    self.add(field_column(feature), values)

  def _numbers(self, feature: Feature, role: str) -> None:
    """Adds a numeric field; notes which rows hold what is no number. Texts of numbers are numbers."""
    column = self.column(feature.name, role)
    if not (column.dtype.is_numeric() or column.dtype in (pl.Null, pl.String, pl.Categorical, pl.Enum)):
      raise self.wrong_type(column, f"numbers ({role}, numeric)")
    plain = column if column.dtype.is_numeric() else column.cast(pl.String)
    numbers = plain.cast(pl.Float64, strict=False)
    bad = column.is_not_null() & ~numbers.is_finite().fill_null(False)
    self.unfit.append((feature.name, bad, f"{feature.name} is not a finite number"))
    self.add(field_column(feature), numbers)

  def field_values(self, feature: Feature) -> None:
    """Adds the weights of a field's values; notes which rows hold none, or a number that has no standardised value.

    The column of the field has been read.
    """
    if feature.refuses_negative:
      negative = (self.frame[field_column(feature)] < 0).fill_null(False)
      self.unfit.append((_log_key(feature), negative, f"{feature.name} is below 0, which log1p does not take"))
    if not feature.weights:
      return
    column = self.column(feature.weights, f"the weights of {feature.name!r}")
    if column.dtype == pl.Null:  # no row has any
      column = column.cast(pl.List(pl.Float64))
    inner = column.dtype.inner if isinstance(column.dtype, pl.List | pl.Array) else None
    if not isinstance(inner, pl.DataType) or not (inner.is_numeric() or inner == pl.Null):
      raise self.wrong_type(column, f"lists of numbers (the weights of {feature.name!r})")
    lists, values = column.cast(pl.List(pl.Float64)), self.raw[feature.name]
    nested = isinstance(values.dtype, pl.List | pl.Array)
    size = values.cast(pl.List(pl.String)).list.len().fill_null(0) if nested else values.is_not_null().cast(pl.UInt32)
    sound = lists.list.eval(_is_weight(pl.element()).fill_null(False)).list.all().fill_null(True)
    bad = ~sound | (lists.list.len().fill_null(0) != size)
    name = weights_column(feature)
    reason = f"{feature.weights} is not one finite number of at least 0 for each of {feature.name}"
    self.unfit.append((name, bad, reason))
    self.add(name, lists)

  def vector(self, vector: ItemVector | UserVector) -> None:
    """Adds a vector of the items or users as lists of float32; notes which rows hold what is none."""
    column = self.column(vector.name, f"a vector of the {self.kind} of the schema")
    if column.dtype == pl.Null:  # no row has any
      column = column.cast(pl.List(pl.Float32))
    inner = column.dtype.inner if isinstance(column.dtype, pl.List | pl.Array) else None
    if not isinstance(inner, pl.DataType) or not (inner.is_numeric() or inner == pl.Null):
      raise self.wrong_type(column, f"lists of {vector.width} numbers (a vector of the {self.kind})")
    lists = column.cast(pl.List(pl.Float32))
    limit = float(np.finfo(vector.dtype).max)
    numbers = pl.element().is_finite() & (pl.element().abs() <= limit)
    sound = lists.list.eval(numbers.fill_null(False)).list.all()
    bad = column.is_not_null() & ~((lists.list.len() == vector.width) & sound).fill_null(False)
    self.unfit.append((vector.name, bad, f"{vector.name} is not {vector.width} finite numbers of {vector.dtype}"))
    self.add(field_column(vector), lists)

  def reject_unfit(self, schema: Schema) -> None:
    """Rejects rows whose numbers or vectors are none, if a field of the row's domain reads them."""
    of_all = _keys((*schema.user_fields, *schema.context_fields))
    for name, bad, reason in self.unfit:
      readers = [d for d in DOMAINS if name in of_all or name in self._columns_of(schema.domain(d))]
      own = pl.col("domain").is_in(readers) if "domain" in self.frame.columns else pl.lit(True)
      self.reject(pl.lit(bad) & own, reason)

  def _columns_of(self, domain: Domain) -> set[str]:
    """What a domain's items or behaviours read of this table: columns, and the `unfit` of their float values."""
    if self.kind == "items":
      return _keys(domain.item_fields) | {v.name for v in domain.item_vectors}
    return _keys(domain.cross_fields)

  def reject(self, bad: pl.Expr, reason: str) -> None:
    """Marks rows; the first reason of a row stays. A null condition is no reason."""
    fresh = pl.col("reason").is_null() & bad.fill_null(False)
    self.frame = self.frame.with_columns(reason=pl.when(fresh).then(pl.lit(reason)).otherwise(pl.col("reason")))

  def good(self) -> pl.DataFrame:
    return self.frame.filter(pl.col("reason").is_null()).drop("reason")

  def rejected(self) -> pl.DataFrame:
    bad = self.frame.filter(pl.col("reason").is_not_null())
    keys = [name for name in RESERVED if name in self.raw.columns]
    marked = self.raw.select(keys).filter(self.frame["reason"].is_not_null())
    raw = marked.select(pl.col(name).cast(pl.String, strict=False) for name in keys)
    return bad.select(pl.lit(self.kind).alias("table"), self._file(bad[ROW]), ROW, "reason").hstack(raw)

  def _file(self, rows: pl.Series) -> pl.Series:
    """Which of several files each row is of; null if there is one."""
    if not self.files:
      return pl.Series("file", [None] * len(rows), pl.String)
    ends = np.cumsum([count for _, count in self.files])
    names = pl.Series("file", [name for name, _ in self.files])
    return names.gather(np.searchsorted(ends, rows.to_numpy(), side="right")).alias("file")

  def _plain(self, column: pl.Series) -> pl.Series | None:
    """The values as int64 (whole floats too: pandas makes them of integers with nulls) or strings; None if neither."""
    dtype = column.dtype
    if isinstance(dtype, (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)):
      return column.cast(pl.Int64)
    if dtype.is_float():
      column = parquet.plain(column, self._whole.get(column.name))
      return column if column.dtype == pl.Int64 else None
    if dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null):
      return column.cast(pl.String)
    return None


def _keys(features: tuple[Feature, ...]) -> set[str]:
  """What fields read: their columns, their weights, and logarithms of a column."""
  weights = {weights_column(f) for f in features if f.weights}
  return {f.name for f in features} | weights | {_log_key(f) for f in features if f.refuses_negative}


def _log_key(feature: Feature) -> str:
  return f"log1p:{feature.name}"


def _is_weight(number: pl.Expr) -> pl.Expr:
  return number.is_finite() & (number >= 0)
