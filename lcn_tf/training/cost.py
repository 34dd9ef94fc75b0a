"""The cost of a job, over all of its starts."""

import os
import pathlib
import resource
import sys
import time
from typing import Any

from tensorflow import keras

from lcn_tf import formats
from lcn_tf.training.progress import Logs, Progress

FILE = "training.json"


class CostRecord(keras.callbacks.Callback):
  """Keeps `training.json` in the run folder. It comes after `Checkpoints` in the list of callbacks.

  The file is written with every checkpoint. So the steps that an interrupted job repeats count once. Its entries:

      seconds                 time of training, of the validation after each epoch and of tracing the graph; the time
                              to build the model and to evaluate it is not included
      steps, epochs           steps and epochs of these seconds
      candidates_per_second   real candidates (no padding) of the target domain in the fastest epoch, without validation
                              and, if there are others, without the first step, which waits for the graph
      parameters              trainable weights, `tables` and `dense` ones
      cores                   cores that TensorFlow could use; several jobs on one machine share them
      peak_memory_bytes       peak memory of the process up to the end of training
      starts                  number of times that the job was started before it was finished
      finished                whether all epochs are done, or early stopping has ended the job

  Args:
    folder: Run folder.
    progress: Position of the job.
    candidates: Mean number of real candidates of a step.
    resumed: True if the job goes on from a checkpoint. False: the file starts anew.
    first: Number of steps that the optimizer had done before the first one of the job.
  """

  def __init__(self, folder: pathlib.Path, progress: Progress, candidates: float, resumed: bool, first: int = 0):
    super().__init__()
    self._first = first
    self._file = folder / FILE
    self._progress = progress
    self._candidates = candidates
    before = read(self._file) if resumed else {}
    self._seconds: float = before.get("seconds", 0.0)
    self._rate: float = before.get("candidates_per_second", 0.0)
    self._memory: int = before.get("peak_memory_bytes", 0)
    self._starts: int = before.get("starts", 0)
    self._since: float | None = None
    self._traced = False
    self._saved = self._position()

  def _position(self) -> tuple[int, int]:
    return int(self._progress.epoch), int(self._progress.step)

  def on_train_begin(self, logs: Logs | None = None) -> None:
    if self._since is None:
      self._since = time.monotonic()
      self._starts += 1

  def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
    self._epoch_began = self._step_ended = time.monotonic()
    self._steps = self._skipped = 0

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    self._steps, self._step_ended = batch + 1, time.monotonic()
    if not self._traced:
      self._traced, self._skipped, self._first_ended = True, self._steps, self._step_ended
    self._write_if_saved()

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    steps, began = self._steps, self._epoch_began
    if 0 < self._skipped < steps:
      steps, began = steps - self._skipped, self._first_ended
    self._rate = max(self._rate, steps * self._candidates / max(self._step_ended - began, 1e-9))
    self._write_if_saved()

  def _write_if_saved(self) -> None:
    if self._position() != self._saved:
      self._saved = self._position()
      self._write(finished=False)

  def finish(self, over: bool = True) -> dict[str, Any]:
    """Writes whether the job is over or was stopped before its end; returns the contents of the file."""
    return self._write(finished=over)

  def _write(self, finished: bool) -> dict[str, Any]:
    if self._since is not None:
      now = time.monotonic()
      self._seconds, self._since = self._seconds + now - self._since, now
      self._memory = max(self._memory, peak_memory_bytes())
    found = {
      "seconds": self._seconds,
      "steps": int(self.model.optimizer.iterations.numpy()) - self._first,
      "epochs": int(self._progress.epoch),
      "candidates_per_second": self._rate,
      "parameters": parameters(self.model),
      "cores": cores(),
      "peak_memory_bytes": self._memory,
      "starts": self._starts,
      "finished": finished,
    }
    formats.write_sealed(self._file, found)
    return found


def read(file: pathlib.Path) -> dict[str, Any]:
  """Contents of `training.json`; {} if the file is missing.

  Raises:
    DamagedError: The file was changed since it was written.
  """
  if not file.is_file():
    return {}
  found = formats.read_sealed(file, "Take it from a backup; without it, the job goes on and counts its costs anew.")
  return {name: value for name, value in found.items() if name != "format"}


def parameters(model: Any) -> dict[str, int]:
  """Numbers of trainable weights: of the `tables` and of the `dense` rest."""
  groups = {"tables": model.table_variables(), "dense": model.dense_variables()}
  return {name: sum(v.shape.num_elements() for v in variables) for name, variables in groups.items()}


def cores() -> int:
  """Threads that an operation may use."""
  mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return int(os.environ.get("TF_NUM_INTRAOP_THREADS") or mine)


def peak_memory_bytes() -> int:
  """Peak memory of this process, bytes."""
  found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return int(found if sys.platform == "darwin" else found * 1024)
