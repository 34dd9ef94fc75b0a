"""Writing files: aside first, then renamed, so that a reader never meets half a file; by one process at a time.

What is written aside is locked by who writes it. Where somebody was killed, the next one who writes there finds it with
a lock that nobody holds, and removes it.
"""

import atexit
import contextlib
import fcntl
import glob
import os
import pathlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping

from absl import logging

from lcn_tf import places, storage
from lcn_tf.errors import StorageError, UserError

ASIDE = "aside"  # ends the name of what is not whole yet
REPLACED = "replaced"  # ends the name of a folder that a new one takes the place of

# a pathlib.Path has only one of the slashes left
_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_PATTERN = re.compile(r"[*?\[\]\\]")
_LINKS: dict[pathlib.Path, pathlib.Path] = {}  # folder with such a name -> a link to it without


def url(path: str | pathlib.Path) -> str | None:
  """The path as a URL, if it begins with a scheme (`gs://`, `s3://`, ...); else None."""
  found = _REMOTE.match(str(path))
  return f"{found[1]}://{str(path)[found.end() :]}" if found else None


def local(path: str | pathlib.Path) -> pathlib.Path:
  """The path, which is not that of a bucket: `pathlib` would make a folder `gs:` of it.

  Raises:
    UserError: It is a URL.
  """
  if where := url(path):
    raise UserError(f"{where}: only local or mounted paths are read and written")
  return pathlib.Path(path)


def plain(path: str | pathlib.Path) -> str:
  """The path in a spelling that TensorFlow does not read as a pattern: itself, or by a link without `*`, `?`, `[`...

  Raises:
    UserError: The folder for temporary files has such a name, too.
  """
  path = local(path).absolute()
  special = [place for place, part in enumerate(path.parts) if _PATTERN.search(part)]
  if not special:
    return str(path)
  folder, below = pathlib.Path(*path.parts[: special[-1] + 1]), path.parts[special[-1] + 1 :]
  if folder not in _LINKS:
    above = tempfile.mkdtemp(prefix="links-")
    if _PATTERN.search(above):
      raise UserError(f"{above}: TensorFlow reads this path as a pattern; set TMPDIR to one without *, ?, [, ] and \\")
    atexit.register(shutil.rmtree, above, ignore_errors=True)
    _LINKS[folder] = pathlib.Path(above) / "there"
    _LINKS[folder].symlink_to(folder)
  return str(_LINKS[folder].joinpath(*below))


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `path` to write to; it becomes `path` when the block ends well and is removed when it does not.

  Raises:
    StorageError: It could not be written; what was there before still is.
  """
  path = local(path)
  intact = "What was there before is intact." if path.exists() else ""
  with storage.storing(path.name, path, intact=intact), beside(path) as aside:
    yield aside


@contextlib.contextmanager
def beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """`replacing` for a caller who says what a full disk means: its errors pass as they are."""
  path.parent.mkdir(parents=True, exist_ok=True)
  aside, lock = claim(path, folder=False)
  try:
    yield aside
    os.fsync(lock)
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)
    os.close(lock)


def publish(
  folder: pathlib.Path, what: str, contents: Mapping[str, str | Callable[[pathlib.Path], object]], needs: int = 0
) -> None:
  """Puts the files of a result in the place of older ones, when all of them are whole.

  Args:
    folder: Theirs.
    what: The result, for the message.
    contents: Text, or function that writes to a path, by name. A reader who finds the last name finds all.
    needs: Bytes that they take, about; 0 = not known.

  Raises:
    StorageError: They could not be written; the older ones are as they were.
  """
  intact = "What was there before is intact." if folder.exists() else ""
  with storage.storing(what, folder, needs=needs, intact=intact), contextlib.ExitStack() as stack:
    # left in the reverse order: the first name is put in place first
    asides = {name: stack.enter_context(beside(folder / name)) for name in list(contents)[::-1]}
    for name, content in contents.items():
      if isinstance(content, str):
        asides[name].write_text(places.shown(content), encoding="utf-8")
      else:
        content(asides[name])
    # a disk may say only now that it is full, and nothing older may have gone before that
    for aside in asides.values():
      with aside.open("rb") as written:
        os.fsync(written.fileno())
    (folder / list(contents)[-1]).unlink(missing_ok=True)


@contextlib.contextmanager
def folder_aside(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder beside `path`, which the block renames when it is whole; it is removed if it is still there after it.

  The parent of `path` has to be there.
  """
  aside, lock = claim(local(path), folder=True)
  try:
    yield aside
  finally:
    shutil.rmtree(aside, ignore_errors=True)
    os.close(lock)


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path, overwrite: bool, exists: UserError) -> Iterator[pathlib.Path]:
  """`replacing` for a folder, whose parents are made.

  Args:
    path: The folder.
    overwrite: True if a folder that is there is replaced.
    exists: Error for a folder that appears meanwhile, without `overwrite`.
  """
  make(path.parent, tidy=False)
  with folder_aside(path) as folder:
    yield folder
    if overwrite and path.exists():
      old = folder.with_suffix(f".{REPLACED}")
      path.rename(old)
      folder.rename(path)
      shutil.rmtree(old)
      return
    try:
      folder.rename(path)
    except OSError:
      if path.exists():  # by now
        raise exists from None
      raise


def put_back(path: pathlib.Path) -> None:
  """Finishes the work of a process that was killed while it replaced the folder `path`."""
  for old in replaced_by(path):
    if path.exists():
      shutil.rmtree(old, ignore_errors=True)
    else:
      old.rename(path)
      logging.warning("%s: put back; a build that was to replace it was killed", path)


def replaced_by(path: pathlib.Path) -> list[pathlib.Path]:
  """Folders that were moved out of the way of a new one at `path`, which is not there yet."""
  return sorted(path.parent.glob(f".{glob.escape(path.name)}.*.{REPLACED}"))


def claim(path: pathlib.Path, folder: bool, level: int = logging.INFO) -> tuple[pathlib.Path, int]:
  """A new file or folder beside `path`, and the descriptor by which it is held.

  Dead ones of `path` are removed, which the log tells at `level`.
  """
  sweep(path.parent, path.name, level)
  while True:
    # no process id: in containers each one has the same
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.{ASIDE}")
    if folder:
      aside.mkdir()
    try:
      lock = os.open(aside, os.O_RDONLY if folder else os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileNotFoundError:  # somebody took it for a dead one before it was held
      continue
    _lock(lock, wait=True)  # for somebody who takes it for a dead one, until it is gone
    if aside.exists():
      return aside, lock
    os.close(lock)


def sweep(folder: pathlib.Path, name: str | None = None, level: int = logging.INFO) -> list[pathlib.Path]:
  """Removes what killed processes left aside in a folder: what nobody holds.

  Args:
    folder: Not those below it.
    name: Name of the file or folder that was to be written; None = any.
    level: Level of absl at which the log tells what was removed.

  Returns:
    What is still there: somebody is at work on it, or the file system has no locks to tell by.
  """
  left = []
  for path in sorted(folder.glob(f".{glob.escape(name) if name else '*'}.*.{ASIDE}")):
    if not _remove_if_dead(path, level):
      left.append(path)
  return left


def _remove_if_dead(path: pathlib.Path, level: int) -> bool:
  try:
    lock = os.open(path, os.O_RDONLY)
  except OSError:
    return not path.exists()
  try:
    if not _lock(lock):
      return False
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)
    logging.log(level, "%s: removed; a process that was killed had left it", path)
    return True
  except OSError:
    return False
  finally:
    os.close(lock)


def _lock(descriptor: int, wait: bool = False) -> bool:
  """Locks what is open; False if somebody else holds it and is not waited for, or the file system has no locks."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    return True
  except OSError:
    return False


def write_text(path: str | pathlib.Path, text: str) -> None:
  """Writes a text, in UTF-8, in the place of what is there."""
  with replacing(path) as aside:
    aside.write_text(places.shown(text), encoding="utf-8")


def check_link(path: pathlib.Path) -> None:
  """Checks that a link leads somewhere.

  Raises:
    UserError: It does not; the message names both ends.
  """
  if path.is_symlink() and not path.exists():
    raise UserError(f"{path}: a link to {os.readlink(path)}, which is not there")


def make(folder: str | pathlib.Path, tidy: bool = True) -> pathlib.Path:
  """The folder, made if it is not there.

  Args:
    folder: The folder.
    tidy: True to remove the leftovers of killed processes in it, for a folder of ours.

  Raises:
    UserError: It cannot be made, or there is something else.
  """
  folder = local(folder)
  check_link(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    kind = StorageError if storage.failure(error) else UserError
    raise kind(f"{folder}: no folder can be made here: {error.strerror}") from None
  if not os.access(folder, os.W_OK | os.X_OK):
    raise UserError(f"{folder}: this folder cannot be written to")
  if tidy:
    sweep(folder)
  return folder


@contextlib.contextmanager
def exclusive(folder: str | pathlib.Path, who: str, patience: float = 0.0) -> Iterator[int]:
  """Holds a folder until the block, and all processes that inherit the file descriptor, have ended.

  Args:
    folder: Made if it is not there.
    who: Who else may hold it, for the message.
    patience: Seconds to wait for somebody who is about to leave.

  Raises:
    UserError: Somebody does, or the folder cannot be made.
  """
  until = time.monotonic() + patience
  with (make(folder) / ".lock").open("w") as file:
    while True:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if time.monotonic() >= until:
          raise UserError(f"{folder}: {who} is at work here") from None
        time.sleep(0.1)
      except OSError as error:  # some network file systems
        logging.warning("%s: cannot be locked (%s); see to it that nobody else works here", folder, error.strerror)
        break
    yield file.fileno()
