"""Cells as processes of their own: one real grid, and how processes end badly."""

import concurrent.futures
import json
import os
import threading
import time

import numpy as np
import polars as pl
import pytest
import yaml

from lcn_tf import config, machine
from lcn_tf.comparison.cells import Cell
from lcn_tf.comparison.processes import Commands, inline
from lcn_tf.errors import SettingsError, StorageError, UserError
from lcn_tf.evaluation import predictions
from lcn_tf.machine import gpus, shares, threads
from lcn_tf.training.run_folder import read_run
from pipelines import compare
from tests.support.experiments import small_experiment, tiny_experiment
from tests.support.record_sets import tiny_schema, write_record_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A record set, two experiments and their comparison."""
  path = tmp_path_factory.mktemp("real")
  write_record_set(path / "records", tiny_schema(), records={"train": 16, "validation": 8, "test": 8})
  experiment = tiny_experiment(global_batch_size=32)
  (path / "experiment.yaml").write_text(config.dump(experiment))
  tree = {
    "name": "real",
    "models": {
      "wide": {"config": "experiment.yaml"},
      "narrow": {"config": "experiment.yaml", "set": {"model.mlp.units": [4]}},
    },
    "seeds": [3],
    "reference": "narrow",
    "common": {"train.epochs": 1},
    "baselines": True,
    "replicates": 20,
    "cell_replicates": 5,
  }
  (path / "compare.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
  return path


def flags(folder, config="compare.yaml", records="records"):
  paths = {"config": folder / config, "records": folder / records, "output": folder / "out"}
  return ["compare", *(f"--{name}={path}" for name, path in paths.items())]


def test_cells_at_the_same_time_share_the_cores(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
  assert threads(1) == {}
  assert threads(3) == {"TF_NUM_INTRAOP_THREADS": "2", "TF_NUM_INTEROP_THREADS": "2"}
  assert threads(20) == {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@pytest.mark.parametrize(
  ("there", "jobs", "expected"),
  [
    ("", 3, [None, None, None]),
    ("0 1 2 3", 1, [None]),
    ("0 1 2 3", 2, ["0,1", "2,3"]),
    ("4 GPU-a 6 7 9", 2, ["4,GPU-a", "6,7"]),  # as many replicas in every cell
    ("2 5", 2, ["2", "5"]),
  ],
)
def test_cells_at_the_same_time_have_gpus_of_their_own(monkeypatch, there, jobs, expected):
  monkeypatch.setattr(machine, "gpus", there.split)
  assert shares(jobs) == [{"CUDA_VISIBLE_DEVICES": devices} if devices else {} for devices in expected]


def test_more_cells_than_gpus_share_them_in_turn_and_leave_each_other_memory(monkeypatch):
  monkeypatch.setattr(machine, "gpus", lambda: ["3", "4"])
  growth = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
  assert shares(5) == [{"CUDA_VISIBLE_DEVICES": device, **growth} for device in "34343"]


@pytest.mark.parametrize(
  ("named", "expected"),
  [("", []), ("-1", []), ("1,3", ["1", "3"]), ("2,-1,0", ["2"]), ("GPU-8932f937,MIG-b", ["GPU-8932f937", "MIG-b"])],
)
def test_gpus_are_those_that_cuda_would_see(monkeypatch, named, expected):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
  assert gpus() == expected


def test_processes_at_the_same_time_never_see_the_same_gpu(monkeypatch, tmp_path):
  monkeypatch.setattr(machine, "gpus", lambda: ["0", "1", "2", "3"])
  commands = Commands(tmp_path, tmp_path, 5, jobs=2)
  (tmp_path / "shown.py").write_text(
    "import os, pathlib, sys, time\n"
    "pathlib.Path(sys.argv[1]).write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    "until = time.monotonic() + 600\n"
    "while not pathlib.Path(sys.argv[2]).exists() and time.monotonic() < until: time.sleep(0.01)\n"
  )
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  for turn in ("first", "second"):
    files = [tmp_path / f"{turn}_{i}" for i in range(2)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # each waits for the other
      sides = zip(files, files[::-1], strict=True)
      for done in [pool.submit(commands._run, ["shown", *map(str, side)], tmp_path / "log.txt") for side in sides]:
        done.result()
    assert {file.read_text() for file in files} == {"0,1", "2,3"}


@pytest.mark.job
def test_a_real_grid_is_trained_tested_and_compared_once(folder, capsys):
  compare.main([*flags(folder), "--dry_run"])
  assert capsys.readouterr().out == "wide, seed 3: to do\nnarrow, seed 3: to do\n"
  compare.main([*flags(folder), "--dry_run", "--only=wide", "--seeds=5,3"])
  assert capsys.readouterr().out == "wide, seed 5: to do\nwide, seed 3: to do\n"
  assert not (folder / "out").exists()

  compare.main([*flags(folder), "--jobs=2"])
  out = folder / "out"
  assert {path.name for path in out.iterdir()} >= {"results.parquet", "table.md", "report", "comparison.yaml"}
  table = pl.read_parquet(out / "results.parquet")
  assert table["model"].to_list()[-2:] == ["wide", "narrow"]
  for row in table.filter(pl.col("seed").is_not_null()).iter_rows(named=True):
    cell = out / row["path"]
    saved = json.loads((cell / "metrics.json").read_text())
    assert (row["auc"], row["seed"], saved["seed"]) == (saved["auc"], 3, 3)
    assert row["seconds"] == saved["training"]["seconds"] > 0
    assert row["peak_memory_bytes"] > 50 * 2**20
    assert row["parameters_dense"] > 0
    assert config.load(str(cell / "experiment.yaml")).train.epochs == 1
    assert {path.name for path in cell.iterdir()} == {
      "metrics.json",
      "predictions.parquet",
      "history.csv",
      "training.json",
      "experiment.yaml",
      "dataset.json",
      "samples.tfrecord",
      "report",
      "log.txt",
      ".lock",
      "checkpoints",
    }
    assert [path.name for path in (cell / "checkpoints").iterdir()] == ["removed.txt"]
    with pytest.raises(UserError, match=r"pipelines\.compare removed the models of this run"):
      read_run(cell).checkpoints()
    assert (cell / "log.txt").read_text().startswith("$ python -m pipelines.train --config ")
  first = predictions.read(out / table["path"][-1] / "predictions.parquet")
  np.testing.assert_array_equal(first["item"], predictions.read(out / "baselines" / "item_mean.parquet")["item"])

  times = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*") if path.is_file()}
  compare.main(flags(folder))
  assert {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*") if path.is_file()} == times
  capsys.readouterr()
  compare.main([*flags(folder), "--dry_run", "--only=narrow"])
  assert capsys.readouterr().out.startswith("narrow, seed 3: done, AUC ")


def cell_in(folder):
  return Cell("Lost", 0, {}, small_experiment("average_pooling"), folder / "cell")


def test_a_process_that_fails_says_how_its_log_ends(tmp_path):
  with pytest.raises(
    UserError, match=r"(?s)exit code 1; .*cell.log\.txt ends with.*lost\.yaml: no such config file"
  ) as raised:
    Commands(tmp_path, tmp_path, 5).train(cell_in(tmp_path), evaluate=True)
  assert type(raised.value) is UserError
  log = (tmp_path / "cell" / "log.txt").read_text()
  assert f"--run_dir {tmp_path / 'cell'} --set train.seed=0 --bootstrap 5" in log


def run(code, folder):
  (folder / "work.py").write_text(code)
  paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", paths)
    Commands(folder, folder, 5)._run(["work"], folder / "log.txt")


def failure(what, folder):
  """How a process ends whose work is `what`."""
  with pytest.raises(UserError) as raised:
    run(f"import os; from lcn_tf import entry, errors, files; entry.run(lambda argv: {what})", folder)
  return raised.value


@pytest.mark.parametrize(
  ("what", "kind"),
  [
    ("open('/dev/full', 'w').write('x' * 100_000)", StorageError),
    ("(_ for _ in ()).throw(errors.StorageError('a lost mount'))", StorageError),
    ("files.make('/dev/null/here')", UserError),
    ("1 / 0", UserError),
    ("os.kill(os.getpid(), 9)", UserError),
  ],
)
def test_a_full_disk_a_lost_mount_a_crash_or_a_kill_is_not_for_good(what, kind, tmp_path):
  assert type(failure(what, tmp_path)) is kind


def test_what_the_settings_lead_to_is_for_good(tmp_path):
  error = failure("(_ for _ in ()).throw(errors.SettingsError('step 7: the loss is nan'))", tmp_path)
  assert type(error) is SettingsError
  assert "exit code 65" in str(error)
  assert "error: step 7: the loss is nan" in str(error)


def test_processes_do_not_hear_what_is_sent_to_the_group_of_their_parent(tmp_path):
  code = f"import os; open({str(tmp_path / 'session')!r}, 'w').write(str(os.getsid(0)))"
  run(code, tmp_path)
  assert int((tmp_path / "session").read_text()) != os.getsid(0)


def test_stopping_ends_what_runs_and_lets_nothing_begin(tmp_path):
  commands = Commands(tmp_path, tmp_path, 5)
  told = []

  def run():
    try:
      commands._run(["timeit", "-n1", "-r1", "import time; time.sleep(3600)"], tmp_path / "log.txt")
    except UserError as error:
      told.append(str(error))

  thread = threading.Thread(target=run)
  thread.start()
  while not commands._running:
    time.sleep(0.01)
  commands.stop()
  thread.join(300)
  assert not thread.is_alive()
  assert told[0].startswith("ended by signal 15")
  with pytest.raises(UserError, match="stopped"):
    commands.train(cell_in(tmp_path), evaluate=False)


@pytest.mark.parametrize("value", [1e-5, 0.001, 3, True, None, "raw", [1, 2], {"a": [0.5]}, "1e-5", "a: b"])
def test_values_survive_the_command_line(value):
  tree: dict = {}
  config.assign(tree, "key", yaml.safe_load(inline(value)), "here")
  assert tree == {"key": value}
  assert "\n" not in inline(value)


def test_wrong_arguments_are_told_before_anything_is_made(folder, tmp_path):
  with pytest.raises(UserError, match=r"compre\.yaml: no such config file\. Did you mean '.*compare\.yaml'"):
    compare.main(flags(folder, config="compre.yaml"))
  with pytest.raises(UserError, match=r"recrds: no record set here.*Did you mean '.*records'"):
    compare.main(flags(folder, records="recrds"))
  with pytest.raises(UserError, match=r"^--output is missing: Folder for the runs"):
    compare.main(flags(folder)[:-1])
  with pytest.raises(UserError, match=r"--only: unknown model 'wid'\. Did you mean 'wide'"):
    compare.main([*flags(folder), "--only=wid"])
  with pytest.raises(UserError, match=r"^--seeds 0,-1: expected whole numbers from 0 on"):
    compare.main([*flags(folder), "--seeds=0,-1"])
