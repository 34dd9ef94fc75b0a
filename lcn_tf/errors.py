"""Errors that a user can act on: one message that says where, what came and what is allowed."""

import difflib
import os
from collections.abc import Iterable


class UserError(Exception):
  """Wrong input (config, path, record, data). Entry points print its message, without a traceback, and exit with
  `exit_code`."""

  exit_code = 1


class SettingsError(UserError):
  """What these settings lead to, whenever and wherever they are tried: a loss that is not finite, say."""

  exit_code = os.EX_DATAERR


class StorageError(UserError):
  """What the system says of a file: a full disk, a quota, a mount that is gone. It may go well another time."""

  exit_code = os.EX_IOERR


class LostWorkerError(UserError):
  """Another worker of the job has ended. All of them, started again, go on."""

  exit_code = os.EX_TEMPFAIL


class DamagedError(UserError):
  """A file of ours that is not what was written: its checksum does not agree, or it cannot be read."""


def one_line(error: BaseException, most: int = 300) -> str:
  """The message of an error of another library, on one line."""
  return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
  """ " Did you mean 'x'?" for the known name most like `name`, or an empty string."""
  close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
  return f" Did you mean {close[0]!r}?" if close else ""


def positive(**sizes: float) -> None:
  """Checks arguments of a layer.

  Raises:
    ValueError: Names the first that is not positive, and its value.
  """
  for name, value in sizes.items():
    if value <= 0:
      raise ValueError(f"{name} must be positive; found {value}")


def unknown(where: str, what: str, name: str, known: Iterable[str]) -> UserError:
  """The error for `name`, which is none of the `known` ones: `where: what 'name' is unknown. Did you mean ...?`."""
  known = sorted(str(k) for k in known)
  return UserError(f"{where}: unknown {what} {name!r}.{nearest(name, known)} Known: {', '.join(known) or 'none'}.")
