"""Run folders without training."""

import collections
import pathlib

import numpy as np
import tensorflow as tf

from lcn_tf.config import Experiment
from lcn_tf.data.record_set import RecordSet
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, item_tables, needs_pretrained
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.training.run_folder import Run, open_run


def write_run(path: str | pathlib.Path, experiment: Experiment, record_set: RecordSet) -> RequestModel:
  """A run folder whose best checkpoint is the model as it is made; returns the model."""
  run = open_run(experiment, record_set, path)
  tables = item_tables(record_set)
  model = build_model(record_set.record_schema, experiment.model, seed=experiment.train.seed, **tables)
  tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(run / "checkpoints" / "best"), 1).save(1)
  return model


def weights_of(run: Run) -> dict[str, list[np.ndarray]]:
  """The best weights that a job may begin with, by name; two models side by side use each name twice, in order."""
  config = run.experiment.model
  pretrained = Pretrained.open(run.path / "pretrained") if needs_pretrained(config, restored=True) else None
  model = build_model(run.record_set.record_schema, config, pretrained=pretrained, restored=True)
  tf.train.Checkpoint(model=model).read(run.checkpoints()[0]).expect_partial().assert_existing_objects_matched()
  by_name = collections.defaultdict(list)
  for variable in model.warm_variables():
    by_name[variable.name].append(variable.numpy())
  return dict(by_name)
