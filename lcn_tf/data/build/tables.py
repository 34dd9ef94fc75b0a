"""Raw input: interactions, items and users, read and checked before anything is built from them."""

import dataclasses

import numpy as np
import polars as pl
from absl import logging

from lcn_tf.config import Labels, Split
from lcn_tf.data.build import parquet
from lcn_tf.data.build.raw_table import ROW, RawTable
from lcn_tf.data.build.values import MILLISECONDS
from lcn_tf.data.record_set import SPLITS
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, Schema

BY_TIME = Split()
MANY = 0.2  # share of what matches nothing from which on it is told


@dataclasses.dataclass(frozen=True)
class RawTables:
  """Raw tables; README.md lists the columns.

  Attributes:
    interactions, items, users: The tables; `users` may be None, and `items` too for records that extend others.
    notes: Facts about their origin, which the record set keeps.
    names: Names of the three tables in messages (their files).
    sources: Files that they were read from, if they were, by kind of table.
  """

  interactions: pl.DataFrame
  items: pl.DataFrame | None
  users: pl.DataFrame | None = None
  notes: dict[str, float | int | str] = dataclasses.field(default_factory=dict)
  names: tuple[str, str, str] = ("interactions", "items", "users")
  sources: dict[str, parquet.Source] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Checked:
  """Input without its bad rows. Ids are integers or strings, fields are strings or lists of strings, numeric fields
  floats, vectors and weights lists of floats.

  Attributes:
    interactions: `row`, `user_id`, `item_id`, `domain`, `timestamp` (int64 seconds), `weight` (float), `label` (float,
      null = no candidate; absent for sampled labels), `split` (a name, null = no candidate; absent unless a column
      splits), and the cross and context fields under `field_column`.
    items: `item_id`, `domain`, the item fields and vectors under `field_column`, and weights under `weights_column`; no
      key twice.
    users: `user_id`, and the user fields and vectors likewise; empty if there is no file.
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


def read(interactions: str, items: str | None, users: str | None = None) -> RawTables:
  """Reads Parquet files, or folders of them; see `lcn_tf.data.build.parquet.read`.

  Raises:
    UserError: There is no such file, or it is not Parquet.
  """
  paths = {"interactions": interactions, "items": items, "users": users}
  sources = {kind: parquet.read(path) for kind, path in paths.items() if path}
  notes: dict[str, float | int | str] = {}
  for kind, source in sources.items():
    notes |= {f"{kind}_files": len(source.files), f"{kind}_rows": len(source.frame), f"{kind}_bytes": source.size}
  frames = {kind: source.frame for kind, source in sources.items()}
  names = (interactions, items or "items", users or "users")
  return RawTables(frames["interactions"], frames.get("items"), frames.get("users"), notes, names, sources)


def check(
  tables: RawTables, schema: Schema, labels: Labels, split: Split = BY_TIME, known: pl.DataFrame | None = None
) -> Checked:
  """Checks the columns and sorts out the bad rows.

  Args:
    tables: Raw input.
    schema: Fields.
    labels, split: Rules, which say what columns the interactions need.
    known: `domain` and `item_id` of items that interactions may be on besides those of the input; None = no others.

  Raises:
    UserError: A column is missing or of a wrong type, or no row is left.
  """
  in_interactions, in_items, in_users = tables.names
  if tables.items is None:
    raise UserError("items: a log that begins needs them")
  interactions = RawTable(tables.interactions, in_interactions, "interactions", tables.sources.get("interactions"))
  items = RawTable(tables.items, in_items, "items", tables.sources.get("items"))
  users = None
  if tables.users is not None:
    users = RawTable(tables.users, in_users, "users", tables.sources.get("users"))

  _read_columns(interactions, items, users, schema, labels)
  if split.kind == "column":
    interactions.text(split.column, "split", "records.split.kind is column", SPLITS)
  has_domain = pl.col("domain").is_in(DOMAINS).fill_null(False)
  items.reject(pl.col("item_id").is_null(), "null item_id")
  items.reject(~has_domain, f"domain is not one of {', '.join(DOMAINS)}")
  items.reject(pl.struct("domain", "item_id").is_first_distinct().not_(), "repeated item_id (the first row is kept)")
  items.reject_unfit(schema)
  good_items = items.good().drop(ROW)
  if users:
    users.reject(pl.col("user_id").is_null(), "null user_id")
    users.reject(pl.col("user_id").is_first_distinct().not_(), "repeated user_id (the first row is kept)")
    users.reject_unfit(schema)

  interactions.reject(pl.col("user_id").is_null(), "null user_id")
  interactions.reject(pl.col("item_id").is_null(), "null item_id")
  interactions.reject(~has_domain, f"domain is not one of {', '.join(DOMAINS)}")
  interactions.reject(pl.col("timestamp").is_null(), "timestamp is null or not a number")
  interactions.reject(pl.col("timestamp") < 0, "negative timestamp")
  interactions.reject(pl.col("timestamp") >= MILLISECONDS, "timestamp is of the year 5138 or later: milliseconds?")
  if labels.kind == "given":
    interactions.reject(~pl.col("label").is_in([0.0, 1.0]), f"{labels.column} is neither 0 nor 1")
  elif labels.kind == "threshold":
    interactions.reject(pl.col("label").is_nan(), f"{labels.column} is not a number")
  if split.kind == "column":
    interactions.reject(~pl.col("split").is_in(SPLITS), f"{split.column} is not one of {', '.join(SPLITS)}")
  weight = pl.col("weight")
  interactions.reject(~(weight.is_finite() & (weight >= 0)), "weight is not a number of at least 0")
  interactions.reject(weight > float(np.finfo(np.float32).max), "weight is too large for a 32-bit float")
  interactions.reject_unfit(schema)
  catalogue = _catalogue(good_items, interactions, known).with_columns(known_item=pl.lit(True))
  interactions.frame = interactions.frame.join(catalogue, on=["domain", "item_id"], how="left", maintain_order="left")
  interactions.reject(pl.col("known_item").is_null(), "item is not in the items file")
  interactions.add("repeated", _repeated(tables.interactions))
  interactions.reject(pl.col("repeated"), "repeated row (the first is kept)")

  good = interactions.good().drop("known_item", "repeated")
  checked = [table for table in (interactions, items, users) if table is not None]
  rejected = pl.concat([table.rejected() for table in checked], how="diagonal")
  profiles = users.good().drop(ROW) if users else pl.DataFrame(schema={"user_id": good["user_id"].dtype})
  result = Checked(good, good_items, profiles, rejected)
  missing = _missing_items(interactions.frame, in_interactions, in_items, catalogue)
  if good.is_empty():
    reasons = "; ".join(f"{reason}: {count}" for reason, count in result.reasons().items()) or "the file is empty"
    raise UserError(". ".join([f"{in_interactions}: no usable interaction. {reasons}", *missing]))
  for told, all_of_them in missing.items():
    if all_of_them:
      raise UserError(told)
    logging.warning("%s", told)
  return result


def _read_columns(
  interactions: RawTable, items: RawTable, users: RawTable | None, schema: Schema, labels: Labels
) -> None:
  """Adds all columns that the schema and the labels need.

  Raises:
    UserError: A column is missing or of a wrong type.
  """
  for table in (interactions, items):
    table.identifier("item_id")
    table.text("domain", "domain", f"every row of the {table.kind} has one", DOMAINS)
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
  for feature in (*schema.context_fields, *(f for d in DOMAINS for f in schema.domain(d).cross_fields)):
    interactions.field_values(feature)
  item_fields = [f for d in DOMAINS for f in schema.domain(d).item_fields]
  # The two domains may hold different numbers of values of the same column.
  for feature in {f.name: f for f in sorted(item_fields, key=lambda f: f.max_values)}.values():
    items.field(feature, "an item field of the schema")
  for feature in {(f.name, f.weights, f.refuses_negative): f for f in item_fields}.values():
    items.field_values(feature)
  for vector in {v.name: v for d in DOMAINS for v in schema.domain(d).item_vectors}.values():
    items.vector(vector)
  for feature in schema.user_fields:
    if feature.name == "user_id" or users:
      table = users or interactions
      table.field(feature, "a user field of the schema")
      table.field_values(feature)
    else:
      raise UserError(f"schema.user_fields: {feature.name!r} is read from the users file, but there is none (--users)")
  for user_vector in schema.user_vectors:
    if not users:
      raise UserError(
        f"schema.user_vectors: {user_vector.name!r} is read from the users file, but there is none (--users)"
      )
    users.vector(user_vector)


def _catalogue(items: pl.DataFrame, interactions: RawTable, known: pl.DataFrame | None) -> pl.DataFrame:
  """`domain` and `item_id` of all items, in the type of the interactions' ids."""
  own = items.select("domain", "item_id")
  if known is None:
    return own
  dtype = interactions.frame["item_id"].dtype
  if known["item_id"].dtype != dtype:
    interactions.frame = interactions.frame.with_columns(pl.col("item_id").cast(pl.String))
    dtype = pl.String()
  return pl.concat([own.cast({"item_id": dtype}), known.cast({"item_id": dtype})]).unique(maintain_order=True)


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


def _same_type(left: RawTable, right: RawTable, column: str) -> None:
  """Ids of two tables compare as strings unless both are integers."""
  if left.frame[column].dtype != right.frame[column].dtype:
    for table in (left, right):
      table.frame = table.frame.with_columns(pl.col(column).cast(pl.String))
