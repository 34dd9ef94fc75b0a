"""What a job writes about its costs: an unbroken one, a killed one, one whose test comes later."""

import json
import os

import pytest

from lcn_tf import config
from lcn_tf.training import cost
from lcn_tf.training.job import run_job
from lcn_tf.training.trainer import train
from pipelines import train as command
from tests.support.callbacks import Stop
from tests.support.experiments import small_experiment


def read(run):
  return cost.read(run / "training.json")


def test_a_killed_job_counts_what_it_kept(record_set, tmp_path):
  experiment = small_experiment("none", checkpoint_every=1)
  with pytest.raises(KeyboardInterrupt):
    train(experiment, record_set, tmp_path, (Stop(3),))
  before = read(tmp_path)
  assert (before["steps"], before["epochs"], before["starts"], before["finished"]) == (3, 0, 1, False)
  job = train(experiment, record_set, tmp_path)
  after = read(tmp_path)
  assert job.cost == after
  assert (after["steps"], after["epochs"], after["starts"], after["finished"]) == (8, 2, 2, True)
  assert before["seconds"] < after["seconds"] < before["seconds"] + job.seconds + 1
  assert after["seconds"] > before["seconds"] + 0.5 * job.seconds
  assert after["cores"] == len(os.sched_getaffinity(0))
  assert after["peak_memory_bytes"] >= before["peak_memory_bytes"] > 50 * 2**20
  assert after["parameters"] == {
    "tables": sum(v.shape.num_elements() for v in job.model.table_variables()),
    "dense": sum(v.shape.num_elements() for v in job.model.dense_variables()),
  }
  # the fastest epoch: 4 steps took less time than the whole
  part = record_set.part("train")
  assert after["candidates_per_second"] > part.candidates / after["seconds"]


def test_without_evaluation_the_test_split_is_untouched_and_a_later_call_goes_on_from_there(record_set, tmp_path):
  experiment = small_experiment("none", epochs=1, steps_per_epoch=1)
  file, run = tmp_path / "experiment.yaml", tmp_path / "run"
  file.write_text(config.dump(experiment))
  # left by a job whose checkpoints were removed: forgotten
  run.mkdir()
  (run / "training.json").write_text(json.dumps({"seconds": 1e6, "starts": 5, "peak_memory_bytes": 2**60}))
  flags = [f"--config={file}", f"--records={record_set.path}", f"--run_dir={run}"]
  command.main(["train", *flags, "--noevaluate"])
  costs = read(run)
  assert (costs["finished"], costs["starts"], costs["steps"]) == (True, 1, 1)
  assert costs["seconds"] < 1e6
  assert costs["peak_memory_bytes"] < 2**60
  assert not [path for path in run.iterdir() if path.name in ("metrics.json", "predictions.parquet", "export")]
  found = run_job(experiment, record_set, run, bootstrap=0)
  (version,) = (run / "export").iterdir()
  assert found["training"] == costs == json.loads((run / "metrics.json").read_text())["training"]
  run_job(experiment, record_set, run, bootstrap=0)
  assert list((run / "export").iterdir()) == [version], "the same weights are not published again"
