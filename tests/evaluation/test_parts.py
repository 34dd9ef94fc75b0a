"""Scoring in parts: resumed, by several processes, never with what is stale."""

import json
import shutil
import signal

import numpy as np
import polars as pl
import pytest

from lcn_tf import files
from lcn_tf.data.read import dataset
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import evaluate, parts, scoring
from pipelines import evaluate as evaluate_command
from tests.evaluation.exports import item_scores, write_export
from tests.support.children import alive, eventually, kill, start
from tests.support.record_sets import small_schema, write_record_set

SHARDS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("parts")
  record_set = write_record_set(path / "records", small_schema(), records={"train": 8, "test": 40}, shards=SHARDS)
  write_export(path / "export" / "1", record_set)
  return path


@pytest.fixture(scope="module")
def record_set(folder):
  return RecordSet.open(folder / "records")


@pytest.fixture(scope="module")
def whole(folder, record_set, tmp_path_factory):
  """The predictions of an evaluation that nothing has interrupted."""
  output = tmp_path_factory.mktemp("whole")
  evaluate(folder / "export", record_set, "test", output, bootstrap=0)
  return pl.read_parquet(output / "predictions.parquet")


def _scored(monkeypatch, stop=SHARDS):
  """The shards that are scored from now on; the one that comes after `stop` of them is a Ctrl-C."""
  seen = []

  def score(ranker, alone, split, **options):
    if len(seen) == stop:
      raise KeyboardInterrupt
    seen.append(alone.part(split).shards[0].file)
    return real(ranker, alone, split, **options)

  real = scoring.score
  monkeypatch.setattr(scoring, "score", score)
  return seen


def _interrupted(folder, record_set, output, monkeypatch, after=2):
  with monkeypatch.context() as patch:
    seen = _scored(patch, stop=after)
    with pytest.raises(KeyboardInterrupt):
      evaluate(folder / "export", record_set, "test", output, bootstrap=0)
  assert len(seen) == after
  assert len(list((output / "scored").glob("*.json"))) == after


@pytest.mark.job
def test_an_interrupted_evaluation_goes_on(folder, record_set, whole, tmp_path, monkeypatch):
  _interrupted(folder, record_set, tmp_path, monkeypatch)
  seen = _scored(monkeypatch)
  evaluate(folder / "export", record_set, "test", tmp_path, bootstrap=0)
  assert len(seen) == SHARDS - 2
  assert pl.read_parquet(tmp_path / "predictions.parquet").equals(whole)
  assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "predictions.parquet", "report"}


def test_rows_are_written_piece_by_piece_in_their_order(folder, record_set, whole, tmp_path, monkeypatch):
  monkeypatch.setattr(parts, "ROWS", 3)
  monkeypatch.setattr(dataset, "_GROUPED_BEHAVIOURS", 1)
  task = parts.Task(folder / "export" / "1", record_set, "test", tmp_path, requests=2)
  pieces = parts.score(task)
  assert len(pieces) > 2 * SHARDS
  assert pl.concat([pl.read_parquet(piece) for piece in pieces]).equals(whole)


@pytest.mark.job
@pytest.mark.parametrize("stale", ["model", "records", "columns", "bytes", "description"])
def test_what_is_stale_is_scored_again(folder, record_set, tmp_path, monkeypatch, stale):
  _interrupted(folder, record_set, tmp_path / "out", monkeypatch)
  model, records, slices = folder / "export", folder / "records", []
  again = SHARDS
  if stale == "model":
    model = write_export(tmp_path / "1", record_set, scores=item_scores(record_set) / 2)
  elif stale == "records":
    shutil.copytree(records, tmp_path / "records")
    records = tmp_path / "records"
    record_set.model_copy(update={"name": "another", "path": records}).save(records)
  elif stale == "columns":
    slices = ["--slices=user.hobbies"]
  else:
    part = next((tmp_path / "out" / "scored").glob("*.parquet" if stale == "bytes" else "*.json"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    again = SHARDS - 1
  seen = _scored(monkeypatch)
  command = ["evaluate", f"--model={model}", f"--records={records}", f"--output={tmp_path / 'out'}", "--bootstrap=0"]
  evaluate_command.main([*command, *slices])
  assert len(seen) == again
  found = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
  expected = item_scores(record_set)[found["item"].to_numpy()] / (2 if stale == "model" else 1)
  np.testing.assert_array_equal(found["probability"].to_numpy(), expected)


@pytest.mark.job
def test_several_processes_leave_the_same(folder, record_set, whole, tmp_path):
  evaluate(folder / "export", record_set, "test", tmp_path, bootstrap=0, workers=2)
  assert pl.read_parquet(tmp_path / "predictions.parquet").equals(whole)


@pytest.mark.job
def test_the_error_of_a_process_is_the_error_of_the_command(folder, record_set, tmp_path):
  model = write_export(tmp_path / "1", record_set, scores=np.full(30, np.nan, np.float32))
  with pytest.raises(UserError, match="scores are no probabilities; the first: nan for user"):
    evaluate(model, record_set, "test", tmp_path / "out", workers=2)
  assert not (tmp_path / "out" / "scored").exists()


@pytest.mark.job
def test_processes_end_with_the_one_that_started_them(folder, tmp_path):
  code = """
    import operator, pathlib, sys
    from lcn_tf.data.record_set import RecordSet
    from lcn_tf.evaluation import parts
    model, records, output = map(pathlib.Path, sys.argv[1:])
    task = parts.Task(model, RecordSet.open(records), "test", output)
    # the process calls exec with the program
    parts._work = operator.call
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(10**6)"
    parts._in_processes(task, {exec: program}, 1)
  """
  process = start(code, folder / "export" / "1", folder / "records", tmp_path)
  child = int(process.stdout.readline())
  assert alive(child)
  kill(process)
  assert eventually(lambda: not alive(child))


@pytest.mark.job
def test_a_killed_process_is_said(folder, record_set, tmp_path, monkeypatch):
  monkeypatch.setattr(parts, "_work", _killed)
  with pytest.raises(UserError, match=r"a scoring process was ended from outside.*the same command goes on"):
    evaluate(folder / "export", record_set, "test", tmp_path, workers=2)


def _killed(index, key):
  signal.raise_signal(signal.SIGKILL)


def test_two_evaluations_do_not_meet(folder, record_set, tmp_path):
  with (
    files.exclusive(tmp_path / "scored", "somebody"),
    pytest.raises(UserError, match="scored: another evaluation is at work here"),
  ):
    evaluate(folder / "export", record_set, "test", tmp_path, bootstrap=0)


@pytest.mark.job
def test_scoring_alone_leaves_predictions_alone(folder, whole, tmp_path):
  command = ["evaluate", f"--model={folder / 'export'}", f"--records={folder / 'records'}", f"--output={tmp_path}"]
  evaluate_command.main([*command, "--bootstrap=0"])
  assert json.loads((tmp_path / "metrics.json").read_text())["candidates"] == len(whole)
  evaluate_command.main([*command, "--score_only"])
  assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]
  assert pl.read_parquet(tmp_path / "predictions.parquet").equals(whole)


@pytest.mark.job
def test_a_shard_of_which_nothing_is_left_is_left_out(folder, record_set, whole, tmp_path):
  shutil.copytree(folder / "records", tmp_path / "records")
  shards = record_set.part("test").shards
  (tmp_path / "records" / shards[1].file).write_bytes(b"no records")
  evaluate(
    folder / "export", RecordSet.open(tmp_path / "records"), "test", tmp_path / "out", bootstrap=0, on_corrupt="skip"
  )
  found = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
  before = shards[0].candidates
  assert found.equals(pl.concat([whole[:before], whole[before + shards[1].candidates :]]))
