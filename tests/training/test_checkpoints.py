"""Checkpoints that are damaged, half written, gone, or cannot be written: what is taken, told, and left alone."""

import csv
import dataclasses
import errno
import math
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.records import encode
from lcn_tf.errors import DamagedError, StorageError, UserError
from lcn_tf.training.checkpoint_store import Store
from lcn_tf.training.checkpoints import Checkpoints
from lcn_tf.training.progress import Progress
from lcn_tf.training.run_folder import read_run
from lcn_tf.training.trainer import train
from lcn_tf.training.workers import Workers
from tests.data.logs import file_bytes
from tests.support.damage import flip, truncate
from tests.support.experiments import tiny_experiment
from tests.support.record_sets import described_again, random_request, write_shard

EXPERIMENT = tiny_experiment(epochs=1, checkpoint_every=2)
DATA = "data-00000-of-00001"


class Values(tf.Module):
  """What a checkpoint holds: all of it says by which number it was written."""

  def __init__(self, number=-1):
    super().__init__()
    self.weights = tf.Variable(tf.range(8, dtype=tf.float32) + number)
    self.step = tf.Variable(number, dtype=tf.int64)

  def expect(self, number):
    np.testing.assert_array_equal(self.weights.numpy(), np.arange(8, dtype=np.float32) + number)
    assert self.step.numpy() == number


def save(store, number, keep=2):
  store.save(tf.train.Checkpoint(values=Values(number)), number, keep, needs=2_000)


@pytest.fixture
def store(tmp_path):
  """With checkpoints 3 and 5."""
  store = Store(tmp_path / "run", "last")
  for number in (3, 5):
    save(store, number)
  return store


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def parts(*numbers):
  return sorted(["checkpoint", *(f"ckpt-{number}.{part}" for number in numbers for part in (DATA, "index"))])


def test_as_many_stay_as_are_to_be_kept_and_other_tools_find_the_newest(tmp_path):
  store = Store(tmp_path, "last")
  for number in (2, 3, 7, 10):
    save(store, number, keep=3)
  assert store.numbers() == [10, 7, 3]
  assert names(store.folder) == parts(3, 7, 10)
  state = tf.train.get_checkpoint_state(str(store.folder))
  paths = [str(store.folder / f"ckpt-{number}") for number in (3, 7, 10)]
  assert (state.model_checkpoint_path, list(state.all_model_checkpoint_paths)) == (paths[-1], paths)
  save(store, 12, keep=1)
  assert names(store.folder) == parts(12)


def test_a_newer_one_that_is_damaged_stays_when_the_one_before_it_is_gone_on_from(store):
  truncate(store.folder / "ckpt-5.index", 10)
  save(store, 4)
  assert store.numbers() == [5, 4, 3]
  save(store, 6)
  assert store.numbers() == [6, 5]


DAMAGE = {
  "a flipped byte of the index": lambda folder: flip(folder / "ckpt-5.index", 20),
  "a flipped byte of the data": lambda folder: flip(folder / f"ckpt-5.{DATA}", 9),
  "half an index": lambda folder: truncate(folder / "ckpt-5.index", 100),
  "an empty index": lambda folder: truncate(folder / "ckpt-5.index", 0),
  "half the data": lambda folder: truncate(folder / f"ckpt-5.{DATA}", 60),
  "no data": lambda folder: (folder / f"ckpt-5.{DATA}").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(damage, store, caplog):
  DAMAGE[damage](store.folder)
  before = file_bytes(store.folder)
  values = Values()
  assert store.restore(tf.train.Checkpoint(values=values)) == 3
  values.expect(3)
  assert f"{store.folder}/ckpt-5: damaged, or not whole: " in caplog.text
  assert f"{store.folder}/ckpt-3 is taken instead" in caplog.text
  assert file_bytes(store.folder) == before
  assert not store.whole(5)
  assert store.whole(3)


@pytest.mark.parametrize("part", ["index", DATA])
def test_no_flipped_bit_of_a_checkpoint_becomes_a_weight(part, store):
  """The checksums are TensorFlow's; they cover all that is read."""
  file = store.folder / f"ckpt-5.{part}"
  rng, whole, taken = np.random.default_rng(0), file.read_bytes(), {3: 0, 5: 0}
  for place in rng.permutation(len(whole))[:150]:
    flip(file, place, 1 << rng.integers(8))
    values = Values()
    number = store.restore(tf.train.Checkpoint(values=values))
    values.expect(number)
    taken[number] += 1
    file.write_bytes(whole)
  assert taken[3] > 2 * taken[5]


def test_where_none_can_be_read_each_is_named_and_none_removed(store):
  flip(store.folder / f"ckpt-5.{DATA}", 9)
  truncate(store.folder / "ckpt-3.index", 40)
  before = file_bytes(store.folder)
  with pytest.raises(DamagedError) as raised:
    store.restore(tf.train.Checkpoint(values=Values()))
  message = str(raised.value)
  assert message.startswith(f"{store.folder}: no checkpoint here can be read: ckpt-5 (")
  assert "; ckpt-3 (" in message
  assert message.endswith("Nothing was removed.")
  assert file_bytes(store.folder) == before


def test_a_checkpoint_of_other_weights_is_no_checkpoint_of_these(store):
  other = tf.Module()
  other.bias = tf.Variable([1.0])
  with pytest.raises(DamagedError, match=r"ckpt-5 \(.*; ckpt-3 \("):
    store.restore(tf.train.Checkpoint(values=other))


def test_without_a_checkpoint_nothing_is_taken(tmp_path):
  values = Values()
  assert Store(tmp_path, "last").restore(tf.train.Checkpoint(values=values)) is None
  values.expect(-1)


@pytest.mark.parametrize(
  ("error", "said"),
  [
    (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
    (tf.errors.ResourceExhaustedError(None, None, "/x/ckpt-9_temp/part; No space left on device"), "no space left"),
    (tf.errors.UnknownError(None, None, "/x/ckpt-9.index; Stale file handle"), "stale file handle"),
  ],
)
def test_a_checkpoint_that_cannot_be_written_leaves_those_before_it_and_no_part_of_its_own(error, said, store):
  before = file_bytes(store.folder)

  class Full(tf.train.Checkpoint):
    def write(self, path):
      super().write(path)
      pathlib.Path(f"{path}.index").unlink()
      pathlib.Path(f"{path}_temp").mkdir()
      (pathlib.Path(f"{path}_temp") / "part-00000-of-00001.index").write_text("half")
      raise error

  with pytest.raises(StorageError, match=rf"^{store.folder}: a checkpoint could not be written: {said}") as raised:
    store.save(Full(values=Values(9)), 9, 2, needs=10**15)
  assert "(about 1000.0 TB are needed, " in str(raised.value)
  assert "TB are missing). ckpt-5 is intact: with space, the same command goes on from there." in str(raised.value)
  assert file_bytes(store.folder) == before
  save(store, 9)
  assert store.numbers() == [9, 5]


def test_a_first_checkpoint_that_cannot_be_written_was_preceded_by_none(tmp_path):
  class Full(tf.train.Checkpoint):
    def write(self, path):
      raise OSError(errno.EDQUOT, "Disk quota exceeded")

  with pytest.raises(StorageError, match=r"disk quota exceeded \(.* are free there\)\. There was none before it\.$"):
    Store(tmp_path, "last").save(Full(values=Values(1)), 1, 2)


def test_a_checkpoint_that_replaces_a_damaged_one_does_not_call_that_one_intact(store):
  truncate(store.folder / "ckpt-5.index", 10)

  class Full(tf.train.Checkpoint):
    def write(self, path):
      raise OSError(errno.ENOSPC, "No space left on device")

  with pytest.raises(StorageError, match="ckpt-3 is intact"):
    store.save(Full(values=Values(5)), 5, 2)
  assert store.numbers() == [5, 3]


def test_what_else_goes_wrong_while_saving_passes_unchanged(store):
  class Wrong(tf.train.Checkpoint):
    def write(self, path):
      raise ValueError("no such thing")

  with pytest.raises(ValueError, match=r"^no such thing$"):
    store.save(Wrong(values=Values(9)), 9, 2)


def test_data_that_lost_its_index_to_a_kill_goes_with_the_checkpoints_of_its_age(store):
  """A process that is killed between the two files of one that it writes, or removes."""
  (store.folder / f"ckpt-4.{DATA}").write_text("half")
  save(store, 6)
  assert names(store.folder) == parts(5, 6)


@pytest.fixture(scope="module")
def finished(tiny_set, tmp_path_factory):
  """A job of one epoch, the best: checkpoints 2 and 4 in last/, 4 in best/. Also with results of its own."""
  run = tmp_path_factory.mktemp("finished")
  model = train(EXPERIMENT, tiny_set, run).model
  (run / "metrics.json").write_text("{}")
  return run, [variable.numpy() for variable in [*model.variables, *model.optimizer.variables()]]


@pytest.fixture
def run(finished, tmp_path):
  return shutil.copytree(finished[0], tmp_path / "run")


def expect_weights(job, finished):
  for variable, value in zip([*job.model.variables, *job.model.optimizer.variables()], finished[1], strict=True):
    np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-7, err_msg=variable.name)


def tensors(store, number):
  """The values of the model's variables."""
  reader = tf.train.load_checkpoint(store.path(number))
  keys = [
    key for key in reader.get_variable_to_shape_map() if key.startswith("model/") and "optimizer" not in key.lower()
  ]
  return {key: reader.get_tensor(key) for key in keys}


class Begins(keras.callbacks.Callback):
  """What lies in the folder of checkpoints when training begins."""

  def __init__(self, folder):
    super().__init__()
    self.folder = folder

  def on_train_begin(self, logs=None):
    self.files = file_bytes(self.folder)


@pytest.mark.job
@pytest.mark.parametrize(
  "damage",
  [
    lambda last: flip(last / "ckpt-4.index", 2_000),
    # the weights of the first tables, and the optimizer's of the last ones
    lambda last: flip(last / f"ckpt-4.{DATA}", 3_000),
    lambda last: flip(last / f"ckpt-4.{DATA}", -8_000),
  ],
)
def test_a_job_whose_newest_checkpoint_is_damaged_ends_with_the_right_weights(damage, finished, run, tiny_set, caplog):
  last = run / "checkpoints" / "last"
  damage(last)
  before, begins = file_bytes(run / "checkpoints"), Begins(run / "checkpoints")
  job = train(EXPERIMENT, tiny_set, run, (begins,))
  assert job.steps == 2
  assert begins.files == before
  assert f"{last}/ckpt-4: damaged, or not whole: " in caplog.text
  assert f"{last}/ckpt-2 is taken instead" in caplog.text
  expect_weights(job, finished)
  assert Store(run, "last").whole(4)


def test_a_job_that_can_read_no_checkpoint_leaves_its_folder_as_it_is(run, tiny_set):
  last = run / "checkpoints" / "last"
  flip(last / f"ckpt-2.{DATA}", 3_000)
  truncate(last / "ckpt-4.index", 3_000)
  before = file_bytes(run)
  assert "metrics.json" in before
  with pytest.raises(DamagedError, match=rf"^{last}: no checkpoint here can be read: ckpt-4 \(.*\); ckpt-2 \(.*\)\. "):
    train(EXPERIMENT, tiny_set, run)
  assert file_bytes(run) == before


@pytest.mark.parametrize(
  "state", [b"\xff\x00 no list of checkpoints {", b"", b'model_checkpoint_path: "ckpt-2"\n', None]
)
def test_a_job_goes_on_from_the_newest_checkpoint_whatever_the_list_of_them_says(state, finished, run, tiny_set):
  file = run / "checkpoints" / "last" / "checkpoint"
  file.unlink()
  if state is not None:
    file.write_bytes(state)
  job = train(EXPERIMENT, tiny_set, run)
  assert job.steps == 0
  expect_weights(job, finished)


@pytest.mark.parametrize("kill", ["before it", "while it is written"])
def test_the_best_checkpoint_of_a_job_that_was_killed_before_it_is_written_again(kill, run, tiny_set, caplog):
  best, last = Store(run, "best"), Store(run, "last")
  expected = tensors(last, 4)
  if kill == "before it":
    for path in best.folder.iterdir():
      path.unlink()
  else:
    truncate(best.folder / "ckpt-4.index", 3_000)
  assert train(EXPERIMENT, tiny_set, run).steps == 0
  assert f"{best.folder}/ckpt-4: not there, or not whole: written again from the last one" in caplog.text
  found = tensors(best, 4)
  assert found.keys() == expected.keys()
  for key, value in found.items():
    np.testing.assert_array_equal(value, expected[key], err_msg=key)
  assert names(best.folder) == parts(4)


def test_a_best_checkpoint_that_is_whole_is_left_alone(run, tiny_set):
  before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("ckpt-*")}
  assert len(before) == 6
  assert train(EXPERIMENT, tiny_set, run).steps == 0
  assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("ckpt-*")} == before


@pytest.mark.parametrize("state", [True, False])
def test_a_job_with_a_best_checkpoint_alone_is_told_that_it_cannot_go_on(state, run, tiny_set):
  for path in (run / "checkpoints" / "last").iterdir():
    if not state or path.name != "checkpoint":
      path.unlink()
  before = file_bytes(run)
  message = r"run/checkpoints: nothing to go on with: the checkpoints in last/ are gone\. .*train\.warm_start=RUN"
  with pytest.raises(UserError, match=message):
    train(EXPERIMENT, tiny_set, run)
  assert file_bytes(run) == before


def test_what_a_killed_process_was_writing_is_removed_at_the_next_start(run, tiny_set):
  left = [run / "checkpoints" / kind / f"ckpt-{number}_temp" for kind, number in (("last", 6), ("best", 5))]
  for folder in left:
    folder.mkdir()
    (folder / f"part-00000-of-00001.{DATA}").write_text("half")
  aside = run / "checkpoints" / "last" / ".checkpoint.0123456789ab.aside"
  aside.write_text("model_checkpoint_path")
  assert train(EXPERIMENT, tiny_set, run).steps == 0
  assert not [path for path in [*left, aside] if path.exists()]
  assert names(run / "checkpoints" / "last") == parts(2, 4)


@pytest.mark.job
def test_a_disk_that_is_full_at_a_checkpoint_ends_the_job_which_goes_on_when_there_is_space(
  finished, tiny_set, tmp_path, monkeypatch
):
  write = tf.train.Checkpoint.write

  def full(self, path, *arguments):
    if path.endswith("ckpt-4"):
      raise tf.errors.ResourceExhaustedError(None, None, f"{path}_temp/part-00000-of-00001; No space left on device")
    return write(self, path, *arguments)

  last = tmp_path / "checkpoints" / "last"
  with monkeypatch.context() as patch:
    patch.setattr(tf.train.Checkpoint, "write", full)
    # weights and both moments, without the checkpoint's own names and checksums
    with pytest.raises(
      StorageError, match=rf"^{last}: a checkpoint could not .* \(about \d\d\.\d kB are needed, .* free"
    ):
      train(EXPERIMENT, tiny_set, tmp_path)
  assert names(last) == parts(2)
  assert not (tmp_path / "checkpoints" / "best").exists()
  job = train(EXPERIMENT, tiny_set, tmp_path)
  assert job.steps == 2
  expect_weights(job, finished)


def test_weights_are_those_of_the_last_checkpoint_where_the_best_one_of_the_same_step_is_damaged(run, caplog):
  expected = tensors(Store(run, "last"), 4)["model/logit/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
  flip(run / "checkpoints" / "best" / f"ckpt-4.{DATA}", 3_000)
  model, path = read_run(run).best()
  assert path == str(run / "checkpoints" / "last" / "ckpt-4")
  np.testing.assert_array_equal(model.logit.kernel.numpy(), expected)
  assert "best/ckpt-4: damaged, or of another model" in caplog.text
  assert read_run(run).whole_checkpoint() == path


def test_weights_of_another_epoch_are_no_substitute_for_the_best_ones(run):
  best, last = run / "checkpoints" / "best", run / "checkpoints" / "last"
  flip(best / f"ckpt-4.{DATA}", 3_000)
  for path in last.glob("ckpt-4.*"):
    path.unlink()
  with pytest.raises(DamagedError, match=r"best/ckpt-4: damaged, or of another model: .*train again\.$"):
    read_run(run).best()


def scored(folder, rows, patience=0, after=0):
  """What `Checkpoints` keeps and says of epochs of one step with these rows of validation."""
  model = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
  model.compile(keras.optimizers.legacy.Adam())
  progress = Progress()
  workers = Workers(tf.distribute.get_strategy())
  checkpoints = Checkpoints(folder, folder, progress, workers, patience=patience, after=after)
  checkpoints.set_model(model)
  checkpoints.set_params({"steps": 1})
  for epoch, (auc, logloss) in enumerate(rows):
    checkpoints.on_epoch_begin(epoch)
    model.optimizer.iterations.assign(epoch + 1)
    checkpoints.on_train_batch_end(0)
    checkpoints.on_epoch_end(epoch, {"val_auc": auc, "val_logloss": logloss})
  return checkpoints, progress


@pytest.mark.parametrize(
  ("rows", "best_epoch", "best"),
  [
    ([(0.6, 0.5), (0.7, 0.9), (0.65, 0.1)], 1, 0.7),
    ([(0.6, 0.5), (0.6, 0.4)], 0, 0.6),
    # one class: the least logloss
    ([(math.nan, 0.5), (math.nan, 0.3), (math.nan, 0.4)], 1, -0.3),
    ([(math.nan, 0.5), (math.nan, 0.5)], 0, -0.5),
    # weights that are all 0
    ([(math.nan, math.nan)] * 2, -1, -math.inf),
  ],
)
def test_the_best_epoch_is_that_of_the_best_auc_or_else_of_the_least_logloss(rows, best_epoch, best, tmp_path):
  _, progress = scored(tmp_path, rows)
  assert (int(progress.best_epoch), float(progress.best)) == (best_epoch, best)
  assert Store(tmp_path, "best").numbers() == ([best_epoch + 1] if best_epoch >= 0 else [])
  assert Store(tmp_path, "last").numbers() == [len(rows), len(rows) - 1]


@pytest.mark.parametrize(
  ("rows", "stopped"),
  [
    ([(0.7, 0.5), (0.6, 0.4)], False),
    ([(0.7, 0.5), (0.6, 0.4), (0.6, 0.4)], True),
    ([(math.nan, 0.3), (math.nan, 0.4), (math.nan, 0.5)], True),
    ([(math.nan, math.nan)] * 5, False),
  ],
)
def test_patience_counts_epochs_since_the_best_one_and_never_runs_out_without(rows, stopped, tmp_path):
  checkpoints, _ = scored(tmp_path, rows, patience=2)
  assert checkpoints.stopped_early == stopped
  assert bool(getattr(checkpoints.model, "stop_training", False)) == stopped


@pytest.mark.parametrize(
  ("aucs", "after", "stopped_after"),
  [
    ([0.5, 0.5, 0.5, 0.6, 0.5, 0.5], 0, 3),
    ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 2, 4),
    # the best epoch is one of those that do not count
    ([0.5, 0.6, 0.5, 0.5, 0.5, 0.5], 4, 6),
    ([0.5, 0.5, 0.5, 0.6, 0.5, 0.5], 3, 6),
    ([0.5, 0.5, 0.5, 0.5], 9, None),
  ],
)
def test_patience_counts_from_the_epoch_on_that_it_is_told(aucs, after, stopped_after, tmp_path):
  for epochs in range(1, len(aucs) + 1):
    checkpoints, progress = scored(tmp_path, [(auc, 0.5) for auc in aucs[:epochs]], patience=2, after=after)
    assert int(progress.best_epoch) == np.argmax(aucs[:epochs])
    if checkpoints.stopped_early:
      break
  assert (epochs if checkpoints.stopped_early else None) == stopped_after


def validated_with(record_set, folder, **values):
  """A copy of the record set whose validation candidates all have these values, and that says so of itself."""
  copy = RecordSet.open(shutil.copytree(record_set.path, folder))
  part, schema, rng = copy.part("validation"), copy.record_schema, np.random.default_rng(0)
  for shard in part.shards:
    requests = [random_request(schema, rng, user=1 + i, candidates=4) for i in range(shard.records)]
    changed = [dataclasses.replace(r, **{n: np.full(4, v, np.float32) for n, v in values.items()}) for r in requests]
    write_shard(copy.path / shard.file, [encode(request, schema) for request in changed], copy.compression)
  shards = [shard.model_copy(update={"candidates": 4 * shard.records}) for shard in part.shards]
  candidates = 4 * part.records
  facts = {"shards": shards, "candidates": candidates, "positives": int(values.get("labels", 0.5) * candidates)}
  part = part.model_copy(update=facts | {"weight": candidates * values.get("weights", 1.0)})
  splits = copy.splits | {"validation": copy.splits["validation"] | {"target": part}}
  return described_again(copy.model_copy(update={"splits": splits}))


def test_a_job_that_validates_with_one_class_keeps_the_epoch_of_the_least_logloss(tiny_set, tmp_path, caplog):
  # all positive, while the few positives of the training let the probabilities fall
  records = validated_with(tiny_set, tmp_path / "records", labels=1.0)
  train(tiny_experiment(epochs=2, steps_per_epoch=2), records, tmp_path / "run")
  assert "the validation split of" in caplog.text
  assert "all 64 candidates are positive: AUC and GAUC are not defined, and the best epoch of a job" in caplog.text
  with (tmp_path / "run" / "history.csv").open(newline="") as file:
    losses = [float(row["val_logloss"]) for row in csv.DictReader(file) if row["val_auc"] == "nan"]
  assert losses[1] > losses[0] > 0
  assert Store(tmp_path / "run", "best").numbers() == [2]


def test_a_job_that_validates_with_weights_of_zero_has_no_best_epoch_and_is_told(tiny_set, tmp_path, caplog):
  records = validated_with(tiny_set, tmp_path / "records", weights=0.0)
  train(tiny_experiment(epochs=2, steps_per_epoch=2), records, tmp_path / "run")
  assert "the weights of all 64 candidates are 0: no metric is defined, no epoch" in caplog.text
  assert Store(tmp_path / "run", "best").numbers() == []
  _, path = read_run(tmp_path / "run").best()
  assert path == str(tmp_path / "run" / "checkpoints" / "last" / "ckpt-4")
  assert f"{tmp_path}/run: no epoch is the best one: none is finished, or validation cannot tell which" in caplog.text
  assert "the last checkpoint, ckpt-4, is taken" in caplog.text


def test_a_run_with_a_best_epoch_says_nothing_of_the_last_one(run, caplog):
  assert read_run(run).best()[1] == str(run / "checkpoints" / "best" / "ckpt-4")
  assert not caplog.text
