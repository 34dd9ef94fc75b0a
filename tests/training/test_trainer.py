"""The trainer on real TFRecords: learning, resuming, what it leaves, what stops it."""

import dataclasses
import functools
import itertools
import json
import logging
import math
import os
import re
import shutil
import signal
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf import config, files
from lcn_tf.data.read import diagnosis
from lcn_tf.data.record_set import RecordSet, check_schema, warn_of_other_settings
from lcn_tf.data.records import encode
from lcn_tf.errors import SettingsError, UserError
from lcn_tf.training import callbacks, job, preemption, trainer
from lcn_tf.training.callbacks import ProgressLog
from lcn_tf.training.export_run import exported
from lcn_tf.training.job import run_job
from lcn_tf.training.run_folder import read_run
from lcn_tf.training.strategy import make_strategy
from lcn_tf.training.streams import StepSize
from lcn_tf.training.trainer import train
from tests.support.callbacks import Copy, Losses, Stop
from tests.support.experiments import small_experiment, tiny_experiment
from tests.support.record_sets import (
  described_again,
  random_request,
  small_schema,
  tiny_schema,
  write_record_set,
  write_shard,
)
from tests.support.runs import weights_of

# of the runs that many tests begin with
EXPERIMENT = tiny_experiment(learning_rate=0.002, early_stopping=0)


@pytest.fixture(scope="module")
def unbroken(tiny_set, tmp_path_factory):
  """A finished job, and its folder."""
  folder = tmp_path_factory.mktemp("unbroken")
  return train(EXPERIMENT, tiny_set, folder), folder


@pytest.fixture
def run(unbroken, tmp_path):
  return shutil.copytree(unbroken[1], tmp_path / "run")


def expect_weights(job, unbroken):
  for one, other in zip(unbroken[0].model.trainable_variables, job.model.trainable_variables, strict=True):
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7, err_msg=one.name)


@pytest.mark.job
def test_a_killed_job_ends_with_the_weights_of_an_unbroken_one(tiny_set, tmp_path):
  """Of all systems: tests/golden/test_golden.py."""
  experiment = tiny_experiment("average_pooling", crp=True, checkpoint_every=1)
  kill = Copy(3, tmp_path / "unbroken", tmp_path / "broken")
  unbroken = train(experiment, tiny_set, tmp_path / "unbroken", (kill,)).model
  job = train(experiment, tiny_set, tmp_path / "broken")
  assert job.steps == 8 - 3
  for one, other in zip(unbroken.variables, job.model.variables, strict=True):
    if "catalogue" not in one.name and one.shape.rank:
      np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7, err_msg=one.name)


@pytest.mark.job
def test_a_killed_job_drops_what_an_unbroken_one_would_have_dropped(tiny_set, tmp_path):
  tree = tiny_experiment(checkpoint_every=1).model_dump(mode="json", by_alias=True)
  tree["model"]["mlp"]["dropout"] = 0.5
  experiment = config.from_tree(tree, "dropout")
  unbroken, again = Losses(), Losses()
  train(experiment, tiny_set, tmp_path / "unbroken", (unbroken, Copy(3, tmp_path / "unbroken", tmp_path / "broken")))
  train(experiment, tiny_set, tmp_path / "broken", (again,))
  # means over the steps of the epoch, those of the killed job among them
  np.testing.assert_allclose(again.values, unbroken.values[3:], rtol=1e-6)


@pytest.mark.job
def test_a_checkpoint_is_written_by_the_clock(tiny_set, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    train(tiny_experiment(checkpoint_minutes=1e-9), tiny_set, tmp_path / "often", (Stop(3),))
  assert json.loads((tmp_path / "often" / "training.json").read_text())["steps"] == 3
  with pytest.raises(KeyboardInterrupt):
    train(tiny_experiment(), tiny_set, tmp_path / "seldom", (Stop(3),))
  assert not (tmp_path / "seldom" / "training.json").exists()


def test_records_that_other_settings_made_are_told(record_set, tmp_path, caplog):
  made = small_experiment().records.model_dump(mode="json")
  made["labels"]["at_least"] = 2.0
  others = record_set.model_copy(update={"records": made})
  warn_of_other_settings(small_experiment().records, others)
  assert "labels.at_least is" in caplog.text
  caplog.clear()
  warn_of_other_settings(small_experiment().records, record_set.model_copy(update={"records": made | {"shards": 3}}))
  assert "shards" not in caplog.text


@pytest.mark.job
def test_a_finished_job_is_not_run_again(unbroken, run, tiny_set):
  assert unbroken[0].steps == 8
  assert train(EXPERIMENT, tiny_set, run).steps == 0


def test_it_leaves_the_effective_config_history_and_checkpoints(unbroken):
  folder = unbroken[1]
  assert config.load(str(folder / "experiment.yaml")) == EXPERIMENT
  lines = (folder / "history.csv").read_text().splitlines()
  assert {"epoch", "loss", "val_auc", "val_gauc", "val_logloss"} <= set(lines[0].split(","))
  assert len(lines) == 1 + 2
  assert tf.train.latest_checkpoint(str(folder / "checkpoints" / "best"))
  assert list((folder / "tensorboard").rglob("events.*"))


def test_training_learns_a_label_that_an_item_decides(tmp_path):
  """Labels follow the candidate item's parity: the loss must fall far below that of a constant."""
  schema = tiny_schema()
  rng = np.random.default_rng(0)
  record_set = write_record_set(tmp_path / "r", schema, records={"train": 256, "validation": 32, "test": 32})
  for domains in record_set.splits.values():
    for shard in domains["target"].shards:
      requests = [
        dataclasses.replace(request, labels=(request.items % 2).astype(np.float32))
        for request in (random_request(schema, rng, user=i + 1) for i in range(shard.records))
      ]
      write_shard(tmp_path / "r" / shard.file, [encode(r, schema) for r in requests], record_set.compression)
  record_set = described_again(record_set)
  losses = Losses()
  train(tiny_experiment(epochs=6, learning_rate=0.02), record_set, tmp_path / "run", (losses,))
  history = (tmp_path / "run" / "history.csv").read_text().splitlines()
  column = history[0].split(",").index("val_auc")
  assert float(history[-1].split(",")[column]) > 0.95
  assert losses.values[-1] < 0.5


def test_a_loss_that_is_not_finite_stops_the_job_and_names_the_step(tiny_set, tmp_path):
  class Poison(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
      if batch == 1:
        self.model.logit.bias.assign([math.nan])

  with pytest.raises(UserError, match=r"step 3: the loss is nan"):
    train(tiny_experiment(), tiny_set, tmp_path, (Poison(),))


def test_early_stopping_keeps_the_best_epoch(tiny_set, tmp_path):
  # labels are noise here, so validation cannot improve for long
  train(tiny_experiment(epochs=12, early_stopping=1), tiny_set, tmp_path)
  rows = (tmp_path / "history.csv").read_text().splitlines()
  assert 2 <= len(rows) - 1 < 12


def test_another_experiment_in_the_same_folder_is_refused(run, tiny_set):
  with pytest.raises(UserError, match=r"holds another experiment: experiment\.train\.learning_rate is 0\.5"):
    train(tiny_experiment(early_stopping=0, learning_rate=0.5), tiny_set, run)


def test_other_records_of_the_same_schema_are_refused(run, tiny_set, tmp_path):
  others = write_record_set(tmp_path / "others", tiny_schema(), seed=1)
  assert others.fingerprint == tiny_set.fingerprint
  with pytest.raises(UserError, match=r"others has the same schema and vocabularies, but other shards"):
    train(EXPERIMENT, others, run)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"extractor": "lapp"}, r"unknown extractor 'lapp'. Did you mean 'lap'"),
    ({"extractor": "lap", "options": {"topk": [4, 2]}}, r"Did you mean 'top_k'"),
    ({"extractor": "lap", "options": {"top_k": [8, 4.5]}}, r"options of 'lap': top_k\[1\] is \[8, 4\.5\]: .*integer"),
    ({"extractor": "lap", "options": {"top_k": 50}}, r"options of 'lap': top_k is 50: .*sequence"),
    ({"extractor": "twin", "options": {"head_dim": "1e2"}}, r"options of 'twin': head_dim is '1e2': .*integer"),
    ({"extractor": "none", "options": {"top_k": 3}}, r"unknown option 'top_k'"),
    ({"network": "conet", "options": {"cross_layers": 0, "lasso": 0.1}}, r"lasso is of cross connections"),
    ({"network": "pi_net", "options": {"source_weight": -1}}, r"source_weight must not be negative; found -1"),
  ],
)
def test_a_wrong_model_is_told_before_the_folder_belongs_to_it(change, message, record_set, tmp_path):
  model = {"item_dim": 8, "mlp": {"units": [8, 4]}, **change}
  tree = small_experiment("none").model_dump(mode="json", by_alias=True)
  with pytest.raises(UserError, match=message):
    train(config.from_tree(tree | {"model": model}, "wrong"), record_set, tmp_path / "run")
  assert not (tmp_path / "run").exists()


class Begins(keras.callbacks.Callback):
  """Keeps the weights that a job begins with."""

  def on_train_begin(self, logs=None):
    self.weights = [(v.name, v.numpy()) for v in self.model.trainable_variables]


def validated_later(record_set):
  """The same records, said to be validated on clicks that are newer than all others."""
  parts = {d: part.model_copy(update={"first_time": 10**9}) for d, part in record_set.splits["validation"].items()}
  return record_set.model_copy(update={"splits": record_set.splits | {"validation": parts}})


@pytest.fixture(scope="module")
def later(tiny_set):
  return validated_later(tiny_set)


@pytest.fixture(scope="module")
def trained(later, tmp_path_factory):
  """The folder of a job with CRP."""
  folder = tmp_path_factory.mktemp("trained")
  train(tiny_experiment(crp=True, epochs=1), later, folder)
  return folder


@pytest.fixture
def old(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "old")


@pytest.mark.job
def test_a_job_may_begin_with_the_weights_of_another_run(old, later, tmp_path):
  run = read_run(old)
  old, begins, again = weights_of(run), Begins(), Begins()
  served = [v.name for v in run.best()[0].trainable_variables]
  assert set(served) < set(old), "CRP's weights stay behind"
  experiment = tiny_experiment(warm_start=str(run.path), seed=7, epochs=2, warmup_steps=16)
  with pytest.raises(KeyboardInterrupt):
    train(experiment, later, tmp_path / "new", (begins, Stop(4 + 4 + 1)))
  assert [name for name, _ in begins.weights] == served
  for name, value in begins.weights:
    np.testing.assert_array_equal([value], old[name], err_msg=name)
  # what it has learned since is not lost when it resumes, and the earlier run is not needed for that
  shutil.rmtree(run.path)
  assert train(experiment, later, tmp_path / "new", (again,)).steps == 4
  assert any((value != old[name][0]).any() for name, value in again.weights)
  # and its rates rise from its own first step on, whatever its optimizers have done before
  rows = [line.split(",") for line in (tmp_path / "new" / "history.csv").read_text().splitlines()]
  rates = [float(row[rows[0].index("learning_rate")]) for row in rows[1:]]
  assert rates == pytest.approx([1e-3 * (done + 1) / 16 for done in (4, 8)])


@pytest.mark.config
def test_a_model_with_an_auxiliary_one_beside_it_may_begin_with_the_weights_of_both(record_set, tmp_path):
  later = validated_later(record_set)
  tree = small_experiment("twin", epochs=1).model_dump(mode="json", by_alias=True)
  tree["model"] |= {"projection_refresh": 3, "auxiliary_seed": 5}
  both = train(config.from_tree(tree, "old"), later, tmp_path / "old").model.trainable_variables
  assert len({v.name for v in both}) == len(both) / 2
  tree["train"]["warm_start"] = str(tmp_path / "old")
  # what has no weights may be another
  tree["model"] |= {"projection_refresh": 2, "auxiliary_seed": 6, "pretraining": {"dim": 16}}
  begins = Begins()
  train(config.from_tree(tree, "new"), later, tmp_path / "new", (begins,))
  for (name, value), variable in zip(begins.weights, both, strict=True):
    np.testing.assert_array_equal(value, variable.numpy(), err_msg=name)


@pytest.mark.job
def test_a_warm_start_that_does_not_fit_is_refused_before_the_run_begins(old, later, tiny_set, tmp_path):
  warm = {"epochs": 1, "warm_start": str(old)}
  right = tiny_experiment(**warm)
  schema = later.record_schema
  schema = schema.model_copy(update={"target": schema.target.model_copy(update={"max_length": 5})})
  tree = right.model_dump(mode="json", by_alias=True)
  tree["schema"]["target"]["max_length"] = 5
  shorter = config.from_tree(tree, "shorter")
  cases = [
    (
      tiny_experiment("average_pooling", **warm),
      later,
      r"old holds another model: model\.extractor is 'average_pooling' in the config, 'none' in the run",
    ),
    (
      shorter,
      later.model_copy(update={"fingerprint": "other", "record_schema": schema}),
      r"train\.warm_start: .*old was trained with the schema and vocabularies .*, and another schema: "
      r"schema\.target\.max_length is 5 in the records, 8 in the run",
    ),
    (right, tiny_set, r"old has learned from clicks up to \d+, but the validation split of .* begins at \d+"),
    (tiny_experiment(epochs=1, warm_start=str(tmp_path)), later, r"no run here"),
  ]
  for experiment, records, message in cases:
    with pytest.raises(UserError, match=message):
      train(experiment, records, tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_devices_are_made_before_the_weights_of_another_run_are_read(trained, later, tmp_path, monkeypatch):
  """TensorFlow starts with the devices that there are when the first weights are made."""

  def make(config):
    raise UserError("devices first")

  monkeypatch.setattr(trainer, "make_strategy", make)
  with pytest.raises(UserError, match="devices first"):
    train(tiny_experiment(warm_start=str(trained)), later, tmp_path / "new")


@pytest.fixture(scope="module")
def published(unbroken, tiny_set, tmp_path_factory):
  """The folder of the finished job, exported and evaluated."""
  folder = shutil.copytree(unbroken[1], tmp_path_factory.mktemp("published") / "run")
  run_job(EXPERIMENT, tiny_set, folder, bootstrap=0)
  return folder


@pytest.mark.job
def test_a_job_goes_on_for_longer_if_it_is_asked_to_and_its_metrics_stay_until_then(published, tiny_set, tmp_path):
  run = shutil.copytree(published, tmp_path / "run")
  train(EXPERIMENT, tiny_set, run)
  assert (run / "metrics.json").exists()
  settings = {"epochs": 4, "learning_rate": 0.002, "early_stopping": 0}
  longer = tiny_experiment(checkpoint_every=2, on_corrupt="skip", **settings)
  assert train(longer, tiny_set, run).steps == 2 * 4
  assert not (run / "metrics.json").exists()
  assert config.load(str(run / "experiment.yaml")) == longer
  with pytest.raises(UserError, match=r"train\.learning_rate is 0\.5 in the config.*warm_start=RUN begins"):
    train(tiny_experiment(**settings | {"learning_rate": 0.5}), tiny_set, run)


def test_fewer_epochs_than_were_trained_are_refused(run, tiny_set):
  with pytest.raises(UserError, match=r"has trained 2 epochs, and train\.epochs is 1: it can only go on"):
    train(tiny_experiment(epochs=1, learning_rate=0.002, early_stopping=0), tiny_set, run)
  assert config.load(str(run / "experiment.yaml")) == EXPERIMENT


class StopsAfter(keras.callbacks.Callback):
  """Asks Keras to stop after a step, or at the end of that step's epoch."""

  def __init__(self, step, at_end=False):
    super().__init__()
    self.step, self.at_end = step, at_end

  def _stop(self):
    self.model.stop_training |= int(self.model.optimizer.iterations.numpy()) >= self.step

  def on_train_batch_end(self, batch, logs=None):
    if not self.at_end:
      self._stop()

  def on_epoch_end(self, epoch, logs=None):
    if self.at_end:
      self._stop()


@pytest.mark.job
@pytest.mark.parametrize(("callback", "steps", "epochs"), [(StopsAfter(4, True), 4, 1), (StopsAfter(6), 6, 1)])
def test_a_callback_of_the_caller_stops_a_job_that_goes_on_from_there(
  unbroken, tiny_set, tmp_path, callback, steps, epochs
):
  assert train(EXPERIMENT, tiny_set, tmp_path, (callback,)).steps == steps
  left = json.loads((tmp_path / "training.json").read_text())
  assert (left["steps"], left["epochs"], left["finished"]) == (steps, epochs, False)
  job = train(EXPERIMENT, tiny_set, tmp_path)
  assert job.steps == 8 - steps
  assert json.loads((tmp_path / "training.json").read_text())["finished"]
  expect_weights(job, unbroken)


@pytest.mark.job
def test_a_job_that_stopped_early_says_what_goes_on_and_its_metrics_stay_until_then(tiny_set, tmp_path, caplog):
  settings = {"learning_rate": 1e-12, "early_stopping": 1}
  train(tiny_experiment(epochs=9, **settings), tiny_set, tmp_path)
  (tmp_path / "metrics.json").write_text("{}")
  with caplog.at_level(logging.WARNING):
    assert train(tiny_experiment(epochs=12, **settings), tiny_set, tmp_path).steps == 0
  assert "stopped early, after epoch 2: nothing is trained. --set train.early_stopping=0 goes on" in caplog.text
  assert (tmp_path / "metrics.json").exists()
  # as if patience had counted from epoch 3 on from the start
  assert train(tiny_experiment(epochs=9, early_stopping_after=2, **settings), tiny_set, tmp_path).steps == 4
  assert not (tmp_path / "metrics.json").exists()
  goes_on = tiny_experiment(epochs=4, learning_rate=1e-12, early_stopping=0)
  assert train(goes_on, tiny_set, tmp_path).steps == 4


@pytest.mark.job
def test_nobody_else_trains_where_a_job_exports_and_evaluates(run, tiny_set, monkeypatch):
  def evaluated(*arguments, **options):
    with pytest.raises(UserError, match="somebody is at work here"), files.exclusive(run, "somebody"):
      pass
    return {"auc": 0.5}

  monkeypatch.setattr(job, "evaluate", evaluated)
  assert run_job(EXPERIMENT, tiny_set, run) == {"auc": 0.5}
  with files.exclusive(run, "somebody"):
    pass


@pytest.mark.job
def test_a_folder_without_a_checkpoint_takes_another_experiment(tiny_set, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    train(tiny_experiment(), tiny_set, tmp_path, (Stop(1),))
  (tmp_path / "pretrained").mkdir()
  other = tiny_experiment(learning_rate=0.5)
  with pytest.raises(KeyboardInterrupt):
    train(other, tiny_set, tmp_path, (Stop(1),))
  assert (tmp_path / "pretrained").exists()
  tree = other.model_dump(mode="json", by_alias=True)
  tree["model"]["pretraining"]["dim"] = 16
  other = config.from_tree(tree, "other")
  assert train(other, tiny_set, tmp_path).steps == 8
  assert config.load(str(tmp_path / "experiment.yaml")) == other
  assert not (tmp_path / "pretrained").exists(), "vectors of other settings"


@pytest.mark.job
def test_a_folder_that_is_begun_anew_keeps_no_result_and_exports_its_own_weights(published, tiny_set, tmp_path):
  run = shutil.copytree(published, tmp_path / "run")
  assert (run / "metrics.json").exists()
  first = exported(run, run / "export")
  assert first is not None
  shutil.rmtree(run / "checkpoints")
  other = tiny_experiment(learning_rate=0.5, seed=7)
  with pytest.raises(KeyboardInterrupt):
    train(other, tiny_set, run, (Stop(1),))
  assert not (run / "metrics.json").exists()
  found = run_job(other, tiny_set, run, bootstrap=0)
  second = exported(run, run / "export")
  assert second is not None
  assert second != first
  assert found["model"]["version"] == second.name
  assert found["seed"] == 7


def test_checkpoints_of_an_unknown_experiment_stay_and_are_told(run, tiny_set):
  (run / "experiment.yaml").unlink()
  with pytest.raises(UserError, match=r"holds checkpoints .*experiment\.yaml is missing"):
    train(EXPERIMENT, tiny_set, run)
  assert (run / "checkpoints" / "last").is_dir()


def test_a_warm_start_leaves_weights_alone_that_were_restored_meanwhile(trained, later, tmp_path, monkeypatch):
  """Another job, of the same folder, ended between the first look at it and the lock."""
  experiment = tiny_experiment(warm_start=str(trained), epochs=1)
  trained = train(experiment, later, tmp_path / "run").model.trainable_variables
  with monkeypatch.context() as patch:
    patch.setattr(trainer, "begun", lambda run: False)
    job = train(experiment, later, tmp_path / "run")
  assert job.steps == 0
  for one, other in zip(trained, job.model.trainable_variables, strict=True):
    np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_records_that_cannot_be_validated_with_are_refused_before_the_run_begins(record_set, tmp_path):
  lacking = record_set.model_copy(update={"splits": {"train": record_set.splits["train"]}})
  with pytest.raises(UserError, match=r"no records of the validation split"):
    train(small_experiment("none"), lacking, tmp_path / "run")
  assert not (tmp_path / "run").exists()


class Preempted(keras.callbacks.Callback):
  """Sends SIGTERM to this process after a step, or during it."""

  def __init__(self, step):
    super().__init__()
    self.step = step

  def on_train_batch_begin(self, batch, logs=None):
    if int(self.model.optimizer.iterations.numpy()) == self.step - 1:
      os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.job
@pytest.mark.parametrize("step", [3, 4])
def test_a_job_saves_before_it_ends_on_sigterm(unbroken, tiny_set, tmp_path, step):
  """In the middle of an epoch, and at its end."""
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as ended:
    train(EXPERIMENT, tiny_set, tmp_path / "broken", (Preempted(step),))
  assert ended.value.code == 143
  assert signal.getsignal(signal.SIGTERM) is before
  assert json.loads((tmp_path / "broken" / "training.json").read_text())["steps"] == step
  job = train(EXPERIMENT, tiny_set, tmp_path / "broken")
  assert job.steps == 8 - step
  expect_weights(job, unbroken)


def test_the_first_sigterm_may_come_twice_and_a_later_one_ends_at_once(monkeypatch):
  asked, clock = [], [10.0]
  monkeypatch.setattr(preemption.time, "monotonic", lambda: clock[0])
  with preemption.at_sigterm(lambda: asked.append(clock[0])):
    for clock[0] in (10.0, 10.0, 11.9):
      os.kill(os.getpid(), signal.SIGTERM)
    assert asked == [10.0]
    clock[0] = 12.1
    with pytest.raises(SystemExit) as ended:
      os.kill(os.getpid(), signal.SIGTERM)
  assert ended.value.code == 143
  assert asked == [10.0]


@pytest.mark.job
def test_an_epoch_tells_where_it_is(tiny_set, tmp_path, caplog, monkeypatch):
  caplog.set_level("INFO", logger="absl")
  monkeypatch.setattr(trainer, "ProgressLog", functools.partial(ProgressLog, seconds=0.0))
  # two minutes from one look at it to the next: a step
  monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(monotonic=itertools.count(0, 120).__next__))
  experiment = tiny_experiment(checkpoint_every=1)
  with pytest.raises(KeyboardInterrupt):
    train(experiment, tiny_set, tmp_path, (Stop(2),))
  train(experiment, tiny_set, tmp_path)
  pattern = r"epoch (\d), step (\d) of 4: loss \d\.\d{4}, (\d+) candidates/s, (\d+) min left of the epoch"
  told = [tuple(map(int, line)) for line in re.findall(pattern, caplog.text)]
  first, again = [(1, 1), (1, 2)], [(1, 3), (1, 4), *((2, step) for step in range(1, 5))]
  # 64 candidates in 120 s
  assert told == [(epoch, step, 1, 2 * (4 - step)) for epoch, step in first + again]


@pytest.mark.job
def test_several_steps_per_call_train_as_one_and_several_replicas_take_one(tiny_set, tmp_path):
  losses = {}
  for steps in (1, 3):  # of 4 in an epoch
    job = train(tiny_experiment(epochs=1, steps_per_execution=steps), tiny_set, tmp_path / str(steps))
    assert job.steps == 4
    losses[steps] = (tmp_path / str(steps) / "history.csv").read_text().splitlines()[1].split(",")
  np.testing.assert_allclose(np.array(losses[3], float), np.array(losses[1], float), rtol=1e-5)
  config = tiny_experiment(steps_per_execution=3, replicas=2).train
  with pytest.raises(SettingsError, match=r"train\.steps_per_execution 3 needs one replica, and there are 2: "):
    StepSize.of(config, tiny_set, 2)


def test_an_epoch_tells_where_it_is_once_a_minute(caplog, monkeypatch):
  caplog.set_level("INFO", logger="absl")
  clock = [1_000.0]
  monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
  pace = ProgressLog(steps=100, done=10, candidates=6_000)
  pace.on_epoch_begin(0)
  for batch in range(40):  # 3 s each, after 10 steps of an earlier call
    clock[0] += 3
    pace.on_train_batch_end(batch, {"loss": 0.25})
  told = [record.getMessage() for record in caplog.records]
  assert told == [
    "epoch 1, step 30 of 100: loss 0.2500, 2000 candidates/s, 4 min left of the epoch",  # 3.5
    "epoch 1, step 50 of 100: loss 0.2500, 2000 candidates/s, 2 min left of the epoch",  # 2.5
  ]
  pace.on_epoch_end(0)
  pace.on_epoch_begin(1)
  clock[0] += 60
  pace.on_train_batch_end(11, {"loss": 0.25})
  assert caplog.records[-1].getMessage().startswith("epoch 2, step 12 of 100: loss 0.2500, 1200 candidates/s, 7 min")


def test_xla_on_several_cpu_devices_is_refused():
  with pytest.raises(UserError, match=r"train\.jit_compile: XLA runs on one CPU device, and train\.replicas is 2"):
    make_strategy(small_experiment("none", jit_compile=True, replicas=2).train)


def test_what_xla_cannot_compile_is_refused_before_the_run_begins(record_set, tmp_path):
  with pytest.raises(UserError, match=r"train\.jit_compile: XLA cannot compile model\.extractor 'sdim'"):
    train(small_experiment("sdim", jit_compile=True), record_set, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_run_folder_takes_one_job_at_a_time(record_set, tmp_path):
  with files.exclusive(tmp_path, "somebody"), pytest.raises(UserError, match=r"another training job is at work here"):
    train(small_experiment("average_pooling", epochs=1), record_set, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_file_in_the_place_of_the_run_folder_is_told(record_set, tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(UserError, match=r"run: no folder can be made here: File exists"):
    train(small_experiment("average_pooling"), record_set, tmp_path / "run")


def test_records_of_another_schema_are_refused(record_set):
  other = small_schema(max_length=12, sized=False)
  with pytest.raises(UserError, match=r"schema\.source\.max_length is 24 in the config, 48 in the records"):
    check_schema(other, record_set)


def test_more_requests_than_the_split_holds_are_refused(record_set, tmp_path):
  with pytest.raises(UserError, match=r"fewer than the 1024 of one global batch"):
    train(small_experiment("average_pooling", global_batch_size=4096), record_set, tmp_path)


def test_requests_that_replicas_cannot_share_are_refused(record_set, tmp_path):
  with pytest.raises(UserError, match=r"16 requests of 4 candidates, which 3 replicas cannot share equally"):
    train(small_experiment("average_pooling", replicas=3), record_set, tmp_path)


def with_a_broken_record(path, split="train"):
  """A record set with one flipped byte, and the shard that has it."""
  record_set = write_record_set(path, tiny_schema(), compression="none")
  shard = path / record_set.splits[split]["target"].shards[1].file
  data = bytearray(shard.read_bytes())
  data[len(data) // 2] ^= 0xFF
  shard.write_bytes(data)
  return record_set, shard


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_broken_record_stops_the_job_and_is_named(split, tmp_path):
  record_set, shard = with_a_broken_record(tmp_path / "records", split)
  with pytest.raises(UserError, match=rf"{split}/target/{shard.name}: record \d+ \(offset \d+\)"):
    train(tiny_experiment(), record_set, tmp_path / "run")


@pytest.mark.job
def test_a_broken_record_can_be_skipped(tmp_path):
  record_set, _ = with_a_broken_record(tmp_path / "records")
  job = train(tiny_experiment(on_corrupt="skip"), record_set, tmp_path / "run")
  assert job.steps == 8


@pytest.mark.job
def test_broken_validation_records_are_looked_for_once_a_job(tmp_path, monkeypatch):
  record_set, _ = with_a_broken_record(tmp_path / "records", "validation")
  looked = []
  repair = diagnosis.repair

  def spy(records, split, domain):
    looked.append(split)
    return repair(records, split, domain)

  monkeypatch.setattr(diagnosis, "repair", spy)
  train(tiny_experiment(epochs=3, early_stopping=0, on_corrupt="skip"), record_set, tmp_path / "run")
  assert looked.count("validation") == 1


def test_the_record_set_of_a_run_is_kept_beside_it(unbroken, tiny_set):
  folder = unbroken[1]
  assert RecordSet.open(folder).fingerprint == tiny_set.fingerprint
  assert json.loads((folder / "dataset.json").read_text())["fingerprint"] == tiny_set.fingerprint
