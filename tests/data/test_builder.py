import hashlib
import pathlib

import numpy as np
import polars as pl
import pytest

from lcn_tf import files
from lcn_tf.data import builder, shards, tables
from lcn_tf.data.dataset import training_batches
from lcn_tf.data.record_set import SPLITS, RecordSet
from lcn_tf.data.vocabulary import oov_index
from lcn_tf.errors import UserError
from tests.data import logs


def build(
  folder, log, schema=None, items=None, users=None, strict=False, overwrite=False, name="out", like=None, **records
):
  items = logs.items(12) if items is None else items
  table = tables.Tables(log, items, users, notes={"origin": "test"})
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


def test_several_processes_write_the_same_bytes_as_one(tmp_path, log, monkeypatch):
  build(tmp_path, log, name="one", shards=2, **SAMPLED)
  monkeypatch.setattr(shards, "PARALLEL_FROM", 1)
  build(tmp_path, log, name="two", shards=2, **SAMPLED)
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
      patch.setattr(builder.shutil, "rmtree", killed)
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
  late = [oov_index(value, 3, 5) for value in later["event"]]
  met = {int(e) for r in logs.requests(new, "test") for e in r.target.cross.ravel()}
  assert met == set(late) == {1, 2, 3}


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
  table = tables.Tables(log, logs.items(12), None)
  with pytest.raises(UserError, match=r"^s3://bucket/records: only local or mounted paths"):
    builder.build(logs.experiment(), table, "s3://bucket/records")
  assert not list(tmp_path.iterdir())


def test_a_numbering_alone_numbers_records_as_its_record_set_does(tmp_path, log):
  old = build(tmp_path, log.filter(pl.col("item_id") < 10), items=logs.items(10), name="old", **SAMPLED)
  old.save_numbering(tmp_path / "numbering")
  numbering = RecordSet.open(tmp_path / "numbering")
  assert numbering.splits == {}
  like_all, like_it = (build(tmp_path, log, name=n, like=r, **SAMPLED) for n, r in (("all", old), ("it", numbering)))
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
