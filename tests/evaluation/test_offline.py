"""Evaluation end to end: a SavedModel over real records."""

import html.parser
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from lcn_tf import formats, metrics
from lcn_tf.data.read import dataset
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import evaluate, report, scoring
from lcn_tf.evaluation.predictions import COLUMNS
from pipelines import evaluate as evaluate_command
from tests.evaluation.exports import SEED, item_scores, write_export
from tests.reference import metrics as reference
from tests.support.record_sets import small_schema, write_record_set

RECORDS = {"train": 16, "validation": 8, "test": 50}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A record set, and a run with two exported versions, a training log and a config."""
  path = tmp_path_factory.mktemp("offline")
  record_set = write_record_set(path / "records", small_schema(), records=RECORDS)
  run = path / "run"
  write_export(run / "export" / "9", record_set, scores=np.zeros(record_set.record_schema.target.items, np.float32))
  write_export(run / "export" / "10", record_set)
  (run / "history.csv").write_text("epoch,loss,val_auc\n0,0.7,0.5\n1,0.6,0.62\n1,0.59,0.63\n2,0.58,0.61\n")
  (run / "experiment.yaml").write_text('name: <tiny> & "quoted"\n')
  return path


@pytest.fixture(scope="module")
def record_set(folder):
  return RecordSet.open(folder / "records")


@pytest.fixture(scope="module")
def found(folder, record_set):
  return evaluate(folder / "run" / "export", record_set, "test", folder / "run", requests=7, bootstrap=30)


@pytest.fixture(scope="module")
def predictions(folder, found):
  assert found["split"] == "test"
  return pl.read_parquet(folder / "run" / "predictions.parquet")


@pytest.mark.job
def test_predictions_hold_every_candidate_in_the_order_of_the_records(record_set, predictions):
  batches = list(dataset.evaluation_batches(record_set, "test", requests=3).as_numpy_iterator())
  expected = np.concatenate([batch["candidate_items"][batch["candidate_mask"]] for batch in batches])
  users = np.concatenate([np.repeat(batch["user"], batch["candidate_mask"].sum(1)) for batch in batches])
  np.testing.assert_array_equal(predictions["item"], expected)
  np.testing.assert_array_equal(predictions["user"], users)
  np.testing.assert_allclose(predictions["probability"], item_scores(record_set)[expected])
  assert len(predictions) == record_set.part("test").candidates
  assert predictions["label"].sum() == record_set.part("test").positives


def test_predictions_count_the_behaviours_that_a_candidate_sees(record_set, predictions):
  seen = []
  for batch in dataset.evaluation_batches(record_set, "test", requests=8).as_numpy_iterator():
    for row, column in np.argwhere(batch["candidate_mask"]):
      position = np.arange(batch["target_times"].shape[1])
      older = (batch["target_times"][row] < batch["candidate_times"][row, column]) & (
        position < batch["target_length"][row]
      )
      seen.append(min(older.sum(), record_set.record_schema.target.max_length))
  np.testing.assert_array_equal(predictions["history_target"], seen)


def test_metrics_json_is_the_contract(folder, found, predictions):
  saved = json.loads((folder / "run" / "metrics.json").read_text())
  assert {"auc", "gauc", "logloss", "calibration", "candidates", "positives", "users", "confidence"} <= set(saved)
  columns = [predictions[name].to_list() for name in ("probability", "label", "user")]
  assert saved["auc"] == pytest.approx(reference.auc(*columns[:2]))
  assert saved["gauc"] == pytest.approx(reference.gauc(*columns))
  assert saved["logloss"] == pytest.approx(reference.logloss(*columns[:2]))
  assert saved["calibration"] == pytest.approx(reference.calibration(*columns[:2]))
  assert saved["candidates"] == len(predictions)
  assert saved["users"] == predictions["user"].n_unique()
  assert saved["seed"] == SEED
  assert saved["model"]["version"] == "10"
  assert saved["confidence"]["replicates"] == 30
  low, high = saved["confidence"]["auc"]
  assert low < saved["auc"] < high
  assert saved["auc"] == found["auc"]


def test_slices_hold_every_candidate_once(found, predictions):
  assert set(found["slices"]) == {"history_target", "history_source", "item_count"}
  for buckets in found["slices"].values():
    assert sum(bucket["candidates"] for bucket in buckets) == len(predictions)
  none = predictions.filter(pl.col("history_target") == 0)
  bucket = found["slices"]["history_target"][0]
  assert (bucket["bucket"], bucket["candidates"]) == ("0", len(none))
  assert bucket["logloss"] == pytest.approx(metrics.logloss(none["probability"].to_numpy(), none["label"].to_numpy()))


class _Page(html.parser.HTMLParser):
  def __init__(self, text: str):
    super().__init__()
    self.tags: list[tuple[str, dict[str, str | None]]] = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))


def test_report_needs_nothing_but_itself(folder, found):
  text = (folder / "run" / "report" / "index.html").read_text()
  page = _Page(text)
  images = [attributes for tag, attributes in page.tags if tag == "img"]
  assert len(images) == 2 + 5 + 3
  assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
  assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
  assert "http" not in text.replace("data:image", "")


def test_report_shows_metrics_training_and_config(folder, found):
  text = (folder / "run" / "report" / "index.html").read_text()
  for name in ("auc", "gauc", "logloss"):
    assert f">{found[name]:.4f}<" in text
  assert "val_auc ends at 0.6100" in text
  assert "name: &lt;tiny&gt; &amp; &quot;quoted&quot;" in text


def test_no_half_written_files_are_left(folder, found):
  assert found["candidates"] > 0
  assert not [path for path in (folder / "run").rglob(".*") if path.is_file()]


def test_evaluating_again_gives_the_same(folder, record_set, found, tmp_path):
  again = evaluate(folder / "run" / "export" / "10", record_set, "test", tmp_path, requests=64, bootstrap=30)
  for name in ("auc", "gauc", "logloss", "confidence", "slices"):
    assert json.dumps(again[name]) == json.dumps(found[name])


@pytest.mark.job
def test_metrics_are_never_of_other_predictions(folder, record_set, tmp_path, monkeypatch):
  def killed(*arguments, **options):
    raise KeyboardInterrupt

  model = folder / "run" / "export"
  evaluate(model / "9", record_set, "test", tmp_path, bootstrap=0)
  names = ("predictions.parquet", "report/index.html", "metrics.json")
  before = {name: (tmp_path / name).read_bytes() for name in names}
  # wherever it is killed before all of the new results are whole, the older ones stay
  for where, function in (
    (pl.DataFrame, "write_parquet"),
    (metrics, "measure"),
    (report, "render"),
    (formats, "to_json"),
    (pl.LazyFrame, "sink_parquet"),
  ):
    with monkeypatch.context() as patch:
      patch.setattr(where, function, killed)
      with pytest.raises(KeyboardInterrupt):
        evaluate(model / "10", record_set, "test", tmp_path, bootstrap=0)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
  # and while they are put in place, metrics are never of other predictions
  replace = pathlib.Path.replace
  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "replace", lambda path, to: killed() if to.suffix == ".html" else replace(path, to))
    with pytest.raises(KeyboardInterrupt):
      evaluate(model / "10", record_set, "test", tmp_path, bootstrap=0)
  assert not (tmp_path / "metrics.json").exists()
  assert (tmp_path / "predictions.parquet").read_bytes() != before["predictions.parquet"]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.parquet", "report", "scored"]


def test_a_constant_model_is_worth_one_half_and_its_json_is_valid(folder, record_set, tmp_path):
  found = evaluate(folder / "run" / "export" / "9", record_set, "test", tmp_path, bootstrap=0)
  assert found["auc"] == found["gauc"] == 0.5
  saved = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
  assert saved["confidence"]["auc"] == [None, None]


def test_the_newest_version_counts_as_a_number(folder):
  assert scoring.version_folder(folder / "run" / "export").name == "10"
  assert scoring.version_folder(folder / "run" / "export" / "9").name == "9"


def test_a_missing_model_is_named(folder, record_set, tmp_path):
  with pytest.raises(UserError, match=r"no such model folder\. Did you mean '.*export'"):
    evaluate(folder / "run" / "exprt", record_set, "test", tmp_path)
  with pytest.raises(UserError, match=r"no SavedModel here .* Did you mean .*export"):
    evaluate(folder / "run", record_set, "test", tmp_path)
  assert not any(tmp_path.iterdir())


def test_a_broken_model_is_named(folder, record_set, tmp_path):
  (tmp_path / "model").mkdir()
  (tmp_path / "model" / "saved_model.pb").write_bytes(b"no protobuf")
  with pytest.raises(UserError, match=r"not a complete export: .*lcn_tf\.json is missing"):
    evaluate(tmp_path / "model", record_set, "test", tmp_path / "out")
  (tmp_path / "model" / "assets.extra").mkdir()
  (tmp_path / "model" / "assets.extra" / "lcn_tf.json").write_text(json.dumps({"fingerprint": record_set.fingerprint}))
  with pytest.raises(UserError, match="model: this model cannot be read"):
    evaluate(tmp_path / "model", record_set, "test", tmp_path / "out")


def test_an_unknown_split_is_named(folder, record_set, tmp_path):
  with pytest.raises(UserError, match=r"unknown split 'tset'\. Did you mean 'test'"):
    evaluate(folder / "run" / "export", record_set, "tset", tmp_path)


def test_another_schema_is_refused(record_set, tmp_path):
  model = write_export(tmp_path / "1", record_set, fingerprint="0123")
  with pytest.raises(UserError, match="'0123'.*" + record_set.fingerprint + ".*build these again with .*--like those"):
    evaluate(model, record_set, "test", tmp_path / "out")
  assert not (tmp_path / "out" / "predictions.parquet").exists()


def test_nan_scores_are_named(record_set, tmp_path):
  model = write_export(tmp_path / "1", record_set, scores=np.full(30, np.nan, np.float32))
  with pytest.raises(UserError, match="scores are no probabilities; the first: nan for user 1, item"):
    evaluate(model, record_set, "test", tmp_path / "out")


def test_another_signature_is_refused(record_set, tmp_path):
  with pytest.raises(UserError, match="no signature 'rank'; it has: score"):
    scoring.load(write_export(tmp_path / "1", record_set, signature="score"))
  with pytest.raises(UserError, match="returns no 'probability', but logit"):
    scoring.load(write_export(tmp_path / "2", record_set, output="logit"))
  ranker = scoring.load(write_export(tmp_path / "3", record_set, inputs=("candidate_items", "label_length")))
  with pytest.raises(
    UserError, match=r"asks for label_length, which records do not hold\. They hold: candidate_context"
  ):
    next(scoring.score(ranker, record_set, "test"))


def test_a_broken_record_is_named(folder, record_set, tmp_path):
  shutil.copytree(folder / "records", tmp_path / "records")
  shard = tmp_path / "records" / record_set.part("test").shards[1].file
  shard.write_bytes(shard.read_bytes()[:-40])
  with pytest.raises(UserError, match=f"{shard.name}: record"):
    evaluate(folder / "run" / "export", RecordSet.open(tmp_path / "records"), "test", tmp_path / "out")
  assert not (tmp_path / "out" / "predictions.parquet").exists()


@pytest.mark.job
def test_a_broken_record_is_left_out_if_so_wanted(folder, record_set, tmp_path):
  shutil.copytree(folder / "records", tmp_path / "records")
  shard = tmp_path / "records" / record_set.part("test").shards[1].file
  shard.write_bytes(shard.read_bytes()[:-40])
  command = ["evaluate", f"--model={folder / 'run' / 'export'}", f"--records={tmp_path / 'records'}", "--bootstrap=0"]
  evaluate_command.main([*command, f"--output={tmp_path / 'out'}", "--on_corrupt=skip"])
  found = json.loads((tmp_path / "out" / "metrics.json").read_text())
  whole = record_set.part("test").shards[0].candidates
  every = record_set.part("test").candidates
  assert whole < found["candidates"] < every
  assert found["records"]["left_out"] == every - found["candidates"]
  page = (tmp_path / "out" / "report" / "index.html").read_text()
  assert f"{every - found['candidates']} candidates of broken records left out" in page
  assert len(pl.read_parquet(tmp_path / "out" / "predictions.parquet")) == found["candidates"]


def test_predictions_name_users_and_items_as_the_log_does(record_set, predictions):
  assert predictions.columns == [*COLUMNS, "user_id", "item_id"]
  assert predictions["user_id"].to_list() == [f"user-{user}" for user in predictions["user"]]
  assert predictions["item_id"].to_list() == [f"target-{row}" if row > 1 else None for row in predictions["item"]]
  assert predictions["item_id"].null_count() > 0, "the unknown item is a candidate"
  assert predictions["user"].dtype == pl.Int64
  assert predictions["item"].dtype == pl.Int32


@pytest.mark.parametrize(("missing", "left"), [("users.parquet", {"item_id"}), ("items/target.parquet", {"user_id"})])
def test_ids_that_the_records_do_not_hold_are_left_out(folder, found, tmp_path, missing, left):
  shutil.copytree(folder / "records", tmp_path / "records")
  (tmp_path / "records" / missing).unlink()
  again = evaluate(folder / "run" / "export", RecordSet.open(tmp_path / "records"), "test", tmp_path, bootstrap=0)
  assert again["auc"] == found["auc"]
  assert set(pl.read_parquet(tmp_path / "predictions.parquet").columns) == {*COLUMNS, *left}


def test_broken_ids_are_told_before_anything_is_scored(folder, tmp_path):
  shutil.copytree(folder / "records", tmp_path / "records")
  (tmp_path / "records" / "users.parquet").write_text("no Parquet")
  with pytest.raises(UserError, match=r"users\.parquet: damaged: its checksum is not the one"):
    evaluate(folder / "run" / "export", RecordSet.open(tmp_path / "records"), "test", tmp_path / "out")
  assert not list((tmp_path / "out").iterdir())


def test_a_bucket_is_no_model(record_set, tmp_path):
  with pytest.raises(UserError, match=r"^gs://bucket/export: only local or mounted paths are read and written"):
    evaluate("gs://bucket/export", record_set, "test", tmp_path)


@pytest.mark.job
def test_command_leaves_the_contract(folder, tmp_path):
  command = [sys.executable, "-m", "pipelines.evaluate", "--model", str(folder / "run" / "export")]
  command += ["--records", str(folder / "records"), "--split", "validation", "--output", str(tmp_path / "out")]
  done = subprocess.run([*command, "--bootstrap", "5"], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "predictions.parquet", "report"}
  assert json.loads((tmp_path / "out" / "metrics.json").read_text())["split"] == "validation"


def test_command_says_what_is_wrong_in_one_line(tmp_path):
  records, out = tmp_path / "a" / "records", tmp_path / "out"
  command = [
    sys.executable,
    "-m",
    "pipelines.evaluate",
    "--model",
    "m",
    "--records",
    str(records),
    "--output",
    str(out),
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr.strip() == f"error: {records}: no record set here (dataset.json is missing)."
  assert not out.exists()
