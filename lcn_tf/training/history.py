"""A row per epoch: `history.csv`, and the same numbers for TensorBoard."""

import csv
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import files
from lcn_tf.errors import one_line
from lcn_tf.training.progress import Logs, Progress

FILE = "history.csv"
_ROWS = "epoch_"  # heads the names of the curves, as Keras' own callback has it
_VALIDATION = "val_"


class History(keras.callbacks.Callback):
  """Keeps `history.csv`: one row per finished epoch, also of a job that was interrupted.

  It comes before `Checkpoints` in the list of callbacks. A job that is killed between the two leaves a row that no
  checkpoint knows. That row is written anew.

  Args:
    run: Run folder.
    progress: Position of the job.
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
  """The whole rows."""
  if not file.is_file():
    return []
  lines = file.read_bytes().decode(errors="replace").splitlines(keepends=True)
  rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
  whole = [row for row in rows if _is_whole(row)]
  if len(whole) < max(len(lines) - 1, 0):
    logging.warning("%s: damaged: the rows of epochs %s alone are whole", file, [row["epoch"] for row in whole])
  return whole


def _is_whole(row: dict[str | Any, str | Any]) -> bool:
  """Whether a row has as many numbers as the head has names."""
  if None in row or None in row.values():
    return False
  try:
    for value in filter(None, row.values()):
      float(value)
  except ValueError:
    return False
  return row.get("epoch", "").isdecimal()


class Curves(keras.callbacks.Callback):
  """Writes the rows of `History` for TensorBoard, each once, as soon as a checkpoint knows the epoch.

  It comes after `Checkpoints` in the list of callbacks.

  Args:
    folder: Folder of the curves, in which `train/` and `validation/` are made.
    history: Rows of the job.
    progress: Position of the job.
  """

  def __init__(self, folder: pathlib.Path, history: History, progress: Progress):
    super().__init__()
    self._folders = {"": folder / "train", _VALIDATION: folder / "validation"}
    self._history = history
    self._progress = progress
    self._written: dict[str, set[tuple[str, int]]] = {}

  def on_train_begin(self, logs: Logs | None = None) -> None:
    self._write()

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    self._write()

  def _write(self) -> None:
    known = [row for row in self._history.rows if int(row["epoch"]) < int(self._progress.epoch)]
    for prefix, folder in self._folders.items():
      if prefix not in self._written:
        self._written[prefix] = set(_points(folder))
      written = self._written[prefix]
      points = {
        (_ROWS + name.removeprefix(prefix), int(row["epoch"])): float(value)
        for row in known
        for name, value in row.items()
        if name != "epoch" and value and name.startswith(_VALIDATION) == bool(prefix)
      }
      if points.keys() <= written:
        continue
      writer = tf.summary.create_file_writer(files.plain(folder))
      with writer.as_default():
        for (name, epoch), value in points.items():
          if (name, epoch) not in written:
            tf.summary.scalar(name, value, epoch)
      writer.close()
      written.update(points)


def _points(folder: pathlib.Path) -> Iterator[tuple[str, int]]:
  """The curves and epochs in the event files of a folder; a killed job may have written some of an epoch's curves."""
  for file in sorted(folder.glob("events.*")):
    try:
      for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
          yield value.tag, event.step
    except tf.errors.DataLossError as error:  # the end of a killed job's file
      logging.info("%s: %s", file, one_line(error))
