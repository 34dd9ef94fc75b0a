"""The command, in processes of its own: absl's flags are global."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import yaml

from lcn_tf.data.record_set import SPLITS, RecordSet
from tests.data import logs

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
  logs.random_log(np.random.default_rng(0), 400).write_parquet(tmp_path / "interactions.parquet")
  logs.items(12).write_parquet(tmp_path / "items.parquet")
  tree = {"name": "test", "schema": {"target": {"item_fields": ["category"]}}, "records": {"shards": 2}}
  (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
  return tmp_path


def command(folder, *flags):
  return [
    *(sys.executable, "-m", "pipelines.build_records"),
    *("--config", str(folder / "config.yaml"), "--output", str(folder / "out"), *flags),
  ]


def files(folder):
  return ["--interactions", str(folder / "interactions.parquet"), "--items", str(folder / "items.parquet")]


@pytest.mark.job
def test_the_command_builds_a_record_set_with_overrides_and_says_what_is_in_it(folder):
  flags = ["--set", "records.labels.kind=sampled", "--set", "records.labels.negatives=2", "--strict"]
  done = subprocess.run(command(folder, *files(folder), *flags), cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  records = RecordSet.open(folder / "out")
  assert records.name == "test"
  for split in SPLITS:
    part = records.part(split)
    assert part.positives * 2 < part.candidates <= part.positives * 3
    assert f"{part.records} records, {part.candidates} candidates, {part.positives} positives" in done.stderr
  assert "records/s" not in done.stderr  # no progress bar in a log file
  assert {"statistics.json", "report/index.html"} <= set(records.tables)
  assert records.verify_tables() == []
  assert f"{records.part('train').candidates:,}" in (folder / "out" / "report" / "index.html").read_text()
  assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "interactions.parquet", "items.parquet", "out"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "error: records.interactions is 'files', so --interactions and --items (and --users) must say which"),
    (["--interactions", "nowhere.parquet", "--items", "nowhere.parquet"], "error: nowhere.parquet: no such file."),
  ],
)
def test_wrong_input_is_one_message_without_a_traceback_and_leaves_nothing(folder, flags, message):
  done = subprocess.run(command(folder, *flags), cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert message in done.stderr
  assert "Traceback" not in done.stderr
  assert not [path for path in folder.iterdir() if "out" in path.name]


@pytest.mark.job
def test_a_part_that_brings_no_items_extends_records(folder):
  log = pl.read_parquet(folder / "interactions.parquet")
  for name, part in (("interactions", log["timestamp"] < 900), ("today", log["timestamp"] >= 900)):
    log.filter(part).write_parquet(folder / f"{name}.parquet")
  assert subprocess.run(command(folder, *files(folder)), cwd=ROOT, check=False).returncode == 0
  today = ["--interactions", str(folder / "today.parquet"), "--set", "records.split={kind: all_train}"]
  flags = [*today, "--extend", str(folder / "out"), "--output", str(folder / "day")]
  done = subprocess.run(command(folder, *flags), cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  day = RecordSet.open(folder / "day")
  assert list(day.splits) == ["train"]
  assert day.part("train").candidates == len(log.filter((pl.col("timestamp") >= 900) & (pl.col("domain") == "target")))
  assert day.verify_tables() == []
  assert "state/behaviours.source.parquet" in day.tables
  done = subprocess.run(command(folder, *flags, "--like", "x"), cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, "--like and --extend exclude each other" in done.stderr) == (1, True)


@pytest.mark.job
def test_a_terminated_build_leaves_nothing(folder):
  rng = np.random.default_rng(0)
  logs.random_log(rng, 60_000, users=300, span=10**6).write_parquet(folder / "interactions.parquet")
  flags = ["--set", "schema.candidates=1"]
  process = subprocess.Popen(
    command(folder, *files(folder), *flags), cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ
  )
  deadline = time.monotonic() + 600
  while not list(folder.glob(".out.*.aside/train/target/*")) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=600) == 143
  assert not [path for path in folder.iterdir() if "out" in path.name]
