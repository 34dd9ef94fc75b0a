"""A row per epoch: `history.csv`, and the same numbers for TensorBoard."""

import csv
import io
import pathlib
from collections.abc import Iterator

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import files
from lcn_tf.errors import one_line
from lcn_tf.training.checkpoints import Logs, Progress

FILE = "history.csv"
_ROWS = "epoch_"  # heads the names of the curves, as Keras' own callback has it
_VALIDATION = "val_"


class History(keras.callbacks.Callback):
  """Keeps `history.csv`: one row per finished epoch, whatever the job went through.

  It comes before `Checkpoints` in the list of callbacks. Rows of epochs that the checkpoint does not know (the job was
  killed between the two) are written anew.

  Args:
    run: The run folder.
    progress: The job's.
  """

  def __init__(self, run: pathlib.Path, progress: Progress):
    super().__init__()
    self._file = run / FILE
    self._progress = progress
    self.rows: list[dict[str, str]] = []

  def on_train_begin(self, logs: Logs | None = None) -> None:
    self.rows = [row for row in _read(self._file) if int(row["epoch"]) < int(self._progress.epoch)]

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    self.rows.append({"epoch": str(epoch), **{name: str(value) for name, value in sorted((logs or {}).items())}})
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", *sorted({name for row in self.rows for name in row} - {"epoch"})], "")
    writer.writeheader()
    writer.writerows(self.rows)
    files.write_text(self._file, text.getvalue())


def _read(file: pathlib.Path) -> list[dict[str, str]]:
  """The rows that are whole."""
  if not file.is_file():
    return []
  with file.open(newline="", errors="replace") as opened:
    return [row for row in csv.DictReader(opened) if (row.get("epoch") or "").isdecimal() and None not in row]


class Curves(keras.callbacks.Callback):
  """Writes the rows of `History` for TensorBoard, each once, as soon as a checkpoint knows the epoch.

  It comes after `Checkpoints` in the list of callbacks.

  Args:
    folder: Of the curves; `train/` and `validation/` are made there.
    history: The rows.
    progress: The job's.
  """

  def __init__(self, folder: pathlib.Path, history: History, progress: Progress):
    super().__init__()
    self._folders = {"": folder / "train", _VALIDATION: folder / "validation"}
    self._history = history
    self._progress = progress
    self._written: set[int] | None = None

  def on_train_begin(self, logs: Logs | None = None) -> None:
    self._write()

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    self._write()

  def _write(self) -> None:
    if self._written is None:
      self._written = set(_steps(self._folders[""]))
    known = [row for row in self._history.rows if int(row["epoch"]) < int(self._progress.epoch)]
    missing = [row for row in known if int(row["epoch"]) not in self._written]
    if not missing:
      return
    for prefix, folder in self._folders.items():
      writer = tf.summary.create_file_writer(files.plain(folder))
      with writer.as_default():
        for row in missing:
          for name, value in row.items():
            if name != "epoch" and value and name.startswith(_VALIDATION) == bool(prefix):
              tf.summary.scalar(_ROWS + name.removeprefix(prefix), float(value), int(row["epoch"]))
      writer.close()
    self._written |= {int(row["epoch"]) for row in missing}


def _steps(folder: pathlib.Path) -> Iterator[int]:
  """Epochs that the event files of a folder hold."""
  for file in sorted(folder.glob("events.*")):
    try:
      for event in tf.compat.v1.train.summary_iterator(str(file)):
        if event.summary.value:
          yield event.step
    except tf.errors.DataLossError as error:  # the end of a killed job's file
      logging.info("%s: %s", file, one_line(error))
