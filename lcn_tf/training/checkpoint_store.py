"""Checkpoints on disk: written whole and kept by number; a damaged one is named, and the one before it is taken."""

import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Literal

import tensorflow as tf
from absl import logging

from lcn_tf import files, storage
from lcn_tf.errors import DamagedError, one_line
from lcn_tf.training.cluster import LOST

Kind = Literal["last", "best"]

FOLDER = "checkpoints"  # of a run
_STATE = "checkpoint"  # TensorFlow's list of them
_INDEX = re.compile(r"ckpt-(\d+)\.index")
_PART = re.compile(r"ckpt-(\d+)\.(index|data-\d+-of-\d+)")


class Store:
  """The checkpoints of one kind in a run folder, `ckpt-<number>` by the number of steps.

  The files themselves say which checkpoints there are. TensorFlow's state file beside them is written for other tools
  alone.

  Args:
    run: Run folder.
    kind: Kind of the checkpoints: `last`, which a job goes on with, or `best`, which is exported.
  """

  def __init__(self, run: str | pathlib.Path, kind: Kind):
    self.folder = pathlib.Path(run) / FOLDER / kind

  def numbers(self) -> list[int]:
    """Numbers of the checkpoints, the newest first."""
    return sorted((int(found[1]) for found in self._named(_INDEX)), reverse=True)

  def path(self, number: int) -> str:
    """Path of a checkpoint for TensorFlow, in a spelling that it does not read as a pattern."""
    return f"{files.plain(self.folder)}/ckpt-{number}"

  def newest(self) -> int | None:
    return next(iter(self.numbers()), None)

  def restore(self, checkpoint: tf.train.Checkpoint, partly: bool = False) -> int | None:
    """Takes up the newest checkpoint that can be read; a damaged one is named in the log, and stays.

    Args:
      checkpoint: Checkpoint object, all of whose variables the file has to hold.
      partly: True if the file may hold other variables besides.

    Returns:
      The number of the checkpoint; None if there is none.

    Raises:
      DamagedError: None of the checkpoints can be read.
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
      checkpoint: Checkpoint object.
      number: Number of the new checkpoint.
      keep: Number of checkpoints that stay, the new one included.
      needs: Approximate size in bytes, for the message of an error; 0 = not known.

    Raises:
      StorageError: The checkpoint could not be written; those before it are intact.
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
    # those that lost their index to a kill among them
    for older in {int(part[1]) for part in self._named(_PART)}:
      if older < number and older not in kept:
        self._remove(older)

  def whole(self, number: int) -> bool:
    """Whether a checkpoint is there, and all that it holds can be read."""
    return unreadable(self.path(number)) is None

  def clean(self) -> None:
    """Removes the unfinished files of a killed process; the caller holds the folder."""
    for left in self.folder.glob("ckpt-*_temp"):
      shutil.rmtree(left, ignore_errors=True)
    files.sweep(self.folder)

  def _named(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    there = self.folder.iterdir() if self.folder.is_dir() else ()
    yield from filter(None, (pattern.fullmatch(path.name) for path in there))

  def _remove(self, number: int) -> None:
    # the index first: without it the rest is no checkpoint
    for found in sorted(self._named(_PART), key=lambda part: part[2] != "index"):
      if int(found[1]) == number:
        (self.folder / found[0]).unlink(missing_ok=True)
    shutil.rmtree(self.folder / f"ckpt-{number}_temp", ignore_errors=True)


def begun(run: str | pathlib.Path) -> bool:
  """Whether a run folder holds a checkpoint, or has ever held one."""
  last = Store(run, "last")
  return bool(last.numbers()) or bool(Store(run, "best").numbers()) or (last.folder / _STATE).exists()


def read(checkpoint: tf.train.Checkpoint, path: str, partly: bool = False) -> str | None:
  """Restores a checkpoint, with the arguments of `Store.restore`; returns the reason of a failure, or None."""
  try:
    status = checkpoint.read(path)
    (status.expect_partial() if partly else status).assert_existing_objects_matched()
    return None
  except LOST:
    raise
  except Exception as error:
    if storage.failure(error):
      raise
    return one_line(error)


def unreadable(path: str) -> str | None:
  """Why a checkpoint, or one of its tensors, cannot be read; None if all can."""
  try:
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)
    return None
  except Exception as error:
    if storage.failure(error):
      raise
    return one_line(error)


def _intact(numbers: Sequence[int]) -> str:
  if not numbers:
    return "There was none before it."
  return f"ckpt-{numbers[0]} is intact: with space, the same command goes on from there."
