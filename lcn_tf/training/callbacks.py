"""Keras callbacks of a job besides its checkpoints; users can add theirs."""

import math
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import files, metrics
from lcn_tf.data.request_spec import request_spec
from lcn_tf.errors import SettingsError
from lcn_tf.training.averages import averaged
from lcn_tf.training.progress import Logs
from lcn_tf.training.projections import Projector
from lcn_tf.training.schedules import rate_now
from lcn_tf.training.workers import Workers


class Validation(keras.callbacks.Callback):
  """Scores the validation split after each epoch: exact `val_auc`, `val_gauc` and `val_logloss` in the epoch's logs.

  It comes first in the list of callbacks, so that the others see them. Of averaged weights it scores the averages.

  Args:
    batches: Function that returns the batches of the split, flat dicts, from the start.
    workers: Processes of the job; the chief scores, and all of them get the result.
    fresh: True if the search keeps what it reads up to date with the weights at the end of every epoch.
  """

  def __init__(self, batches: Callable[[], Iterable[dict[str, tf.Tensor]]], workers: Workers, fresh: bool = True):
    super().__init__()
    self._batches = batches
    self._workers = workers
    self._fresh = fresh

  def set_model(self, model: Any) -> None:
    super().set_model(model)
    self._projector = Projector(model)
    self._score = tf.function(
      lambda request: tf.sigmoid(model(request, training=False)),
      input_signature=[request_spec(model.schema)],
      autograph=False,
    )

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    with averaged(self.model) as others:
      if others and self._fresh:
        self._projector.refresh()
      found = self._workers.chiefs(self._found() if self._workers.chief else (0.0, 0.0, 0.0))
    if others and self._fresh:
      self._projector.refresh()
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


class ProgressLog(keras.callbacks.Callback):
  """Logs the position in the epoch once a minute, for jobs without a terminal.

  Args:
    steps: Steps of an epoch.
    done: Steps of the first epoch that an earlier call has done.
    candidates: Candidates of a step.
    seconds: Seconds between two lines.
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


class LearningRate(keras.callbacks.Callback):
  """Puts the learning rate of the dense weights at the end of each epoch into the epoch's logs, `learning_rate`."""

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    if logs is not None:
      logs["learning_rate"] = rate_now(self.model.optimizer)


class Profile(keras.callbacks.Callback):
  """Records a window of steps with TensorFlow's profiler, which writes `plugins/profile/` for TensorBoard.

  A call that begins within the window records the rest of it. Steps of one execution are recorded together.

  Args:
    folder: Folder of TensorBoard.
    window: First and last step of the job, counted from 1.
    first: Number of steps that the optimizer had done before the first one of the job.
  """

  def __init__(self, folder: pathlib.Path, window: tuple[int, int], first: int):
    super().__init__()
    self._folder = folder
    self._window = window
    self._first = first
    self._on = False

  def on_train_begin(self, logs: Logs | None = None) -> None:
    self._done = int(self.model.optimizer.iterations.numpy()) - self._first
    self._each = int(self.model._steps_per_execution.numpy())

  def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
    begin, end = self._window
    if not self._on and begin - self._each <= self._done < end:
      tf.profiler.experimental.start(files.plain(self._folder))
      self._on, self._from = True, self._done + 1
    self._done += self._each

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    if self._done >= self._window[1]:
      self._stop()

  def on_train_end(self, logs: Logs | None = None) -> None:
    self._stop()

  def _stop(self) -> None:
    if self._on:
      self._on = False
      tf.profiler.experimental.stop()
      logging.info("profile of steps %d to %d: %s", self._from, self._done, self._folder)


class StopOnNaN(keras.callbacks.Callback):
  """Ends the job when the loss is not finite, naming the step."""

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    loss = (logs or {}).get("loss", 0.0)
    if not math.isfinite(loss):
      step = int(self.model.optimizer.iterations.numpy())
      raise SettingsError(
        f"step {step}: the loss is {loss}. The checkpoints before it are kept; a lower train.learning_rate may help."
      )
