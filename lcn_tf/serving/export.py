"""A SavedModel that is published whole or not at all."""

import hashlib
import json
import os
import pathlib
import shutil
import time

import tensorflow as tf
from tensorflow import keras

from lcn_tf import files
from lcn_tf.config import Experiment
from lcn_tf.data.record_set import RecordSet
from lcn_tf.serving.signatures import at_least_one_column, request_spec

DESCRIPTION = "assets.extra/lcn_tf.json"


def newest_version(folder: pathlib.Path) -> pathlib.Path | None:
  """The newest numbered version in `folder` that holds a SavedModel."""
  versions = [path for path in folder.glob("*") if path.name.isdecimal() and (path / "saved_model.pb").is_file()]
  return max(versions, key=lambda path: int(path.name), default=None)


def digest(checkpoint: str) -> str:
  """Of a checkpoint's contents: of its index, which holds a checksum of every tensor."""
  return hashlib.sha256(pathlib.Path(f"{checkpoint}.index").read_bytes()).hexdigest()[:16]


def save(
  model: keras.Model,
  experiment: Experiment,
  record_set: RecordSet,
  output: str | pathlib.Path,
  checkpoint: str = "",
) -> pathlib.Path:
  """Writes the SavedModel aside, then renames it to `output/<POSIX time>`, as TensorFlow Serving wants it.

  Its signature `rank` takes the tensors of `request_spec` and returns `probability` `[B, N]`. Beside it lies
  `assets.extra`: `lcn_tf.json` with name, seed, checkpoint, fingerprint and schema, and a record set without records,
  by which `RequestEncoder` numbers requests and `pipelines.build_records --like` other records.

  Args:
    checkpoint: The path of the one that the weights are of; empty if they are of none.
  """

  def rank(**request: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"probability": tf.sigmoid(model(at_least_one_column(request), training=False))}

  module = tf.Module()
  module.weights = list(model.variables)
  signature = tf.function(rank, autograph=False).get_concrete_function(**request_spec(record_set.record_schema))
  output = files.make(output)
  aside = output / f".writing-{os.getpid()}"
  shutil.rmtree(aside, ignore_errors=True)
  try:
    tf.saved_model.save(module, str(aside), signatures={"rank": signature, "serving_default": signature})
    extra = (aside / DESCRIPTION).parent
    extra.mkdir(exist_ok=True)
    description = {
      "name": experiment.name,
      "seed": experiment.train.seed,
      "checkpoint": pathlib.Path(checkpoint).name,
      "weights": digest(checkpoint) if checkpoint else "",
      "domain": "target",
      "fingerprint": record_set.fingerprint,
      "schema": record_set.record_schema.model_dump(mode="json"),
    }
    (aside / DESCRIPTION).write_text(json.dumps(description, indent=1))
    record_set.save_numbering(extra)
    newest = newest_version(output)
    # above it whatever the clock says: servers take the highest
    version = max(int(time.time()), int(newest.name) + 1 if newest else 0)
    while (output / str(version)).exists():
      version += 1
    return aside.rename(output / str(version))
  finally:
    shutil.rmtree(aside, ignore_errors=True)
