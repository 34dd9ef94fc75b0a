"""Writing files: aside first, then renamed, so that a reader never meets half a file; by one process at a time."""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from lcn_tf.errors import UserError

# a pathlib.Path has only one of the slashes left
_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


def local(path: str | pathlib.Path) -> pathlib.Path:
  """The path, which is not that of a bucket: `pathlib` would make a folder `gs:` of it.

  Raises:
    UserError: It begins with a scheme (`gs://`, `s3://`, ...).
  """
  if found := _REMOTE.match(str(path)):
    where = f"{found[1]}://{str(path)[found.end() :]}"
    raise UserError(f"{where}: only local or mounted paths are read and written")
  return pathlib.Path(path)


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `path` to write to; it becomes `path` when the block ends well and is removed when it does not."""
  path = local(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    yield aside
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Writes `value` as JSON that every parser reads: NaN and infinities become null."""
  with replacing(path) as aside:
    aside.write_text(json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
  """`value` with plain types, and None for what JSON has no number for."""
  if isinstance(value, dict):
    return {str(key): jsonable(entry) for key, entry in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [jsonable(entry) for entry in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return str(value) if isinstance(value, pathlib.PurePath) else value


def make(folder: str | pathlib.Path) -> pathlib.Path:
  """The folder, made if it is not there.

  Raises:
    UserError: It cannot be made, or there is something else.
  """
  folder = local(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{folder}: no folder can be made here: {error.strerror}") from None
  if not os.access(folder, os.W_OK | os.X_OK):
    raise UserError(f"{folder}: this folder cannot be written to")
  return folder


@contextlib.contextmanager
def exclusive(folder: str | pathlib.Path, who: str) -> Iterator[int]:
  """Holds a folder until the block, and all processes that inherit the file descriptor, have ended.

  Args:
    folder: Made if it is not there.
    who: Who else may hold it, for the message.

  Raises:
    UserError: Somebody does, or the folder cannot be made.
  """
  with (make(folder) / ".lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"{folder}: {who} is at work here") from None
    except OSError as error:  # some network file systems
      logging.warning("%s: cannot be locked (%s); see to it that nobody else works here", folder, error.strerror)
    yield file.fileno()
