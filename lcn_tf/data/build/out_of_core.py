"""Building from a log that does not fit in memory: its interactions lie in buckets on disk, by runs of users.

A bucket has all interactions of its users, and the buckets follow one another in the order of the users. So what is
made of the users of one bucket after another, by the functions that a log in memory goes through, is what would be made
of all users at once. What all users share (vocabularies, counts of items, moments of the split) are sums over buckets.

Each bucket is looked at several times:

1. Interactions are read in pieces, and dealt to the buckets.
2. Bad rows are sorted out.
3. The split, and what vocabularies and catalogues count.
4. With sampled labels, the columns that negatives are drawn from, which lie in the memory for one domain at a time.
5. Behaviours and candidates, as arrays in files, from which records and statistics are made.

The memory has room for a bucket in work, for the items, the users, the values of vocabularies and the rejected rows,
and for the positions of records.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import polars as pl
from absl import logging

from lcn_tf import storage
from lcn_tf.config import Records
from lcn_tf.data.build import shards
from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.arrays import Appended, Mapped, order_statistic
from lcn_tf.data.build.candidates import DomainLog, domain_log, known_items, negatives, no_negatives, shown_rows
from lcn_tf.data.build.counting import Counts, count_rows, counted, sum_of, summed
from lcn_tf.data.build.indexing import Indexed, Numbering, index_users
from lcn_tf.data.build.negatives import ItemLog
from lcn_tf.data.build.raw_table import ROW
from lcn_tf.data.build.shards import UserLog
from lcn_tf.data.build.splits import Divided, Dividing, Moments, dividing, ranks
from lcn_tf.data.build.state import Last
from lcn_tf.data.build.stream import of_frame, piece_rows
from lcn_tf.data.id_mapping import IdMapping
from lcn_tf.data.record_set import SPLITS
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Schema

# bytes of a row while its bucket is in work: copies of the row, and numbers, texts and keys beside it
COPIES, BESIDE = 8, 400
_TRAIN = SPLITS.index("train")


class Buckets:
  """The interactions of a log in buckets. Its methods are called in their order.

  Args:
    tables: Raw input.
    schema: Fields.
    records: Rules.
    folder: Empty folder for the buckets.
    memory: Bytes that a bucket in work takes, about.

  Raises:
    UserError: A column is missing or of a wrong type.
  """

  def __init__(self, tables: raw.RawTables, schema: Schema, records: Records, folder: pathlib.Path, memory: int):
    self._stream = tables.stream or of_frame(tables.interactions, tables.names[0], tables.sources.get("interactions"))
    self._schema, self._records, self._folder, self._memory = schema, records, folder, memory
    source = self._stream.source
    empty = dataclasses.replace(tables, interactions=source.frame, sources=tables.sources | {"interactions": source})
    self._checking = raw.Checking(empty, schema, records.labels, records.split, whole=self._stream.whole)
    self._buckets: list[pathlib.Path] = []
    self._users: list[pl.Series] = []
    self._last: Last | None = None
    self._rule: Dividing
    self.counts: Counts
    self._met: dict[DomainName, pl.DataFrame]

  @property
  def bytes(self) -> int:
    """Space on disk that the buckets take at most, about."""
    return int(self._stream.rows * (self._stream.row_bytes + 100))

  @property
  def users(self) -> pl.DataFrame:
    """`user_id` of everybody with a good row."""
    return pl.DataFrame({"user_id": pl.concat(self._users)})

  @property
  def last(self) -> Last:
    """The newest second."""
    assert self._last
    return self._last

  def check(self) -> raw.Checked:
    """`tables.check` of the log, but that the interactions it has are none.

    Raises:
      UserError: No row is left.
    """
    good = None
    with Appended(self._folder) as times:
      for bucket in self._dealt():
        frame = pl.concat([pl.read_ipc(file) for file in sorted(bucket.iterdir())])
        for file in bucket.iterdir():
          file.unlink()
        name = frame.columns[0]
        good = self._checking.rows(self._checking.read(frame.drop(name), frame[name]))
        if good.is_empty():
          continue
        good.write_ipc(bucket / "good.arrow", compression="lz4")
        self._buckets.append(bucket / "good.arrow")
        times.append("times", good["timestamp"].to_numpy())
        self._users.append(good["user_id"].unique().sort())
        last = Last.of(good)
        self._last = self._last + last if self._last else last
    if good is None:  # the log has no rows at all
      good = self._checking.rows(self._checking.interactions)
    return self._checking.result(good.clear())

  def _dealt(self) -> list[pathlib.Path]:
    """Deals the interactions to the buckets: folders, in the order of the users. Rows without one are in others."""
    stream = self._stream
    rows = piece_rows(self._memory, stream.row_bytes)
    numbers = self._numbers(rows)
    for number, (first, piece) in enumerate(stream.pieces(rows)):
      position, bucket = _free("row", piece.columns), _free("bucket", piece.columns)
      ids = pl.DataFrame({"user_id": self._checking.user_ids(piece)})
      of_row = ids.join(numbers, on="user_id", how="left", maintain_order="left")["bucket"]
      piece = piece.insert_column(
        0, pl.int_range(first, first + len(piece), dtype=pl.Int64, eager=True).alias(position)
      )
      parts = piece.with_columns(of_row.alias(bucket)).partition_by(bucket, as_dict=True, include_key=False)
      for (own,), part in parts.items():
        folder = self._folder / (f"none-{number:09d}" if own is None else f"users-{own:09d}")
        folder.mkdir(exist_ok=True)
        part.write_ipc(folder / f"{number:09d}.arrow", compression="lz4")
    found = sorted(self._folder.iterdir(), key=lambda folder: (folder.name.startswith("none"), folder.name))
    logging.info(
      "%d interactions in %d buckets of about %s in work",
      *(stream.rows, len(found), storage.readable(self._memory / 2)),
    )
    return found

  def _numbers(self, rows: int) -> pl.DataFrame:
    """The bucket of each user: `user_id`, `bucket`."""
    parts = []
    for _, piece in self._stream.pieces(rows, ["user_id"]):
      parts.append(counted(pl.DataFrame({"user_id": self._checking.user_ids(piece)}), "user_id"))
      if len(parts) > 1:
        parts = [summed(parts, "user_id")]
    if not parts:
      return pl.DataFrame(schema={"user_id": pl.Int64, "bucket": pl.Int64})
    size = max(int(self._memory / 2 / (COPIES * self._stream.row_bytes + BESIDE)), 1)
    users = parts[0].drop_nulls().sort("user_id")
    return users.select("user_id", bucket=(pl.col("count").cum_sum() - pl.col("count")) // size)

  def _good(self) -> Iterator[pl.DataFrame]:
    return (pl.read_ipc(bucket) for bucket in self._buckets)

  def divide(self) -> Divided:
    """`splits.divide` of the log, but that the interactions it has are none; counts the training interactions.

    Raises:
      UserError: As of `splits.divide`.
    """
    self._rule = dividing(self._records.labels, self._records.split, self._moments())
    counts: list[Counts] = []
    met: dict[DomainName, list[pl.DataFrame]] = {d: [] for d in DOMAINS}
    part = None
    for good in self._good():
      part = self._rule.part(good)
      counts.append(count_rows(part, self._schema))
      if len(counts) > 1:
        counts = [sum_of(counts, self._schema)]
      for d in DOMAINS:
        met[d].append(counted(part.filter(pl.col("domain") == d), "item_id"))
        if len(met[d]) > 1:
          met[d] = [summed(met[d], "item_id")]
    assert part is not None
    self.counts, self._met = counts[0], {d: met[d][0] for d in DOMAINS}
    return self._rule.divided(part.clear())

  def _moments(self) -> Moments:
    times, split = Mapped(self._folder)("times"), self._records.split
    first, last = order_statistic(times, 0), self.last.second
    if split.kind != "time":
      return Moments(0, 0, first, last)
    if split.boundaries:
      return Moments(*split.boundaries, first=first, last=last)
    ends = [order_statistic(times, rank) for rank in ranks(len(times), split)]
    return Moments(ends[0], ends[1], first, last)

  def index(self, divided: Divided, checked: raw.Checked, users: pl.DataFrame, mapping: IdMapping) -> Indexed:
    """`indexing.index` of the log, but that the interactions it has are none."""
    numbering = Numbering(users, mapping, divided.interactions.schema["item_id"])
    met, unknown = {}, {}
    for d in DOMAINS:
      items = numbering.items(self._met[d].select(pl.lit(d).alias("domain"), "item_id", "count"))
      met[d] = np.zeros(len(mapping.catalogues[d]), np.int64)
      np.add.at(met[d], items["item"].to_numpy(), items["count"].to_numpy())
      unknown[d] = int((items["item"] == UNKNOWN_ITEM).sum())
    none = numbering.rows(divided.interactions)
    return index_users(none, users, checked, self._schema, users, mapping, unknown, met)

  def user_log(self, indexed: Indexed) -> tuple[UserLog, dict[DomainName, np.ndarray], int]:
    """`candidates.user_log` of the log, with its arrays mapped from files."""
    item_id = indexed.interactions.schema["item_id"]
    numbering = Numbering(indexed.users, indexed.mapping, item_id)
    known = {d: self._known(d, numbering, indexed.mapping) for d in DOMAINS}
    drawn: dict[DomainName, np.ndarray] | None = None
    if self._records.labels.kind == "sampled":
      drawn = self._drawn(numbering, known)
    folder = self._folder / "arrays"
    folder.mkdir()
    everybody = len(indexed.users) + 1
    owned = {(d, kind): np.zeros(everybody, np.int64) for d in DOMAINS for kind in ("behaviours", "candidates")}
    positives = dict.fromkeys(DOMAINS, 0)
    shortage = 0
    with Appended(folder) as written:
      written.append("fields", indexed.user_fields)
      written.append("values", indexed.user_values)
      for good in self._good():
        rows = numbering.rows(self._rule.part(good))
        for d in DOMAINS:
          own = rows.filter(pl.col("domain") == d)
          shown = shown_rows(d, own, self._records, known[d])
          first = positives[d]
          positives[d] += len(shown)
          of_rows = no_negatives(len(shown)) if drawn is None else drawn[d][first : positives[d]]
          shortage += int((of_rows == 0).sum())
          log = domain_log(d, own, shown, of_rows, indexed.mapping.vocabularies, self._schema, self._records.labels)
          _append(written, d, log)
          owned[d, "behaviours"] += np.bincount(log.owners, minlength=everybody)
          owned[d, "candidates"] += np.bincount(log.candidate_owners, minlength=everybody)
      for (d, kind), of_user in owned.items():
        written.append(f"{d}.{kind}", np.append(0, np.cumsum(of_user)))
    for bucket in self._buckets:
      bucket.unlink()
    return *_mapped(folder, self._schema), shortage

  def _known(self, d: DomainName, numbering: Numbering, mapping: IdMapping) -> np.ndarray:
    trained = numbering.items(self.counts.items[d].select(pl.lit(d).alias("domain"), "item_id"))
    return known_items(d, mapping, self._records.labels, trained["item"].to_numpy())

  def _drawn(self, numbering: Numbering, known: dict[DomainName, np.ndarray]) -> dict[DomainName, np.ndarray]:
    """Negatives of all positives, of one bucket after another: they are drawn from the interactions of all users."""
    folder = self._folder / "drawn"
    folder.mkdir()
    rows_before = dict.fromkeys(DOMAINS, 0)
    with Appended(folder) as written:
      for good in self._good():
        rows = numbering.rows(self._rule.part(good))
        for d in DOMAINS:
          own = rows.filter(pl.col("domain") == d)
          for name in ("user", "item", "timestamp", ROW, "training"):
            written.append(f"{d}.{name}", own[name].to_numpy())
          shown = shown_rows(d, own, self._records, known[d])
          split = own["split"].fill_null(len(SPLITS)).to_numpy()
          written.append(f"{d}.shown", rows_before[d] + shown)
          written.append(f"{d}.trains", split[shown] == _TRAIN)
          rows_before[d] += len(own)
    return {d: self._drawn_of(d, Mapped(folder), known[d]) for d in DOMAINS}

  def _drawn_of(self, d: DomainName, mapped: Mapped, known: np.ndarray) -> np.ndarray:
    """Negatives of the positives of a domain, mapped."""
    order = np.lexsort((mapped(f"{d}.{ROW}"), mapped(f"{d}.timestamp")))
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    shown = places[mapped(f"{d}.shown")]
    del places
    users, items, times, training = (mapped(f"{d}.{n}")[order] for n in ("user", "item", "timestamp", "training"))
    del order
    mapped.release()
    log = ItemLog(users, items, times, len(known))
    drawn = negatives(d, log, shown, mapped(f"{d}.trains"), training, self._records, known)
    np.save(mapped.folder / f"{d}.drawn.npy", drawn)
    return mapped(f"{d}.drawn")


def _free(name: str, columns: list[str]) -> str:
  """The name, longer if columns of the log have it."""
  while name in columns:
    name += "_"
  return name


def _append(written: Appended, d: DomainName, log: DomainLog) -> None:
  """Adds what a bucket has of a domain."""
  for name, array in vars(log.behaviours).items():
    written.append(f"{d}.behaviours.{name}", array)
  for name, array in vars(log.candidates).items():
    written.append(f"{d}.candidates.{name}", array)
  for name, several in (("cross_sources", log.cross_sources), ("context_sources", log.context_sources)):
    for j, array in enumerate(several):
      written.append(f"{d}.{name}.{j}", array)
  written.append(f"{d}.of_split", log.of_split)
  written.append(f"{d}.splits", log.splits)


def _mapped(folder: pathlib.Path, schema: Schema) -> tuple[UserLog, dict[DomainName, np.ndarray]]:
  """The log whose arrays are in a folder, and the split of each candidate."""
  log = shards.load(folder)
  mapped = log.mapped
  assert mapped
  splits = {}
  for d in DOMAINS:
    cross, context = len(schema.domain(d).cross_fields), len(schema.context_fields)
    log.cross_sources[d] = [mapped(f"{d}.cross_sources.{j}") for j in range(cross)]
    log.context_sources[d] = [mapped(f"{d}.context_sources.{j}") for j in range(context)]
    log.behaviour_splits[d] = mapped(f"{d}.of_split")
    splits[d] = mapped(f"{d}.splits")
  return log, splits
