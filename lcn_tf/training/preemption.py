"""SIGTERM, as a preempted machine sends it: one more checkpoint, then the end."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging
from tensorflow import keras

from lcn_tf import processes
from lcn_tf.training.checkpoints import Checkpoints
from lcn_tf.training.progress import Logs

_TWICE = 2.0  # seconds within which a second SIGTERM is taken for the first one


@contextlib.contextmanager
def at_sigterm(ask: Callable[[], None]) -> Iterator[None]:
  """Calls `ask` at the first SIGTERM within the block, as a preempted machine sends it; a later one ends at once.

  The first signal may come twice: to the whole group of processes, and from the process that started them.
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


class LeaveOnSigterm(keras.callbacks.Callback):
  """Ends the process as soon as the checkpoint of a SIGTERM is written. It comes after all other callbacks."""

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
