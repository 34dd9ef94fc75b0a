"""Baselines against loops over the records."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from lcn_tf.data.read import dataset
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import baselines, paired
from lcn_tf.schema import Domain, Feature, Schema
from pipelines import baselines as baselines_command
from tests.support.record_sets import described_again, small_schema, write_record_set


def _candidates(record_set, split):
  """(user, item, label, target history's visible slots [(column index, ...)]) of every candidate."""
  for batch in dataset.evaluation_batches(record_set, split, requests=5).as_numpy_iterator():
    for row, column in np.argwhere(batch["candidate_mask"]):
      first = batch["target_first_visible"][row, column]
      end = min(first + record_set.record_schema.target.max_length, batch["target_length"][row])
      yield (
        int(batch["user"][row]),
        int(batch["candidate_items"][row, column]),
        float(batch["label"][row, column]),
        batch["target_cross"][row, first:end],
      )


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  records = {"train": 60, "validation": 40, "test": 40}
  return write_record_set(tmp_path_factory.mktemp("baselines") / "records", small_schema(), records=records)


@pytest.fixture(scope="module")
def train(record_set):
  return list(_candidates(record_set, "train"))


@pytest.fixture(scope="module")
def test(record_set):
  return list(_candidates(record_set, "test"))


@pytest.fixture(scope="module")
def found(record_set, tmp_path_factory):
  output = tmp_path_factory.mktemp("out")
  return output, baselines.run(record_set, output, bootstrap=10)


@pytest.mark.job
def test_item_baselines_count_the_training_candidates(train, test, found):
  positives, count = np.zeros(30), np.zeros(30)
  for _, item, label, _ in train:
    count[item] += 1
    positives[item] += label
  mean = positives.sum() / count.sum()
  items = [item for _, item, _, _ in test]
  popularity = pl.read_parquet(found[0] / "item_popularity.parquet")["probability"].to_numpy()
  item_mean = pl.read_parquet(found[0] / "item_mean.parquet")["probability"].to_numpy()
  np.testing.assert_allclose(popularity, positives[items])
  np.testing.assert_allclose(item_mean, (positives[items] + 10 * mean) / (count[items] + 10), rtol=1e-6)


def test_user_mean_without_ratings_is_that_of_the_training_labels(record_set, train, test):
  known = baselines.statistics(record_set)
  labels: dict[int, list[float]] = {}
  for user, _, label, _ in train:
    labels.setdefault(user, []).append(label)
  expected = [
    (sum(labels.get(user, [])) + 10 * known.mean) / (len(labels.get(user, [])) + 10) for user, _, _, _ in test
  ]
  np.testing.assert_allclose(baselines.features(record_set, "test", known)["user_mean"], expected)


def test_every_baseline_has_the_metrics_of_a_model(found):
  output, metrics = found
  saved = json.loads((output / "baselines.json").read_text(), parse_constant=pytest.fail)
  assert list(saved) == list(baselines.NAMES) == list(metrics)
  for name, entry in saved.items():
    assert 0 < entry["auc"] < 1
    assert entry["model"] == {"name": name}
    assert entry["split"] == "test"
    assert len(entry["confidence"]["auc"]) == 2
  assert saved["item_popularity"]["logloss"] is None
  assert saved["item_mean"]["logloss"] > 0


def test_baselines_can_be_compared(found):
  files = [found[0] / f"{name}.parquet" for name in ("item_mean", "user_mean_item_mean")]
  compared = paired.compare(files[:1], files[1:], replicates=20)
  expected = found[1]["item_mean"]["auc"] - found[1]["user_mean_item_mean"]["auc"]
  assert compared["auc"]["difference"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
  """Records whose target histories carry ratings: index 1 is out of vocabulary, index i stands for i / 2."""
  domain = Domain(cross_fields=(Feature(name="action"), Feature(name="rating", vocabulary="stars")), max_length=6)
  path = tmp_path_factory.mktemp("rated")
  record_set = write_record_set(path, Schema(target=domain, candidates=3), seed=1)
  size = record_set.record_schema.vocabularies["stars"].size
  index = np.arange(2, size)
  table = pl.DataFrame({"index": index, "value": [str(i / 2) for i in index], "count": np.ones(len(index), int)})
  table.write_parquet(path / "vocabularies" / "stars.parquet")
  return described_again(record_set)


def test_user_mean_with_ratings_is_that_of_the_visible_ones(rated):
  average = np.mean(np.arange(2, rated.record_schema.vocabularies["stars"].size) / 2)
  expected = []
  for _, _, _, visible in _candidates(rated, "test"):
    stars = [slot[1] / 2 for slot in visible if slot[1] > 1]
    expected.append((sum(stars) + average) / (len(stars) + 1))
  found = baselines.features(rated, "test", baselines.statistics(rated))
  np.testing.assert_allclose(found["user_mean"], expected)
  assert np.ptp(expected) > 0.5


def test_the_split_that_the_means_are_made_of_is_refused(record_set, tmp_path):
  with pytest.raises(UserError, match=r"hold the labels of the train split; score another one"):
    baselines.run(record_set, tmp_path, split="train")


def test_the_regression_never_sees_the_labels_that_it_is_scored_by(record_set, tmp_path, monkeypatch):
  read = []
  features = baselines.features
  monkeypatch.setattr(
    baselines,
    "features",
    lambda records, split, known, **options: read.append(split) or features(records, split, known),
  )
  baselines.run(record_set, tmp_path, split="validation", bootstrap=0)
  assert read == ["validation", "train"]


def test_an_unknown_split_is_named(record_set, tmp_path):
  with pytest.raises(UserError, match=r"unknown split 'tests'\. Did you mean 'test'"):
    baselines.run(record_set, tmp_path, split="tests")


def test_records_without_training_ones_are_refused_before_anything_is_made(tmp_path):
  alone = write_record_set(tmp_path / "records", small_schema(), records={"test": 8})
  with pytest.raises(UserError, match=r"no records of the train split; there are those of: test"):
    baselines.run(alone, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_predictions_name_users_and_items_as_the_log_does(found):
  table = pl.read_parquet(found[0] / "item_mean.parquet")
  assert table["user_id"].to_list() == [f"user-{user}" for user in table["user"]]
  assert table["item_id"].to_list() == [f"target-{row}" if row > 1 else None for row in table["item"]]


@pytest.mark.job
def test_broken_records_are_left_out_if_so_wanted(record_set, tmp_path):
  shutil.copytree(record_set.path, tmp_path / "records")
  for split in ("train", "validation", "test"):
    shard = tmp_path / "records" / record_set.part(split).shards[1].file
    shard.write_bytes(shard.read_bytes()[:-40])
  with pytest.raises(UserError, match=r"train/target/part-00001-of-00002\.tfrecord\.gz: record"):
    baselines.run(RecordSet.open(tmp_path / "records"), tmp_path / "out", bootstrap=0)
  command = ["baselines", f"--records={tmp_path / 'records'}", f"--output={tmp_path / 'out'}", "--bootstrap=0"]
  baselines_command.main([*command, "--on_corrupt=skip"])
  saved = json.loads((tmp_path / "out" / "baselines.json").read_text())
  part = record_set.part("test")
  assert list(saved) == list(baselines.NAMES)
  assert all(part.shards[0].candidates < entry["candidates"] < part.candidates for entry in saved.values())
  assert all(entry["records"]["left_out"] == part.candidates - entry["candidates"] for entry in saved.values())
