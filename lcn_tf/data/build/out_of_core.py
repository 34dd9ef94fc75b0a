"""Building from a log that does not fit in memory: its interactions lie in buckets on disk, by runs of users.

A bucket has all interactions of its users, and the buckets follow one another in the order of the users. So what is
made of the users of one bucket after another, by the functions that a log in memory goes through, is what would be made
of all users at once. What all users share (vocabularies, counts of items, moments of the split) are sums over buckets.
What is done to one bucket is a task (`bucket_tasks`), which an engine runs; what all buckets share is made here.

Each bucket is looked at several times:

1. Interactions are read in pieces, and dealt to the buckets.
2. Bad rows are sorted out.
3. The split, and what vocabularies and catalogues count.
4. With sampled labels, the columns that negatives are drawn from, which lie in the memory for one domain at a time.
5. Behaviours and candidates, as arrays in files, from which records and statistics are made.

The memory has room for a bucket in work, for the items, the users, the values of vocabularies and the rejected rows,
and for the positions of records. A process of tasks has room for a bucket, for the items, for the ids of the users
and for the vocabularies.
"""

import collections
import dataclasses
import pathlib

import numpy as np
import polars as pl
from absl import logging

from lcn_tf import storage
from lcn_tf.config import Records
from lcn_tf.data.build import bucket_tasks as tasks
from lcn_tf.data.build import shards
from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.arrays import Appended, Mapped, order_statistic
from lcn_tf.data.build.candidates import DomainLog, known_items, negatives
from lcn_tf.data.build.counting import Counts, sum_of, summed
from lcn_tf.data.build.engines import Engine, Shared
from lcn_tf.data.build.indexing import Indexed, Numbering, index_users
from lcn_tf.data.build.negatives import ItemLog
from lcn_tf.data.build.raw_table import ROW
from lcn_tf.data.build.shards import UserLog
from lcn_tf.data.build.splits import Divided, Dividing, Moments, dividing, ranks
from lcn_tf.data.build.state import Last
from lcn_tf.data.build.stream import Piece, of_frame, piece_rows
from lcn_tf.data.id_mapping import IdMapping
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Schema

# bytes of a row while its bucket is in work: copies of the row, and numbers, texts and keys beside it
COPIES, BESIDE = 8, 400


class Buckets:
  """The interactions of a log in buckets. Its methods are called in their order.

  Args:
    tables: Raw input.
    schema: Fields.
    records: Rules.
    folder: Empty folder for the buckets.
    memory: Bytes that a bucket in work takes, about.
    engine: Engine that runs the tasks, started in this folder.

  Raises:
    UserError: A column is missing or of a wrong type.
  """

  def __init__(
    self,
    tables: raw.RawTables,
    schema: Schema,
    records: Records,
    folder: pathlib.Path,
    memory: int,
    engine: Engine,
  ):
    stream = tables.stream or of_frame(tables.interactions, tables.names[0], tables.sources.get("interactions"))
    self._schema, self._records, self._folder, self._memory = schema, records, folder, memory
    self._stream, self._engine, source = stream, engine, stream.source
    empty = dataclasses.replace(tables, interactions=source.frame, sources=tables.sources | {"interactions": source})
    self._checking = raw.Checking(empty, schema, records.labels, records.split, whole=stream.whole)
    self._log = engine.share("log", tasks.Log(stream, self._checking.rows))
    self._buckets: list[tasks.Bucket] = []
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
    good, first_user = None, 1
    with Appended(self._folder) as times:
      checking = [tasks.CheckTask(self._log, files) for files in self._dealt()]
      for task, found in zip(checking, self._engine.map(tasks.check, checking), strict=True):
        for file in task.files:
          file.unlink()
        self._checking.note(found.part)
        good = found.part.good
        if not found.last:
          continue
        self._buckets.append(tasks.Bucket(task.files[0].with_name(tasks.GOOD), first_user))
        first_user += len(found.users)
        times.append("times", found.times)
        self._users.append(found.users)
        self._last = self._last + found.last if self._last else found.last
    if good is None:  # the log has no rows at all
      part = self._checking.rows.sort_out(self._checking.interactions)
      self._checking.note(part)
      good = part.good
    return self._checking.result(good)

  def _dealt(self) -> list[tuple[pathlib.Path, ...]]:
    """Deals the interactions to the buckets, and gives the files of each, in the order of the users.

    Rows without a user are in buckets of their own, which come last.
    """
    pieces = list(self._stream.pieces(piece_rows(self._memory, self._stream.row_bytes)))
    numbers = self._engine.share("numbers", self._numbers(pieces))
    dealing = [tasks.DealTask(self._log, numbers, piece, i, self._folder) for i, piece in enumerate(pieces)]
    of_bucket = collections.defaultdict[str, list[pathlib.Path]](list)
    for files in self._engine.map(tasks.deal, dealing):
      for file in files:
        of_bucket[file.parent.name].append(file)
    found = sorted(of_bucket, key=lambda name: (name.startswith("none"), name))
    logging.info(
      "%d interactions in %d buckets of about %s in work",
      *(self._stream.rows, len(found), storage.readable(self._memory / 2)),
    )
    return [tuple(of_bucket[name]) for name in found]

  def _numbers(self, pieces: list[Piece]) -> pl.DataFrame:
    """The bucket of each user: `user_id`, `bucket`."""
    users = None
    for counted in self._engine.map(tasks.count_users, [tasks.PieceTask(self._log, piece) for piece in pieces]):
      users = counted if users is None else summed([users, counted], "user_id")
    if users is None:
      return pl.DataFrame(schema={"user_id": pl.Int64, "bucket": pl.Int64})
    size = max(int(self._memory / 2 / (COPIES * self._stream.row_bytes + BESIDE)), 1)
    users = users.drop_nulls().sort("user_id")
    return users.select("user_id", bucket=(pl.col("count").cum_sum() - pl.col("count")) // size)

  def divide(self) -> Divided:
    """`splits.divide` of the log, but that the interactions it has are none; counts the training interactions.

    Raises:
      UserError: As of `splits.divide`.
    """
    self._rule = dividing(self._records.labels, self._records.split, self._moments())
    shared = self._engine.share("rule", (self._rule, self._schema))
    dividing_ = [tasks.DivideTask(shared, bucket.good) for bucket in self._buckets]
    total = None
    for found in self._engine.map(tasks.divide, dividing_):
      if total is None:
        total = found
        continue
      total = tasks.CountedBucket(
        found.none,
        total.tally + found.tally,
        sum_of([total.counts, found.counts], self._schema),
        {d: summed([total.met[d], found.met[d]], "item_id") for d in DOMAINS},
      )
    assert total
    self.counts, self._met = total.counts, total.met
    return self._rule.divided(total.none, total.tally)

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
    numbering = Numbering(mapping, divided.interactions.schema["item_id"])
    met, unknown = {}, {}
    for d in DOMAINS:
      items = numbering.items(self._met[d].select(pl.lit(d).alias("domain"), "item_id", "count"))
      met[d] = np.zeros(len(mapping.catalogues[d]), np.int64)
      np.add.at(met[d], items["item"].to_numpy(), items["count"].to_numpy())
      unknown[d] = int((items["item"] == UNKNOWN_ITEM).sum())
    none = numbering.rows(divided.interactions, users)
    return index_users(none, users, checked, self._schema, users, mapping, unknown, met)

  def user_log(self, indexed: Indexed) -> tuple[UserLog, dict[DomainName, np.ndarray], int]:
    """`candidates.user_log` of the log, with its arrays mapped from files."""
    mapping = indexed.mapping
    numbering = Numbering(mapping, indexed.interactions.schema["item_id"])
    known = {d: self._known(d, numbering, mapping) for d in DOMAINS}
    numbers = self._engine.share(
      "indices", tasks.Numbers(self._rule, numbering, known, mapping.vocabularies, self._schema, self._records)
    )
    drawn, firsts = None, [dict.fromkeys(DOMAINS, 0)] * len(self._buckets)
    if self._records.labels.kind == "sampled":
      drawn, firsts = self._drawn(numbers, known)
    folder = self._folder / "arrays"
    folder.mkdir()
    ends = [bucket.first_user for bucket in self._buckets[1:]] + [len(indexed.users) + 1]
    owned = {(d, kind): np.zeros(ends[-1], np.int64) for d in DOMAINS for kind in ("behaviours", "candidates")}
    making = [tasks.LogTask(numbers, bucket, drawn, first) for bucket, first in zip(self._buckets, firsts, strict=True)]
    shortage = 0
    with Appended(folder) as written:
      written.append("fields", indexed.user_fields)
      written.append("values", indexed.user_values)
      made = self._engine.map(tasks.user_log, making)
      for bucket, end, (logs, lacking) in zip(self._buckets, ends, made, strict=True):
        shortage += lacking
        own = slice(bucket.first_user, end)
        for d, log in logs.items():
          _append(written, d, log)
          for kind, owners in (("behaviours", log.owners), ("candidates", log.candidate_owners)):
            owned[d, kind][own] = np.bincount(owners - own.start, minlength=own.stop - own.start)
      for (d, kind), of_user in owned.items():
        written.append(f"{d}.{kind}", np.append(0, np.cumsum(of_user)))
    for bucket in self._buckets:
      bucket.good.unlink()
    return *_mapped(folder, self._schema), shortage

  def _known(self, d: DomainName, numbering: Numbering, mapping: IdMapping) -> np.ndarray:
    trained = numbering.items(self.counts.items[d].select(pl.lit(d).alias("domain"), "item_id"))
    return known_items(d, mapping, self._records.labels, trained["item"].to_numpy())

  def _drawn(
    self, numbers: Shared[tasks.Numbers], known: dict[DomainName, np.ndarray]
  ) -> tuple[pathlib.Path, list[dict[DomainName, int]]]:
    """Draws the negatives of all positives: the folder with them, and where those of each bucket begin.

    Those of one bucket come after those of another; they are drawn from the interactions of all users.
    """
    folder = self._folder / "drawn"
    folder.mkdir()
    rows, positives, firsts = dict.fromkeys(DOMAINS, 0), dict.fromkeys(DOMAINS, 0), []
    numbering = [tasks.NumberTask(numbers, bucket) for bucket in self._buckets]
    with Appended(folder) as written:
      for found in self._engine.map(tasks.number, numbering):
        firsts.append(positives.copy())
        for d, columns in found.items():
          for name, column in columns.items():
            written.append(f"{d}.{name}", rows[d] + column if name == "shown" else column)
          rows[d] += len(columns["user"])
          positives[d] += len(columns["shown"])
    for d in DOMAINS:
      self._draw(d, Mapped(folder), known[d])
    return folder, firsts

  def _draw(self, d: DomainName, mapped: Mapped, known: np.ndarray) -> None:
    """Draws the negatives of the positives of a domain."""
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
