"""What a build out of core does with one piece of a log, or with one bucket: the tasks of `out_of_core`.

A task leaves the files that it reads where they are, so that it can run again.
"""

import dataclasses
import pathlib

import numpy as np
import polars as pl

from lcn_tf.config import Records
from lcn_tf.data.build.arrays import Mapped
from lcn_tf.data.build.candidates import DomainLog, domain_log, no_negatives, shown_rows
from lcn_tf.data.build.counting import Counts, count_rows, counted
from lcn_tf.data.build.engines import Shared, whole
from lcn_tf.data.build.indexing import Numbering
from lcn_tf.data.build.raw_table import ROW
from lcn_tf.data.build.row_checks import RowChecks, SortedOut
from lcn_tf.data.build.splits import Dividing, Tally
from lcn_tf.data.build.state import Last
from lcn_tf.data.build.stream import Piece, Stream
from lcn_tf.data.id_mapping import ValueTable
from lcn_tf.data.record_set import SPLITS
from lcn_tf.schema import DOMAINS, DomainName, Schema

_TRAIN = SPLITS.index("train")
GOOD = "good.arrow"


@dataclasses.dataclass(frozen=True)
class Log:
  """The log as it comes.

  Attributes:
    stream: Its interactions.
    checks: Checks of them.
  """

  stream: Stream
  checks: RowChecks


@dataclasses.dataclass(frozen=True)
class PieceTask:
  """A piece of the log, see `count_users`."""

  log: Shared[Log]
  piece: Piece


def count_users(task: PieceTask) -> pl.DataFrame:
  """How many interactions of a piece each user has: `user_id` and `count`."""
  log = task.log.get()
  ids = log.checks.user_ids(log.stream.read(task.piece, ["user_id"]))
  return counted(pl.DataFrame({"user_id": ids}), "user_id")


@dataclasses.dataclass(frozen=True)
class DealTask:
  """A piece of the log that is dealt to buckets, see `deal`.

  Attributes:
    log: Log.
    numbers: Bucket of each user, `user_id` and `bucket`.
    piece: Piece.
    number: Number of the piece.
    folder: Folder of the buckets.
  """

  log: Shared[Log]
  numbers: Shared[pl.DataFrame]
  piece: Piece
  number: int
  folder: pathlib.Path


def deal(task: DealTask) -> list[pathlib.Path]:
  """Deals a piece to buckets, and gives the files: folder = bucket, name = piece. Rows without user are in others."""
  log, first = task.log.get(), task.piece.first
  rows = log.stream.read(task.piece, None)
  position, bucket = _free("row", rows.columns), _free("bucket", rows.columns)
  ids = pl.DataFrame({"user_id": log.checks.user_ids(rows)})
  of_row = ids.join(task.numbers.get(), on="user_id", how="left", maintain_order="left")["bucket"]
  rows = rows.insert_column(0, pl.int_range(first, first + len(rows), dtype=pl.Int64, eager=True).alias(position))
  parts = rows.with_columns(of_row.alias(bucket)).partition_by(bucket, as_dict=True, include_key=False)
  files = []
  for (own,), part in parts.items():
    folder = task.folder / (f"none-{task.number:09d}" if own is None else f"users-{own:09d}")
    folder.mkdir(exist_ok=True)
    files.append(folder / f"{task.number:09d}.arrow")
    with whole(files[-1]) as file:
      part.write_ipc(file, compression="lz4")
  return files


def _free(name: str, columns: list[str]) -> str:
  """The name, longer if columns of the log have it."""
  while name in columns:
    name += "_"
  return name


@dataclasses.dataclass(frozen=True)
class CheckTask:
  """The files of a bucket, in the order of the pieces, see `check`."""

  log: Shared[Log]
  files: tuple[pathlib.Path, ...]


@dataclasses.dataclass(frozen=True)
class CheckedBucket:
  """A bucket without its bad rows, which lies in the file `GOOD` of its folder.

  Attributes:
    part: Good and bad rows; the good ones are in the file.
    times: Times of these.
    users: Ids of their users, rising.
    last: Newest of them; None = there are none.
  """

  part: SortedOut
  times: np.ndarray
  users: pl.Series
  last: Last | None


def check(task: CheckTask) -> CheckedBucket:
  """Sorts out the bad rows of a bucket."""
  checks = task.log.get().checks
  frame = pl.concat([pl.read_ipc(file) for file in task.files])
  name = frame.columns[0]
  part = checks.sort_out(checks.read(frame.drop(name), frame[name]))
  good = part.good
  if len(good):
    with whole(task.files[0].with_name(GOOD)) as file:
      good.write_ipc(file, compression="lz4")
  return CheckedBucket(
    dataclasses.replace(part, good=good.clear()),
    good["timestamp"].to_numpy(),
    good["user_id"].unique().sort(),
    Last.of(good) if len(good) else None,
  )


@dataclasses.dataclass(frozen=True)
class DivideTask:
  """Good rows of a bucket, and the rule that splits them, see `divide`."""

  rule: Shared[tuple[Dividing, Schema]]
  good: pathlib.Path


@dataclasses.dataclass(frozen=True)
class CountedBucket:
  """What a bucket counts.

  Attributes:
    none: No rows, with the columns of split interactions.
    tally: Numbers of the rule.
    counts: Training interactions.
    met: Per domain, `item_id` and `count` of all interactions.
  """

  none: pl.DataFrame
  tally: Tally
  counts: Counts
  met: dict[DomainName, pl.DataFrame]


def divide(task: DivideTask) -> CountedBucket:
  """Splits a bucket, and counts."""
  rule, schema = task.rule.get()
  part, tally = rule.part(pl.read_ipc(task.good))
  met = {d: counted(part.filter(pl.col("domain") == d), "item_id") for d in DOMAINS}
  return CountedBucket(part.clear(), tally, count_rows(part, schema), met)


@dataclasses.dataclass(frozen=True)
class Numbers:
  """What turns interactions into numbers.

  Attributes:
    rule: Rule that splits.
    numbering: Numbers of items.
    known: Per domain, see `candidates.known_items`.
    vocabularies: Vocabularies by name.
    schema, records: Fields and rules.
  """

  rule: Dividing
  numbering: Numbering
  known: dict[DomainName, np.ndarray]
  vocabularies: dict[str, ValueTable]
  schema: Schema
  records: Records

  def rows(self, bucket: "Bucket") -> pl.DataFrame:
    """The interactions of a bucket, numbered."""
    part, _ = self.rule.part(pl.read_ipc(bucket.good))
    found = part["user_id"].unique().sort()
    first, end = bucket.first_user, bucket.first_user + len(found)
    users = pl.DataFrame({"user": pl.int_range(first, end, dtype=pl.Int32, eager=True), "user_id": found})
    return self.numbering.rows(part, users)


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Good rows of a bucket, and the index of the first one of its users."""

  good: pathlib.Path
  first_user: int


@dataclasses.dataclass(frozen=True)
class NumberTask:
  """A bucket whose interactions negatives are drawn from, see `number`."""

  numbers: Shared[Numbers]
  bucket: Bucket


def number(task: NumberTask) -> dict[DomainName, dict[str, np.ndarray]]:
  """The columns that negatives are drawn from.

  Returns:
    Per domain: those of the interactions, `shown` (positions of the positives) and `trains` (their mask of the train
    split).
  """
  numbers = task.numbers.get()
  rows = numbers.rows(task.bucket)
  found = {}
  for d in DOMAINS:
    own = rows.filter(pl.col("domain") == d)
    shown = shown_rows(d, own, numbers.records, numbers.known[d])
    split = own["split"].fill_null(len(SPLITS)).to_numpy()
    columns = {name: own[name].to_numpy() for name in ("user", "item", "timestamp", ROW, "training")}
    found[d] = columns | {"shown": shown, "trains": split[shown] == _TRAIN}
  return found


@dataclasses.dataclass(frozen=True)
class LogTask:
  """A bucket of which behaviours and candidates are made, see `user_log`.

  Attributes:
    numbers: Numbers.
    bucket: Bucket.
    drawn: Folder with the negatives; None = none are drawn.
    first: Per domain, position of the bucket's first negatives there.
  """

  numbers: Shared[Numbers]
  bucket: Bucket
  drawn: pathlib.Path | None
  first: dict[DomainName, int]


def user_log(task: LogTask) -> tuple[dict[DomainName, DomainLog], int]:
  """Behaviours and candidates of a bucket, per domain, and how many negatives could not be found."""
  numbers = task.numbers.get()
  rows = numbers.rows(task.bucket)
  found, shortage = {}, 0
  mapped = Mapped(task.drawn) if task.drawn else None
  for d in DOMAINS:
    own = rows.filter(pl.col("domain") == d)
    shown = shown_rows(d, own, numbers.records, numbers.known[d])
    drawn = no_negatives(len(shown))
    if mapped:
      drawn = mapped(f"{d}.drawn")[task.first[d] : task.first[d] + len(shown)]
    shortage += int((drawn == 0).sum())
    found[d] = domain_log(d, own, shown, drawn, numbers.vocabularies, numbers.schema, numbers.records.labels)
  return found, shortage
