"""The state of a log: what records of its next part need of everything before.

state/state.json               version, number of the part, newest second
state/behaviours.<d>.parquet   user, item, timestamp, cross_0..., value_0...: each user's newest, oldest first
state/items.<d>.parquet        item_id, interactions, and the fields as the log had them, in the catalogue's order
state/users.parquet            user_id, trained, profile, and the fields as the log had them, in the order of the index;
                               then those who have a profile and no index
state/values.<name>.parquet    value, count, last: every value of a vocabulary that any training interaction had
state/newest.parquet           the interactions of the newest second, which an export of the next part may repeat
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import polars as pl

from lcn_tf import formats
from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.arrays import Appended, runs
from lcn_tf.data.build.counting import Counts
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.shards import UserLog
from lcn_tf.data.id_mapping import IdMapping, field_column
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema

_VERSION = 1
_FILE = "state/state.json"


@dataclasses.dataclass(frozen=True)
class State:
  """See the module's docstring.

  Attributes:
    part: Number of the newest part; 0 = records that extend no others.
    newest: Newest second of the log.
    behaviours: Per domain, `user`, `item`, `timestamp`, `cross_<j>` and `value_<j>` (float values of the cross
      fields), ordered by user, then time.
    interactions: Per domain, interactions of the rows of the catalogue `[items]` int64, of whatever split.
    items: `domain`, `item_id` and the item fields of `Checked.items`.
    users: `user_id`, `trained` (training interactions) and `profile` (bool), and the other fields of `Checked.users`.
    values: Per vocabulary of categorical fields, `value`, `count` and `last` (number of the part that met it last).
    last_second: `domain`, `user_id`, `item_id` and, if there are labels, `label` of the interactions of `newest`.
  """

  part: int
  newest: int
  behaviours: dict[DomainName, pl.DataFrame]
  interactions: dict[DomainName, np.ndarray]
  items: pl.DataFrame
  users: pl.DataFrame
  values: dict[str, pl.DataFrame]
  last_second: pl.DataFrame


def open_state(record_set: RecordSet) -> State:
  """The state of a record set.

  Raises:
    UserError: It has none, or one of another version.
    DamagedError: A file of it is missing, or not what was written.
  """
  if not record_set.has(_FILE) and _FILE not in record_set.tables:
    raise UserError(
      f"{record_set.path}: no state to go on from (state/ is missing). Records of --like, of records.state=false and "
      "of older versions have none: build them again"
    )
  record_set.read(_FILE)  # it is there, and of these records
  facts = formats.read_sealed(record_set.path / _FILE)
  if facts.get("version") != _VERSION:
    raise UserError(
      f"{record_set.path / _FILE}: version {facts.get('version')}, and this program reads {_VERSION}. Build the "
      "records again"
    )
  items, interactions = [], {}
  for d in DOMAINS:
    own = record_set.table(f"state/items.{d}.parquet")
    # items without a row of the catalogue have no count
    interactions[d] = np.concatenate([np.zeros(2, np.int64), own["interactions"].drop_nulls().to_numpy()])
    items.append(own.drop("interactions").with_columns(domain=pl.lit(d)))
  schema = record_set.record_schema
  return State(
    int(facts["part"]),
    int(facts["newest"]),
    {d: record_set.table(f"state/behaviours.{d}.parquet") for d in DOMAINS},
    interactions,
    pl.concat(items, how="diagonal"),
    record_set.table("state/users.parquet"),
    {n: record_set.table(f"state/values.{n}.parquet") for n in schema.vocabularies if not schema.numeric(n)},
    record_set.table("state/newest.parquet"),
  )


@dataclasses.dataclass(frozen=True)
class Last:
  """Interactions of the newest second.

  Attributes:
    second: Second.
    rows: `row`, and what `State.last_second` has, in the order of the input.
  """

  second: int
  rows: pl.DataFrame

  @classmethod
  def of(cls, interactions: pl.DataFrame) -> "Last":
    """That of checked interactions, of at least one."""
    second = int(interactions["timestamp"].max())  # type: ignore[arg-type]
    kept = [name for name in ("domain", "user_id", "item_id", "label") if name in interactions.columns]
    return cls(second, interactions.filter(pl.col("timestamp") == second).sort(raw.ROW).select(raw.ROW, *kept))

  def __add__(self, other: "Last") -> "Last":
    if self.second != other.second:
      return max(self, other, key=lambda last: last.second)
    return Last(self.second, pl.concat([self.rows, other.rows]).sort(raw.ROW))


def next_state(
  indexed: Indexed,
  checked: raw.Checked,
  counts: Counts,
  totals: dict[str, pl.DataFrame],
  log: UserLog,
  schema: Schema,
  last: Last,
  earlier: State | None = None,
) -> State:
  """The state behind a part of a log.

  Args:
    indexed: Numbers of the part.
    checked: Items and users of the part and of before.
    counts: Training interactions of the part.
    totals: Per vocabulary of categorical fields, `value`, `count` and `last` over all parts.
    log: Behaviours of the users who are active in the part; complete for them.
    schema: Fields and lengths.
    last: Interactions of the part's newest second.
    earlier: State before the part; None = the part is the first one.
  """
  newest = max(last.second, earlier.newest if earlier else 0)
  behaviours, interactions = {}, {}
  for d in DOMAINS:
    own = _newest(log, d, schema.domain(d).max_length, newest)
    if earlier:
      idle = earlier.behaviours[d].join(indexed.active, on="user", how="anti", maintain_order="left")
      own = pl.concat([idle, own]).sort("user", maintain_order=True)
    behaviours[d] = own
    interactions[d] = indexed.met[d].copy()
    if earlier:
      interactions[d][: len(earlier.interactions[d])] += earlier.interactions[d]
  last_second = last.rows.drop("row") if last.second == newest else last.rows.drop("row").clear()
  if earlier and earlier.newest == newest:
    last_second = pl.concat([earlier.last_second.cast(last_second.schema), last_second])
  vectors = [field_column(vector) for d in DOMAINS for vector in schema.domain(d).item_vectors]
  return State(
    earlier.part + 1 if earlier else 0,
    newest,
    behaviours,
    interactions,
    checked.items.drop(vectors, strict=False),
    _users(indexed, checked, counts, earlier),
    totals,
    last_second,
  )


def newest_behaviours(log: UserLog, d: DomainName, length: int, newest: int) -> Iterator[dict[str, np.ndarray]]:
  """Each user's behaviours of the second `newest`, which do not see each other, and `length` before them.

  Yields:
    Columns of `State.behaviours`, of some users after others.
  """
  for first, end in runs(log.behaviour_offsets[d]):
    bounds = log.behaviour_offsets[d][first : end + 1]
    events, offsets = log.behaviours[d][bounds[0] : bounds[-1]], bounds - bounds[0]
    owners = np.repeat(np.arange(end - first), np.diff(offsets))
    stops = offsets[1:] - np.bincount(owners[events.times == newest], minlength=end - first)
    kept = np.arange(len(owners)) >= stops[owners] - length
    cross = {f"cross_{j}": events.cross[kept, j] for j in range(events.cross.shape[1])}
    values = {f"value_{j}": events.values[kept, j] for j in range(events.values.shape[1])}
    users = (first + owners[kept]).astype(np.int32)
    yield {"user": users, "item": events.items[kept], "timestamp": events.times[kept]} | cross | values
    log.release()


def _newest(log: UserLog, d: DomainName, length: int, newest: int) -> pl.DataFrame:
  """`newest_behaviours` of all users. Those of a mapped log lie beside its arrays, mapped as well."""
  parts = newest_behaviours(log, d, length, newest)
  if not log.mapped:
    several = list(parts)
    return pl.DataFrame({name: np.concatenate([part[name] for part in several]) for name in several[0]})
  with Appended(log.mapped.folder) as written:
    for part in parts:
      for name, column in part.items():
        written.append(f"{d}.state.{name}", column)
  return pl.DataFrame({name: log.mapped(f"{d}.state.{name}") for name in part})


def _users(indexed: Indexed, checked: raw.Checked, counts: Counts, earlier: State | None) -> pl.DataFrame:
  trained = counts.users.rename({"count": "trained"})
  if earlier:
    before = earlier.users.select(pl.col("user_id").cast(trained["user_id"].dtype), "trained")
    trained = pl.concat([before, trained]).group_by("user_id").agg(pl.col("trained").sum())
  profiles = checked.users.with_columns(profile=True).drop(field_column(Feature(name="user_id")), strict=False)
  numbered = indexed.users.select("user_id")
  others = profiles.select("user_id").join(numbered, on="user_id", how="anti", maintain_order="left")
  users = pl.concat([numbered, others]).join(trained, on="user_id", how="left", maintain_order="left")
  users = users.join(profiles, on="user_id", how="left", maintain_order="left")
  return users.with_columns(pl.col("trained").fill_null(0), pl.col("profile").fill_null(False))


def write_state(state: State, mapping: IdMapping, folder: pathlib.Path) -> None:
  """Writes `folder`/state."""
  (folder / "state").mkdir()
  tables = {f"behaviours.{d}": state.behaviours[d] for d in DOMAINS}
  for d in DOMAINS:
    ordered = mapping.items[d].select("item_id").cast({"item_id": state.items["item_id"].dtype})
    own = state.items.filter(pl.col("domain") == d).drop("domain")
    fields = ordered.join(own, on="item_id", how="left", maintain_order="left")
    others = own.join(ordered, on="item_id", how="anti", maintain_order="left").select(fields.columns)
    tables[f"items.{d}"] = pl.concat(
      [
        fields.with_columns(interactions=state.interactions[d][2:]),
        others.with_columns(interactions=pl.lit(None, pl.Int64)),
      ]
    )
  tables |= {f"values.{name}": frame.sort("value") for name, frame in state.values.items()}
  tables |= {"users": state.users, "newest": state.last_second}
  for name, frame in tables.items():
    frame.rechunk().write_parquet(folder / "state" / f"{name}.parquet", compression="lz4")  # chunks show in the bytes
  formats.write_sealed(folder / _FILE, {"version": _VERSION, "part": state.part, "newest": state.newest})
