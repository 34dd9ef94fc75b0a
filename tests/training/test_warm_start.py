"""Jobs on a log that goes on, which begin with the weights and the optimizers of an earlier run."""

import json
import logging
import shutil

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf import config
from lcn_tf.data.id_mapping import vocabularies_of
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.training.export_run import export_run
from lcn_tf.training.growth import Growth
from lcn_tf.training.run_folder import read_run
from lcn_tf.training.trainer import train
from lcn_tf.training.warm_start import earlier_run, grown_model
from tests.data import value_logs
from tests.support.callbacks import Copy
from tests.support.runs import write_run
from tests.training import growing

pytestmark = pytest.mark.job

PER_USER = {"split": {"kind": "per_user"}}
# the best table rows of an id, and the keys that DARE searches with
DARE = {"extractor": "dare", "options": {"top_k": 2, "key_dim": 3}}
STEPS = 3
COMMON = {"epochs": 1, "steps_per_epoch": STEPS}


@pytest.fixture(scope="module")
def searched(half, tmp_path_factory):
  """A run with learned keys, of the first half of the log."""
  folder = tmp_path_factory.mktemp("searched")
  train(growing.experiment(model=DARE, **COMMON), half, folder)
  return folder


@pytest.fixture(scope="module")
def adagrad(half, tmp_path_factory):
  """A run of preset twin, on two replicas, without validation and so without a best checkpoint."""
  folder = tmp_path_factory.mktemp("adagrad")
  train(growing.experiment(preset="twin", replicas=2, validate=False, **COMMON), half, folder)
  return folder


class Begins(keras.callbacks.Callback):
  """What a job begins with, of every replica: weights and slots by name, and the steps of the optimizers."""

  def __init__(self, stop=True):
    super().__init__()
    self.stop = stop

  def on_train_begin(self, logs=None):
    model = self.model
    self.steps = [int(optimizer.iterations.numpy()) for optimizer in model.optimizer.optimizers]
    self.weights = {variable.name: copies(variable) for variable in model.trainable_variables}
    self.slots = {
      (variable.name, name): copies(optimizer.get_slot(variable, name))
      for optimizer, variables in model.optimizer._optimizers_and_vars
      for variable in variables()
      for name in optimizer.get_slot_names()
    }
    if self.stop:
      raise KeyboardInterrupt


def copies(variable):
  return [copy.numpy() for copy in getattr(variable, "values", [variable])]


def begins(experiment, record_set, folder):
  found = Begins()
  with pytest.raises(KeyboardInterrupt):
    train(experiment, record_set, folder, (found,))
  return found


def saved(run):
  """The tensors of the checkpoint that a run is known by, with one spelling of `best` and `last` for slots."""
  reader = tf.train.load_checkpoint(read_run(run).checkpoints()[0])
  keys = [key for key in reader.get_variable_to_shape_map() if key.startswith("model/")]
  return {key.replace("/model/optimizer/", "/optimizer/"): reader.get_tensor(key) for key in keys}


def expected_table(old, name, earlier, later, fresh=None):
  """A table of a vocabulary or its slots, value by value; `fresh` for new values, or else what `Growth` says."""
  before, now = (vocabularies_of(one)[name] for one in (earlier, later))
  found = np.full((now.size, old.shape[1]), fresh or 0, np.float32)
  if fresh is None:
    found = Growth(earlier, later).weights(name, old)
  rows = dict(zip(before.values, range(1 + before.oov, before.size), strict=True))
  found[: 1 + now.oov] = old[: 1 + now.oov]
  for row, value in enumerate(now.values, 1 + now.oov):
    if value in rows:
      found[row] = old[rows[value]]
  return found


def check_tables(found, run, half, whole, names, slot_names, fresh):
  """Tables and slots of the optimizer of tables against the checkpoint, whose keys have them under other names."""
  there = saved(run)
  for table, name in names.items():
    escaped = table.replace("/", ".S")
    key = f"model/embedder/tables/{escaped}.Stable/"
    old = there[f"{key}.ATTRIBUTES/VARIABLE_VALUE"]
    variable = next(one for one in found.weights if one.endswith(f"{table}/table:0"))
    for copy in found.weights[variable]:
      np.testing.assert_array_equal(copy, expected_table(old, name, half, whole), err_msg=table)
    for slot in slot_names:
      old = there[f"{key}.OPTIMIZER_SLOT/optimizer/Optimizer1/{slot}/.ATTRIBUTES/VARIABLE_VALUE"]
      assert (old != fresh).any(), "the slots have learned nothing"
      for copy in found.slots[variable, slot]:
        expected = old if name == "price" else expected_table(old, name, half, whole, fresh)
        np.testing.assert_array_equal(copy, np.float32(expected), err_msg=f"{table} {slot}")


def test_weights_and_moments_of_known_values_are_those_of_the_run(searched, half, whole, tmp_path):
  warm = growing.experiment(model=DARE, warm_start=str(searched), seed=5, **COMMON)
  found = begins(warm, whole, tmp_path / "run")
  names = {name: name for name in ("target_item", "source_item", "category", "tags", "user_id")}
  names |= {f"{name}/key": name for name in ("target_item", "source_item", "category", "tags")}
  check_tables(found, searched, half, whole, names, ["m", "v"], 0)
  # what has no row per value is as it was, moments included
  there = saved(searched)
  for key, name in (("logit/kernel", "logit/kernel:0"), ("embedder/recency.Starget", "recency/target:0")):
    variable = next(one for one in found.weights if one.endswith(name))
    np.testing.assert_array_equal(found.weights[variable][0], there[f"model/{key}/.ATTRIBUTES/VARIABLE_VALUE"])
    for slot in ("m", "v"):
      old = there[f"model/{key}/.OPTIMIZER_SLOT/optimizer/Optimizer0/{slot}/.ATTRIBUTES/VARIABLE_VALUE"]
      np.testing.assert_array_equal(found.slots[variable, slot][0], old)
  assert found.steps == [STEPS, STEPS]


def test_accumulators_are_carried_on_every_replica_and_new_ones_are_the_initial_ones(adagrad, half, whole, tmp_path):
  warm = growing.experiment(preset="twin", replicas=2, warm_start=str(adagrad), validate=False, **COMMON)
  found = begins(warm, whole, tmp_path / "run")
  names = {name: name for name in ("target_item", "category", "tags", "user_id", "price")}
  assert all(len(value) == 2 for value in [*found.weights.values(), *found.slots.values()])
  check_tables(found, adagrad, half, whole, names, ["accumulator"], np.float32(0.1))
  assert found.steps == [STEPS, STEPS]


def test_other_optimizers_and_those_that_are_not_asked_for_begin_anew(adagrad, whole, tmp_path, caplog):
  """With the weights of the run nevertheless."""
  said_of_lcn = "has the optimizers of preset twin: those of preset lcn begin anew"
  for settings, said in (({"preset": "lcn"}, said_of_lcn), ({"preset": "twin", "warm_start_slots": False}, "")):
    warm = growing.experiment(warm_start=str(adagrad), validate=False, **settings, **COMMON)
    caplog.clear()
    found = begins(warm, whole, tmp_path / settings["preset"])
    assert ("begin anew" in caplog.text) == bool(said)
    assert said in caplog.text
    assert found.steps == [0, 0]
    begun = {"m": 0, "v": 0, "accumulator": np.float32(0.1)}
    assert {slot for _, slot in found.slots} == {"m", "v"} | (
      {"accumulator"} if settings["preset"] == "twin" else set()
    )
    assert all((copy == begun[slot]).all() for (_, slot), value in found.slots.items() for copy in value)
    old = saved(adagrad)["model/logit/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_array_equal(
      next(v for name, v in found.weights.items() if name.endswith("logit/kernel:0"))[0], old
    )


@pytest.mark.config
def test_a_killed_job_on_a_grown_log_ends_with_the_weights_of_an_unbroken_one(adagrad, whole, tmp_path):
  run = shutil.copytree(adagrad, tmp_path / "earlier")
  settings = COMMON | {"preset": "twin", "replicas": 2, "validate": False, "checkpoint_every": 1}
  warm = growing.experiment(warm_start=str(run), **settings)
  kill = Copy(STEPS + 2, tmp_path / "unbroken", tmp_path / "broken")
  unbroken = train(warm, whole, tmp_path / "unbroken", (kill,))
  assert json.loads((tmp_path / "unbroken" / "training.json").read_text())["steps"] == STEPS
  shutil.rmtree(run)  # the job needs it no more
  job = train(warm, whole, tmp_path / "broken")
  assert (unbroken.steps, job.steps) == (STEPS, STEPS - 2)
  assert json.loads((tmp_path / "broken" / "training.json").read_text())["steps"] == STEPS
  pairs = zip(
    [*unbroken.model.variables, *unbroken.model.optimizer.variables()],
    [*job.model.variables, *job.model.optimizer.variables()],
    strict=True,
  )
  for one, other in pairs:
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7, err_msg=one.name)


def test_a_model_grows_without_training(searched, whole, tmp_path):
  """Its weights are those that a job would begin with."""
  model = grown_model(read_run(searched), whole)
  warm = growing.experiment(model=DARE, warm_start=str(searched), **COMMON)
  expected = begins(warm, whole, tmp_path / "run").weights
  assert {variable.name for variable in model.trainable_variables} == set(expected)
  for variable in model.trainable_variables:
    np.testing.assert_array_equal(variable.numpy(), expected[variable.name][0], err_msg=variable.name)
  np.testing.assert_array_equal(model.embedder.catalogues["target"].numpy(), whole.catalogue("target"))


def warm_start_of(run, **changes):
  return growing.experiment(model=DARE, warm_start=str(run), **COMMON, **changes)


def test_a_validation_split_that_the_run_may_have_trained_on_is_refused(searched, half, whole, tmp_path):
  per_user = growing.record_set(tmp_path / "per_user", 1.0, records=PER_USER)
  mine = shutil.copytree(searched, tmp_path / "mine")
  whole.copy_id_mapping(mine)
  with pytest.raises(
    UserError,
    match=r"has learned from clicks up to \d+, but the validation split of .*per_user begins at \d+: "
    r"its scores would be of clicks that the weights know\. Times overlap where records\.split\.kind is per_user: ",
  ):
    earlier_run(warm_start_of(mine), per_user)
  assert earlier_run(warm_start_of(searched), per_user).slots, "whose run is of older clicks alone"
  assert earlier_run(warm_start_of(mine, validate=False), per_user).slots
  # splits of one record set have nothing in common, whatever their times
  per_user.copy_id_mapping(mine)
  assert earlier_run(warm_start_of(mine), per_user).slots


def test_a_checkpoint_of_another_structure_is_told(searched, half, whole, tmp_path):
  run = shutil.copytree(searched, tmp_path / "run")
  whole.copy_id_mapping(run)  # as if the tables were those of other vocabularies
  with pytest.raises(
    DamagedError, match=r"best/ckpt-3: .*table:0 is \[\d+, \d\], and \[\d+, \d\] is needed: it is of another model"
  ):
    grown_model(read_run(run), whole)


def test_without_validation_no_such_split_is_needed_and_the_last_epoch_counts(half, tmp_path, caplog):
  caplog.set_level(logging.INFO, "absl")
  alone = half.model_copy(update={"splits": {"train": half.splits["train"]}})
  run = tmp_path / "run"
  train(growing.experiment(validate=False, early_stopping=1, **COMMON | {"epochs": 2}), alone, run)
  assert caplog.text.count("train.validate is false") == 1
  assert (run / "history.csv").read_text().splitlines()[0] == "epoch,ctr_loss,loss"
  assert not (run / "checkpoints" / "best").exists()
  assert [path.rsplit("/", 2)[1:] for path in read_run(run).checkpoints()] == [["last", "ckpt-6"], ["last", "ckpt-3"]]
  exported = export_run(run, run / "export")
  assert json.loads((exported / "assets.extra" / "lcn_tf.json").read_text())["checkpoint"] == "ckpt-6"
  warm = growing.experiment(warm_start=str(run), validate=False)
  assert earlier_run(warm, read_run(run).record_set).checkpoint.endswith("last/ckpt-6")
  assert "no epoch is the best" not in caplog.text


def written(path, records):
  """A run folder of a model with random slopes and tables; returns the run and the model."""
  model = {"extractor": "none", "embedding": {"dim": 4, "cross_dim": 3}, "item_dim": 5}
  tree = {"name": "values", "schema": value_logs.SCHEMA, "model": model, "train": {"global_batch_size": 4}}
  made = write_run(path, config.from_tree(tree, "test"), records)
  rng = np.random.default_rng(0)
  for variable in (*made.embedder.slopes.values(), *made.embedder.tables.tables.values()):
    variable.assign(rng.normal(size=variable.shape))
  tf.train.CheckpointManager(tf.train.Checkpoint(model=made), str(path / "checkpoints" / "best"), 1).save(1)
  return read_run(path), made


def test_a_grown_model_has_the_values_of_new_items(tmp_path):
  log, items = value_logs.log_of(), value_logs.items_of()
  first = value_logs.build(tmp_path, log.filter(pl.col("timestamp") < 60), items.filter(pl.col("item_id") < 9))
  rest, split = log.filter(pl.col("timestamp") >= 60), {"split": {"kind": "all_train"}}
  later = value_logs.build(tmp_path, rest, items, name="later", records=split, extend=first)
  run, model = written(tmp_path / "run", first)
  grown = grown_model(run, later)
  values = later.item_values("target")
  assert np.any(values[len(first.item_values("target")) :])
  np.testing.assert_array_equal(grown.embedder.item_values["target"], values)
  np.testing.assert_array_equal(grown.embedder.slopes["price"], model.embedder.slopes["price"])


def test_a_number_keeps_its_embedding_though_mean_and_deviation_change(tmp_path):
  log = value_logs.log_of()
  first = value_logs.build(tmp_path, log)
  later = value_logs.build(tmp_path, log.with_columns(price=pl.col("price") * 3 + 1), name="later")
  run, model = written(tmp_path / "run", first)
  grown = grown_model(run, later)
  before, now = (vocabularies_of(one)["price"] for one in (first, later))
  assert before.scale.mean + 0.5 < now.scale.mean
  numbers = pl.Series(np.linspace(0, 30, 50))
  bucket = now.indices(numbers)
  edges = now.values.cast(pl.Float64).to_numpy().clip(-1e300)
  table, slope = (model.embedder.tables.tables["price"].numpy(), model.embedder.slopes["price"].numpy())
  earlier = (
    table[before.indices(pl.Series(edges[bucket - 2]))] + before.scale(numbers.to_numpy())[:, np.newaxis] * slope
  )
  table, slope = (grown.embedder.tables.tables["price"].numpy(), grown.embedder.slopes["price"].numpy())
  np.testing.assert_allclose(
    table[bucket] + now.scale(numbers.to_numpy())[:, np.newaxis] * slope, earlier, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_array_equal(table[:2], model.embedder.tables.tables["price"].numpy()[:2])
