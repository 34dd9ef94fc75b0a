"""From a run folder to a SavedModel."""

import pathlib

import tensorflow as tf
from tensorflow import keras

from lcn_tf import config as config_lib
from lcn_tf.data.pretrained import Pretrained
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.serving.export import save


def export_run(run_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
  """Exports the best checkpoint of a run as `output/<version>`.

  Returns:
    The version folder.

  Raises:
    UserError: The folder holds no run, or the run has no checkpoint yet.
  """
  run = pathlib.Path(run_dir)
  if not (run / "experiment.yaml").is_file() or not (run / "dataset.json").is_file():
    raise UserError(f"{run}: no run here (experiment.yaml or dataset.json is missing)")
  experiment = config_lib.load(str(run / "experiment.yaml"))
  record_set = RecordSet.open(run)
  checkpoint = tf.train.latest_checkpoint(str(run / "checkpoints" / "best")) or tf.train.latest_checkpoint(
    str(run / "checkpoints" / "last")
  )
  if not checkpoint:
    raise UserError(f"{run}/checkpoints: no checkpoint here yet; train first")
  keras.mixed_precision.set_global_policy("float32")
  # what serves needs no CRP: its heads vanish (LCN, section 3.4)
  config = experiment.model.model_copy(update={"crp": None})
  pretrained = Pretrained.open(run / "pretrained") if needs_pretrained(config) else None
  model = build_model(record_set.record_schema, config, pretrained=pretrained, training=False)
  tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial().assert_existing_objects_matched()
  return save(model, experiment, record_set, output)
