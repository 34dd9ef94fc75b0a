"""Splits by user and by a column; the builder's property test holds them to the raw log row by row."""

import logging

import numpy as np
import polars as pl
import pytest
import yaml

from lcn_tf import config
from lcn_tf.config import Labels, Split
from lcn_tf.data.build import builder, tables
from lcn_tf.data.build.splits import divide
from lcn_tf.data.record_set import SPLITS, RecordSet, warn_of_other_settings
from lcn_tf.errors import UserError
from tests.data import logs

LAST = {"kind": "per_user", "validation": 1, "test": 1}
FOLD = {"kind": "column", "column": "fold"}


def divided(log, labels="given", **split):
  """The split of each row, `-` for a row of no split, by its first letter; upper case: in the training part."""
  labels, split = Labels(kind=labels), Split(**split)
  checked = tables.check(tables.RawTables(log, logs.items(12)), logs.experiment().record_schema, labels, split)
  found = divide(checked.interactions, labels, split)
  letters = ["-" if number is None else SPLITS[number][0] for number in found.interactions["split"]]
  pairs = zip(letters, found.interactions["training"], strict=True)
  return "".join("+" if letter == "-" and train else letter.upper() if train else letter for letter, train in pairs)


def user_log(times, user=1, domain="target", labels=None):
  labels = labels or [1.0] * len(times)
  return [(user, n % 12, domain, time, label) for n, (time, label) in enumerate(zip(times, labels, strict=True))]


def build(folder, log, name="out", like=None, **records):
  table = tables.RawTables(log, logs.items(12))
  return builder.build(logs.experiment(**records), table, folder / name, like=like)


@pytest.fixture
def log():
  """Every split of any kind has candidates, and no column knows of a split's order in time."""
  log = logs.random_log(np.random.default_rng(0), 300)
  return log.with_columns(fold=pl.Series([*SPLITS, "train", "train"] * 60))


@pytest.mark.parametrize(
  ("times", "validation", "test", "expected"),
  [
    (range(10), 1, 1, "TTTTTTTTvt"),
    (range(10), 2, 3, "TTTTTvvttt"),
    (range(10), 0.1, 0.2, "TTTTTTTvtt"),
    (range(10), 0.35, 0.29, "TTTTTvvvtt"),  # rounded down
    (range(4), 0.1, 0.1, "TTvt"),  # but one at least
    (range(100), 0.29, 1, "T" * 70 + "v" * 29 + "t"),  # 0.29 * 100 is a little less than 29 for a float
    (range(3), 0.1, 0.1, "Tvt"),
    ([0, 1, 2, 3, 3, 3], 1, 1, "TTTttt"),  # those of one second are together, in the later split
    ([0, 1, 2, 2, 3], 1, 1, "TTvvt"),
    ([5, 4, 3, 2, 1], 1, 1, "tvTTT"),  # in any order of the input
  ],
)
def test_the_last_candidates_of_a_user_test_and_those_before_validate(times, validation, test, expected):
  assert divided(logs.interactions(user_log(times)), kind="per_user", validation=validation, test=test) == expected


@pytest.mark.parametrize("short", [[0, 1], [0], [3, 3, 3, 3], [0, 0, 9]])
def test_a_user_without_an_earlier_candidate_trains_with_all_of_them(short, caplog):
  rows = user_log(range(3)) + user_log(short, user=2)
  with caplog.at_level(logging.INFO, logger="absl"):
    assert divided(logs.interactions(rows), kind="per_user", validation=1, test=1) == "Tvt" + "T" * len(short)
  assert "1 of 2 users with candidates have too few moments for validation 1 and test 1: all of theirs train" in (
    caplog.text
  )


def test_only_labelled_target_rows_cut_a_users_time_and_they_cut_both_domains():
  rows = user_log([0, 1, 2, 3, 4, 5], labels=[1.0, None, 0.0, None, 1.0, None])
  rows += user_log([1, 2, 3, 4, 5], domain="source") + user_log([0, 9], user=2, domain="source")
  log = logs.interactions(rows)
  assert divided(log, **LAST) == "TTvvtt" + "Tvvtt" + "TT"
  assert divided(log, "sampled", **LAST) == "TTTTvt" + "TTTvt" + "TT"


def test_a_column_says_the_split_and_rows_without_one_train_where_training_sees_them():
  log = logs.interactions(user_log([0, 1, 2, 3, 4, 5, 3]) + user_log([0, 1], user=2)).with_columns(
    fold=pl.Series([None, "train", "test", "train", "validation", None, None, None, "test"])
  )
  assert divided(log, **FOLD) == "+TtTv--" + "-t"


@pytest.mark.parametrize("kind", [LAST, FOLD])
def test_catalogue_popularity_and_known_items_are_of_the_training_part_of_a_split(tmp_path, log, kind):
  new = (pl.col("fold") == "test") & (pl.col("timestamp") % 2 == 0)
  log = log.with_columns(item_id=pl.when(new).then(11).otherwise(pl.col("item_id") % 10))
  labels = {"kind": "sampled", "negatives": 2, "known_items": True}
  records = build(tmp_path, log, labels=labels, split=kind, source_records=False)
  splits = logs.splits_of(log, kind, "sampled")
  trained = log.filter(pl.Series([split == "train" for split in splits]) & (pl.col("domain") == "target"))
  counted = records.table("items/target.parquet").select("item_id", "count").rows()
  assert dict(counted) == dict.fromkeys(range(12), 0) | dict(trained["item_id"].value_counts().rows())
  ids = dict(records.table("items/target.parquet").select("row", "item_id").rows())
  shown = {ids[int(item)] for split in SPLITS for request in logs.requests(records, split) for item in request.items}
  assert shown == set(trained["item_id"])
  assert (11 in shown) == (kind is LAST)


def test_negatives_of_training_are_as_popular_as_in_the_training_part(tmp_path):
  """Item 9 is everywhere, but outside of training."""
  rows = [(user, 1 + user, "target", 10 * n + user, 1.0) for n in range(40) for user in range(6)]
  common = [(90 + n % 5, 9, "target", n, 1.0) for n in range(400)]
  fold = ["train"] * 180 + ["validation"] * 30 + ["test"] * 30 + ["test"] * 400
  log = logs.interactions(rows + common, fold=pl.Series(fold))
  labels = {"kind": "sampled", "negatives": 1}
  records = build(tmp_path, log, labels=labels, split=FOLD, source_records=False)
  ids = dict(records.table("items/target.parquet").select("row", "item_id").rows())
  drawn = {
    split: [ids[int(i)] for r in logs.requests(records, split) for i in r.items[r.labels == 0]] for split in SPLITS
  }
  assert len(drawn["train"]) > 50
  assert 9 not in drawn["train"]
  assert 9 in drawn["validation"]


def test_what_a_split_leaks_is_told_and_kept(tmp_path, log, caplog):
  users = build(tmp_path, log, "users", split={"kind": "per_user", "validation": 12, "test": 8})
  assert "per_user cuts each user's own time, not the log's" in caplog.text
  counts = log.filter(pl.col("domain") == "target")["user_id"].value_counts()["count"]
  assert users.notes["users_train_only"] == (counts <= 20).sum() > 0
  caplog.clear()
  column = build(tmp_path, log, "column", split=FOLD)
  target = log.filter(pl.col("domain") == "target")
  first = target.filter(pl.col("fold") == "test").group_by("user_id").agg(first=pl.col("timestamp").min())
  late = (
    target.filter(pl.col("fold") == "train").join(first, on="user_id").filter(pl.col("timestamp") > pl.col("first"))
  )
  assert column.notes["train_after_test"] == len(late) > 0
  assert f"column 'fold' has {len(late)} of " in caplog.text
  caplog.clear()
  tidy = log.with_columns(
    fold=pl.when(pl.col("timestamp") < 600).then(pl.lit("train")).when(pl.col("timestamp") < 800)
    .then(pl.lit("validation")).otherwise(pl.lit("test"))
  )  # fmt: skip
  assert build(tmp_path, tidy, "tidy", split=FOLD).notes["train_after_test"] == 0
  assert "histories hold what is tested" not in caplog.text
  timed = build(tmp_path, tidy, "timed", split={"boundaries": [600, 800]})
  assert "per_user" not in caplog.text
  one, other = logs.file_bytes(tmp_path / "tidy"), logs.file_bytes(tmp_path / "timed")
  assert {name for name in one if one[name] != other.get(name)} == {"dataset.json"}, timed.path


@pytest.mark.parametrize("kind", [LAST, FOLD])
def test_records_of_any_split_may_be_numbered_like_others(tmp_path, log, kind):
  old = build(tmp_path, log.filter(pl.col("timestamp") < 700), "old")
  new = build(tmp_path, log, "new", like=old, split=kind)
  assert new.fingerprint == old.fingerprint
  names = pl.Series(logs.splits_of(log, kind, "given"))
  target = log.with_columns(of=names).filter(pl.col("domain") == "target")["of"].value_counts()
  assert {split: new.part(split).candidates for split in SPLITS} == dict(target.rows())
  tested = log.with_columns(fold=pl.lit("test"))
  only = build(tmp_path, tested, "only", like=old, split=FOLD)
  assert set(only.splits) == {"test"}


def test_one_record_holds_the_candidates_of_a_split_that_another_split_interrupts(tmp_path):
  rows = user_log(range(12)) + user_log([0], domain="source")
  log = logs.interactions(rows, fold=pl.Series([*SPLITS] * 4 + ["train"]))
  records = build(tmp_path, log, split=FOLD)
  for number, split in enumerate(SPLITS):
    (request,) = logs.requests(records, split)
    assert request.times.tolist() == list(range(number, 12, 3))
    assert request.target.times.tolist() == list(range(8 + number, -1, -1))
    assert request.target.first_visible.tolist() == [9, 6, 3, 0]


@pytest.mark.parametrize(
  ("split", "message"),
  [
    (LAST | {"train": 0.8}, r"split: .* set the section as a whole: 'records\.split={kind: per_user, \.\.\.}'$"),
    ({"kind": "user"}, r"split\.kind: Input should be 'time', 'per_user', 'column' or 'all_train'; found 'user'"),
    (
      LAST | {"train": 0.8},
      r"split: kind per_user has the keys validation, test, and not train\. To change the",
    ),
    (
      LAST | {"boundaries": [1, 2]},
      r"split: kind per_user has the keys validation, test, and not boundaries\. To change the",
    ),
    (
      {"test": 0.1},
      r"split: kind time has the keys train, validation, boundaries, and not test\. To change the",
    ),
    (
      {"column": "fold"},
      r"split: kind time has the keys train, validation, boundaries, and not column\. To change the",
    ),
    (
      FOLD | {"validation": 0.1, "test": 1},
      r"split: kind column has the keys column, and not validation, test\. To change the",
    ),
    ({"kind": "column"}, r"split: kind column needs the key column: the name of a column"),
    (LAST | {"test": 0}, r"split: test 0 is neither a share between 0 and 1 nor a whole number of candidates"),
    (LAST | {"validation": 1.5}, r"split: validation 1\.5 is neither a share"),
    (LAST | {"test": float("inf")}, r"split: test inf is neither a share"),
    (LAST | {"test": float("nan")}, r"split\.test: Input should be greater than or equal to 0; found nan"),
    (LAST | {"test": -1}, r"split\.test: Input should be greater than or equal to 0; found -1"),
    (LAST | {"validation": 0.5, "test": 0.5}, r"split: validation 0\.5 and test 0\.5 leave no part to train on$"),
    ({"validation": 2}, r"split: train 0\.8 and validation 2\.0 leave no part"),
  ],
)
def test_a_wrong_split_is_told_in_one_message(split, message):
  with pytest.raises(UserError, match=rf"^test: records\.{message}"):
    logs.experiment(split=split)


@pytest.mark.parametrize("split", [{}, {"train": 0.7}, LAST, LAST | {"test": 0.25}, {"kind": "per_user"}, FOLD])
def test_what_is_written_down_of_a_split_reads_back(split):
  made = logs.experiment(split=split)
  text = config.dump(made)
  assert config.from_tree(yaml.safe_load(text), "dumped") == made
  assert yaml.safe_load(text)["records"]["split"].items() >= split.items()


def test_a_record_set_that_says_nothing_of_the_kind_is_split_by_time(tmp_path, log, caplog):
  records = build(tmp_path, log)
  older = {name: value for name, value in records.records["split"].items() if name != "kind"}
  older = records.model_copy(update={"records": records.records | {"split": older}})
  warn_of_other_settings(logs.experiment().records, older)
  assert not caplog.text
  warn_of_other_settings(logs.experiment(split=LAST).records, older)
  assert "records.split.kind is 'per_user' in the config, 'time' in the record set" in caplog.text


@pytest.mark.parametrize("last", [30, 0.5])
def test_more_than_any_user_has_is_an_error_that_says_how_many_there_are(tmp_path, last):
  log = logs.interactions(user_log(range(2)) + user_log([7] * 5, user=2) + user_log(range(9), user=3, domain="source"))
  message = rf"records\.split: validation 1 and test {last} leave no user an earlier .* most .* candidates has 5$"
  with pytest.raises(UserError, match=message):
    build(tmp_path, log, split=LAST | {"test": last})
  nothing = log.with_columns(label=pl.lit(None, pl.Float64))
  with pytest.raises(UserError, match=r"target-domain candidates has 0$"):
    build(tmp_path, nothing, split=LAST | {"test": last})
  assert list(tmp_path.iterdir()) == []


def test_a_column_without_a_splits_candidates_is_an_error_that_counts_them(tmp_path, log):
  message = (
    r"records\.split: the test split has no target-domain candidates\. Column 'fold' has, of .*: train 123, "
    r"validation \d+, test 0\.$"
  )
  target = log.filter(pl.col("domain") == "target")
  train = 123 - (target["fold"] == "train").sum()
  log = log.with_columns(fold=pl.col("fold").replace("test", None))
  more = logs.interactions(user_log(range(train))).with_columns(fold=pl.lit("train"))
  with pytest.raises(UserError, match=message):
    build(tmp_path, pl.concat([log, more]), split=FOLD)
  source = log.with_columns(
    fold=pl.when(pl.col("domain") == "target").then(pl.Series([*SPLITS] * 100)).otherwise(pl.lit("test"))
  )
  with pytest.raises(UserError, match=r"no source-domain candidates in the training split\. Set it to false"):
    build(tmp_path, source, split=FOLD)
  assert list(tmp_path.iterdir()) == []


def test_a_column_that_is_missing_or_of_a_wrong_type_is_an_error(tmp_path, log):
  with pytest.raises(
    UserError, match=r"interactions: no column 'folds' \(records\.split\.kind is column\)\. Did you mean 'fold'"
  ):
    build(tmp_path, log, split=FOLD | {"column": "folds"})
  with pytest.raises(
    UserError, match=r"column 'event2' holds Int32, expected strings: 'train' or 'validation' or 'test'$"
  ):
    build(tmp_path, log.with_columns(event2=pl.lit(1)), split=FOLD | {"column": "event2"})
  assert list(tmp_path.iterdir()) == []


def test_rows_with_another_word_in_the_column_are_left_out_with_the_reason(tmp_path, log):
  words = pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("Train")).otherwise("fold")
  records = build(tmp_path, log.with_columns(fold=words.cast(pl.Categorical)), split=FOLD)
  assert records.rejected == {"interactions: fold is not one of train, validation, test": 7}
  assert RecordSet.open(records.path).table("rejected.parquet")["row"].to_list() == list(range(7))
