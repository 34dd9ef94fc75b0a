"""Run folders without training."""

import pathlib

import tensorflow as tf

from lcn_tf.config import Experiment
from lcn_tf.data.record_set import RecordSet
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model
from lcn_tf.schema import DOMAINS
from lcn_tf.training.run_folder import open_run


def write_run(path: str | pathlib.Path, experiment: Experiment, record_set: RecordSet) -> RequestModel:
  """A run folder whose best checkpoint is the model as it is made; returns the model."""
  run = open_run(experiment, record_set, path)
  catalogues = {d: record_set.catalogue(d) for d in DOMAINS}
  contents = {d: record_set.vectors(d) for d in DOMAINS}
  model = build_model(
    record_set.record_schema,
    experiment.model,
    seed=experiment.train.seed,
    catalogues=catalogues,
    contents=contents,
    item_values={d: record_set.item_values(d) for d in DOMAINS},
  )
  tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(run / "checkpoints" / "best"), 1).save(1)
  return model
