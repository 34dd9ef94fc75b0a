import hashlib
import os
import pathlib
import re
import shutil

import numpy as np
import polars as pl
import pytest

from lcn_tf import files, processes
from lcn_tf.data.build import builder, shards, tables
from lcn_tf.data.id_mapping import oov_indices
from lcn_tf.data.read.dataset import training_batches
from lcn_tf.data.record_set import SPLITS, RecordSet
from lcn_tf.errors import UserError
from lcn_tf.training import trainer
from tests.data import logs
from tools import show_records


def build(
  folder, log, schema=None, items=None, users=None, strict=False, overwrite=False, name="out", like=None, **records
):
  items = logs.items(12) if items is None else items
  table = tables.RawTables(log, items, users, notes={"origin": "test"})
  return builder.build(logs.experiment(schema, **records), table, folder / name, strict, overwrite, like)


@pytest.fixture
def log():
  return logs.random_log(np.random.default_rng(0), 300)


SAMPLED = {"labels": {"kind": "sampled", "negatives": 3}}


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_the_same_seed_gives_the_same_bytes(tmp_path, log, compression):
  for name in ("one", "two"):
    build(tmp_path, log, name=name, compression=compression, **SAMPLED)
  one, two = logs.file_bytes(tmp_path / "one"), logs.file_bytes(tmp_path / "two")
  assert one.keys() == two.keys()
  assert [name for name in one if one[name] != two[name]] == []
  assert sum(name.startswith("train/") for name in one) > 2


def test_another_seed_draws_other_negatives_in_another_order(tmp_path, log):
  one = build(tmp_path, log, name="one", shards=1, **SAMPLED)
  two = build(tmp_path, log, name="two", shards=1, seed=1, **SAMPLED)
  users = [[r.user for r in logs.requests(records, "train")] for records in (one, two)]
  assert users[0] != users[1]
  negatives = [
    sorted((r.user, int(i)) for r in logs.requests(records, "train") for i in r.items[r.labels == 0])
    for records in (one, two)
  ]
  assert negatives[0] != negatives[1]


@pytest.mark.job
def test_several_processes_write_the_same_bytes_as_one(tmp_path, log, monkeypatch):
  build(tmp_path, log, name="one", shards=2, **SAMPLED)
  monkeypatch.setattr(shards, "PARALLEL_FROM", 1)
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
  started, pool = [], processes.pool
  monkeypatch.setattr(processes, "pool", lambda workers, *start: started.append(workers) or pool(workers, *start))
  build(tmp_path, log, name="two", shards=2, **SAMPLED)
  assert 2 in started
  assert logs.file_bytes(tmp_path / "one") == logs.file_bytes(tmp_path / "two")


def test_the_order_of_the_input_rows_does_not_matter_where_no_two_share_a_second(tmp_path):
  rng = np.random.default_rng(1)
  log = logs.random_log(rng, 200).with_columns(timestamp=pl.Series(rng.permutation(200)))
  build(tmp_path, log, name="one")
  build(tmp_path, log.sample(fraction=1, shuffle=True, seed=3), name="two")
  assert logs.file_bytes(tmp_path / "one") == logs.file_bytes(tmp_path / "two")


def test_records_of_a_user_are_spread_over_shards_in_random_order(tmp_path, log):
  records = build(tmp_path, log, {"candidates": 1}, shards=4)
  part = records.part("train")
  assert len(part.shards) == 4
  assert {s.records for s in part.shards} <= {part.records // 4, part.records // 4 + 1}
  users = [request.user for request in logs.requests(records, "train")]
  assert users != sorted(users)
  assert len(set(users[: len(users) // 4])) >= len(set(users)) - 1


def test_negatives_are_never_met_by_the_user_and_were_seen_in_the_domain_before(tmp_path):
  log = logs.random_log(np.random.default_rng(2), 250, users=12, count=40)
  records = build(tmp_path, log, items=logs.items(40), **SAMPLED)
  users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  checked = 0
  for domain in ("target", "source"):
    ids = dict(pl.read_parquet(records.path / "items" / f"{domain}.parquet").select("row", "item_id").iter_rows())
    own = log.filter(pl.col("domain") == domain)
    for request in logs.requests(records, "train", domain):
      met = set(own.filter(pl.col("user_id") == users[request.user])["item_id"])
      for item, time in zip(request.items[request.labels == 0], request.times[request.labels == 0], strict=True):
        assert ids[int(item)] not in met
        assert ids[int(item)] in set(own.filter(pl.col("timestamp") < int(time))["item_id"])
        checked += 1
  assert checked > 200


@pytest.mark.parametrize("known", [False, True])
def test_candidates_are_items_that_training_knows_if_so_wanted(tmp_path, known):
  log = logs.random_log(np.random.default_rng(3), 250, users=12, count=90)
  records = build(tmp_path, log, items=logs.items(90), labels={**SAMPLED["labels"], "known_items": known})
  ids = dict(pl.read_parquet(records.path / "items" / "target.parquet").select("row", "item_id").iter_rows())
  train = log.filter((pl.col("domain") == "target") & (pl.col("timestamp") < records.notes["train_end"]))
  trained, unknown, labels = set(train["item_id"]), 0, set()
  for split in SPLITS:
    for request in logs.requests(records, split, "target"):
      unknown += sum(ids[int(item)] not in trained for item in request.items)
      labels |= set(request.labels.tolist())
  assert labels == {0.0, 1.0}
  assert (unknown == 0) == known


def test_vocabularies_and_the_order_of_the_catalogue_count_training_interactions_only(tmp_path):
  train = [(0, 1, "target", 1, 1.0), (0, 1, "target", 2, 1.0), (1, 2, "target", 3, 1.0), (1, 0, "source", 4, 1.0)]
  later = [(2, 3, "target", 10, 1.0)] * 3 + [(2, 3, "target", 20, 1.0), (2, 5, "source", 21, 1.0)]
  schema = {
    "user_fields": ["user_id"],
    "target": {"item_fields": ["category"], "cross_fields": ["event"]},
    "vocabularies": {"target_item": {"min_count": 2, "oov": 2}},
  }
  records = build(tmp_path, logs.interactions(train + later), schema, logs.items(6), split={"boundaries": [10, 20]})

  def values(name):
    return pl.read_parquet(records.path / "vocabularies" / f"{name}.parquet").rows()

  assert values("target_item") == [(3, "1", 2)]
  assert values("source_item") == [(2, "0", 1)]
  assert values("category") == [(2, "c1", 2), (3, "c2", 1)]
  assert values("user_id") == [(2, "0", 2), (3, "1", 2)]
  assert values("event") == [(2, "0", 1), (3, "1", 1), (4, "2", 1)]  # the target domain's own
  items = pl.read_parquet(records.path / "items" / "target.parquet")
  assert items.select("row", "item_id").rows() == [(2, 1), (3, 2), (4, 0), (5, 3), (6, 4), (7, 5)]
  catalogue = records.catalogue("target")
  assert catalogue.dtype == np.int32
  assert catalogue[:4, 1].tolist() == [0, 1, 2, 3]  # padding, unknown, c1, c2: a rare item keeps its fields
  assert catalogue[2, 0] == 3
  assert set(catalogue[3:, 0]) <= {1, 2}
  sizes = {name: v.size for name, v in records.record_schema.vocabularies.items()}
  assert sizes == {"target_item": 4, "source_item": 3, "category": 4, "user_id": 4, "event": 5}
  assert records.record_schema.target.items == 8


def test_the_unknown_item_is_out_of_vocabulary_in_single_valued_fields_and_empty_in_lists(tmp_path, log):
  items = logs.items(12).with_columns(tags=pl.Series([["x", "y", "z"]] * 24))
  fields = ["category", {"name": "tags", "max_values": 2}]
  records = build(tmp_path, log, {"target": {"item_fields": fields}}, items)
  assert records.catalogue("target")[:2].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]
  assert (records.catalogue("target")[2:, 2:] == [2, 3]).all()


def test_fields_that_name_one_vocabulary_share_it_across_domains(tmp_path, log):
  fields = {"item_fields": [{"name": "category", "vocabulary": "topic"}]}
  records = build(tmp_path, log, {"target": fields, "source": fields})
  training = log.filter(pl.col("timestamp") < records.notes["train_end"])
  table = pl.read_parquet(records.path / "vocabularies" / "topic.parquet")
  assert table["count"].sum() == len(training)


def test_user_fields_count_users_who_trained_and_a_missing_profile_is_out_of_vocabulary(tmp_path):
  rows = [(u, i, "target", 1 + i, 1.0) for u in (1, 2, 3) for i in range(2)]
  rows += [(4, 0, "target", 10, 1.0), (4, 0, "target", 20, 1.0)]
  users = pl.DataFrame({"user_id": [1, 2, 4, 5], "age": ["young", "old", "old", "none"]})
  schema = {"user_fields": ["age"], "vocabularies": {"age": {"oov": 3}}}
  log = logs.interactions(rows)
  records = build(tmp_path, log, schema, users=users, split={"boundaries": [10, 20]}, source_records=False)
  table = pl.read_parquet(records.path / "vocabularies" / "age.parquet")
  assert table.rows() == [(4, "old", 1), (5, "young", 1)]
  assert pl.read_parquet(records.path / "users.parquet").rows() == [(1, 1), (2, 2), (3, 3), (4, 4)]
  fields = {r.user: r.user_fields.tolist() for split in SPLITS for r in logs.requests(records, split)}
  assert fields == {1: [5], 2: [4], 3: [1], 4: [4]}
  assert records.notes["users_without_profile"] == 1
  assert records.notes["origin"] == "test"


def test_weights_and_thresholds_reach_the_candidates(tmp_path, log):
  log = log.with_columns(rating=pl.Series(np.arange(300) % 5), weight=pl.Series(np.arange(300) % 5 + 0.5))
  records = build(tmp_path, log, labels={"kind": "threshold", "column": "rating", "at_least": 3})
  for request in logs.requests(records, "train"):
    assert (request.labels == (request.weights >= 3.5)).all()
  assert 0 < records.part("train").positives < records.part("train").candidates


def test_impressions_without_a_click_are_candidates_but_no_behaviours(tmp_path):
  rows = [(0, 0, "target", 1, 0.0), (0, 1, "target", 2, 1.0), (0, 2, "target", 3, None), (0, 3, "target", 4, 0.0)]
  rows += [(0, 4, "target", 10, 1.0), (0, 4, "target", 20, 1.0)]
  split = {"boundaries": [10, 20]}
  records = build(tmp_path, logs.interactions(rows), split=split, source_records=False)
  (request,) = logs.requests(records, "train")
  assert request.times.tolist() == [1, 2, 4]
  assert request.labels.tolist() == [0, 1, 0]
  assert request.target.times.tolist() == [3, 2]
  (validation,) = logs.requests(records, "validation")
  assert validation.target.times.tolist() == [3, 2]
  assert validation.source.items.shape == (0,)


def test_splits_follow_the_quantiles_of_all_times(tmp_path, log):
  records = build(tmp_path, log, split={"train": 0.5, "validation": 0.3})
  ordered = sorted(log["timestamp"])
  assert (records.notes["train_end"], records.notes["validation_end"]) == (ordered[150], ordered[240])
  parts = [records.part(split) for split in SPLITS]
  for part, (first, last) in zip(
    parts, [(0, ordered[150]), (ordered[150], ordered[240]), (ordered[240], 1000)], strict=True
  ):
    assert first <= part.first_time <= part.last_time < last
  assert sum(part.candidates for part in parts) == (log["domain"] == "target").sum()


def test_source_candidates_are_written_for_training_only_and_only_if_wanted(tmp_path, log):
  assert {s: set(p) for s, p in build(tmp_path, log, name="a").splits.items()} == {
    "train": {"target", "source"},
    "validation": {"target"},
    "test": {"target"},
  }
  assert set(build(tmp_path, log, name="b", source_records=False).splits["train"]) == {"target"}


def test_the_fingerprint_follows_vocabularies_and_catalogues_but_not_the_records_order(tmp_path, log):
  first = build(tmp_path, log, name="a").fingerprint
  assert len(first) == 16
  assert build(tmp_path, log, name="b", shards=2).fingerprint == first
  assert build(tmp_path, log.with_columns(item_id=11 - pl.col("item_id")), name="c").fingerprint != first


def test_dataset_json_tells_every_shards_checksum(tmp_path, log):
  records = RecordSet.open(build(tmp_path, log).path)
  checked = 0
  for parts in records.splits.values():
    for part in parts.values():
      assert part.records == sum(shard.records for shard in part.shards)
      assert part.candidates == sum(shard.candidates for shard in part.shards)
      for shard in part.shards:
        assert hashlib.sha256((records.path / shard.file).read_bytes()).hexdigest() == shard.sha256
        checked += 1
  assert checked > 8


def test_rejected_rows_are_written_counted_and_under_strict_an_error(tmp_path, log):
  bad = logs.interactions([(0, 99, "target", 5, 1.0), (0, 0, "moon", 5, 1.0)])
  records = build(tmp_path, pl.concat([log, bad]))
  reasons = {
    "interactions: domain is not one of target, source": 1,
    "interactions: item is not in the items file": 1,
  }
  assert records.rejected == reasons
  rejected = pl.read_parquet(records.path / "rejected.parquet").sort("row")
  assert rejected["row"].to_list() == [300, 301]
  assert rejected["domain"].to_list() == ["target", "moon"]
  with pytest.raises(
    UserError, match=r"2 rows are rejected, and --strict allows none\. .* not one of .*: 1; .* not in the items file: 1"
  ):
    build(tmp_path, pl.concat([log, bad]), strict=True, name="strict")
  assert not list(tmp_path.glob("strict*"))


@pytest.mark.parametrize(
  ("boundaries", "split"), [([-5, 500], "train"), ([500, 501], "validation"), ([1000, 2000], "validation")]
)
def test_an_empty_split_is_an_error_with_boundaries_and_times(tmp_path, boundaries, split):
  log = logs.random_log(np.random.default_rng(0), 300).filter(pl.col("timestamp") != 500)
  message = f"the {split} split has no target-domain candidates. Validation starts at {boundaries[0]}, .* run from "
  with pytest.raises(UserError, match=message):
    build(tmp_path, log, split={"boundaries": boundaries})
  assert list(tmp_path.iterdir()) == []


def test_source_records_without_source_labels_are_an_error(tmp_path, log):
  log = log.with_columns(label=pl.when(pl.col("domain") == "target").then("label"))
  with pytest.raises(UserError, match=r"records.source_records: there are no source-domain candidates"):
    build(tmp_path, log)


def test_a_failure_while_writing_leaves_nothing(tmp_path, log, monkeypatch):
  def fail(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(shards, "encode", fail)
  with pytest.raises(KeyboardInterrupt):
    build(tmp_path, log)
  assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_replaced_only_with_overwrite_and_only_if_it_is_a_record_set(tmp_path, log):
  first = build(tmp_path, log)
  with pytest.raises(UserError, match=r"out: exists\. Choose another --output, or replace it with --overwrite"):
    build(tmp_path, log)
  assert build(tmp_path, log, overwrite=True, seed=5).fingerprint == first.fingerprint
  assert [p.name for p in tmp_path.iterdir()] == ["out"]
  (tmp_path / "mine").mkdir()
  build(tmp_path, log, name="mine")
  (tmp_path / "mine" / "dataset.json").unlink()
  with pytest.raises(UserError, match="is not a record set"):
    build(tmp_path, log, name="mine", overwrite=True)
  assert (tmp_path / "mine" / "train").is_dir()


@pytest.mark.parametrize(("file", "what"), [("experiment.yaml", "a training run"), ("comparison.yaml", "a comparison")])
def test_a_run_is_never_overwritten_though_it_holds_a_dataset_json(tmp_path, log, file, what):
  build(tmp_path, log)
  (tmp_path / "out" / file).write_text("name: mine")
  with pytest.raises(UserError, match=rf"out: holds {what} \({file}\), so --overwrite leaves it alone"):
    build(tmp_path, log, overwrite=True)
  assert (tmp_path / "out" / "dataset.json").is_file()


def test_what_a_killed_build_left_is_removed_and_what_a_running_one_writes_stays(tmp_path, log):
  left = tmp_path / ".out.0123456789ab.aside"
  (left / "train").mkdir(parents=True)
  other = tmp_path / ".other.0123456789ab.aside"
  other.mkdir()
  with files.folder_aside(tmp_path / "out") as running:
    build(tmp_path, log)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", other.name, running.name])


@pytest.mark.parametrize("when", ["old moved", "new in place"])
def test_a_build_that_was_killed_while_it_replaced_another_loses_neither(tmp_path, log, monkeypatch, when, caplog):
  build(tmp_path, log)
  before = logs.file_bytes(tmp_path / "out")

  def killed(*arguments, **options):
    raise KeyboardInterrupt

  rename = pathlib.Path.rename
  with monkeypatch.context() as patch:
    if when == "old moved":
      patch.setattr(pathlib.Path, "rename", lambda path, to: killed() if path.suffix == ".aside" else rename(path, to))
    else:
      patch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
      build(tmp_path, log, overwrite=True, seed=5)
  if when == "old moved":
    (old,) = tmp_path.glob(".out.*.replaced")
    with pytest.raises(UserError, match=rf"out: no record set here .* what was there before is {old}\."):
      RecordSet.open(tmp_path / "out")
    with pytest.raises(UserError, match=r"out: exists\. Choose another --output"):
      build(tmp_path, log)
    assert f"{tmp_path / 'out'}: put back" in caplog.text
    assert logs.file_bytes(tmp_path / "out") == before
  else:
    assert logs.file_bytes(tmp_path / "out") != before
  again = build(tmp_path, log, overwrite=True, seed=6)
  assert again.records["seed"] == 6
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_record_set_that_came_meanwhile_stays(tmp_path, log, monkeypatch):
  (tmp_path / "out").mkdir()

  def write(*arguments):
    result = original(*arguments)
    (tmp_path / "out" / "dataset.json").write_text("another's")
    return result

  original = builder.write_parts
  monkeypatch.setattr(builder, "write_parts", write)
  with pytest.raises(UserError, match=r"out: exists\. Choose another --output"):
    build(tmp_path, log)
  assert (tmp_path / "out" / "dataset.json").read_text() == "another's"
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_mount_point_is_refused_before_anything_is_built(tmp_path, log, monkeypatch):
  monkeypatch.setattr(pathlib.Path, "is_mount", lambda path: path == tmp_path / "out")
  with pytest.raises(UserError, match=r"out: something is mounted there"):
    build(tmp_path, log)
  assert not list(tmp_path.iterdir())


def test_a_link_is_followed(tmp_path, log):
  first = build(tmp_path, log, name="there")
  (tmp_path / "out").symlink_to("there")
  again = build(tmp_path, log, overwrite=True, seed=5)
  assert (tmp_path / "out").is_symlink()
  assert again.fingerprint == first.fingerprint
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "there"]


def test_a_failed_overwrite_keeps_the_old_record_set(tmp_path, log, monkeypatch):
  build(tmp_path, log)
  before = logs.file_bytes(tmp_path / "out")
  with pytest.raises(UserError, match="the validation split has no target-domain candidates"):
    build(tmp_path, log, overwrite=True, split={"boundaries": [5000, 6000]})
  assert logs.file_bytes(tmp_path / "out") == before
  assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_users_without_a_profile_keep_their_id_as_a_feature(tmp_path, log):
  schema = {"user_fields": [{"name": "user_id", "vocabulary": "user"}, "city"]}
  users = pl.DataFrame({"user_id": [0, 1], "city": ["x", "y"]})
  records = build(tmp_path, log, schema, users=users, **SAMPLED)
  ids = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  known = dict(pl.read_parquet(records.path / "vocabularies" / "user.parquet").select("value", "index").iter_rows())
  rows = {ids[r.user]: tuple(r.user_fields.tolist()) for split in SPLITS for r in logs.requests(records, split)}
  assert {user: row[0] for user, row in rows.items()} == {user: known[str(user)] for user in rows}
  assert {row[1] for user, row in rows.items() if user > 1} == {1}
  assert len(set(rows.values())) == len(rows) == 8


def test_ids_of_another_type_are_compared_as_texts_and_no_interaction_is_met_twice(tmp_path, log):
  texts = logs.items(12).with_columns(item_id=pl.col("item_id").cast(pl.String))
  twice = pl.concat([texts, texts.with_columns(item_id="0" + pl.col("item_id"))])
  old = build(tmp_path, log.with_columns(item_id=pl.col("item_id").cast(pl.String)), items=twice, name="old", **SAMPLED)
  new = build(tmp_path, log, name="new", like=old, **SAMPLED)
  rows = dict(pl.read_parquet(old.path / "items" / "target.parquet").select("item_id", "row").iter_rows())
  liked = [int(i) for split in SPLITS for r in logs.requests(new, split) for i in r.items[r.labels == 1]]
  target = log.filter(pl.col("domain") == "target")["item_id"]
  assert sorted(liked) == sorted(rows[str(item)] for item in target)


def test_string_ids_are_kept_as_they_are(tmp_path, log):
  named = log.with_columns(user_id=pl.format("user {}", "user_id"), item_id=pl.format("item {}", "item_id"))
  items = logs.items(12).with_columns(item_id=pl.format("item {}", "item_id"))
  records = build(tmp_path, named, items=items)
  assert pl.read_parquet(records.path / "users.parquet")["user_id"].to_list() == [f"user {i}" for i in range(8)]
  assert set(pl.read_parquet(records.path / "items" / "target.parquet")["item_id"]) == set(items["item_id"])


def test_records_like_others_have_their_numbers_and_what_is_new_is_unknown(tmp_path, log, caplog):
  """Items 10 and 11, category c9 and the events of the second log are unknown to the first."""
  schema = {
    "user_fields": [{"name": "user_id", "vocabulary": "user"}],
    "target": {"item_fields": ["category"], "cross_fields": ["event"]},
    "source": {"item_fields": ["category"], "cross_fields": ["event"]},
    "vocabularies": {"event": {"oov": 3}},
  }
  old = build(
    tmp_path, log.filter(pl.col("item_id") < 10), schema, logs.items(10), name="old", seed=5, labels={"kind": "given"}
  )
  later = logs.random_log(np.random.default_rng(7), 300, users=11).with_columns(
    event=pl.lit("late-") + pl.int_range(300).cast(pl.String)
  )
  moved = logs.items(12, category=pl.lit("c9"))
  new = build(tmp_path, later, schema, moved, name="new", like=old, labels={"kind": "given"})

  assert new.fingerprint == old.fingerprint
  assert "2 items of the target domain are not in" in caplog.text
  for name in ("vocabularies/event.parquet", "items/target.parquet", "catalogue/source.npy"):
    assert (new.path / name).read_bytes() == (old.path / name).read_bytes()
  rows = dict(pl.read_parquet(new.path / "items" / "target.parquet").select("item_id", "row").iter_rows())
  users = dict(pl.read_parquet(new.path / "users.parquet").select("user", "user_id").iter_rows())
  shown = [
    (users[r.user], int(time), int(item), int(label))
    for split in SPLITS
    for r in logs.requests(new, split)
    for item, time, label in zip(r.items, r.times, r.labels, strict=True)
  ]
  expected = [
    (row["user_id"], row["timestamp"], rows.get(row["item_id"], 1), int(row["label"]))
    for row in later.iter_rows(named=True)
    if row["domain"] == "target"
  ]
  assert sorted(shown) == sorted(expected)
  assert any(item == 1 for _, _, item, _ in shown), "an unknown item is a candidate too"
  # values that the old records do not know: hashed to the same rows as there
  late = oov_indices(later["event"].cast(pl.String).to_list(), 3).tolist()
  met = {int(e) for r in logs.requests(new, "test") for e in r.target.cross.ravel()}
  assert met == set(late) == {1, 2, 3}


def test_records_like_some_with_a_keyed_hash_hash_as_these_do(tmp_path, log):
  schema = {"context_fields": [{"name": "event"}], "vocabularies": {"event": {"oov": 1000}}}
  made = build(tmp_path, log, schema, name="old", seed=5, labels={"kind": "given"})
  old = made.model_copy(update={"oov_hash": "blake2b"}).with_tables()
  old.save(old.path)
  later = log.with_columns(event=pl.lit("late"))
  new = build(tmp_path, later, schema, name="new", like=RecordSet.open(old.path), labels={"kind": "given"})
  shown = {int(row) for r in logs.requests(new, "train") for row in r.context.ravel()}
  assert shown == set(oov_indices(["late"], 1000, seed=5).tolist()) != set(oov_indices(["late"], 1000).tolist())
  assert RecordSet.open(new.path).oov_hash == "blake2b"
  assert build(tmp_path, log, schema, name="third", labels={"kind": "given"}).oov_hash == "farmhash64"


@pytest.mark.parametrize("known", [False, True])
def test_records_like_others_may_all_be_in_the_test_split(tmp_path, log, known):
  log = log.with_columns(pl.col("timestamp") + 1)
  labels = {**SAMPLED["labels"], "known_items": known}
  old = build(tmp_path, log.filter(pl.col("item_id") < 10), items=logs.items(12), name="old", labels=labels)
  new = build(tmp_path, log, name="new", like=old, labels=labels, split={"boundaries": [0, 1]})
  assert {split: set(parts) for split, parts in new.splits.items()} == {"test": {"target"}}
  assert {path.name for path in new.path.iterdir()} & set(SPLITS) == {"test"}
  target = log.filter(pl.col("domain") == "target")
  expected = target.filter(pl.col("item_id") < 10) if known else target  # 10 and 11 are not met in the old training
  assert new.part("test").positives == len(expected)
  with pytest.raises(UserError, match=r"new: no records of the train split; there are those of: test$"):
    training_batches(new, requests=1, seed=0)
  with pytest.raises(UserError, match=r"new: no records of the validation split; there are those of: test$"):
    new.part("validation")


def test_records_like_others_without_any_candidate_are_an_error(tmp_path, log):
  old = build(tmp_path, log, name="old")
  later = log.with_columns(label=pl.lit(None, pl.Float64))
  with pytest.raises(
    UserError, match=r"records\.split: no split has target-domain candidates\. Validation starts at 0,"
  ):
    build(tmp_path, later, name="new", like=old, split={"boundaries": [0, 1]})
  assert not (tmp_path / "new").exists()


def test_a_bucket_is_no_output(tmp_path, log, monkeypatch):
  monkeypatch.chdir(tmp_path)
  table = tables.RawTables(log, logs.items(12), None)
  with pytest.raises(UserError, match=r"^s3://bucket/records: only local or mounted paths"):
    builder.build(logs.experiment(), table, "s3://bucket/records")
  assert not list(tmp_path.iterdir())


def test_an_id_mapping_alone_numbers_records_as_its_record_set_does(tmp_path, log):
  old = build(tmp_path, log.filter(pl.col("item_id") < 10), items=logs.items(10), name="old", **SAMPLED)
  old.save_id_mapping(tmp_path / "mapping")
  mapping = RecordSet.open(tmp_path / "mapping")
  assert mapping.splits == {}
  like_all, like_it = (build(tmp_path, log, name=n, like=r, **SAMPLED) for n, r in (("all", old), ("it", mapping)))
  assert like_it.fingerprint == old.fingerprint
  assert like_it.splits == like_all.splits


def test_records_like_others_of_another_schema_are_refused_before_anything_is_read(tmp_path, log):
  old = build(tmp_path, log, {"target": {"max_length": 7}}, name="old", **SAMPLED)
  with pytest.raises(UserError, match=r"old was built with another schema: schema\.target\.max_length"):
    build(tmp_path, log, {"target": {"max_length": 8}}, name="new", like=old, **SAMPLED)
  assert not (tmp_path / "new").exists()


def test_the_unknown_item_is_no_candidate_of_sampled_labels_but_a_behaviour(tmp_path, log):
  """It is never drawn as a negative: as a positive it would tell its label."""
  old = build(tmp_path, log.filter(pl.col("item_id") < 6), items=logs.items(6), name="old", **SAMPLED)
  new = build(tmp_path, log, name="new", like=old, **SAMPLED)
  found = [r for split in SPLITS for r in logs.requests(new, split)]
  assert all((r.items > 1).all() for r in found)
  assert sum(int(r.labels.sum()) for r in found) == len(log.filter(pl.col("item_id") < 6, pl.col("domain") == "target"))
  assert any((r.target.items == 1).any() for r in found)


def test_a_record_set_without_its_vocabularies_cannot_be_followed(tmp_path, log):
  old = build(tmp_path, log, name="old", **SAMPLED)
  (old.path / "items" / "source.parquet").unlink()
  with pytest.raises(UserError, match=r"old/items/source\.parquet: no such file or directory"):
    build(tmp_path, log, name="new", like=old, **SAMPLED)


def written(folder, log, items=None, users=None):
  """The tables as files of `folder`, read: the log is a file, or by the path below `folder` several."""
  for name, frame in (log if isinstance(log, dict) else {"log.parquet": log}).items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / name)
  (logs.items(12) if items is None else items).write_parquet(folder / "items.parquet")
  if users is not None:
    users.write_parquet(folder / "users.parquet")
  path = folder / ("log" if isinstance(log, dict) else "log.parquet")
  return tables.read(str(path), str(folder / "items.parquet"), None if users is None else str(folder / "users.parquet"))


def test_what_was_read_is_kept_with_the_records(tmp_path, log):
  halves = {"log/day1.parquet": log[:100], "log/day2.parquet": log[100:]}
  table = written(tmp_path / "raw", halves, users=pl.DataFrame({"user_id": range(8)}))
  builder.build(logs.experiment(), table, tmp_path / "out")
  notes = RecordSet.open(tmp_path / "out").notes
  size = {name: (tmp_path / "raw" / name).stat().st_size for name in [*halves, "items.parquet", "users.parquet"]}
  expected = {"interactions_files": 2, "interactions_rows": 300, "interactions_bytes": sum(size[n] for n in halves)}
  expected |= {"items_files": 1, "items_rows": 24, "items_bytes": size["items.parquet"]}
  expected |= {"users_files": 1, "users_rows": 8, "users_bytes": size["users.parquet"]}
  assert {name: notes.get(name) for name in expected} == expected


def test_a_log_in_folders_of_each_domain_gives_the_records_of_one_file(tmp_path, log):
  schema = {"target": {"item_fields": ["category"], "cross_fields": ["event"]}}
  parts = {
    f"log/domain={d}/part.parquet": log.filter(pl.col("domain") == d).drop("domain") for d in ("source", "target")
  }
  one, two = (
    builder.build(logs.experiment(schema, **SAMPLED), written(tmp_path / name, given), tmp_path / name / "out")
    for name, given in (("one", log), ("two", parts))
  )
  assert two.fingerprint == one.fingerprint
  assert two.splits == one.splits
  assert sum(part.records for domains in one.splits.values() for part in domains.values()) > 20


def test_rows_in_milliseconds_are_kept_with_their_file_and_under_strict_an_error(tmp_path, log, caplog):
  wrong = log[:120].with_columns(pl.col("timestamp") * 1_000 + 10**12)
  table = written(tmp_path, {"log/day1.parquet": log[120:], "log/day2.parquet": pl.concat([log[:0], wrong])})
  records = builder.build(logs.experiment(), table, tmp_path / "out")
  reason = "interactions: timestamp is of the year 5138 or later: milliseconds?"
  assert records.rejected == {reason: 120}
  assert f"rejected 120 rows: {reason} (120 of them in day2.parquet)" in caplog.text
  rejected = pl.read_parquet(records.path / "rejected.parquet")
  assert rejected["file"].unique().to_list() == ["day2.parquet"]
  assert rejected["row"].to_list() == list(range(180, 300))
  assert rejected["timestamp"].to_list() == [str(time) for time in wrong["timestamp"]]
  with pytest.raises(UserError) as error:
    builder.build(logs.experiment(), table, tmp_path / "strict", strict=True)
  assert str(error.value) == f"120 rows are rejected, and --strict allows none. {reason}: 120"
  assert not (tmp_path / "strict").exists()


def test_more_negatives_than_there_are_items_are_one_message(tmp_path, log):
  with pytest.raises(UserError) as error:
    build(tmp_path, log, items=logs.items(20), labels={"kind": "sampled", "negatives": 500})
  assert str(error.value) == (
    "records.labels.negatives is 500, but the target domain has 20 items, and a user has met one of them at least: ask "
    "for fewer"
  )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("negatives", "refused"), [(11, False), (12, True)])
def test_as_many_negatives_as_the_other_items_may_be_asked_for(tmp_path, log, negatives, refused):
  labels = {"kind": "sampled", "negatives": negatives}
  if refused:
    with pytest.raises(UserError, match="the target domain has 12 items"):
      build(tmp_path, log, labels=labels)
  else:
    assert build(tmp_path, log, {"candidates": 12}, labels=labels).part("train").records > 0


def test_a_domain_without_records_needs_no_items_for_negatives(tmp_path, log):
  few = logs.items(12).filter((pl.col("domain") == "target") | (pl.col("item_id") < 2))
  log = log.filter((pl.col("domain") == "target") | (pl.col("item_id") < 2))
  with pytest.raises(UserError, match=r"negatives is 3, but the source domain has 2 items"):
    build(tmp_path, log, items=few, **SAMPLED)
  assert set(build(tmp_path, log, items=few, source_records=False, **SAMPLED).splits["train"]) == {"target"}


PROFILES = {"user_fields": ["city"]}


@pytest.mark.parametrize(("known", "told"), [(7, False), (6, True), (1, True)])
def test_many_users_without_a_profile_are_told(tmp_path, log, caplog, known, told):
  """One of eight is not many, two are."""
  records = build(tmp_path, log, PROFILES, users=pl.DataFrame({"user_id": range(known), "city": ["x"] * known}))
  assert records.notes["users_without_profile"] == 8 - known
  message = f"users: {8 - known} of 8 users of interactions have no profile: {known}, say; profiles are of 0"
  assert (message in caplog.text) == told
  assert ("have no profile" in caplog.text) == told


@pytest.mark.parametrize(
  ("ids", "examples"),
  [(["000001", "000002"], "'0', say; profiles are of '000001'"), ([], "'0', say; profiles are of nobody")],
)
def test_profiles_of_none_of_the_users_are_an_error_with_an_example_of_each(tmp_path, log, ids, examples):
  users = pl.DataFrame(
    {"user_id": pl.Series(ids, dtype=pl.String), "city": pl.Series(["x"] * len(ids), dtype=pl.String)}
  )
  with pytest.raises(UserError) as error:
    build(tmp_path, log, PROFILES, users=users)
  assert str(error.value) == (
    f"users: 8 of 8 users of interactions have no profile: {examples}. Ids compare as texts where one of the files has "
    "texts: 7 is '7', and not '007'"
  )


def test_records_that_know_none_of_a_domains_items_are_not_those_of_the_log(tmp_path, log):
  old = build(tmp_path, log, name="old")
  moved = log.with_columns(
    item_id=pl.when(pl.col("domain") == "source").then(pl.col("item_id") + 100).otherwise("item_id")
  )
  with pytest.raises(UserError) as error:
    build(tmp_path, moved, items=logs.items(112), name="new", like=old)
  assert str(error.value) == (
    f"{old.path}: knows none of the 12 items of the source domain that the interactions are on. Are these the records "
    "that the log belongs to?"
  )


def test_how_many_interactions_are_on_items_that_other_records_do_not_know_is_told(tmp_path, log, caplog):
  old = build(tmp_path, log.filter(pl.col("item_id") < 10), items=logs.items(10), name="old")
  build(tmp_path, log, name="new", like=old)
  for d in ("target", "source"):
    items = log.filter(pl.col("domain") == d)["item_id"]
    share = 100 * (items >= 10).sum() / len(items)
    assert (
      f"2 items of the {d} domain are not in {old.path}: read as the unknown item, which {share:.0f} % of its "
      "interactions are on"
    ) in caplog.text


ONE_CLASS = "AUC and GAUC are not defined"
NO_WEIGHT = "no metric is defined"


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
  ("column", "value", "message"),
  [
    ("label", 1.0, rf"all \d+ candidates are positive: {ONE_CLASS}"),
    ("label", 0.0, rf"all \d+ candidates are negative: {ONE_CLASS}"),
    ("weight", 0.0, rf"the weights of all \d+ candidates are 0: {NO_WEIGHT}"),
  ],
)
def test_a_part_that_defines_no_metric_is_told(tmp_path, log, caplog, split, column, value, message):
  first, end = {"validation": (500, 700), "test": (700, 1000)}[split]
  inside = (pl.col("timestamp") >= first) & (pl.col("timestamp") < end)
  log = log.with_columns(weight=1.0).with_columns(pl.when(inside).then(value).otherwise(column).alias(column))
  records = build(tmp_path, log, split={"boundaries": [500, 700]})
  assert re.search(f"the {split} split: {message}", caplog.text)
  assert re.match(message, RecordSet.open(records.path).part(split).undefined())
  assert caplog.text.count("defined") == 1
  for other in {"validation", "test", "train"} - {split}:
    assert records.part(other).undefined() == ""


def test_records_of_before_weights_were_counted_are_told_by_their_labels_alone(tmp_path, log):
  part = build(tmp_path, log).part("validation").model_copy(update={"weight": None})
  assert part.undefined() == ""
  one_class = part.model_copy(update={"positives": 0}).undefined()
  assert one_class.startswith(f"all {part.candidates} candidates are negative: {ONE_CLASS}")


def test_a_validation_split_that_defines_no_metric_is_told_when_training_begins(tmp_path, log, monkeypatch, caplog):
  records = build(tmp_path, log.with_columns(weight=pl.when(pl.col("timestamp") < 500).then(1.0).otherwise(0.0)))
  caplog.clear()
  monkeypatch.setattr(trainer, "_train", lambda *arguments: None)
  trainer.train(logs.experiment(), records, tmp_path / "run")
  count = records.part("validation").candidates
  assert (
    f"the validation split of {records.path}: the weights of all {count} candidates are 0: {NO_WEIGHT}" in caplog.text
  )


@pytest.mark.job
def test_a_path_is_a_name_and_no_pattern(tmp_path, log, capsys):
  name = "x [x] *?\\ ü"
  folder = tmp_path / name / name
  folder.mkdir(parents=True)
  for decoy in (tmp_path / "x x a\\ ü", tmp_path / "x x ab ü"):  # what the pattern finds
    written(decoy / decoy.name, {f"log/{name}.parquet": log[:5]}, logs.items(1))
  users = pl.DataFrame({"user_id": range(8)})
  table = written(folder, {f"log/{name}/{name}.parquet": log[:100], f"log/{name}.parquet": log[100:]}, users=users)
  assert sorted(table.interactions["event"]) == sorted(log["event"])
  experiment = logs.experiment({"target": {"item_fields": ["category"]}}, **SAMPLED)
  for overwrite in (False, True):
    builder.build(experiment, table, folder / "out", overwrite=overwrite)
  records = RecordSet.open(folder / "out")
  assert sorted(path.name for path in folder.iterdir()) == ["items.parquet", "log", "out", "users.parquet"]
  count = sum(len(logs.requests(records, split)) for split in SPLITS)
  assert count == sum(records.part(split).records for split in SPLITS) > 10
  (batch,) = training_batches(records, requests=2, seed=0).take(1)
  assert batch["target"]["label"].shape[0] == 2
  show_records.main(["", "--records", str(records.path), "--count", "1"])
  assert "candidate 0: " in capsys.readouterr().out
  show_records.main(["", "--records", str(records.path), "--verify"])
  assert "every one valid" in capsys.readouterr().out
  builder.build(experiment, table, folder / "like", like=records)
  shard = records.path / records.part("test").shards[0].file
  shard.write_bytes(b"no shard")
  with pytest.raises(UserError) as error:
    show_records.main(["", "--records", str(records.path), "--verify"])
  assert f"{shard}: record 0" in str(error.value)
