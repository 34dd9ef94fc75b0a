"""Raw input: interactions, items and users, read and checked before anything is built from them."""

import dataclasses
from collections.abc import Mapping

import polars as pl
from absl import logging

from lcn_tf.config import Labels, Split
from lcn_tf.data.build import parquet
from lcn_tf.data.build.columns import read_columns
from lcn_tf.data.build.raw_table import ROW, RawTable
from lcn_tf.data.build.row_checks import HAS_DOMAIN, NO_DOMAIN, Met, RowChecks, SortedOut
from lcn_tf.data.build.stream import Stream
from lcn_tf.data.build.stream import read as streamed
from lcn_tf.data.record_set import SPLITS
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, DomainName, Schema

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
    stream: Interactions in pieces; None = `interactions` has them.
  """

  interactions: pl.DataFrame
  items: pl.DataFrame | None
  users: pl.DataFrame | None = None
  notes: dict[str, float | int | str] = dataclasses.field(default_factory=dict)
  names: tuple[str, str, str] = ("interactions", "items", "users")
  sources: dict[str, parquet.Source] = dataclasses.field(default_factory=dict)
  stream: Stream | None = None


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
    counted = self.rejected.drop_nulls("file").group_by("table", "reason", "file").len()
    counted = counted.sort(["len", "file"], descending=[True, False])
    most = counted.unique(["table", "reason"], keep="first", maintain_order=True)
    return {
      f"{table}: {reason}": f"{count} of them in {file}"
      for table, reason, file, count in most.select("table", "reason", "file", "len").iter_rows()
    }


def read(interactions: str, items: str | None, users: str | None = None, memory: int | None = None) -> RawTables:
  """Reads Parquet files, or folders of them; see `lcn_tf.data.build.parquet.read`.

  Args:
    interactions, items, users: Paths; None = there are none.
    memory: Bytes, which make the interactions a `stream` of pieces; None = they are read whole.

  Raises:
    UserError: There is no such file, or it is not Parquet.
  """
  paths = {"interactions": interactions, "items": items, "users": users}
  stream = streamed(interactions, memory) if memory else None
  sources = {
    kind: stream.source if stream and kind == "interactions" else parquet.read(path)
    for kind, path in paths.items()
    if path
  }
  notes: dict[str, float | int | str] = {}
  for kind, source in sources.items():
    rows = sum(count for _, count in source.files)
    notes |= {f"{kind}_files": len(source.files), f"{kind}_rows": rows, f"{kind}_bytes": source.size}
  frames = {kind: source.frame for kind, source in sources.items()}
  names = (interactions, items or "items", users or "users")
  return RawTables(frames["interactions"], frames.get("items"), frames.get("users"), notes, names, sources, stream)


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
  checking = Checking(tables, schema, labels, split, known)
  part = checking.rows.sort_out(checking.interactions)
  checking.note(part)
  return checking.result(part.good)


class Checking:
  """`check` of interactions that come in parts: `rows` says what is done to each, then `note` for each, then `result`.

  Arguments and errors of the constructor are those of `check`, but that there may be
  no rows among the interactions of `tables` yet, which say the columns.

  Args:
    whole: Columns of floats of the interactions -> whether all of them are whole; None = the rows say it.
  """

  def __init__(
    self,
    tables: RawTables,
    schema: Schema,
    labels: Labels,
    split: Split = BY_TIME,
    known: pl.DataFrame | None = None,
    whole: Mapping[str, bool] | None = None,
  ):
    in_interactions, in_items, in_users = tables.names
    if tables.items is None:
      raise UserError("items: a log that begins needs them")
    self._names, source = tables.names, tables.sources.get("interactions")
    interactions = RawTable(tables.interactions, in_interactions, "interactions", source, whole)
    items = RawTable(tables.items, in_items, "items", tables.sources.get("items"))
    users = None
    if tables.users is not None:
      users = RawTable(tables.users, in_users, "users", tables.sources.get("users"))
    read_columns(interactions, items, users, schema, labels)
    if split.kind == "column":
      interactions.text(split.column, "split", "records.split.kind is column", SPLITS)
    items.reject(pl.col("item_id").is_null(), "null item_id")
    items.reject(~HAS_DOMAIN, NO_DOMAIN)
    items.reject(pl.struct("domain", "item_id").is_first_distinct().not_(), "repeated item_id (the first row is kept)")
    items.reject_unfit(schema)
    self._items = items.good().drop(ROW)
    if users:
      users.reject(pl.col("user_id").is_null(), "null user_id")
      users.reject(pl.col("user_id").is_first_distinct().not_(), "repeated user_id (the first row is kept)")
      users.reject_unfit(schema)
    self.interactions = interactions
    self._references = [table for table in (items, users) if table is not None]
    self._users = users
    catalogue = _catalogue(self._items, interactions, known).with_columns(known_item=pl.lit(True))
    self._ids = {name: interactions.frame.schema[name] for name in ("user_id", "item_id")}
    self.rows = RowChecks(
      in_interactions, source, whole, schema, labels, split, users is not None, catalogue, self._ids
    )
    self._rejected: list[pl.DataFrame] = []
    self._met = {d: Met() for d in DOMAINS}
    self._good = 0

  def note(self, part: SortedOut) -> None:
    """Counts a part in."""
    self._rejected.append(part.rejected)
    self._good += part.rows
    for d in DOMAINS:
      self._met[d] += part.met[d]

  def result(self, good: pl.DataFrame) -> Checked:
    """The input without its bad rows.

    Args:
      good: Interactions that `Checked` has.

    Raises:
      UserError: No row is left.
    """
    in_interactions, in_items, _ = self._names
    bad = self._rejected if len(self._rejected) == 1 else [pl.concat(self._rejected).sort(ROW)]
    rejected = pl.concat([*bad, *(table.rejected() for table in self._references)], how="diagonal")
    profiles = self._users.good().drop(ROW) if self._users else pl.DataFrame(schema={"user_id": self._ids["user_id"]})
    result = Checked(good, self._items, profiles, rejected)
    missing = _missing_items(self._met, in_interactions, in_items, self.rows.catalogue)
    if not self._good:
      reasons = "; ".join(f"{reason}: {count}" for reason, count in result.reasons().items()) or "the file is empty"
      raise UserError(". ".join([f"{in_interactions}: no usable interaction. {reasons}", *missing]))
    for told, all_of_them in missing.items():
      if all_of_them:
        raise UserError(told)
      logging.warning("%s", told)
    return result


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


def _missing_items(
  met: dict[DomainName, Met], in_interactions: str, in_items: str, items: pl.DataFrame
) -> dict[str, bool]:
  """What to tell of each domain many of whose interactions are on items that the items file lacks, and whether all."""
  found = {}
  for d, own in met.items():
    if own.missing < MANY * own.rows or own.first is None:
      continue
    known = items.filter(pl.col("domain") == d)["item_id"]
    told = (
      f"{in_interactions}: {own.missing} of {own.rows} interactions of the {d} domain are on items that are not in "
      f"{in_items}: {own.first[1]!r}, say; it has {f'{known[0]!r}' if len(known) else 'none of that domain'}"
    )
    if own.missing == own.rows:
      told += ". Ids compare as texts where one of the files has texts: 7 is '7', and not '007'"
    found[told] = own.missing == own.rows
  return found
