"""statistics.json against plain counts of the raw log, row by row."""

import collections
import datetime
import json
import math

import numpy as np
import polars as pl
import pytest

from lcn_tf.data import statistics
from lcn_tf.data.build import builder, tables
from lcn_tf.data.build.tallies import categories, numbers
from lcn_tf.data.id_mapping import ValueTable
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import DamagedError, UserError
from tests.data import logs

SPLITS = ("train", "validation", "test")
SCHEMA = {
  "user_fields": ["city"],
  "context_fields": ["device"],
  "target": {"item_fields": ["brand", {"name": "tags", "max_values": 2}], "cross_fields": ["dwell"], "max_length": 13},
  "source": {"cross_fields": [{"name": "amount", "kind": "numeric"}], "max_length": 11},
  "candidates": 4,
}


def planted(seed=0, size=400):
  """A log with missing values of every kind, and the items and users of it."""
  rng = np.random.default_rng(seed)
  log = logs.random_log(rng, size, users=9, span=40 * 86_400)

  def some(values, share):
    return [None if rng.random() < share else str(rng.choice(values)) for _ in range(size)]

  log = log.with_columns(
    device=pl.Series(some(["phone", "tv", "web"], 0.1)),
    dwell=pl.Series(some(["1", "2"], 0.3)),
    amount=pl.Series([None if rng.random() < 0.2 else float(v) for v in rng.normal(0, 10, size)]),
  )
  tags = [[], None, ["a"], ["a", "b"], ["b", None, "c", "d"]]
  lists = pl.Series([tags[i % 5] for i in range(24)], dtype=pl.List(pl.String))
  items = logs.items(12, tags=lists, brand=pl.Series([None, "p", "q", "p"] * 6))
  users = pl.DataFrame({"user_id": range(7), "city": ["x", "y", None, "x", "x", "y", "z"]})
  return log, items, users


def build(folder, name="out", seed=0, like=None, **records):
  log, items, users = planted(seed)
  experiment = logs.experiment(SCHEMA, shards=1, **records)
  return builder.build(experiment, tables.RawTables(log, items, users), folder / name, like=like), log, items, users


def split_of(time, records):
  return SPLITS[(time >= records.notes["train_end"]) + (time >= records.notes["validation_end"])]


def field(fields, name, of):
  (found,) = [f for f in fields if (f.name, f.of) == (name, of)]
  return found


def same(found, values, vocabulary):
  """Whether categories are those of a list of values, None for a missing one."""
  counted = collections.Counter(values)
  missing = counted.pop(None, 0)
  known = {value: count for value, count in counted.items() if value in vocabulary}
  assert dict(zip(found.values, found.counts, strict=True)) == known
  assert list(found.counts) == sorted(found.counts, reverse=True)
  assert found.missing == missing
  assert found.unknown == sum(counted.values()) - sum(known.values())
  assert (found.distinct, found.rest) == (len(known), 0)


def vocabulary(records, name):
  return set(records.table(f"vocabularies/{name}.parquet")["value"])


def test_parts_are_what_a_count_of_the_log_says(tmp_path):
  records, log, items, users = build(tmp_path)
  found = statistics.read(records)
  given = {(row["item_id"], row["domain"]): row for row in items.iter_rows(named=True)}
  city = dict(users.iter_rows())
  assert {(s, d) for s, domains in found.parts.items() for d in domains} == {
    *((s, "target") for s in SPLITS),
    ("train", "source"),
  }
  for split, domains in found.parts.items():
    for d, part in domains.items():
      rows = [
        row for row in log.iter_rows(named=True) if row["domain"] == d and split_of(row["timestamp"], records) == split
      ]
      stated = records.part(split, d)
      assert part.candidates == len(rows) == stated.candidates
      assert part.positives == sum(row["label"] for row in rows) == stated.positives
      own = {row["user_id"] for row in rows}
      assert (part.users, part.records) == (len(own), stated.records)
      hours = collections.Counter(datetime.datetime.fromtimestamp(r["timestamp"], datetime.UTC).hour for r in rows)
      assert list(part.hours) == [hours[hour] for hour in range(24)]
      same(field(part.fields, "city", "user").categories, [city.get(u) for u in own], vocabulary(records, "city"))
      devices = [row["device"] for row in rows]
      same(field(part.fields, "device", "context").categories, devices, vocabulary(records, "device"))
      ids = [str(row["item_id"]) for row in rows]
      same(field(part.fields, "item_id", "item").categories, ids, vocabulary(records, f"{d}_item"))
      if d == "target":
        keys = [(row["item_id"], d) for row in rows]
        same(
          field(part.fields, "brand", "item").categories,
          [given[key]["brand"] for key in keys],
          vocabulary(records, "brand"),
        )
        values = [tag for key in keys for tag in [t for t in given[key]["tags"] or [] if t is not None][:2] or [None]]
        same(field(part.fields, "tags", "item").categories, values, vocabulary(records, "tags"))


def test_histories_and_behaviours_are_what_a_count_of_the_log_says(tmp_path):
  records, log, _, _ = build(tmp_path)
  found = statistics.read(records)
  user_of = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  past = [row for row in log.iter_rows(named=True) if row["label"] == 1]
  assert 0 < len(past) < len(log)
  part = found.parts["test"]["target"]
  for d, limit in (("target", 13), ("source", 11)):
    lengths = sorted(
      sum((p["user_id"], p["domain"]) == (user_of[r.user], d) and p["timestamp"] < r.times[-1] for p in past)
      for r in logs.requests(records, "test")
    )
    told = part.histories[d]
    assert told.mean == pytest.approx(np.mean(lengths))
    assert list(told.quantiles) == [lengths[max(math.ceil(q * len(lengths)), 1) - 1] for q in statistics.QUANTILES]
    assert part.longer[d] == sum(length > limit for length in lengths) > 0
    assert limit in lengths, lengths
    bins = collections.Counter(2.0 ** int(math.log2(length)) if length else 0.0 for length in lengths)
    assert dict(zip(told.edges, told.counts, strict=True)) == bins
  for split in SPLITS:
    for d in ("target", "source"):
      own = [p for p in past if p["domain"] == d and split_of(p["timestamp"], records) == split]
      behaviours = found.behaviours[split][d]
      assert behaviours.behaviours == len(own)
      if d == "target":
        dwell = field(behaviours.fields, "dwell", "behaviour").categories
        same(dwell, [p["dwell"] for p in own], vocabulary(records, "dwell"))
        continue
      amounts = sorted(p["amount"] for p in own if p["amount"] is not None)
      told = field(behaviours.fields, "amount", "behaviour").numbers
      assert (told.rows, told.missing) == (len(own), len(own) - len(amounts))
      assert told.mean == pytest.approx(np.mean(amounts))
      assert told.quantiles[2] == amounts[math.ceil(len(amounts) / 2) - 1]
      assert sum(told.counts) == len(amounts)


@pytest.mark.parametrize(("days", "width", "bins"), [(40, 86_400, 40), (10, None, 30), (200, None, 30)])
def test_curves_have_a_point_per_day_or_thirty(tmp_path, days, width, bins):
  log = logs.random_log(np.random.default_rng(0), 300).with_columns(
    timestamp=pl.Series(np.linspace(0, days * 86_400 - 1, 300).astype(int))
  )
  log = log.with_columns(domain=pl.when(pl.int_range(300) % 5 > 0).then(pl.lit("target")).otherwise(pl.lit("source")))
  log = pl.concat([log, log[-1:].with_columns(domain=pl.lit("target"), label=1.0, event=pl.lit("last"))])
  log = log.unique(["user_id", "item_id", "domain", "timestamp"], keep="last", maintain_order=True)
  records = builder.build(logs.experiment(), tables.RawTables(log, logs.items(12)), tmp_path / "out")
  curve = statistics.read(records).curves["target"]
  own = log.filter(domain="target")
  assert len(curve.candidates) == len(curve.positives) == bins
  assert width is None or (curve.start, curve.width) == (0, width)
  expected = collections.Counter(
    ((time - curve.start) // curve.width, label) for time, label in own.select("timestamp", "label").iter_rows()
  )
  assert list(curve.positives) == [expected[i, 1.0] for i in range(bins)]
  assert list(curve.candidates) == [expected[i, 1.0] + expected[i, 0.0] for i in range(bins)]


def test_shares_add_up_and_only_the_most_frequent_values_are_kept():
  rng = np.random.default_rng(0)
  table = ValueTable("v", pl.Series([f"v{i}" for i in range(1500)]), pl.Series([1] * 1500), oov=2)
  for rows in (0, 1, 20_000):
    indices = np.minimum(rng.geometric(0.002, (rows, 3)), table.size - 1)
    indices[:, 1:][rng.random((rows, 2)) < 0.5] = 0
    missing = rng.random(rows) < 0.1
    indices[missing] = 0
    weights = rng.integers(1, 4, rows)
    found = categories(indices, missing, weights, table)
    expected = collections.Counter()
    for index, weight in zip(indices, weights, strict=True):
      for one in index:
        expected[int(one)] += int(weight)
    known = sorted((-count, index) for index, count in expected.items() if index > 2)
    assert [int(v[1:]) + 3 for v in found.values] == [index for _, index in known[: statistics.KEPT]]
    assert found.rest == -sum(count for count, _ in known[statistics.KEPT :])
    assert found.unknown == expected[1] + expected[2]
    assert found.distinct == len(known)
    assert sum(found.counts) + found.rest + found.unknown + found.missing == found.total
  assert found.rest > 0
  assert found.total == int((weights[:, np.newaxis] * (indices > 0)).sum() + weights[missing].sum())


def test_numbers_are_weighted_and_missing_ones_counted_apart():
  values, weights = np.array([3.0, np.nan, -2.0, 3.0, 0.0]), np.array([1, 4, 2, 5, 2])
  found = numbers(values, weights, (-1e300, -4.0, 0.0, 2.0, 4.0))
  assert (found.rows, found.missing, found.total) == (14, 4, 14)
  assert found.mean == pytest.approx((3 - 4 + 15) / 10)
  assert found.quantiles == (-2.0, 0.0, 3.0, 3.0, 3.0, 3.0)
  assert (found.edges, found.counts) == ((-4.0, 0.0, 2.0), (2, 2, 6))
  assert numbers(np.full(2, np.nan), None, (0.0,)).mean is None


def test_records_built_like_others_tell_unknown_from_missing_values(tmp_path):
  old, *_ = build(tmp_path, "old")
  log, items, users = planted(1)
  log = log.with_columns(device=pl.when(pl.col("device") == "tv").then(pl.lit("watch")).otherwise("device"))
  bounds = {"split": {"boundaries": [0, 20 * 86_400]}}
  new = builder.build(
    logs.experiment(SCHEMA, shards=1, **bounds), tables.RawTables(log, items, users), tmp_path / "new", like=old
  )
  assert set(new.splits) == {"validation", "test"}
  found = field(statistics.read(new).parts["test"]["target"].fields, "device", "context").categories
  rows = log.filter((pl.col("domain") == "target") & (pl.col("timestamp") >= 20 * 86_400))["device"]
  assert found.unknown == (rows == "watch").sum() > 0
  assert found.missing == rows.null_count() > 0
  assert set(found.values) == {"phone", "web"}


def test_sampled_negatives_count_as_candidates(tmp_path):
  records, log, _, _ = build(tmp_path, labels={"kind": "sampled", "negatives": 2})
  part = statistics.read(records).parts["train"]["target"]
  assert part.candidates == records.part("train").candidates > 2 * part.positives
  device = field(part.fields, "device", "context").categories
  assert device.rows == part.candidates == device.total
  train = log.filter((pl.col("domain") == "target") & (pl.col("timestamp") < records.notes["train_end"]))
  assert device.missing >= train["device"].null_count() > 0
  shown = [int(item) for request in logs.requests(records, "train") for item in request.items]
  names = dict(pl.read_parquet(records.path / "items" / "target.parquet").select("row", "item_id").iter_rows())
  same(
    field(part.fields, "item_id", "item").categories,
    [str(names[row]) for row in shown],
    vocabulary(records, "target_item"),
  )


def test_frozen_vectors_are_told_by_their_lengths(tmp_path):
  log = logs.random_log(np.random.default_rng(0), 300)
  vectors = [None if i % 12 == 0 else [3.0 * (i % 12), 4.0 * (i % 12)] for i in range(24)]
  items = logs.items(12, text=pl.Series(vectors, dtype=pl.List(pl.Float64)))
  schema = {"target": {"item_vectors": [{"name": "text", "width": 2}]}}
  records = builder.build(logs.experiment(schema), tables.RawTables(log, items), tmp_path / "out")
  part = statistics.read(records).parts["train"]["target"]
  told = field(part.fields, "text", "item").numbers
  end = records.notes["train_end"]
  rows = log.filter((pl.col("domain") == "target") & (pl.col("timestamp") < end))["item_id"].to_list()
  assert (told.rows, told.missing) == (len(rows), rows.count(0))
  assert told.missing > 0
  assert told.mean == pytest.approx(np.mean([5.0 * row for row in rows if row]))


def test_missing_or_damaged_statistics_are_one_message_and_the_records_still_open(tmp_path):
  records, *_ = build(tmp_path)
  file = records.path / "statistics.json"
  text = file.read_text()
  file.write_text(text.replace('"records":', '"record":', 1))
  with pytest.raises(DamagedError, match=r"statistics\.json: damaged: its checksum is not the one"):
    statistics.read(RecordSet.open(records.path))
  assert [message.split(":")[0] for message in RecordSet.open(records.path).verify_tables()] == [str(file)]
  file.unlink()
  with pytest.raises(DamagedError, match=r"statistics\.json: no such file or directory\. Build the records again"):
    statistics.read(RecordSet.open(records.path))
  earlier = records.model_copy(update={"tables": {n: t for n, t in records.tables.items() if n != statistics.FILE}})
  earlier.save(records.path)
  reopened = RecordSet.open(records.path)
  assert len(logs.requests(reopened, "test")) == reopened.part("test").records
  assert reopened.verify_tables() == []
  with pytest.raises(UserError, match=r"has no statistics\.json: an id mapping, or records that were built before"):
    statistics.read(reopened)
  tree = json.loads(text)
  tree["parts"]["train"]["target"]["fields"][0]["categories"]["counts"].append(1)
  file.write_text(json.dumps(tree))
  with pytest.raises(
    DamagedError, match=r"damaged, or of another version: parts\.train\.target\.fields\.0\.categories"
  ):
    statistics.read(reopened)


def test_behaviours_are_counted_in_the_split_that_the_log_gives_them(tmp_path):
  log = logs.random_log(np.random.default_rng(0), 400)
  # every tenth row has no split: behaviours that training sees, or late ones
  names = [None if i % 10 == 0 else SPLITS[(i % 10) // 4] for i in range(400)]
  log = log.sort("timestamp").with_columns(part=pl.Series(names), domain=pl.lit("target"))
  late = pl.DataFrame([(u, 1, "target", 2000, 1.0, "late", None) for u in range(8)], schema=log.schema, orient="row")
  log = pl.concat([log, late]).with_columns(event=pl.int_range(408).cast(pl.String))
  experiment = logs.experiment(split={"kind": "column", "column": "part"}, source_records=False)
  records = builder.build(experiment, tables.RawTables(log, logs.items(12)), tmp_path / "out")
  found = statistics.read(records)
  newest = {user: 0 for user in range(8)}
  for row in log.iter_rows(named=True):
    if row["part"] == "train":
      newest[row["user_id"]] = max(newest[row["user_id"]], row["timestamp"])
  expected = collections.Counter()
  for row in log.filter(label=1.0).iter_rows(named=True):
    seen = "train" if row["timestamp"] < newest[row["user_id"]] else None
    expected[row["part"] or seen] += 1
  assert expected.pop(None) >= 8
  assert {split: domains["target"].behaviours for split, domains in found.behaviours.items()} == expected
  for split in SPLITS:
    part = found.parts[split]["target"]
    assert part.candidates == records.part(split).candidates == names.count(split)
    assert sum(part.hours) == part.candidates


def test_users_split_by_their_own_time_count_once_in_each_split(tmp_path):
  log = logs.random_log(np.random.default_rng(0), 400).with_columns(domain=pl.lit("target"))
  experiment = logs.experiment(split={"kind": "per_user", "validation": 2, "test": 3}, source_records=False)
  records = builder.build(experiment, tables.RawTables(log, logs.items(12)), tmp_path / "out")
  found = statistics.read(records)
  assert [found.parts[split]["target"].users for split in SPLITS] == [8, 8, 8]
  assert [found.parts[split]["target"].candidates for split in SPLITS[1:]] == [
    records.part(split).candidates for split in SPLITS[1:]
  ]
  assert sum(domains["target"].behaviours for domains in found.behaviours.values()) == log["label"].sum()
