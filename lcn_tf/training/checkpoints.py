"""The callback that saves a job, keeps its best epoch and stops it early."""

import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf.config import patience_is_over
from lcn_tf.errors import UserError
from lcn_tf.training.checkpoint_store import FOLDER, Kind, Store, begun
from lcn_tf.training.progress import Logs, Progress
from lcn_tf.training.workers import Workers

# steps after which several workers ask each other whether one of them wants a checkpoint
_AGREE_EVERY = 16


class Checkpoints(keras.callbacks.Callback):
  """Saves the job, keeps its best epoch as `Progress` defines it, and stops it early.

  It saves after each epoch, and within an epoch after a number of steps or minutes.

  Args:
    run: Run folder of the whole job, with the checkpoints to go on with.
    own: Folder that this process writes: the chief's is the run folder.
    progress: Position of the job, which the callback updates.
    workers: Processes of the job. All of them write a checkpoint at the same step, each to its own folder.
    every: Steps between checkpoints within an epoch; 0 = none.
    minutes: Minutes between checkpoints within an epoch; 0 = none.
    patience: Epochs without a better one after which training stops; 0 = never.
    after: Number of first epochs that `patience` does not count.
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
    after: int = 0,
  ):
    super().__init__()
    self._run = run
    self._workers = workers
    self._progress = progress
    self._every = every
    self._patience = patience
    self._after = after
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
      DamagedError: None of the checkpoints can be read.
      UserError: The only checkpoint is a best one, which no job can go on with.
    """
    if self._workers.chief:
      for store in self._stores.values():
        store.clean()
    number = Store(self._run, "last").restore(self._contents["last"])
    best = Store(self._run, "best")
    if number is None:
      if begun(self._run):
        raise UserError(
          f"{self._run}/{FOLDER}: nothing to go on with: the checkpoints in last/ are gone. Take them from a backup, "
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
    self._means = self._sums_of_these_replicas()
    return True

  def _sums(self) -> list[tf.Variable]:
    """The sums and counts behind the mean losses of the running epoch."""
    return [variable for metric in self.model.metrics for variable in metric.variables]

  def _sums_of_these_replicas(self) -> list[float]:
    """Values of `_sums`: each replica counts every step, and a job may go on with another number of them."""
    counted = int(self._progress.step) * self._workers.strategy.num_replicas_in_sync
    found = []
    for metric in self.model.metrics:
      total, count = (float(variable.numpy()) for variable in metric.variables)
      found += [total * counted / count, float(counted)] if count else [total, count]
    return found

  def _save(self, kind: Kind) -> None:
    number, keep = int(self.model.optimizer.iterations.numpy()), self._keep if kind == "last" else 1
    variables = [*self.model.variables, *self.model.optimizer.variables()]
    needs = sum(v.shape.num_elements() * v.dtype.size for v in variables)
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
    """For each of `mine`, whether it is true for any worker. Without `now` several workers do not ask: none is."""
    if self._workers.count == 1:
      return mine
    return self._workers.any(mine) if now else [False] * len(mine)

  def ask(self) -> None:
    """Asks for a checkpoint after the running step; once it is written, `may_leave` is true."""
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
    best = int(self._progress.best_epoch) + 1
    return patience_is_over(int(self._progress.epoch), best, self._patience, self._after)


def _score(logs: Logs) -> float:
  """The score of an epoch by `Progress.best`; NaN if it is not defined."""
  auc = float(logs.get("val_auc", math.nan))
  return -float(logs.get("val_logloss", math.nan)) if math.isnan(auc) else auc
