"""The run folder of a job, and how others read it."""

import collections
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import TypeVar

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import config as config_lib
from lcn_tf import formats, storage
from lcn_tf.config import Experiment, Model
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.remote import store
from lcn_tf.serving import samples
from lcn_tf.training import checkpoint_store
from lcn_tf.training.averages import take_averages
from lcn_tf.training.checkpoint_store import Store
from lcn_tf.training.cost import FILE as TRAINING
from lcn_tf.training.cost import read as read_costs

_Read = TypeVar("_Read")

EXPERIMENT = "experiment.yaml"
SHARES = "shares.json"
# of `train`: settings that a job may have changed when it goes on
_NOT_LEARNED = (
  *config_lib.LENGTHS,
  "replicas",
  "strategy",
  "table_part_bytes",
  "steps_per_execution",
  *config_lib.NOT_RESULTS,
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A run folder.

  Attributes:
    path: Run folder.
    experiment: Effective experiment.
    record_set: Facts of the records that the run was trained with; their shards lie elsewhere.
  """

  path: pathlib.Path
  experiment: Experiment
  record_set: RecordSet

  def checkpoints(self) -> list[str]:
    """Paths of the best checkpoint, or of the last ones while there is no best; each replaces a damaged one before it.

    Raises:
      UserError: There is no checkpoint yet.
    """
    best, last = Store(self.path, "best"), Store(self.path, "last")
    # an epoch's last and best checkpoint hold the same weights
    alike = [number for number in best.numbers() if number in last.numbers()]
    found = [*map(best.path, best.numbers()), *map(last.path, alike)] or [*map(last.path, last.numbers())]
    if found:
      return found
    removed = self.path / "checkpoints" / "removed.txt"
    if removed.is_file():
      raise UserError(f"{self.path}/checkpoints: {' '.join(removed.read_text().split())}")
    raise UserError(f"{self.path}/checkpoints: no checkpoint here yet; train first")

  @property
  def averages(self) -> bool:
    """Whether the checkpoints hold averages of the dense weights, which are validated and served then."""
    return self.experiment.train.ema_decay > 0

  def best(self, raw: bool = False) -> tuple[RequestModel, str]:
    """A new model for inference with the best weights, and the path of their checkpoint.

    Args:
      raw: True for the weights themselves in the place of their averages, where the run keeps averages.

    Raises:
      UserError: There is no checkpoint yet.
      DamagedError: None can be read.
    """
    return self._readable(functools.partial(self.model_of, raw=raw))

  def model_of(self, checkpoint: str, raw: bool = False) -> RequestModel:
    """A new model for inference with a checkpoint's weights, or their averages, as `best`.

    Raises:
      DamagedError: The checkpoint cannot be read.
    """
    keras.mixed_precision.set_global_policy("float32")
    config = self._served()
    pretrained = Pretrained.open(self.path / "pretrained") if needs_pretrained(config, restored=True) else None
    schema = self.record_set.record_schema
    model = build_model(schema, config, pretrained=pretrained, training=False, restored=True)
    reason = checkpoint_store.read(tf.train.Checkpoint(model=model), checkpoint, partly=True)
    if not reason and self.averages and not raw and not take_averages(model, checkpoint):
      reason = "it lacks the averages of the weights"
    if reason:
      raise _damaged(checkpoint, reason)
    return model

  def whole_checkpoint(self) -> str:
    """The path of the first of `checkpoints` all of whose tensors can be read.

    Raises:
      UserError: There is no checkpoint yet.
      DamagedError: None can be read.
    """

    def check(path: str) -> None:
      if reason := checkpoint_store.unreadable(path):
        raise _damaged(path, reason)

    return self._readable(check)[1]

  def _served(self) -> Model:
    # serving needs no CRP: its heads vanish (LCN, section 3.4)
    return self.experiment.model.model_copy(update={"crp": None})

  def _readable(self, read: Callable[[str], _Read]) -> tuple[_Read, str]:
    """The result of `read` for the first of `checkpoints` that it does not refuse, and the path of that checkpoint."""
    found = self.checkpoints()
    if self.experiment.train.validates and not Store(self.path, "best").numbers():
      logging.warning(
        "%s: no epoch is the best one: none is finished, or validation cannot tell which; the last checkpoint, %s, is "
        "taken",
        self.path,
        pathlib.Path(found[0]).name,
      )
    damaged = []
    for path in found:
      try:
        return read(path), path
      except DamagedError as error:
        logging.warning("%s", error)
        damaged.append(str(error))
    raise DamagedError("\n".join(damaged))


def _damaged(checkpoint: str, reason: str) -> DamagedError:
  return DamagedError(f"{checkpoint}: damaged, or of another model: {reason}. Take it from a backup, or train again.")


def read_run(run_dir: str | pathlib.Path) -> Run:
  """Reads a run folder.

  Raises:
    UserError: The folder holds no run.
    DamagedError: A file of the run was changed since it was written.
  """
  path = pathlib.Path(run_dir)
  if not (path / EXPERIMENT).is_file() or not (path / "dataset.json").is_file():
    raise UserError(f"{path}: no run here ({EXPERIMENT} or dataset.json is missing)")
  return Run(path, read_experiment(path / EXPERIMENT), RecordSet.open(path))


def read_experiment(file: pathlib.Path) -> Experiment:
  """The experiment as a job has written it.

  Raises:
    DamagedError: The file was changed since it was written.
  """
  formats.check_text(file)
  return config_lib.load(str(file))


def shares(run_dir: str | pathlib.Path, workers: int) -> int:
  """The number of shares that the records of a job are dealt in: the number of workers that the job began with.

  A job that one process began has one share, and no file that says so.

  Args:
    run_dir: Run folder.
    workers: Number of workers that go on with the job, or begin one.

  Raises:
    DamagedError: The file was changed since it was written.
  """
  file = pathlib.Path(run_dir) / SHARES
  if not checkpoint_store.begun(run_dir):
    return workers
  if not file.is_file():
    return 1
  return int(formats.read_sealed(file, "Take it from a backup: it decides the order of the records.")["shares"])


def open_run(
  experiment: Experiment, record_set: RecordSet, run_dir: str | pathlib.Path, workers: int = 1
) -> pathlib.Path:
  """Makes the run folder, with the effective experiment, the facts of the records and their id mapping in it.

  A folder without a checkpoint is begun anew, even if it holds another experiment. A folder with a checkpoint goes on.
  Its experiment may have had another length of the job, other checkpoints or another `on_corrupt`. No checkpoint is
  removed.

  Args:
    experiment: Effective experiment.
    record_set: Records.
    run_dir: Run folder.
    workers: Number of workers of the job.

  Raises:
    UserError: The folder holds another experiment, was begun with other records, or cannot be made.
    DamagedError: A file of the run was changed since it was written.
  """
  run = pathlib.Path(run_dir)
  file = run / EXPERIMENT  # written last: a folder with it is whole
  begun = checkpoint_store.begun(run)
  there = _experiment_there(file, begun)
  if begun and not there:
    raise UserError(
      f"{run} holds checkpoints of an unknown experiment: {EXPERIMENT} is missing. Use another --run_dir."
    )
  if there and begun:
    _check_same(experiment, there, record_set, run)
  else:
    path = experiment.model.pretraining.path
    # a copy of vectors that may have been made anew since
    anew = bool(store.url(path)) or (bool(path) and Pretrained.there(path))
    if there and (anew or there.model.pretraining != experiment.model.pretraining):
      shutil.rmtree(run / "pretrained", ignore_errors=True)
    # metrics and history of an earlier job
    for name in ("metrics.json", TRAINING, "history.csv", "metrics.prom", SHARES):
      (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
  intact = f"The checkpoints in {run} are intact." if begun else ""
  with storage.storing("the experiment and the id mapping", run, needs=record_set.id_mapping_bytes(), intact=intact):
    record_set.copy_id_mapping(run)
    samples.keep(record_set, run)
    if experiment.train.strategy != "mirrored" and not (run / SHARES).exists():
      formats.write_sealed(run / SHARES, {"shares": shares(run, workers)})
    formats.write_checked(file, config_lib.dump(experiment))
  return run


def _experiment_there(file: pathlib.Path, begun: bool) -> Experiment | None:
  """The experiment of a folder; in a folder that was not begun it may be damaged, and be lost."""
  if not file.is_file():
    return None
  try:
    return read_experiment(file)
  except UserError as error:
    if begun:
      raise
    logging.warning("%s. The folder holds no checkpoint, and is begun anew", error)
    return None


def _check_same(experiment: Experiment, there: Experiment, record_set: RecordSet, run: pathlib.Path) -> None:
  """Checks that a job with a checkpoint goes on with its own experiment and records."""
  other = "Use another --run_dir; --set train.warm_start=RUN begins with the weights of this one."
  difference = config_lib.differs(experiment, config_lib.with_asked(there, experiment, _NOT_LEARNED))
  if difference:
    raise UserError(f"{run} holds another experiment: {difference}. {other}")
  before = RecordSet.open(run)
  if before.fingerprint != record_set.fingerprint:
    raise UserError(
      f"{run} was begun with other records: fingerprint {before.fingerprint}, {record_set.path} has "
      f"{record_set.fingerprint}. Use another --run_dir."
    )
  trained = read_costs(run / TRAINING).get("epochs", 0)
  if trained > experiment.train.epochs:
    raise UserError(
      f"{run} has trained {trained} epochs, and train.epochs is {experiment.train.epochs}: it can only go on. {other}"
    )
  if before.splits != record_set.splits:
    raise UserError(
      f"{run} was begun with other records: {record_set.path} has the same schema and vocabularies, but other "
      f"shards. {other}"
    )


def labels(runs: Sequence[Run]) -> list[str]:
  """A label for each run: the name of its experiment, and the folder where different experiments share the name.

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
