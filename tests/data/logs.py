"""Small interaction logs, and what a record set made of them must hold, by brute force."""

import collections
import fractions
import math

import numpy as np
import polars as pl
import tensorflow as tf

from lcn_tf import config
from lcn_tf.data.records import Request, decode

FIELDS = {"user_id": pl.Int64, "item_id": pl.Int64, "domain": pl.String, "timestamp": pl.Int64, "label": pl.Float64}


def interactions(rows, **columns):
  """Rows of (user, item, domain, time, label); `event` numbers them, so none repeats another."""
  frame = pl.DataFrame(rows, schema=FIELDS, orient="row")
  return frame.with_columns(event=pl.int_range(len(frame)).cast(pl.String), **columns)


def items(count, **columns):
  """Items 0 .. count - 1 of both domains with a `category`."""
  one = pl.DataFrame({"item_id": range(count), "category": [f"c{i % 3}" for i in range(count)]})
  both = [one.with_columns(domain=pl.lit(d)) for d in ("target", "source")]
  return pl.concat(both).with_columns(**columns)


def experiment(schema=None, **records):
  schema = schema or {}
  train = {"global_batch_size": schema.get("candidates", 16)}  # it has to be a multiple of it
  return config.from_tree({"name": "log", "schema": schema, "records": records, "train": train}, "test")


def random_log(rng, size, users=8, count=12, span=1000):
  """A log whose three splits are busy in both domains."""
  rows = [
    (int(user), int(item), "target" if target else "source", int(time), float(label))
    for user, item, target, time, label in zip(
      rng.integers(0, users, size),
      rng.integers(0, count, size),
      rng.random(size) < 0.5,
      rng.integers(0, span, size),
      rng.integers(0, 2, size),
      strict=True,
    )
  ]
  return interactions(rows)


def requests(records, split, domain="target") -> list[Request]:
  """All records of a split, decoded, in the order of the files."""
  if domain not in records.splits[split]:
    return []
  compression = "GZIP" if records.compression == "gzip" else ""
  found = []
  for shard in records.part(split, domain).shards:
    data = tf.data.TFRecordDataset(str(records.path / shard.file), compression)
    found += [decode(serialized, records.record_schema) for serialized in data.as_numpy_iterator()]
  return found


class Expected:
  """What each record must hold, computed row by row from the raw log.

  Args:
    records: The record set.
    log: The raw interactions, none of them rejected.
    kind: Of the labels.
  """

  def __init__(self, records, log, kind):
    self.schema = records.record_schema
    self.users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
    self.rows = {
      d: dict(pl.read_parquet(records.path / "items" / f"{d}.parquet").select("item_id", "row").iter_rows())
      for d in ("target", "source")
    }
    self.event = dict(pl.read_parquet(records.path / "vocabularies" / "event.parquet")["value", "index"].iter_rows())
    self.log = list(enumerate(log.iter_rows(named=True)))
    self.kind = kind

  def seen(self, user, domain, time):
    """The newest `max_length` behaviours strictly older than `time`, newest first: (item row, time, event index)."""
    older = [
      (row["timestamp"], number, row)
      for number, row in self.log
      if (row["user_id"], row["domain"]) == (user, domain)
      and row["timestamp"] < time
      and not (self.kind == "given" and row["label"] == 0)
    ]
    older.sort(key=lambda entry: entry[:2], reverse=True)
    length = self.schema.domain(domain).max_length
    return [self._event(domain, row) for _, _, row in older[:length]]

  def _event(self, domain, row):
    return (self.rows[domain][row["item_id"]], row["timestamp"], self.event.get(row["event"], 1))

  def candidates(self, domain, chosen):
    """How often each (user, item row, time, label, event index) is a candidate, of the rows with the numbers `chosen`.

    Sampled labels: positives only.
    """
    counted = collections.Counter()
    for number, row in self.log:
      if row["domain"] != domain or number not in chosen:
        continue
      if self.kind != "sampled" and row["label"] is None:
        continue
      label = {"sampled": 1.0, "given": row["label"]}.get(self.kind, float((row["label"] or 0) >= 1))
      item, time, event = self._event(domain, row)
      counted[row["user_id"], item, time, label, event] += 1
    return counted


def splits_of(log, split, kind):
  """The split of each row of the raw log; None for a row of no split.

  Args:
    log: The raw interactions.
    split: `records.split`, with `boundaries` for the kind `time`.
    kind: Of the labels.
  """
  rows = log.rows(named=True)
  if split["kind"] == "column":
    return [row[split["column"]] for row in rows]
  cuts = {user: split.get("boundaries") for user in log["user_id"]}
  if split["kind"] == "per_user":
    for user in cuts:
      times = sorted(
        row["timestamp"]
        for row in rows
        if (row["user_id"], row["domain"]) == (user, "target") and (kind == "sampled" or row["label"] is not None)
      )
      validation, test = (
        part if part >= 1 else max(1, math.floor(fractions.Fraction(str(part)) * len(times)))
        for part in (split["validation"], split["test"])
      )
      cuts[user] = (math.inf, math.inf)
      if validation + test < len(times) and times[0] < times[-validation - test]:
        cuts[user] = (times[-validation - test], times[-test])
  names = ("train", "validation", "test")
  return [names[sum(row["timestamp"] >= cut for cut in cuts[row["user_id"]])] for row in rows]


def trained_on(log, splits):
  """Numbers of the rows that vocabularies count: those that train, and those of no split that training sees."""
  newest = {}
  for row, split in zip(log.rows(named=True), splits, strict=True):
    if split == "train":
      newest[row["user_id"]] = max(newest.get(row["user_id"], 0), row["timestamp"])
  return {
    number
    for number, (row, split) in enumerate(zip(log.rows(named=True), splits, strict=True))
    if split == "train" or (split is None and row["timestamp"] < newest.get(row["user_id"], 0))
  }


def seen(request, domain, candidate, max_length):
  """What a decoded candidate sees, as `Expected.seen` says it."""
  history = request.history(domain)
  first = int(history.first_visible[candidate])
  last = min(first + max_length, len(history.items))
  return [(int(history.items[i]), int(history.times[i]), int(history.cross[i, 0])) for i in range(first, last)]


def file_bytes(folder):
  """Every file of a record set, by its path."""
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def arrays_equal(left, right):
  return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
