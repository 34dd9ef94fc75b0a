"""Jobs whose item tables begin with item vectors: made first, not needed again, handed on."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf import config
from lcn_tf.data.record_set import RecordSet
from lcn_tf.models.id_tables import id_tables
from lcn_tf.pretraining import item2vec
from lcn_tf.pretraining import run as pretraining
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS
from lcn_tf.training.export_run import export_run
from lcn_tf.training.trainer import train
from tests.support.experiments import tiny_experiment
from tests.training.test_trainer import validated_later


def never(*arguments):
  raise AssertionError("item vectors are made again")


def experiment_of(init_from="pretrained", **settings):
  tree = tiny_experiment(early_stopping=0, **settings).model_dump(mode="json", by_alias=True)
  tree["model"]["embedding"]["init_from"] = init_from
  return config.from_tree(tree, "begins")


class Begins(keras.callbacks.Callback):
  """Keeps the item tables that a job begins with; ends it there if it is told to."""

  def __init__(self, stop=False):
    super().__init__()
    self.stop = stop

  def on_train_begin(self, logs=None):
    self.tables = tables_of(self.model)
    if self.stop:
      raise KeyboardInterrupt


def tables_of(model):
  return {name: table.numpy() for name, table in model.embedder.tables.tables.items()}


@pytest.fixture(scope="module")
def later(tiny_set) -> RecordSet:
  return validated_later(tiny_set)


@pytest.fixture(scope="module")
def frozen(later, tmp_path_factory):
  """A finished job with frozen tables, and its folder."""
  folder = tmp_path_factory.mktemp("frozen")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(item2vec, "cluster", never)
    return train(experiment_of("pretrained_frozen", epochs=1, replicas=2), later, folder), folder


def expected_tables(record_set, folder):
  found = {d: record_set.catalogue(d) for d in DOMAINS}
  made = Pretrained.open(folder / "pretrained", record_set.fingerprint)
  return id_tables(record_set.record_schema, experiment_of().model, made, found)


@pytest.mark.job
def test_a_job_begins_with_the_vectors_trains_them_and_goes_on_without(later, tmp_path, monkeypatch):
  begins, run = Begins(), tmp_path / "run"
  trained = tables_of(train(experiment_of(epochs=1), later, run, (begins,)).model)
  expected = expected_tables(later, run)
  assert expected.keys() == trained.keys() == {"target_item", "source_item"}
  for name, table in expected.items():
    np.testing.assert_array_equal(begins.tables[name], table)
  # the source's is not read: the model reads no history
  assert np.abs(trained["target_item"] - expected["target_item"]).max() > 1e-3
  shutil.rmtree(run / "pretrained")
  monkeypatch.setattr(pretraining, "pretrain", never)
  begins = Begins(stop=True)
  with pytest.raises(KeyboardInterrupt):
    train(experiment_of(epochs=2), later, run, (begins,))
  np.testing.assert_array_equal(begins.tables["target_item"], trained["target_item"])


@pytest.mark.job
def test_frozen_tables_stay_on_every_replica_and_are_served(frozen, later, tmp_path):
  job, run = frozen
  expected = expected_tables(later, run)
  for name, variable in job.model.embedder.tables.tables.items():
    assert len(variable.values) == 2
    for copy in variable.values:
      np.testing.assert_array_equal(copy.numpy(), expected[name])
  shutil.copytree(run, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "pretrained")
  served = tf.saved_model.load(str(export_run(tmp_path / "run", tmp_path / "served")))
  tables = [v.numpy() for v in served.signatures["rank"].variables if v.shape == expected["target_item"].shape]
  np.testing.assert_array_equal(tables, [expected["target_item"]])


@pytest.mark.parametrize("init_from", ["pretrained_frozen", "none"])
def test_a_warm_start_begins_with_the_tables_of_the_run_and_makes_no_vectors(
  init_from, frozen, later, tmp_path, monkeypatch
):
  expected, begins = expected_tables(later, frozen[1]), Begins(stop=True)
  monkeypatch.setattr(pretraining, "pretrain", never)
  warm = experiment_of(init_from, epochs=1, seed=7, warm_start=str(frozen[1]))
  with pytest.raises(KeyboardInterrupt):
    train(warm, later, tmp_path / "run", (begins,))
  for name, table in expected.items():
    np.testing.assert_array_equal(begins.tables[name], table)
