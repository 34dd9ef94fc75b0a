"""What a job writes about its costs: an unbroken one, a killed one, one whose test comes later."""

import json
import os

import pytest
from tensorflow import keras

from lcn_tf import config
from lcn_tf.training import cost
from lcn_tf.training.job import run_job
from lcn_tf.training.trainer import train
from pipelines import train as command
from tests.support.callbacks import Stop
from tests.support.experiments import tiny_experiment


def read(run):
  return cost.read(run / "training.json")


class Clock(keras.callbacks.Callback):
  """Lets every step take ten seconds, and what comes after the last one of an epoch a hundred."""

  def __init__(self):
    super().__init__()
    self.now = 1_000.0

  def monotonic(self):
    return self.now

  def on_train_batch_begin(self, batch, logs=None):
    self.now += 10

  def on_epoch_end(self, epoch, logs=None):
    self.now += 100


@pytest.mark.job
def test_a_killed_job_counts_what_it_kept(tiny_set, tmp_path, monkeypatch):
  experiment, clock = tiny_experiment(checkpoint_every=1), Clock()
  monkeypatch.setattr(cost, "time", clock)
  with pytest.raises(KeyboardInterrupt):
    train(experiment, tiny_set, tmp_path, (clock, Stop(3)))
  before = read(tmp_path)
  assert (before["steps"], before["epochs"], before["starts"], before["finished"]) == (3, 0, 1, False)
  clock.now += 1e6  # between the two calls
  job = train(experiment, tiny_set, tmp_path, (clock,))
  after = read(tmp_path)
  assert job.cost == after
  assert (after["steps"], after["epochs"], after["starts"], after["finished"]) == (8, 2, 2, True)
  assert (before["seconds"], after["seconds"]) == (30, 80 + 2 * 100)
  assert after["cores"] == len(os.sched_getaffinity(0))
  assert after["peak_memory_bytes"] >= before["peak_memory_bytes"] > 50 * 2**20
  assert after["parameters"] == {
    "tables": sum(v.shape.num_elements() for v in job.model.table_variables()),
    "dense": sum(v.shape.num_elements() for v in job.model.dense_variables()),
  }
  # of steps alone, 4 of which see all candidates
  assert after["candidates_per_second"] == pytest.approx(tiny_set.part("train").candidates / 40)


@pytest.mark.job
def test_without_evaluation_the_test_split_is_untouched_and_a_later_call_goes_on_from_there(tiny_set, tmp_path):
  experiment = tiny_experiment(epochs=1, steps_per_epoch=1)
  file, run = tmp_path / "experiment.yaml", tmp_path / "run"
  file.write_text(config.dump(experiment))
  # left by a job whose checkpoints were removed: forgotten
  run.mkdir()
  (run / "training.json").write_text(json.dumps({"seconds": 1e6, "starts": 5, "peak_memory_bytes": 2**60}))
  flags = [f"--config={file}", f"--records={tiny_set.path}", f"--run_dir={run}"]
  command.main(["train", *flags, "--noevaluate"])
  costs = read(run)
  assert (costs["finished"], costs["starts"], costs["steps"]) == (True, 1, 1)
  assert costs["seconds"] < 1e6
  assert costs["peak_memory_bytes"] < 2**60
  assert not [path for path in run.iterdir() if path.name in ("metrics.json", "predictions.parquet", "export")]
  found = run_job(experiment, tiny_set, run, bootstrap=0)
  (version,) = (run / "export").iterdir()
  assert found["training"] == costs == json.loads((run / "metrics.json").read_text())["training"]
  run_job(experiment, tiny_set, run, bootstrap=0)
  assert list((run / "export").iterdir()) == [version], "the same weights are not published again"
