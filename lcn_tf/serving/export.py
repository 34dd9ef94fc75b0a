"""From a run folder to a SavedModel that is published whole or not at all."""

import json
import os
import pathlib
import shutil
import time

import tensorflow as tf

from lcn_tf import config as config_lib
from lcn_tf.config import Experiment
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.models.build import build_model
from lcn_tf.models.ctr import CTR
from lcn_tf.serving.signatures import request_spec


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
  # what serves needs no CRP: its heads vanish (LCN, section 3.4)
  config = experiment.model.model_copy(update={"crp": None})
  model = build_model(record_set.record_schema, config)
  tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial().assert_existing_objects_matched()
  return save(model, experiment, record_set, output)


def save(model: CTR, experiment: Experiment, record_set: RecordSet, output: str | pathlib.Path) -> pathlib.Path:
  """Writes the SavedModel aside, then renames it to `output/<POSIX time>`, as TensorFlow Serving wants it.

  Its signature `rank` takes the tensors of `request_spec` and returns `probability` `[B, N]`. Beside it lies
  `assets.extra/lcn_tf.json`: name, seed, fingerprint, schema.
  """

  def rank(**request: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"probability": tf.sigmoid(model(request, training=False))}

  module = tf.Module()
  module.weights = list(model.embedder.variables) + [v for v in model.variables]
  signature = tf.function(rank, autograph=False).get_concrete_function(**request_spec(record_set.record_schema))
  output = pathlib.Path(output)
  output.mkdir(parents=True, exist_ok=True)
  aside = output / f".writing-{os.getpid()}"
  shutil.rmtree(aside, ignore_errors=True)
  try:
    tf.saved_model.save(module, str(aside), signatures={"rank": signature, "serving_default": signature})
    extra = aside / "assets.extra"
    extra.mkdir(exist_ok=True)
    description = {
      "name": experiment.name,
      "seed": experiment.train.seed,
      "domain": "target",
      "fingerprint": record_set.fingerprint,
      "schema": record_set.record_schema.model_dump(mode="json"),
    }
    (extra / "lcn_tf.json").write_text(json.dumps(description, indent=1))
    version = int(time.time())
    while (output / str(version)).exists():
      version += 1
    return aside.rename(output / str(version))
  finally:
    shutil.rmtree(aside, ignore_errors=True)
