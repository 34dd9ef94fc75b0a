"""Raw input: interactions, items and users, read and checked before anything is built from them."""

import dataclasses

import numpy as np
import polars as pl
from absl import logging

from lcn_tf.config import Labels
from lcn_tf.data.build import parquet
from lcn_tf.data.build.values import EXACT, MILLISECONDS
from lcn_tf.data.id_mapping import field_column
from lcn_tf.errors import UserError, nearest
from lcn_tf.schema import DOMAINS, Feature, Schema

ROW = "row"  # position in the input, which orders behaviours of one second
RESERVED = ("user_id", "item_id", "domain", "timestamp")
_LATEST = 2**62  # of what 64 bits hold
MANY = 0.2  # share of what matches nothing from which on it is told


@dataclasses.dataclass(frozen=True)
class RawTables:
  """Raw tables; README.md lists the columns.

  Attributes:
    interactions, items, users: The tables; `users` may be None.
    notes: Facts about their origin, which the record set keeps.
    names: Names of the three tables in messages (their files).
    sources: Files that they were read from, if they were, by kind of table.
  """

  interactions: pl.DataFrame
  items: pl.DataFrame
  users: pl.DataFrame | None = None
  notes: dict[str, float | int | str] = dataclasses.field(default_factory=dict)
  names: tuple[str, str, str] = ("interactions", "items", "users")
  sources: dict[str, parquet.Source] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Checked:
  """Input without its bad rows. Ids are integers or strings, fields are strings or lists of strings.

  Attributes:
    interactions: `row`, `user_id`, `item_id`, `domain`, `timestamp` (int64 seconds), `weight` (float), `label` (float,
      null = no candidate; absent for sampled labels), and the cross and context fields under `field_column`.
    items: `item_id`, `domain` and the item fields, under `field_column`; no key twice.
    users: `user_id` and the user fields, under `field_column`; empty if there is no file.
    rejected: `table`, `file` (null if it was none), `row` (of the table), `reason`, and the row's keys as strings.
  """

  interactions: pl.DataFrame
  items: pl.DataFrame
  users: pl.DataFrame
  rejected: pl.DataFrame

  def reasons(self) -> dict[str, int]:
    """Rejected rows by `table: reason`."""
    counted = self.rejected.group_by("table", "reason").len().sort("table", "reason")
    return {f"{table}: {reason}": count for table, reason, count in counted.iter_rows()}

  def by_file(self) -> dict[str, str]:
    """For each of `reasons`, the file with most of the rows and how many it has; nothing where there is one file."""
    counted = self.rejected.drop_nulls("file").group_by("table", "reason", "file").len().sort("len", descending=True)
    most = counted.unique(["table", "reason"], keep="first", maintain_order=True)
    return {
      f"{table}: {reason}": f"{count} of them in {file}"
      for table, reason, file, count in most.select("table", "reason", "file", "len").iter_rows()
    }


def read(interactions: str, items: str, users: str | None = None) -> RawTables:
  """Reads Parquet files, or folders of them; see `lcn_tf.data.build.parquet.read`.

  Raises:
    UserError: There is no such file, or it is not Parquet.
  """
  paths = {"interactions": interactions, "items": items} | ({"users": users} if users else {})
  sources = {kind: parquet.read(path) for kind, path in paths.items()}
  notes: dict[str, float | int | str] = {}
  for kind, source in sources.items():
    notes |= {f"{kind}_files": len(source.files), f"{kind}_rows": len(source.frame), f"{kind}_bytes": source.size}
  frames = {kind: source.frame for kind, source in sources.items()}
  names = (interactions, items, users or "users")
  return RawTables(frames["interactions"], frames["items"], frames.get("users"), notes, names, sources)


def check(tables: RawTables, schema: Schema, labels: Labels) -> Checked:
  """Checks the columns and sorts out the bad rows.

  Raises:
    UserError: A column is missing or of a wrong type, or no row is left.
  """
  in_interactions, in_items, in_users = tables.names
  interactions = _Table(tables.interactions, in_interactions, "interactions", tables.sources.get("interactions"))
  items = _Table(tables.items, in_items, "items", tables.sources.get("items"))
  users = None
  if tables.users is not None:
    users = _Table(tables.users, in_users, "users", tables.sources.get("users"))

  for table in (interactions, items):
    table.identifier("item_id")
    table.text("domain")
  interactions.identifier("user_id")
  _same_type(interactions, items, "item_id")
  if users:
    users.identifier("user_id")
    _same_type(interactions, users, "user_id")
  interactions.time("timestamp")
  if labels.kind != "sampled":
    interactions.number(labels.column, "label", f"records.labels.kind is {labels.kind}")
  interactions.weight(labels.kind != "sampled")
  for feature in {f.name: f for d in DOMAINS for f in schema.domain(d).cross_fields + schema.context_fields}.values():
    interactions.field(feature, "a cross or context field of the schema")
  item_fields = [f for d in DOMAINS for f in schema.domain(d).item_fields]
  # The two domains may hold different numbers of values of the same column.
  for feature in {f.name: f for f in sorted(item_fields, key=lambda f: f.max_values)}.values():
    items.field(feature, "an item field of the schema")
  for feature in schema.user_fields:
    if feature.name == "user_id" or users:
      (users or interactions).field(feature, "a user field of the schema")
    else:
      raise UserError(f"schema.user_fields: {feature.name!r} is read from the users file, but there is none (--users)")

  known = pl.col("domain").is_in(DOMAINS).fill_null(False)
  items.reject(pl.col("item_id").is_null(), "null item_id")
  items.reject(~known, f"domain is not one of {', '.join(DOMAINS)}")
  items.reject(pl.struct("domain", "item_id").is_first_distinct().not_(), "repeated item_id (the first row is kept)")
  good_items = items.good().drop(ROW)
  if users:
    users.reject(pl.col("user_id").is_null(), "null user_id")
    users.reject(pl.col("user_id").is_first_distinct().not_(), "repeated user_id (the first row is kept)")

  interactions.reject(pl.col("user_id").is_null(), "null user_id")
  interactions.reject(pl.col("item_id").is_null(), "null item_id")
  interactions.reject(~known, f"domain is not one of {', '.join(DOMAINS)}")
  interactions.reject(pl.col("timestamp").is_null(), "timestamp is null or not a number")
  interactions.reject(pl.col("timestamp") < 0, "negative timestamp")
  interactions.reject(pl.col("timestamp") >= MILLISECONDS, "timestamp is of the year 5138 or later: milliseconds?")
  if labels.kind == "given":
    interactions.reject(~pl.col("label").is_in([0.0, 1.0]), f"{labels.column} is neither 0 nor 1")
  elif labels.kind == "threshold":
    interactions.reject(pl.col("label").is_nan(), f"{labels.column} is not a number")
  weight = pl.col("weight")
  interactions.reject(~(weight.is_finite() & (weight >= 0)), "weight is not a number of at least 0")
  interactions.reject(weight > float(np.finfo(np.float32).max), "weight is too large for a 32-bit float")
  catalogue = good_items.select("domain", "item_id", known_item=pl.lit(True))
  interactions.frame = interactions.frame.join(catalogue, on=["domain", "item_id"], how="left", maintain_order="left")
  interactions.reject(pl.col("known_item").is_null(), "item is not in the items file")
  interactions.add("repeated", _repeated(tables.interactions))
  interactions.reject(pl.col("repeated"), "repeated row (the first is kept)")

  good = interactions.good().drop("known_item", "repeated")
  checked = [table for table in (interactions, items, users) if table is not None]
  rejected = pl.concat([table.rejected() for table in checked], how="diagonal")
  profiles = users.good().drop(ROW) if users else pl.DataFrame(schema={"user_id": good["user_id"].dtype})
  result = Checked(good, good_items, profiles, rejected)
  missing = _missing_items(interactions.frame, in_interactions, in_items, good_items)
  if good.is_empty():
    reasons = "; ".join(f"{reason}: {count}" for reason, count in result.reasons().items()) or "the file is empty"
    raise UserError(". ".join([f"{in_interactions}: no usable interaction. {reasons}", *missing]))
  for told, all_of_them in missing.items():
    if all_of_them:
      raise UserError(told)
    logging.warning("%s", told)
  return result


def _missing_items(frame: pl.DataFrame, in_interactions: str, in_items: str, items: pl.DataFrame) -> dict[str, bool]:
  """What to tell of each domain many of whose interactions are on items that the items file lacks, and whether all."""
  found = {}
  for d in DOMAINS:
    rows = frame.filter((pl.col("domain") == d) & pl.col("item_id").is_not_null())
    missing = rows.filter(pl.col("known_item").is_null())
    if len(missing) < MANY * len(rows) or missing.is_empty():
      continue
    known = items.filter(pl.col("domain") == d)["item_id"]
    told = (
      f"{in_interactions}: {len(missing)} of {len(rows)} interactions of the {d} domain are on items that are not in "
      f"{in_items}: {missing['item_id'][0]!r}, say; it has {f'{known[0]!r}' if len(known) else 'none of that domain'}"
    )
    if len(missing) == len(rows):
      told += ". Ids compare as texts where one of the files has texts: 7 is '7', and not '007'"
    found[told] = len(missing) == len(rows)
  return found


def _repeated(frame: pl.DataFrame) -> pl.Series:
  """Whether each row repeats an earlier one in every column."""
  rows = frame.select(pl.all().name.prefix("column:")).with_row_index(ROW)
  first = rows.unique(subset=rows.columns[1:], keep="first")[ROW]
  return pl.Series(np.isin(np.arange(len(rows)), first.to_numpy(), invert=True))


def _same_type(left: "_Table", right: "_Table", column: str) -> None:
  """Ids of two tables compare as strings unless both are integers."""
  if left.frame[column].dtype != right.frame[column].dtype:
    for table in (left, right):
      table.frame = table.frame.with_columns(pl.col(column).cast(pl.String))


class _Table:
  """A table while it is checked. `raw` is what came, `frame` what `Checked` will hold, with a `reason` per bad row."""

  def __init__(self, raw: pl.DataFrame, name: str, kind: str, source: parquet.Source | None):
    self.raw = raw
    self.name = name
    self.kind = kind
    self.files = source.files if source and len(source.files) > 1 else ()
    self.unreadable = source.unreadable if source else {}
    self.vague = source.vague if source else parquet.vague([raw], [name])
    self.frame = pl.DataFrame({ROW: pl.int_range(len(raw), dtype=pl.Int64, eager=True)}).with_columns(
      reason=pl.lit(None, pl.String)
    )

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
    values = _plain(column)
    if values is None or column.dtype == pl.Boolean:
      raise self.wrong_type(column, "integers or strings")
    self.add(name, values)

  def text(self, name: str) -> None:
    column = self.column(name, f"every row of the {self.kind} has one")
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
      raise self.wrong_type(column, f"strings: {' or '.join(map(repr, DOMAINS))}")
    self.add(name, column.cast(pl.String))

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
    """Adds a field as strings, or as lists of strings if it has several values."""
    column = self.exact(feature.name, role)
    nested = isinstance(column.dtype, pl.List | pl.Array)
    if nested and feature.max_values == 1:
      raise UserError(
        f"{self.name}: column {feature.name!r} holds lists ({column.dtype}): set max_values of that field in the schema"
      )
    if nested:
      lists = parquet.plain(column)
      inner = _plain(lists.explode())
      values = None if inner is None else lists.cast(pl.List(inner.dtype)).cast(pl.List(pl.String))
    else:
      values = _plain(column)
      values = None if values is None else values.cast(pl.String)
      if values is not None and feature.max_values > 1:
        values = values.reshape((-1, 1)).cast(pl.List(pl.String))
    if values is None:
      raise self.wrong_type(column, "integers or strings, or lists of them")
    self.add(field_column(feature), values)

  def reject(self, bad: pl.Expr, reason: str) -> None:
    """Marks rows; the first reason of a row stays. A null condition is no reason."""
    fresh = pl.col("reason").is_null() & bad.fill_null(False)
    self.frame = self.frame.with_columns(reason=pl.when(fresh).then(pl.lit(reason)).otherwise(pl.col("reason")))

  def good(self) -> pl.DataFrame:
    return self.frame.filter(pl.col("reason").is_null()).drop("reason")

  def rejected(self) -> pl.DataFrame:
    bad = self.frame.filter(pl.col("reason").is_not_null())
    keys = [name for name in RESERVED if name in self.raw.columns]
    raw = self.raw.select(keys)[bad[ROW]].select(pl.col(name).cast(pl.String, strict=False) for name in keys)
    return bad.select(pl.lit(self.kind).alias("table"), self._file(bad[ROW]), ROW, "reason").hstack(raw)

  def _file(self, rows: pl.Series) -> pl.Series:
    """Which of several files each row is of; null if there is one."""
    if not self.files:
      return pl.Series("file", [None] * len(rows), pl.String)
    ends = np.cumsum([count for _, count in self.files])
    names = pl.Series("file", [name for name, _ in self.files])
    return names.gather(np.searchsorted(ends, rows.to_numpy(), side="right")).alias("file")


def _plain(column: pl.Series) -> pl.Series | None:
  """The values as int64 (whole floats too: pandas makes them of integers with nulls) or strings; None if neither."""
  dtype = column.dtype
  if isinstance(dtype, (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)):
    return column.cast(pl.Int64)
  if dtype.is_float():
    column = parquet.plain(column)
    return column if column.dtype == pl.Int64 else None
  if dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null):
    return column.cast(pl.String)
  return None
