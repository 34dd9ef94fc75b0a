"""What happens between steps: Keras callbacks, to which users can add theirs."""

import contextlib
import math
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import metrics
from lcn_tf.errors import SettingsError
from lcn_tf.serving.signatures import request_spec
from lcn_tf.training.workers import Workers

Logs = dict[str, Any]
_TERMINATED = 128 + signal.SIGTERM
# steps after which several workers ask each other whether one of them wants a checkpoint
_AGREE_EVERY = 16
_TWICE = 2.0  # seconds within which a second SIGTERM is taken for the first one


class Progress(tf.Module):
  """Where a job is; part of its checkpoints.

  Attributes:
    epoch: Epochs that are finished.
    step: Steps of the next epoch that are done.
    best: The best validation AUC so far, in `best_epoch`.
  """

  def __init__(self) -> None:
    super().__init__()
    self.epoch = tf.Variable(0, dtype=tf.int64)
    self.step = tf.Variable(0, dtype=tf.int64)
    self.best = tf.Variable(-1.0, dtype=tf.float64)
    self.best_epoch = tf.Variable(-1, dtype=tf.int64)


class Validation(keras.callbacks.Callback):
  """Scores the validation split after each epoch: exact `val_auc`, `val_gauc` and `val_logloss` in the epoch's logs.

  It comes first in the list of callbacks, so that the others see them.

  Args:
    batches: Gives the split's batches, flat dicts, from the start.
    workers: Of the job; the chief scores, and all get what it found.
  """

  def __init__(self, batches: Callable[[], Iterable[dict[str, tf.Tensor]]], workers: Workers):
    super().__init__()
    self._batches = batches
    self._workers = workers

  def set_model(self, model: Any) -> None:
    super().set_model(model)
    spec = request_spec(model.schema)
    self._score = tf.function(
      lambda request: tf.sigmoid(model(request, training=False)), input_signature=[spec], autograph=False
    )

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    found = self._workers.chiefs(self._found() if self._workers.chief else (0.0, 0.0, 0.0))
    if logs is not None:
      logs.update(zip(("val_auc", "val_gauc", "val_logloss"), found, strict=True))

  def _found(self) -> Sequence[float]:
    names = set(request_spec(self.model.schema))
    scored = metrics.Accumulator()
    for batch in self._batches():
      real = batch["candidate_mask"].numpy()
      probability = self._score({name: tensor for name, tensor in batch.items() if name in names}).numpy()
      users = np.broadcast_to(batch["user"].numpy()[:, np.newaxis], real.shape)
      scored.add(probability[real], batch["label"].numpy()[real], users[real], batch["weight"].numpy()[real])
    result = scored.result()
    arguments = result.scores, result.labels
    return (
      metrics.auc(*arguments, result.weights),
      metrics.gauc(*arguments, result.users, result.weights),
      metrics.logloss(*arguments, result.weights),
    )


class Checkpoints(keras.callbacks.Callback):
  """Saves the job after each epoch, and every so many steps or minutes; keeps the best epoch by validation AUC; stops
  early.

  Args:
    folder: `last/` and `best/` are made there; a checkpoint is written whole or not at all.
    progress: Updated here.
    workers: Of the job: a checkpoint is written by all of them at the same step, each to its own folder.
    every: Steps between checkpoints within an epoch; 0 = none.
    minutes: Likewise, so many minutes.
    patience: Epochs without a better validation AUC before training stops; 0 = never.
    keep: Checkpoints that `last/` holds.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    progress: Progress,
    workers: Workers,
    every: int = 0,
    patience: int = 0,
    keep: int = 2,
    minutes: float = 0.0,
  ):
    super().__init__()
    self._folder = folder
    self._workers = workers
    self._progress = progress
    self._every = every
    self._patience = patience
    self._keep = keep
    self._minutes = minutes
    self._saved = 0
    self._saved_at = time.monotonic()
    self._asked = self.may_leave = False

  def set_model(self, model: Any) -> None:
    super().set_model(model)
    contents = {"model": model, "optimizer": model.optimizer, "progress": self._progress}
    self._last = tf.train.CheckpointManager(tf.train.Checkpoint(**contents), str(self._folder / "last"), self._keep)
    self._best = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(self._folder / "best"), 1)

  def restore(self, path: str | None) -> bool:
    """Takes up a checkpoint, the run's last one, if there is one."""
    if path:
      self._last.checkpoint.restore(path).assert_existing_objects_matched()
      logging.info("resumed from %s: %d epochs and %d steps", path, self._progress.epoch, self._progress.step)
    return bool(path)

  @property
  def _number(self) -> int:
    return int(self.model.optimizer.iterations.numpy())

  def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
    self._offset = int(self._progress.step)
    self._saved = self._seen = self._done = 0
    self._saved_at = time.monotonic()

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
      self._last.save(self._number)
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
      self._last.save(self._number)
      return
    value = (logs or {}).get("val_auc", math.nan)
    self._progress.epoch.assign(epoch + 1)
    self._progress.step.assign(0)
    if value > float(self._progress.best):
      self._progress.best.assign(value)
      self._progress.best_epoch.assign(epoch)
      self._best.save(self._number)
    self._last.save(self._number)
    (self.may_leave,) = self._agreed([self._asked], True)
    if self.stopped_early:
      logging.info("stopping: no better validation AUC for %d epochs", self._patience)
      self.model.stop_training = True

  @property
  def stopped_early(self) -> bool:
    """Whether patience has run out."""
    since = int(self._progress.epoch) - 1 - int(self._progress.best_epoch)
    return bool(self._patience) and int(self._progress.best_epoch) >= 0 and since >= self._patience


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
        sys.exit(_TERMINATED)
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
      sys.exit(_TERMINATED)

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    self._leave()

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    self._leave()


class Pace(keras.callbacks.Callback):
  """Logs where the epoch is, once a minute: what a job without a terminal is watched by.

  Args:
    steps: Of an epoch.
    done: Steps of the first epoch that an earlier call has done.
    candidates: Of a step.
    seconds: Between two lines.
  """

  def __init__(self, steps: int, done: int, candidates: int, seconds: float = 60.0):
    super().__init__()
    self._steps = steps
    self._done = done
    self._candidates = candidates
    self._seconds = seconds

  def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
    self._epoch = epoch
    self._told, self._told_at = 0, time.monotonic()

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    now = time.monotonic()
    if now - self._told_at < self._seconds:
      return
    step_seconds = (now - self._told_at) / (batch + 1 - self._told)
    self._told, self._told_at = batch + 1, now
    step = self._done + batch + 1
    logging.info(
      "epoch %d, step %d of %d: loss %.4f, %.0f candidates/s, %.0f min left of the epoch",
      self._epoch + 1,
      step,
      self._steps,
      (logs or {}).get("loss", math.nan),
      self._candidates / step_seconds,
      (self._steps - step) * step_seconds / 60,
    )

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    self._done = 0


class StopOnNaN(keras.callbacks.Callback):
  """Ends the job when the loss is not finite, naming the step."""

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    loss = (logs or {}).get("loss", 0.0)
    if not math.isfinite(loss):
      step = int(self.model.optimizer.iterations.numpy())
      raise SettingsError(
        f"step {step}: the loss is {loss}. The checkpoints before it are kept; a lower train.learning_rate may help."
      )
