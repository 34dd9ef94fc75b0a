"""A job whose run folder lies in an object store: what it has saved goes there."""

import pathlib

from tensorflow import keras

from lcn_tf.remote import working
from lcn_tf.training.progress import Logs, Progress


class PutBack(keras.callbacks.Callback):
  """Brings the store to what the run folder has, with every checkpoint. A run folder on a disk is left alone.

  It comes after the callbacks that write with a checkpoint, and before the one that may end the job.

  Args:
    run: Run folder.
    progress: Position of the job.
  """

  def __init__(self, run: pathlib.Path, progress: Progress):
    super().__init__()
    self._run = run
    self._progress = progress
    self._put = self._position()

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    self._put_if_saved()

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    self._put_if_saved()

  def _position(self) -> tuple[int, int]:
    return int(self._progress.epoch), int(self._progress.step)

  def _put_if_saved(self) -> None:
    if self._position() != self._put:
      self._put = self._position()
      working.put(self._run)
