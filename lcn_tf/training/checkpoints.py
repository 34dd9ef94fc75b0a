"""Checkpoints: written whole, kept by number, read back with what is damaged named and the one before it taken."""

import contextlib
import math
import pathlib
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import files, processes, storage
from lcn_tf.errors import DamagedError, UserError, one_line
from lcn_tf.training.workers import Workers

Logs = dict[str, Any]
Kind = Literal["last", "best"]

_FOLDER = "checkpoints"  # of a run
_STATE = "checkpoint"  # TensorFlow's list of them
_INDEX = re.compile(r"ckpt-(\d+)\.index")
_PART = re.compile(r"ckpt-(\d+)\.(index|data-\d+-of-\d+)")
# steps after which several workers ask each other whether one of them wants a checkpoint
_AGREE_EVERY = 16
_TWICE = 2.0  # seconds within which a second SIGTERM is taken for the first one


class Progress(tf.Module):
  """Where a job is; part of its checkpoints.

  Attributes:
    epoch: Epochs that are finished.
    step: Steps of the next epoch that are done.
    best: The best score so far, in `best_epoch`: the validation AUC, or where it is not defined (labels of one class)
      minus the logloss. Without either (weights that are all 0) no epoch is the best.
  """

  def __init__(self) -> None:
    super().__init__()
    self.epoch = tf.Variable(0, dtype=tf.int64)
    self.step = tf.Variable(0, dtype=tf.int64)
    self.best = tf.Variable(-math.inf, dtype=tf.float64)
    self.best_epoch = tf.Variable(-1, dtype=tf.int64)


class Store:
  """The checkpoints of one kind in a run folder, `ckpt-<number>` by the number of steps.

  Which there are is read from the folder: TensorFlow's state file beside them, which names them too, is written for
  other tools alone.

  Args:
    run: The run folder.
    kind: `last`, what a job goes on with, or `best`, what is exported.
  """

  def __init__(self, run: str | pathlib.Path, kind: Kind):
    self.folder = pathlib.Path(run) / _FOLDER / kind

  def numbers(self) -> list[int]:
    """Of those that are there, the newest first."""
    return sorted((int(found[1]) for found in self._named(_INDEX)), reverse=True)

  def path(self, number: int) -> str:
    """What TensorFlow calls a checkpoint by, in a spelling that it does not read as a pattern."""
    return f"{files.plain(self.folder)}/ckpt-{number}"

  def newest(self) -> int | None:
    return next(iter(self.numbers()), None)

  def restore(self, checkpoint: tf.train.Checkpoint, partly: bool = False) -> int | None:
    """Takes up the newest checkpoint that can be read; what is damaged is named, and stays.

    Args:
      checkpoint: Of objects, all of which the file has to hold.
      partly: Whether the file may hold others besides.

    Returns:
      Its number, or None if there is none.

    Raises:
      DamagedError: There are some, and none can be read.
    """
    damaged: list[str] = []
    for number in self.numbers():
      reason = read(checkpoint, self.path(number), partly)
      if reason is None:
        if damaged:
          logging.warning("%s/ckpt-%d is taken instead", self.folder, number)
        return number
      damaged.append(f"ckpt-{number} ({reason})")
      logging.warning("%s/ckpt-%d: damaged, or not whole: %s", self.folder, number, reason)
    if damaged:
      raise DamagedError(
        f"{self.folder}: no checkpoint here can be read: {'; '.join(damaged)}. Take them from a backup, or begin anew "
        "in another folder. Nothing was removed."
      )
    return None

  def save(self, checkpoint: tf.train.Checkpoint, number: int, keep: int, needs: int = 0) -> None:
    """Writes a checkpoint, whole or not at all, then removes all but the newest `keep` up to it.

    Args:
      checkpoint: The objects.
      number: Its name.
      keep: Checkpoints that stay, this one included.
      needs: Bytes that it takes, about, for the message; 0 = not known.

    Raises:
      StorageError: It could not be written; those before it are intact.
    """
    there = self.numbers()
    before = [older for older in there if older < number]
    kept = [number, *before][:keep]
    with storage.storing("a checkpoint", self.folder, needs=needs, intact=_intact(before)):
      try:
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write(self.path(number))
        names = "".join(f'all_model_checkpoint_paths: "ckpt-{one}"\n' for one in reversed(kept))
        with files.beside(self.folder / _STATE) as aside:
          aside.write_text(f'model_checkpoint_path: "ckpt-{number}"\n{names}')
      except BaseException:
        if number not in there:
          self._remove(number)
        raise
    # what lost its index to a kill among them
    for older in {int(part[1]) for part in self._named(_PART)}:
      if older < number and older not in kept:
        self._remove(older)

  def whole(self, number: int) -> bool:
    """Whether a checkpoint is there, and all that it holds can be read."""
    try:
      reader = tf.train.load_checkpoint(self.path(number))
      for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
      return True
    except Exception as error:
      if storage.failure(error):
        raise
      return False

  def clean(self) -> None:
    """Removes what a killed process has not finished writing; its caller holds the folder."""
    for left in self.folder.glob("ckpt-*_temp"):
      shutil.rmtree(left, ignore_errors=True)
    files.sweep(self.folder)

  def _named(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    there = self.folder.iterdir() if self.folder.is_dir() else ()
    yield from filter(None, (pattern.fullmatch(path.name) for path in there))

  def _remove(self, number: int) -> None:
    # the index first: what has none is no checkpoint
    for found in sorted(self._named(_PART), key=lambda part: part[2] != "index"):
      if int(found[1]) == number:
        (self.folder / found[0]).unlink(missing_ok=True)
    shutil.rmtree(self.folder / f"ckpt-{number}_temp", ignore_errors=True)


def begun(run: str | pathlib.Path) -> bool:
  """Whether a run folder holds a checkpoint to go on with, or one that ever was."""
  last = Store(run, "last")
  return bool(last.numbers()) or bool(Store(run, "best").numbers()) or (last.folder / _STATE).exists()


def read(checkpoint: tf.train.Checkpoint, path: str, partly: bool = False) -> str | None:
  """Restores a checkpoint; why it cannot be, or None. Arguments as of `Store.restore`."""
  try:
    status = checkpoint.read(path)
    (status.expect_partial() if partly else status).assert_existing_objects_matched()
    return None
  except Exception as error:
    if storage.failure(error):
      raise
    return one_line(error)


def _intact(numbers: Sequence[int]) -> str:
  if not numbers:
    return "There was none before it."
  return f"ckpt-{numbers[0]} is intact: with space, the same command goes on from there."


class Checkpoints(keras.callbacks.Callback):
  """Saves the job after each epoch, and every so many steps or minutes; keeps the best epoch, see `Progress`; stops
  early.

  Args:
    run: The run folder of the whole job, which is gone on with.
    own: The folder that this process writes: the chief's is the run folder.
    progress: The job's, updated here.
    workers: The job's processes: a checkpoint is written by all of them at the same step, each to its own folder.
    every: Steps between checkpoints within an epoch; 0 = none.
    minutes: Minutes between checkpoints within an epoch; 0 = none.
    patience: Epochs without a better one before training stops; 0 = never.
    keep: Number of checkpoints that `last/` holds.
  """

  def __init__(
    self,
    run: pathlib.Path,
    own: pathlib.Path,
    progress: Progress,
    workers: Workers,
    every: int = 0,
    patience: int = 0,
    keep: int = 2,
    minutes: float = 0.0,
  ):
    super().__init__()
    self._run = run
    self._workers = workers
    self._progress = progress
    self._every = every
    self._patience = patience
    self._keep = keep
    self._minutes = minutes
    self._stores: dict[Kind, Store] = {"last": Store(own, "last"), "best": Store(own, "best")}
    self._saved = 0
    self._saved_at = time.monotonic()
    self._asked = self.may_leave = False
    self._means: list[Any] = []

  def set_model(self, model: Any) -> None:
    super().set_model(model)
    contents = {"model": model, "optimizer": model.optimizer, "progress": self._progress}
    self._contents = {"last": tf.train.Checkpoint(**contents), "best": tf.train.Checkpoint(model=model)}

  def restore(self) -> bool:
    """Takes up the run's last checkpoint, if there is one.

    Raises:
      DamagedError: There are some, and none can be read.
      UserError: There is a best one alone, which no job can go on with.
    """
    if self._workers.chief:
      for store in self._stores.values():
        store.clean()
    number = Store(self._run, "last").restore(self._contents["last"])
    best = Store(self._run, "best")
    if number is None:
      if begun(self._run):
        raise UserError(
          f"{self._run}/{_FOLDER}: nothing to go on with: the checkpoints in last/ are gone. Take them from a backup, "
          "or begin anew in another folder, with --set train.warm_start=RUN from the best weights of this one."
        )
      return False
    logging.info("resumed from step %d: %d epochs and %d steps", number, self._progress.epoch, self._progress.step)
    # a job that was killed between the two checkpoints of an epoch has the best weights in the last one
    at_best = int(self._progress.best_epoch) == int(self._progress.epoch) - 1 >= 0 and not int(self._progress.step)
    missing = at_best and self._workers.chief and not best.whole(number)
    if missing:
      logging.warning("%s/ckpt-%d: not there, or not whole: written again from the last one", best.folder, number)
    if self._workers.any([missing])[0]:
      self._save("best")
    self._means = [variable.numpy() for variable in self._sums()]
    return True

  def _sums(self) -> list[tf.Variable]:
    """What the means of the running epoch's losses are made of."""
    return [variable for metric in self.model.metrics for variable in metric.variables]

  def _save(self, kind: Kind) -> None:
    number, keep = int(self.model.optimizer.iterations.numpy()), self._keep if kind == "last" else 1
    slots = self.model.optimizer.variables() if kind == "last" else []
    needs = sum(v.shape.num_elements() * v.dtype.size for v in [*self.model.variables, *slots])
    self._stores[kind].save(self._contents[kind], number, keep, needs)

  def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
    self._offset = int(self._progress.step)
    self._saved = self._seen = self._done = 0
    self._saved_at = time.monotonic()
    if self._offset:  # Keras has just set them to zero
      for variable, value in zip(self._sums(), self._means, strict=True):
        variable.assign(value)

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    done = self._done = batch + 1
    if done == self.params["steps"]:  # the end of the epoch saves: nothing would be left to go on with
      return
    late = self._minutes > 0 and time.monotonic() - self._saved_at >= 60 * self._minutes
    before, self._seen = self._seen, done
    late, asked = self._agreed([late, self._asked], done // _AGREE_EVERY > before // _AGREE_EVERY)
    if late or asked or (self._every and done - self._saved >= self._every):
      self._saved = done
      self._saved_at = time.monotonic()
      self._progress.step.assign(self._offset + done)
      self._save("last")
      self.may_leave = asked

  def _agreed(self, mine: Sequence[bool], now: bool) -> Sequence[bool]:
    """Of each, whether it is so; several workers ask each other `now`, and else it is not."""
    if self._workers.count == 1:
      return mine
    return self._workers.any(mine) if now else [False] * len(mine)

  def ask(self) -> None:
    """Asks for a checkpoint after the step that is running; `may_leave` is true when it is there."""
    self._asked = True

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    if self._done < self.params["steps"]:  # another callback has stopped the job within the epoch
      self._progress.step.assign(self._offset + self._done)
      self._save("last")
      return
    value = _score(logs or {})
    self._progress.epoch.assign(epoch + 1)
    self._progress.step.assign(0)
    better = value > float(self._progress.best)
    if better:
      self._progress.best.assign(value)
      self._progress.best_epoch.assign(epoch)
    # the best one second: a job that is killed in between finds it in the last one
    self._save("last")
    if better:
      self._save("best")
    (self.may_leave,) = self._agreed([self._asked], True)
    if self.stopped_early:
      logging.info("stopping: no better epoch for %d epochs", self._patience)
      self.model.stop_training = True

  @property
  def stopped_early(self) -> bool:
    """Whether patience has run out."""
    since = int(self._progress.epoch) - 1 - int(self._progress.best_epoch)
    return bool(self._patience) and int(self._progress.best_epoch) >= 0 and since >= self._patience


def _score(logs: Logs) -> float:
  """What the best epoch has most of; NaN if nothing tells. See `Progress.best`."""
  auc = float(logs.get("val_auc", math.nan))
  return -float(logs.get("val_logloss", math.nan)) if math.isnan(auc) else auc


@contextlib.contextmanager
def at_sigterm(ask: Callable[[], None]) -> Iterator[None]:
  """Calls `ask` at the first SIGTERM within the block, as a preempted machine sends it; a later one ends at once.

  The first may come twice: to a whole group of processes, and from the one that started them.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  asked_at = math.inf

  def terminated(*_: Any) -> None:
    nonlocal asked_at
    if asked_at < math.inf:
      if time.monotonic() - asked_at > _TWICE:
        sys.exit(processes.TERMINATED)
      return
    asked_at = time.monotonic()
    ask()

  before = signal.signal(signal.SIGTERM, terminated)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


class Leave(keras.callbacks.Callback):
  """Ends the process as soon as the checkpoint that was asked for is written. It comes after all other callbacks."""

  def __init__(self, checkpoints: Checkpoints):
    super().__init__()
    self._checkpoints = checkpoints

  def _leave(self) -> None:
    if self._checkpoints.may_leave:
      step = int(self.model.optimizer.iterations.numpy())
      logging.warning("SIGTERM: stopped at step %d; the same command goes on from there", step)
      sys.exit(processes.TERMINATED)

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    self._leave()

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    self._leave()
