"""Training jobs that the shipped launcher starts, watches and starts again."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from lcn_tf import config
from lcn_tf.training.checkpoint_store import Store
from tests.shipped.workspace import environment
from tests.support import children
from tests.support.experiments import tiny_experiment
from tests.support.record_sets import tiny_schema, write_record_set


def workers_of(launcher):
  """The process ids of the workers, by their index."""
  found = {}
  for pid in pathlib.Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
    there = dict(line.split("=", 1) for line in pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0") if line)
    found[json.loads(there["TF_CONFIG"])["task"]["index"]] = int(pid)
  return found


@pytest.mark.config(minutes=1)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_job_that_loses_a_worker_is_started_again_and_finishes(lost, tmp_path):
  write_record_set(tmp_path / "records", tiny_schema())
  options = {"strategy": "multi_worker", "epochs": 4, "early_stopping": 0, "checkpoint_every": 1}
  (tmp_path / "experiment.yaml").write_text(config.dump(tiny_experiment(**options)))
  run = tmp_path / "run"
  train = ["--config", tmp_path / "experiment.yaml", "--records", tmp_path / "records", "--run_dir", run]
  with (tmp_path / "said.txt").open("w") as said:
    process = subprocess.Popen(
      [sys.executable, "-m", "tools.launch_local", "--workers", "2", "--restarts", "1", "--logs", tmp_path / "logs"]
      + ["--", "python", "-m", "pipelines.train", *train, "--noevaluate"],
      env=environment(),
      stdout=said,
      stderr=subprocess.STDOUT,
    )
  try:
    assert children.eventually(lambda: Store(run, "last").numbers() or process.poll() is not None)
    before = workers_of(process.pid)
    os.kill(before[lost], signal.SIGKILL)
    assert process.wait(children.SECONDS) == 0, (tmp_path / "said.txt").read_text()[-6000:]
  finally:
    process.kill()
  lines = (tmp_path / "said.txt").read_text()
  assert f"worker {lost} of 2: ended by signal 9" in lines
  assert "all 2 workers are started again, for time 1 of 1" in lines
  assert f"[worker {lost}] " in lines
  assert "Traceback" not in lines
  assert "resumed from step" in (tmp_path / "logs" / f"worker_{lost}.log").read_text()
  assert json.loads((run / "training.json").read_text())["finished"]
  assert not any(map(children.alive, before.values()))
