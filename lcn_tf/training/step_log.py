"""Curves by step for TensorBoard, and the newest numbers of a job as a text file that a monitor scrapes."""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import files, storage
from lcn_tf.errors import one_line
from lcn_tf.training import prometheus
from lcn_tf.training.gauges import Gauges
from lcn_tf.training.progress import Logs
from lcn_tf.training.prometheus import Sample
from lcn_tf.training.schedules import rates_at

FILE = "metrics.prom"
FOLDER = "steps"  # of TensorBoard's folder
_FLOPS_AFTER = 600.0  # seconds of training after which mult-adds are counted, which takes seconds

# by curve: name of the metric, what it is, labels
_METRICS: dict[str, tuple[str, str, dict[str, str]]] = {
  "learning_rate": ("learning_rate", "Learning rate of the last step.", {"weights": "dense"}),
  "table_learning_rate": ("learning_rate", "", {"weights": "tables"}),
  "gradient_norm": ("gradient_norm", "Norm of the gradients of the last step.", {"weights": "dense"}),
  "table_gradient_norm": ("gradient_norm", "", {"weights": "tables"}),
  "candidates_per_second": ("candidates_per_second", "Candidates per second, padding included.", {}),
  "input_wait_share": ("input_wait_share", "Share of the time in which steps wait for their batches.", {}),
  "flops_per_second": ("flops_per_second", "Estimate of the arithmetic of matrix products.", {}),
}


class StepLog(keras.callbacks.Callback):
  """Writes a point of each curve every few steps, and `metrics.prom` with the same numbers.

  It comes before `Checkpoints` in the list of callbacks: the points up to a checkpoint are on disk when it is. A job
  that goes on removes the points behind its checkpoint, whose steps it repeats.

  Args:
    run: Run folder.
    gauges: Gauges of the step.
    every: Steps between two points, counted from the first step of the job.
    candidates: Candidates of a step, padding included.
    first: Number of steps that the optimizer had done before the first one of the job.
    flops: Function from the mean widths of histories, by the domains of candidates and history, to the floating-point
      operations of a step.
    labels: Labels of all numbers in `metrics.prom`.
  """

  def __init__(
    self,
    run: pathlib.Path,
    gauges: Gauges,
    every: int,
    candidates: int,
    first: int,
    flops: Callable[[dict[Any, float]], float],
    labels: dict[str, str],
  ):
    super().__init__()
    self._file = run / FILE
    self._folder = run / "tensorboard" / FOLDER
    self._gauges = gauges
    self._every = every
    self._candidates = candidates
    self._first = first
    self._flops = flops
    self._labels = labels
    self._writer: Any = None
    self._begun: int | None = None
    self._step_flops: float | None = None

  def on_train_begin(self, logs: Logs | None = None) -> None:
    # counted here: reading the optimizer's number after each step would wait for the device
    self._done = int(self.model.optimizer.iterations.numpy()) - self._first
    self._each = int(self.model._steps_per_execution.numpy())
    if self._begun is None:
      self._begun, self._begun_at = self._done, time.monotonic()
      with storage.storing("curves", self._folder):
        forget(self._folder, self._done)

  def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
    self._epoch = epoch
    self._sums: dict[str, tuple[float, float]] | None = None
    self._since: tuple[int, float, float] | None = None

  def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
    if self._sums is None:  # now: `Checkpoints` has taken up those of an interrupted epoch
      self._sums = self._losses()

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    before, self._done = self._done, self._done + self._each
    if self._done // self._every > before // self._every:
      self._write(self._point())
    if self._since is None:  # the first step of a job waits for its graph
      self._since = self._done, time.monotonic(), self._gauges.waited()

  def on_train_end(self, logs: Logs | None = None) -> None:
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  def _losses(self) -> dict[str, tuple[float, float]]:
    """Sum and number of the losses of the epoch so far, by name; on one replica, as all have the same ones."""

    def here(variable: tf.Variable) -> float:
      # reading the variable itself sums over replicas, and this worker alone would ask the others
      return float(self.model.distribute_strategy.experimental_local_results(variable)[0].numpy())

    return {m.name: (here(m.total), here(m.count)) for m in self.model.metrics}

  def _point(self) -> dict[str, float]:
    optimizer, before, sums = self.model.optimizer, self._sums or {}, self._losses()
    self._sums = sums
    point = {name: (total - before[name][0]) / max(count - before[name][1], 1) for name, (total, count) in sums.items()}
    point["learning_rate"], point["table_learning_rate"] = rates_at(optimizer, optimizer.iterations - 1)
    point["gradient_norm"], point["table_gradient_norm"] = self._gauges.norms()
    if self._since is not None:
      done, then, waited = self._since
      seconds = max(time.monotonic() - then, 1e-9)
      steps = self._done - done
      point["candidates_per_second"] = steps * self._candidates / seconds
      point["input_wait_share"] = min((self._gauges.waited() - waited) / seconds, 1.0)
      if time.monotonic() - self._begun_at >= _FLOPS_AFTER:
        point["flops_per_second"] = self._flops_of_step() * steps / seconds
    self._since = None
    return point

  def _flops_of_step(self) -> float:
    if self._step_flops is None:
      steps = max(self._done - (self._begun or 0), 1)
      self._step_flops = self._flops({which: total / steps for which, total in self._gauges.widths().items()})
    return self._step_flops

  def _write(self, point: dict[str, float]) -> None:
    with storage.storing("curves", self._folder):
      if self._writer is None:
        self._writer = tf.summary.create_file_writer(files.plain(self._folder))
      with self._writer.as_default():
        for name, value in point.items():
          tf.summary.scalar(name, value, self._done)
      self._writer.flush()
    files.write_text(self._file, prometheus.text(self._samples(point), self._labels))

  def _samples(self, point: dict[str, float]) -> Iterator[Sample]:
    yield Sample("lcn_tf_step", "Number of finished steps of the job.", self._done)
    yield Sample("lcn_tf_epoch", "Number of the epoch, from 0.", self._epoch)
    yield Sample("lcn_tf_written_seconds", "Time of this file, Unix seconds.", time.time())
    for name, value in point.items():
      if name not in _METRICS:
        yield Sample("lcn_tf_loss", "Mean loss of the steps since the last point.", value, {"name": name})
    for name, (metric, told, labels) in _METRICS.items():
      if name in point:
        yield Sample(f"lcn_tf_{metric}", told, point[name], labels)


def forget(folder: pathlib.Path, step: int) -> None:
  """Removes the points behind a step from the event files of a folder, and what a killed job has half written.

  Args:
    folder: Folder of event files.
    step: Last step whose points stay.
  """
  for file in sorted(folder.glob("events.*")):
    kept, whole = [], True
    try:
      for record in tf.compat.v1.io.tf_record_iterator(str(file)):
        event = tf.compat.v1.Event.FromString(record)
        if event.step <= step:
          kept.append(record)
        else:
          whole = False
    except tf.errors.DataLossError as error:
      logging.info("%s: %s", file, one_line(error))
      whole = False
    if whole:
      continue
    with files.beside(file) as aside, tf.io.TFRecordWriter(files.plain(aside)) as writer:
      for record in kept:
        writer.write(record)
