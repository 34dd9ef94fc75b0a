"""Records of the next part of a log: what of the input is new, and how it joins what was before."""

import dataclasses
from collections.abc import Collection, Iterable

import numpy as np
import polars as pl
from absl import logging

from lcn_tf.config import Records, difference
from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.candidates import Past
from lcn_tf.data.build.counting import Counts, count
from lcn_tf.data.build.indexing import extended_mapping
from lcn_tf.data.build.state import State, open_state
from lcn_tf.data.id_mapping import IdMapping, ValueTable, field_column, id_mapping_of
from lcn_tf.data.record_set import RecordSet, built_by
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema

_REPEATED = "repeated row of the records that are extended"
# of `records`: what a part may have otherwise than the parts before it
_OF_A_PART = ("interactions", "split", "synthetic", "raw", "shards", "compression", "state", "grow")


@dataclasses.dataclass(frozen=True)
class Earlier:
  """A record set that is extended.

  Attributes:
    record_set: Its facts.
    state: State of its log.
    mapping: Its id mapping.
    users: Everybody's index, `user`, `user_id`.
  """

  record_set: RecordSet
  state: State
  mapping: IdMapping
  users: pl.DataFrame

  @classmethod
  def open(cls, record_set: RecordSet, records: Records) -> "Earlier":
    """Reads what an extension needs.

    Args:
      record_set: Records to extend.
      records: Settings of the extension.

    Raises:
      UserError: They have no state, or were built by other rules.
      DamagedError: A file of them is missing, or not what was written.
    """
    if record_set.records is not None:
      now, then = (
        {name: value for name, value in rules.items() if name not in _OF_A_PART}
        for rules in (records.model_dump(mode="json"), built_by(record_set))
      )
      if found := difference(now, then, "records", "record set"):
        raise UserError(f"{record_set.path} was built by other rules, which an extension keeps: {found}")
    if records.split.kind == "per_user":
      raise UserError(
        "records.split: per_user cuts the whole log of a user, and an extension knows the new part alone. Choose "
        "another kind for it: time, column or all_train"
      )
    return cls(record_set, open_state(record_set), id_mapping_of(record_set), record_set.table("users.parquet"))

  def known_items(self) -> pl.DataFrame:
    """`domain` and `item_id` of all items that an earlier part had."""
    return self.state.items.select("domain", "item_id")

  def with_missing(self, tables: raw.RawTables, schema: Schema) -> raw.RawTables:
    """The tables with empty ones in place of those that the part does not bring."""
    items, users = tables.items, tables.users
    if items is None:
      domains = [schema.domain(d) for d in DOMAINS]
      vectors = {v.name for domain in domains for v in domain.item_vectors}
      fields = [field for domain in domains for field in domain.item_fields]
      items = _blank(self.state.items, ("item_id", "domain"), fields, vectors)
    if users is None and any(part.name != "user_id" for part in schema.user_parts()):
      users = _blank(self.state.users, ("user_id",), schema.user_fields, {v.name for v in schema.user_vectors})
    return dataclasses.replace(tables, items=items, users=users)


def _blank(
  table: pl.DataFrame, keys: Iterable[str], fields: Iterable[Feature], vectors: Collection[str] = ()
) -> pl.DataFrame:
  """No rows, and the columns of the log that a table of the state is of.

  Args:
    table: Table of the state, with the types of keys and fields.
    keys: Columns that tell its rows apart.
    fields: Fields; one that is a key has no column of its own.
    vectors: Names of vectors.
  """
  types = {key: table.schema[key] for key in keys}
  lists = set(vectors)
  for field in fields:
    if field.name not in types:
      types[field.name] = table.schema[field_column(field)]
    lists |= {field.weights} - {""}
  return pl.DataFrame(schema=types | {name: pl.List(pl.Float32) for name in sorted(lists)})


@dataclasses.dataclass(frozen=True)
class Joined:
  """A part of a log beside what was before.

  Attributes:
    checked: Interactions of the part that are not repeated, items and users of all parts, rejected rows of this one.
    fresh: Items of the part.
    late: Rows of the interactions that are older than the records that are extended, bool `[rows]`.
    earlier: Records that are extended, whose ids have the types of `checked`.
    notes: Counts of what came late and of what was repeated.
  """

  checked: raw.Checked
  fresh: pl.DataFrame
  late: pl.Series
  earlier: Earlier
  notes: dict[str, float | int | str]


def join(checked: raw.Checked, earlier: Earlier, name: str) -> Joined:
  """Sorts out what the records hold already, and joins items and users of both.

  An item or a user of the part replaces the one of before. Interactions older than the newest second of the records are
  behaviours, and no candidates: what the state has of before may be too little of their histories.

  Args:
    checked: Input of the part.
    earlier: Records that are extended.
    name: Name of the interactions in messages.

  Raises:
    UserError: No row of the part is new.
  """
  checked, earlier = _same_types(checked, earlier)
  state = earlier.state
  interactions = checked.interactions
  repeated = _repeated(interactions, earlier)
  rejected = checked.rejected
  if repeated.any():
    bad = interactions.filter(repeated).select(
      pl.lit("interactions").alias("table"),
      pl.lit(None, pl.String).alias("file"),
      raw.ROW,
      pl.lit(_REPEATED).alias("reason"),
      *(pl.col(column).cast(pl.String) for column in ("user_id", "item_id", "domain", "timestamp")),
    )
    rejected = pl.concat([rejected, bad], how="diagonal_relaxed")
    interactions = interactions.filter(~repeated)
  late = interactions["timestamp"] < state.newest
  newest = int(checked.interactions["timestamp"].max())  # type: ignore[arg-type]
  where = f"{earlier.record_set.path} holds the log up to {state.newest}, and {name} up to {newest}"
  if late.all():  # of no row, too
    raise UserError(f"{where}: nothing of it is new. Was this part added before?")
  if late.any():
    logging.warning(
      "%s: %d of %d new interactions are older than the newest of the records: they are behaviours, and no candidates",
      *(name, int(late.sum()), len(interactions)),
    )
  fresh = checked.items
  items = _replaced(state.items, checked.items, ["domain", "item_id"])
  profiles = state.users.filter("profile").drop("trained", "profile")
  users = _replaced(profiles, checked.users, ["user_id"])
  notes: dict[str, float | int | str] = {"late_rows": int(late.sum()), "repeated_rows": int(repeated.sum())}
  return Joined(raw.Checked(interactions, items, users, rejected), fresh, late, earlier, notes)


def _same_types(checked: raw.Checked, earlier: Earlier) -> tuple[raw.Checked, Earlier]:
  """Both with ids of one type: strings unless they are integers in both."""
  parts = {"interactions": checked.interactions, "items": checked.items, "users": checked.users}
  state, users = earlier.state, earlier.users
  for column in ("item_id", "user_id"):
    having = [table for table in (*parts.values(), state.items, users) if column in table.columns]
    if len({table[column].dtype for table in having}) == 1:
      continue
    text = pl.col(column).cast(pl.String)
    parts = {name: table.with_columns(text) if column in table.columns else table for name, table in parts.items()}
    if column == "item_id":
      state = dataclasses.replace(state, items=state.items.with_columns(text))
    else:
      users = users.with_columns(text)
      state = dataclasses.replace(state, users=state.users.with_columns(text))
    state = dataclasses.replace(state, last_second=state.last_second.with_columns(text))
  return dataclasses.replace(checked, **parts), dataclasses.replace(earlier, state=state, users=users)


def _repeated(interactions: pl.DataFrame, earlier: Earlier) -> pl.Series:
  """Rows that the records hold: a behaviour of the same user, item and moment, or the same in their newest second."""
  state = earlier.state
  old = interactions.filter(pl.col("timestamp") <= state.newest)
  if old.is_empty():
    return pl.repeat(False, len(interactions), eager=True)
  keys = state.last_second.columns
  same = old.filter(pl.col("timestamp") == state.newest).join(state.last_second, on=keys, how="semi", nulls_equal=True)
  found = [same[raw.ROW]]
  late = old.filter(pl.col("timestamp") < state.newest).join(earlier.users, on="user_id")
  for d in DOMAINS:
    items = earlier.mapping.items[d].select(pl.col("row").alias("item"), pl.col("item_id").cast(old["item_id"].dtype))
    mine = late.filter(pl.col("domain") == d).join(items, on="item_id")
    there = state.behaviours[d].filter(pl.col("user").is_in(mine["user"].unique().implode()))
    found.append(mine.join(there, on=["user", "item", "timestamp"], how="semi")[raw.ROW])
  return interactions[raw.ROW].is_in(pl.concat(found).implode())


def _replaced(before: pl.DataFrame, now: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
  """The rows of both, those of `now` in place of those of `before` with the same keys."""
  kept = before.join(now, on=keys, how="anti", maintain_order="left")
  # a column of nulls alone has no type of its own
  return pl.concat([kept, now.select(before.columns)], how="vertical_relaxed")


@dataclasses.dataclass(frozen=True)
class Grown:
  """What the part leaves of the id mapping and of the counts.

  Attributes:
    mapping: Id mapping.
    counts: Training interactions of the part.
    totals: Per vocabulary, `value`, `count` and `last` over all parts.
  """

  mapping: IdMapping
  counts: Counts
  totals: dict[str, pl.DataFrame]


def grow(joined: Joined, interactions: pl.DataFrame, schema: Schema, rows_for_new: bool) -> Grown:
  """Counts the part, and gives new items and values rows.

  Args:
    joined: The part beside what was before.
    interactions: Those of the part, with `training`.
    schema: Fields and vocabularies.
    rows_for_new: True if new items and values get rows.
  """
  state = joined.earlier.state
  trained = state.users.filter(pl.col("trained") > 0).drop("trained", "profile")
  counts = count(interactions, joined.checked, schema, trained)
  totals = add_counts(counts, schema, state.values, state.part + 1)
  mapping = extended_mapping(
    joined.earlier.mapping, joined.checked, joined.fresh, counts, totals, state.part + 1, schema, rows_for_new
  )
  return Grown(mapping, counts, totals)


def add_counts(
  counts: Counts, schema: Schema, before: dict[str, pl.DataFrame] | None = None, part: int = 0
) -> dict[str, pl.DataFrame]:
  """Per vocabulary of categorical fields, `value`, `count` and `last` (number of the part that met it last)."""
  totals = {}
  for name, counted in counts.values.items():
    if schema.numeric(name):
      continue
    fresh = counted.select("value", "count", last=pl.lit(part, pl.Int32))
    if before is not None:
      both = pl.concat([before[name], fresh])
      fresh = both.group_by("value").agg(pl.col("count").sum(), pl.col("last").max())
    totals[name] = fresh
  return totals


def past(state: State, before: IdMapping, now: IdMapping, active: pl.DataFrame) -> dict[DomainName, Past]:
  """What the candidates of the part need of the log before.

  Args:
    state: State before the part, as `now` numbers it.
    before: Id mapping of the records that are extended.
    now: Id mapping of the part.
    active: Users of the part, `user`.
  """
  found: dict[DomainName, Past] = {}
  for d in DOMAINS:
    behaviours = state.behaviours[d].join(active, on="user", how="semi", maintain_order="left")
    interactions, training = np.zeros((2, len(now.catalogues[d])), np.int64)
    interactions[: len(state.interactions[d])] = state.interactions[d]
    training[before.items[d]["row"].to_numpy()] = before.items[d]["count"].to_numpy()
    found[d] = Past(behaviours, interactions, training)
  return found


def renumbered(earlier: Earlier, now: IdMapping, schema: Schema) -> State:
  """The state with the behaviours' values as `now` numbers them."""
  behaviours = {d: _renumbered(earlier.state.behaviours[d], earlier.mapping, now, schema, d) for d in DOMAINS}
  return dataclasses.replace(earlier.state, behaviours=behaviours)


def _renumbered(
  behaviours: pl.DataFrame, before: IdMapping, now: IdMapping, schema: Schema, d: DomainName
) -> pl.DataFrame:
  """Values whose rows went to others become unknown."""
  columns = []
  for j, feature in enumerate(schema.domain(d).cross_fields):
    number = _new_numbers(before.vocabularies[feature.vocabulary], now.vocabularies[feature.vocabulary])
    if number is not None:
      column = behaviours[f"cross_{j}"]
      columns.append(pl.Series(column.name, number[column.to_numpy()]))
  return behaviours.with_columns(columns)


def _new_numbers(before: ValueTable, now: ValueTable) -> np.ndarray | None:
  """The new index of every old one, `[size]` int32; None if all stay."""
  kept = now.values.head(len(before.values))
  gone = (before.values != kept).arg_true()
  if gone.is_empty():
    return None
  number = np.arange(before.size, dtype=np.int32)
  number[1 + before.oov + gone.to_numpy()] = now.indices(before.values.gather(gone))
  return number
