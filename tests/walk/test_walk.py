"""Walks on a small log: what is scored before what is trained, what stays, and that a walk goes on where it stopped."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

from lcn_tf import config, formats
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.training.run_folder import read_run
from lcn_tf.training.trainer import train
from lcn_tf.walk import days
from lcn_tf.walk import walk as walking
from lcn_tf.walk.walk import walk
from tests.support.callbacks import Stop
from tests.training import growing

pytestmark = pytest.mark.job

PERIODS = 2
METRICS = ("auc", "gauc", "logloss", "calibration")


def experiment(periods=PERIODS, keep=0, **changes):
  tree = growing.experiment(epochs=1, checkpoint_every=1).model_dump(mode="json", by_alias=True)
  tree["walk"] = {"start": 0.5, "period": 150, "periods": periods, "keep": keep, **changes.pop("walk", {})}
  for section, values in changes.items():
    tree[section] |= values
  return config.from_tree(tree, "walk")


def trained_alone(experiment, record_set, run_dir, bootstrap):
  """`run_job` without the export and the test, which walks do not read."""
  train(experiment, record_set, run_dir)
  (run_dir / "metrics.json").write_text("{}")


@pytest.fixture(autouse=True, scope="module")
def _without_tests_of_the_base():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(walking, "run_job", trained_alone)
    yield


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
  folder = tmp_path_factory.mktemp("walk") / "run"
  walk(experiment(), growing.tables(1.0), folder)
  return folder


def table(folder):
  return pl.read_parquet(folder / "days.parquet")


def scores(folder, number, name="walked"):
  return pl.read_parquet(folder / "predictions" / f"{number:05d}" / f"{name}.parquet")


def records(folder, number):
  return RecordSet.open(folder / "records" / f"{number:05d}")


def test_every_candidate_of_a_period_is_scored(walked):
  log = growing.tables(1.0).interactions
  first = formats.read_sealed(walked / "walk.json")["start"]
  assert len(table(walked)) == 2 * PERIODS
  for number in range(1, 1 + PERIODS):
    begin = first + 150 * (number - 1)
    mine = log.filter(
      (pl.col("domain") == "target") & (pl.col("timestamp") >= begin) & (pl.col("timestamp") < begin + 150)
    )
    for name in ("walked", "frozen"):
      found = scores(walked, number, name)
      keys = ["user_id", "item_id", "timestamp"]
      assert sorted(found.select(keys).rows()) == sorted(mine.select(keys).rows())
      (row,) = table(walked).filter((pl.col("period") == number) & (pl.col("model") == name)).rows(named=True)
      assert (row["candidates"], row["positives"]) == (len(mine), mine["label"].sum())
      assert (row["first_time"], row["last_time"]) == (mine["timestamp"].min(), mine["timestamp"].max())
      assert row["auc"] == pytest.approx(metrics.roc_auc_score(found["label"], found["probability"]), abs=1e-6)
      assert row["logloss"] == pytest.approx(metrics.log_loss(found["label"], found["probability"]), rel=1e-4)


def test_a_period_is_scored_by_the_model_of_the_one_before_it_which_it_then_trains(walked, tmp_path):
  days.score(read_run(walked / "run" / "00001"), records(walked, 2), tmp_path / "again.parquet", "error")
  again = pl.read_parquet(tmp_path / "again.parquet")
  np.testing.assert_allclose(again["probability"], scores(walked, 2)["probability"], rtol=1e-5)
  assert scores(walked, 1).equals(scores(walked, 1, "frozen"))
  assert not np.allclose(scores(walked, 2)["probability"], scores(walked, 2, "frozen")["probability"], rtol=1e-3)
  for number in range(1, 1 + PERIODS):
    run = read_run(walked / "run" / f"{number:05d}")
    asked = run.experiment.train
    assert (asked.warm_start, asked.validates) == (str(walked / "run" / f"{number - 1:05d}"), False)
    part = records(walked, number).part("train")
    assert list(records(walked, number).splits) == ["train"]
    steps = json.loads((run.path / "training.json").read_text())["steps"]
    assert asked.global_batch_size <= 32
    assert part.records - steps < steps * asked.global_batch_size // 4 <= part.records


def test_items_without_a_row_before_the_period_and_in_the_base_are_told_apart(walked):
  ids = [set(records(walked, n).table("vocabularies/target_item.parquet")["value"]) for n in range(1 + PERIODS)]
  shares = set()
  for number in range(1, 1 + PERIODS):
    found = scores(walked, number).with_columns(pl.col("item_id").cast(pl.String))
    (row,) = table(walked).filter((pl.col("period") == number) & (pl.col("model") == "walked")).rows(named=True)
    for what, known in (("new", ids[number - 1]), ("later", ids[0])):
      strange = found.filter(~pl.col("item_id").is_in(list(known)))
      assert row[f"{what}_share"] == pytest.approx(len(strange) / len(found))
      if strange["label"].n_unique() == 2:
        auc = metrics.roc_auc_score(strange["label"], strange["probability"])
        assert row[f"{what}_auc"] == pytest.approx(auc, abs=1e-6)
      else:
        assert row[f"{what}_auc"] is None
      shares.add(row[f"{what}_share"])
  assert max(shares) > 0
  assert len(shares) > 2


def test_the_page_has_the_metrics_of_both_models(walked):
  page = (walked / "report" / "index.html").read_text()
  assert page.count("<img ") >= len(METRICS)
  for row in table(walked).rows(named=True):
    assert f"{row['auc']:,.4f}" in page
  assert "walked" in page
  assert "frozen" in page


@pytest.mark.config
def test_a_killed_walk_goes_on_to_the_same_end_and_then_behind_it(walked, tmp_path, monkeypatch):
  """Killed within the training of the second period, and before its scores were written."""
  folder = tmp_path / "run"
  shutil.copytree(walked, folder)
  for path in ("run/00002", "predictions/00002", "records/00002"):
    shutil.rmtree(folder / path)

  def killed(experiment, record_set, run_dir):
    return train(experiment, record_set, run_dir, (Stop(first + 2),))

  first = int(read_run(walked / "run" / "00001").checkpoints()[0].rsplit("-", 1)[1])
  with monkeypatch.context() as patch:
    patch.setattr(walking, "train", killed)
    with pytest.raises(KeyboardInterrupt):
      walk(experiment(), growing.tables(1.0), folder)
  assert (folder / "run" / "00002" / "checkpoints" / "last").is_dir()
  assert len(table(folder)) == len(table(walked))  # of the walk that was copied
  walk(experiment(), growing.tables(1.0), folder)
  for name in METRICS:
    np.testing.assert_allclose(table(folder)[name], table(walked)[name], rtol=1e-4)
  one, other = (read_run(path / "run" / "00002").best()[0] for path in (walked, folder))
  for mine, theirs in zip(one.variables, other.variables, strict=True):
    np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6, err_msg=mine.name)
  # behind its end, where the log has more
  before = table(folder)
  walk(experiment(periods=3), growing.tables(1.0), folder)
  assert table(folder).filter(pl.col("period") <= PERIODS).equals(before)
  assert table(folder)["period"].to_list() == [1, 1, 2, 2, 3, 3]


def test_a_finished_walk_trains_nothing(walked, monkeypatch):
  monkeypatch.setattr(walking, "train", None)
  before = table(walked)
  (walked / "days.parquet").unlink()
  walk(experiment(), growing.tables(1.0), walked)
  assert table(walked).equals(before)


def test_what_newer_periods_do_not_need_goes(walked, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(walked, folder)
  walk(experiment(keep=1), growing.tables(1.0), folder)
  assert sorted(path.name for path in (folder / "records").iterdir()) == ["00002"]
  assert (folder / "run" / "00000" / "checkpoints" / "best").is_dir()  # of the frozen model
  with pytest.raises(UserError, match=r"00001/checkpoints: Removed by pipelines\.walk, since walk\.keep is 1; "):
    read_run(folder / "run" / "00001").checkpoints()
  assert read_run(folder / "run" / "00002").checkpoints()
  assert table(folder).equals(table(walked))


def test_another_walk_and_another_log_are_refused_and_leave_the_folder_as_it_is(walked, tmp_path):
  before = table(walked)
  log = growing.tables(1.0)
  cases = [
    (
      experiment(train={"learning_rate": 0.5}),
      log,
      r"run holds another walk: experiment\.train\.learning_rate is 0\.5",
    ),
    (experiment(walk={"period": 151}), log, r"run holds another walk: experiment\.walk\.period is 151"),
    (experiment(), growing.tables(1.0, seed=1), r"the base was walked with \d+ interactions, and now has \d+\. A walk"),
  ]
  for asked, tables, message in cases:
    with pytest.raises(UserError, match=message):
      walk(asked, tables, walked)
  assert table(walked).equals(before)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train": {"strategy": "multi_worker"}}, r"^train\.strategy is multi_worker, but pipelines\.walk trains on one "),
    ({"records": {"state": False}}, r"^records\.state is false, but a walk extends its records"),
    (
      {"walk": {"start": 0.999, "period": 1}},
      r"^walk\.start: interactions has \d+ interactions before second \d+, and 0",
    ),
  ],
)
def test_what_cannot_be_walked_is_told_before_anything_is_made(changes, message, tmp_path):
  tables = growing.tables(1.0)
  if "walk" in changes:  # nothing to be scored behind the base
    known = pl.col("timestamp") < tables.interactions["timestamp"].quantile(0.9)
    tables = growing.RawTables(tables.interactions.with_columns(label=pl.when(known).then("label")), tables.items)
  with pytest.raises(UserError, match=message):
    walk(experiment(**changes), tables, tmp_path / "run")
  assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
  (tmp_path / "experiment.yaml").write_text("name: x")
  with pytest.raises(UserError, match=r"holds a run or records, and no walk\. Use another --run_dir\.$"):
    walk(experiment(), growing.tables(1.0), tmp_path)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"start": 1.0}, r"walk\.start: .*less than 1; found 1\.0"),
    ({"period": 0}, r"walk\.period: .*greater than or equal to 1; found 0"),
    ({"epoch": 1}, r"walk\.epoch: unknown key\. Did you mean 'epochs'\?"),
  ],
)
def test_a_wrong_section_is_told(values, message):
  with pytest.raises(UserError, match=message):
    experiment(walk=values)
