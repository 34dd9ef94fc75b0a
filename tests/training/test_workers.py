"""Jobs of several processes, as several machines run them."""

import json
import socket
import threading
import time

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf.errors import UserError
from lcn_tf.training import cluster as clusters
from lcn_tf.training.checkpoint_store import Store
from lcn_tf.training.cluster import tasks
from lcn_tf.training.strategy import make_strategy
from lcn_tf.training.trainer import train
from tests.support.experiments import small_experiment, tiny_experiment
from tests.support.record_sets import small_schema, write_record_set
from tests.support.workers import Job


def weights(run):
  last = Store(run, "last")
  reader = tf.train.load_checkpoint(last.path(last.newest()))
  names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
  # the sums behind mean losses, which each replica has: history.csv has the means
  names = [name for name in names if "/.OPT" not in name and "/trackers/" not in name]
  return {name: reader.get_tensor(name) for name in names}


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    if np.issubdtype(np.asarray(value).dtype, np.floating):
      np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.config
def test_two_workers_train_what_two_replicas_of_one_process_do(tmp_path):
  """A step reads all of the records, so both read the same whatever order each has; CRP has nothing to draw."""
  sizes = {"train": 32, "validation": 16, "test": 16}
  lengths = {"target": 1, "source": 1}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes, lengths=lengths, unique_users=True)
  alike = {"global_batch_size": 128, "epochs": 4, "learning_rate": 0.01}
  here = train(small_experiment(crp=True, replicas=2, **alike), record_set, tmp_path / "here")
  assert here.steps == 4
  job = Job(tmp_path / "job", small_experiment(crp=True, strategy="multi_worker", **alike), record_set.path)
  assert job.wait() == [0, 0], job.logs()
  one, other = (pl.read_csv(run / "history.csv") for run in (tmp_path / "here", job.run))
  assert "crp_loss" in one.columns
  assert one.columns == other.columns
  np.testing.assert_allclose(other.to_numpy(), one.to_numpy(), rtol=1e-4)
  assert_same(weights(job.run), weights(tmp_path / "here"))
  left = {path.name for path in job.run.iterdir()}
  assert {"export", "metrics.json", "report", "predictions.parquet", "training.json"} <= left


@pytest.mark.config
def test_a_cluster_of_one_trains_what_one_process_does(record_set, tmp_path):
  experiment = small_experiment("average_pooling", epochs=1)
  here = train(experiment, record_set, tmp_path / "here")
  multi = small_experiment("average_pooling", epochs=1, strategy="multi_worker")
  job = Job(tmp_path / "job", multi, record_set.path, "--noevaluate", count=1)
  assert job.wait() == [0], job.logs()
  assert here.steps > 1
  assert_same(weights(job.run), weights(tmp_path / "here"))


@pytest.mark.config
def test_a_preempted_worker_takes_the_others_with_it_and_the_job_goes_on_from_there(record_set, tmp_path):
  """Batches of different widths at the same step, too."""
  experiment = small_experiment(crp=True, strategy="multi_worker", epochs=1000, early_stopping=0)
  job = Job(tmp_path / "broken", experiment, record_set.path, "--noevaluate")
  job.wait_for("checkpoints/last/checkpoint")
  job.preempt(1)
  assert job.wait() == [143, 143], job.logs()
  done = json.loads((job.run / "training.json").read_text())
  more = ["--noevaluate", "--set", f"train.epochs={done['epochs'] + 2}"]
  resumed = Job(tmp_path / "broken", experiment, record_set.path, *more)
  assert resumed.wait() == [0, 0], resumed.logs()
  assert json.loads((resumed.run / "training.json").read_text())["starts"] == 2
  unbroken = Job(tmp_path / "unbroken", experiment, record_set.path, *more)
  assert unbroken.wait() == [0, 0], unbroken.logs()
  assert_same(weights(resumed.run), weights(unbroken.run))


@pytest.mark.config(minutes=1)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_killed_job_goes_on_exactly_with_another_number_of_workers(before, after, tiny_set, tmp_path):
  """Within its epoch: records come in the same batches, in the same rows, and so do CRP's draws."""
  options = {"global_batch_size": 16, "epochs": 1, "strategy": "multi_worker"}
  experiment = tiny_experiment(crp=True, **options)
  unbroken = Job(tmp_path / "unbroken", experiment, tiny_set.path, "--noevaluate", count=before)
  assert unbroken.wait() == [0] * before, unbroken.logs()
  job = Job(
    tmp_path / "broken", experiment, tiny_set.path, "--noevaluate", "--set", "train.checkpoint_every=3", count=before
  )
  job.wait_for("checkpoints/last/checkpoint")
  for index in range(before):
    job.kill(index)
  assert job.wait() == [-9] * before
  resumed = Job(tmp_path / "broken", experiment, tiny_set.path, "--noevaluate", count=after)
  assert resumed.wait() == [0] * after, resumed.logs()
  assert "resumed from step" in resumed.logs()
  assert_same(weights(resumed.run), weights(unbroken.run))
  one, other = (pl.read_csv(run / "history.csv").to_numpy() for run in (unbroken.run, resumed.run))
  np.testing.assert_allclose(other, one, rtol=1e-4)


@pytest.mark.config
def test_a_job_that_loses_a_worker_ends_and_says_so(record_set, tmp_path):
  experiment = small_experiment(strategy="multi_worker", epochs=1000, early_stopping=0)
  job = Job(tmp_path, experiment, record_set.path, "--noevaluate")
  job.wait_for("checkpoints/last/checkpoint")
  job.kill(1)
  assert job.wait() == [75, -9], job.logs()
  assert "worker 0 of 2 has lost another one" in job.logs()


@pytest.mark.config
def test_a_worker_that_waits_for_another_one_ends_at_sigterm(tiny_set, tmp_path):
  """TensorFlow would take the signal for itself while it waits; a process that loads TensorFlow has no handlers yet."""
  job = Job(tmp_path, tiny_experiment(strategy="multi_worker"), tiny_set.path, "--noevaluate")
  job.kill(0)
  time.sleep(10)
  job.preempt(1)
  assert job.wait() in ([-9, -15], [-9, 143]), job.logs()


@pytest.mark.parametrize(
  ("cluster", "strategy", "message"),
  [
    ({"worker": ["a:1", "b:1"]}, "mirrored", r"TF_CONFIG names 2 tasks, but a mirrored job runs on one machine"),
    ({}, "multi_worker", r"train\.strategy is multi_worker, but TF_CONFIG names no workers"),
    (
      {"worker": ["a:1"], "ps": ["b:1"]},
      "multi_worker",
      r"TF_CONFIG names servers \(ps\), which a job of train\.strategy",
    ),
    ({"worker": ["a:1"], "evaluator": ["b:1"]}, "multi_worker", r"names tasks that no job here has: evaluator"),
    ({"worker": ["a:1"]}, "parameter_server", r"TF_CONFIG names 0 chief, 1 worker and 0 ps\. Expected one chief"),
    ([], "multi_worker", r"TF_CONFIG is no description of a cluster"),
  ],
)
def test_a_cluster_that_does_not_fit_is_refused(cluster, strategy, message, monkeypatch):
  monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
  with pytest.raises(UserError, match=message):
    make_strategy(small_experiment(strategy=strategy).train)


def test_replicas_of_a_worker_are_its_gpus(monkeypatch):
  cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
  monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
  with pytest.raises(UserError, match=r"train\.replicas is 2, but a worker has as many as it sees GPUs, here 1"):
    make_strategy(small_experiment(strategy="multi_worker", replicas=2).train)
  with pytest.raises(UserError, match=r"train\.jit_compile: XLA runs on one CPU device"):
    make_strategy(small_experiment(strategy="multi_worker", jit_compile=True).train)


def test_a_worker_waits_until_the_first_one_listens():
  with socket.create_server(("localhost", 0)) as server:
    address = f"localhost:{server.getsockname()[1]}"
  begins, waited = threading.Event(), threading.Event()

  def listen():
    time.sleep(0.5)
    begins.set()
    with socket.create_server(("localhost", int(address.rpartition(":")[2]))):
      waited.wait()

  thread = threading.Thread(target=listen)
  thread.start()
  clusters.wait_for(address, "the first worker")
  assert begins.is_set()
  waited.set()
  thread.join()
  clusters.wait_for("no address", "nobody")
  clusters.wait_for("a:65536", "nobody")


def test_the_chief_comes_before_the_workers(monkeypatch):
  cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
  monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}}))
  assert tasks() == (["a:1", "b:1", "c:1"], 2)
  monkeypatch.delenv("TF_CONFIG")
  assert tasks() == ([], 0)
