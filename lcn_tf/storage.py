"""What a disk that is full, or gone, looks like through the libraries that write to it, as one message."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

from lcn_tf.errors import StorageError, UserError, one_line

_SAID = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EFBIG)
_NUMBERS = (*_SAID, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO)
# TensorFlow, polars and the standard library's own errors bring the system's words, mostly without its number
_WORDS = [os.strerror(number).lower() for number in _SAID]
# NumPy says how much it wrote, and nothing else
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def failure(error: BaseException | None) -> str | None:
  """What the system said of a file, if that is what `error`, or what it came from, is about; else None."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _NUMBERS:
      return os.strerror(error.errno).lower()
    said = str(error).lower()
    for words in _WORDS:
      if words in said:
        return words
    if isinstance(error, OSError) and _SHORT_WRITE.search(said):
      return os.strerror(errno.ENOSPC).lower()
    error = error.__cause__ or error.__context__
  return None


def message(error: BaseException) -> str | None:
  """One message for an error about storage that nothing more is known of; None for any other error."""
  if isinstance(error, OSError) and error.filename and error.strerror:
    return f"{_text(error.filename)}: {error.strerror.lower()}{_free(pathlib.Path(_text(error.filename)))}"
  reason = failure(error)
  if reason is None:
    return None
  named = re.search(r"(/[^\s:;'\"]+)", str(error))
  return f"{named[1] if named else 'writing'}: {reason} ({one_line(error)})"


@contextlib.contextmanager
def storing(
  what: str, where: str | pathlib.Path, *, needs: int | Callable[[], int] = 0, intact: str | Callable[[], str] = ""
) -> Iterator[None]:
  """Turns what a disk that is full, or gone, raises within the block into one message.

  Args:
    what: Name of the written thing: "a checkpoint".
    where: The file or folder.
    needs: Bytes that it takes, about; 0 = not known. Called, if it is a function, after a failure.
    intact: Sentences about the things that are still whole, and that go on when there is space.

  Raises:
    StorageError: What, where, how much is missing, and what is intact.
  """
  try:
    yield
  except (UserError, KeyboardInterrupt, SystemExit):
    raise
  except BaseException as error:
    reason = failure(error)
    if reason is None:
      raise
    wanted = needs() if callable(needs) else needs
    rest = intact() if callable(intact) else intact
    space = _free(pathlib.Path(where), wanted)
    raise StorageError(f"{where}: {what} could not be written: {reason}{space}.{' ' if rest else ''}{rest}") from error


def readable(size: float) -> str:
  """Bytes as people write them: 1.2 MB."""
  for unit in ("bytes", "kB", "MB", "GB", "TB"):
    if size < 1000 or unit == "TB":
      return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
    size /= 1000
  raise AssertionError("unreachable")


def bytes_of(text: str, where: str, least: int = 0) -> int:
  """How many bytes a text such as 500MB or 2GB says.

  Args:
    text: Number and unit.
    where: Name of the flag or key that holds it, for the message.
    least: Number of bytes that it says at least.

  Raises:
    UserError: It says nothing, or less.
  """
  found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT])B", text.strip(), re.IGNORECASE)
  size = float(found[1]) * 1000 ** (1 + "KMGT".index(found[2].upper())) if found else -1
  if size < least:
    raise UserError(
      f"{where} {text}: expected a number and a unit, such as 500MB or 2GB, of {readable(least)} at least"
    )
  return int(size)


def _free(where: pathlib.Path, needs: int = 0) -> str:
  """How much is free there, of how much is needed; empty if the system does not say."""
  while not where.exists() and where != where.parent:
    where = where.parent
  try:
    free = shutil.disk_usage(where).free
  except OSError:
    return ""
  if not needs:
    return f" ({readable(free)} are free there)"
  missing = f", {readable(needs - free)} are missing" if needs > free else ""
  return f" (about {readable(needs)} are needed, {readable(free)} are free there{missing})"


def _text(name: object) -> str:
  return os.fsdecode(name) if isinstance(name, (bytes, str, os.PathLike)) else str(name)
