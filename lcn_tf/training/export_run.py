"""From a run folder to a SavedModel."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf
from tensorflow import keras

from lcn_tf import config as config_lib
from lcn_tf.config import Experiment, Model
from lcn_tf.data.pretrained import Pretrained
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.serving.export import DESCRIPTION, digest, newest_version, save
from lcn_tf.training.projections import refresh


def export_run(run_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
  """Exports the best checkpoint of a run as `output/<version>`.

  Returns:
    The version folder.

  Raises:
    UserError: The folder holds no run, or the run has no checkpoint yet.
  """
  run = read_run(run_dir)
  checkpoint = run.checkpoint()
  model = run.model_of(checkpoint)
  refresh(model)
  return save(model, run.experiment, run.record_set, output, checkpoint)


def exported(run_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path | None:
  """The newest version in `output` if it is of the run's best checkpoint: it need not be published again."""
  newest = newest_version(pathlib.Path(output))
  if newest is None or not (newest / DESCRIPTION).is_file():
    return None
  described = json.loads((newest / DESCRIPTION).read_text())
  return newest if described.get("weights") == digest(read_run(run_dir).checkpoint()) else None


def latest_checkpoint(run_dir: str | pathlib.Path, kind: Literal["best", "last"]) -> str | None:
  """The newest of the `best` or the `last` checkpoints in a run folder; None if it has none."""
  found = tf.train.latest_checkpoint(str(pathlib.Path(run_dir) / "checkpoints" / kind))
  return str(found) if found else None


@dataclasses.dataclass(frozen=True)
class Run:
  """A run folder.

  Attributes:
    experiment: The effective one.
    record_set: The facts of the records that it was trained with; their shards lie elsewhere.
  """

  path: pathlib.Path
  experiment: Experiment
  record_set: RecordSet

  def checkpoint(self) -> str:
    """The best checkpoint, or the last one while there is no best.

    Raises:
      UserError: There is none yet.
    """
    found = latest_checkpoint(self.path, "best") or latest_checkpoint(self.path, "last")
    if found:
      return found
    removed = self.path / "checkpoints" / "removed.txt"
    if removed.is_file():
      raise UserError(f"{self.path}/checkpoints: {' '.join(removed.read_text().split())}")
    raise UserError(f"{self.path}/checkpoints: no checkpoint here yet; train first")

  def model_of(self, checkpoint: str) -> RequestModel:
    """A new model for inference with the checkpoint's weights."""
    # what serves needs no CRP: its heads vanish (LCN, section 3.4)
    return self._model(self.experiment.model.model_copy(update={"crp": None}), checkpoint, training=False)

  def weights(self, checkpoint: str) -> dict[str, list[np.ndarray]]:
    """The weights that learn, with those that only training uses, in the host's memory.

    Returns:
      By name; two models side by side use each name twice, and have their weights in their order.
    """
    with tf.device("CPU:0"):
      model = self._model(self.experiment.model, checkpoint, training=True)
    by_name = collections.defaultdict(list)
    for variable in model.trainable_variables:
      by_name[variable.name].append(variable.numpy())
    return dict(by_name)

  def _model(self, config: Model, checkpoint: str, training: bool) -> RequestModel:
    keras.mixed_precision.set_global_policy("float32")
    pretrained = Pretrained.open(self.path / "pretrained") if needs_pretrained(config) else None
    model = build_model(self.record_set.record_schema, config, pretrained=pretrained, training=training)
    tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial().assert_existing_objects_matched()
    return model


def read_run(run_dir: str | pathlib.Path) -> Run:
  """Reads a run folder.

  Raises:
    UserError: It holds no run.
  """
  path = pathlib.Path(run_dir)
  if not (path / "experiment.yaml").is_file() or not (path / "dataset.json").is_file():
    raise UserError(f"{path}: no run here (experiment.yaml or dataset.json is missing)")
  return Run(path, config_lib.load(str(path / "experiment.yaml")), RecordSet.open(path))


def labels(runs: Sequence[Run]) -> list[str]:
  """What to call each run: its experiment's name, and the folder, too, where different experiments share the name.

  Runs that differ in their seed alone get the same label.
  """
  named = collections.defaultdict(list)
  for run in runs:
    named[run.experiment.name].append(run.experiment)
  alike = {name: not any(_differ(one, found[0]) for one in found) for name, found in named.items()}
  return [run.experiment.name + ("" if alike[run.experiment.name] else f" ({run.path})") for run in runs]


def _differ(one: Experiment, other: Experiment) -> bool:
  train = one.train.model_copy(update={"seed": other.train.seed})
  return bool(config_lib.differs(one.model_copy(update={"train": train}), other))
