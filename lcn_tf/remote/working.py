"""Folders of a store that a command writes: it works on a local copy, and the store gets what the copy has.

A disk shows, at any moment, what a killed process leaves there, and readers are written for that: they go by the file
that is written last. A store gets the files in the order in which they were written, each whole or not at all. So a
reader of the store meets nothing that a reader of the disk would not.
"""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Literal

from absl import logging

from lcn_tf import places
from lcn_tf.errors import UserError
from lcn_tf.formats import sha256
from lcn_tf.remote import store
from lcn_tf.remote.lease import Lease

DATASET, EXPERIMENT = "dataset.json", "experiment.yaml"
# each is the last file of its folder that is written, or that goes
_WHOLE = ("saved_model.pb", "store.json", DATASET)
_RESULTS = ("metrics.json", DATASET)  # readers of these take the rest for theirs
Fact = tuple[int, int, str]  # size, time of writing in ns, checksum

_open: list["WorkingCopy"] = []


class WorkingCopy:
  """A local copy of a folder of a store, held by a lease.

  Args:
    url: URL of the folder.
    kind: `folder`: what is there comes, and what is written is added, replaced or removed file by file. `records`: only
      `dataset.json` comes, and empty files for the others; a new record set takes the place of all of them.

  Raises:
    UserError: Somebody else is at work there, or there is no access.
    StorageError: The store, or the disk, fails.
  """

  def __init__(self, url: str, kind: Literal["folder", "records"] = "folder"):
    self.url, self.path = url, places.place(url)
    self._kind = kind
    if store.size(url) is not None:
      raise UserError(f"{url}: a file, no folder")
    self._lease = Lease(url)
    try:
      there = store.listing(url)
      comes = {name: size for name, size in there.items() if kind == "folder" or name == DATASET}
      store.fetch_all(comes, url, self.path)
      self._known: dict[str, Fact] = {name: _fact(self.path / name) for name in comes}
      for name in there.keys() - comes.keys():
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).touch()
    except BaseException as error:
      self._lease.release(lost=isinstance(error, store.LostError))
      raise

  def put(self) -> None:
    """Brings the store to what the copy has.

    Raises:
      UserError: Somebody else has taken the folder.
      StorageError: The store fails; what it holds is as a killed process would have left it.
    """
    now = {name: fact for name in _names(self.path) if (fact := self._now(name))}
    changed = [name for name, fact in now.items() if name not in self._known or self._known[name][2] != fact[2]]
    gone = [name for name in self._known if name not in now]
    if self._kind == "records":
      if DATASET not in changed:
        return
      gone = [name for name in store.listing(self.url) if name not in now]
    if not changed and not gone:
      return
    self._lease.check()
    self._delete([name for name in (*changed, *gone) if name in self._known and _last(name) in _RESULTS])
    for name in in_order({name: now[name][1] for name in now}):
      if name in changed:
        try:
          store.put(self.path / name, f"{self.url}/{name}")
        except UserError:
          if (self.path / name).exists():
            raise
          continue
      self._known[name] = now[name]
    self._delete(sorted(gone, key=lambda name: not (name.endswith(".index") or _last(name) in _WHOLE)))
    logging.info("%s: %d files written, %d removed", self.url, len(changed), len(gone))

  def release(self, lost: bool = False) -> None:
    """Gives the folder back; argument as of `Lease.release`."""
    self._lease.release(lost)

  def _now(self, name: str) -> Fact | None:
    """The file as it is now; None if another process has just removed it."""
    try:
      stat, known = (self.path / name).stat(), self._known.get(name)
      same = known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns)
      return known if same else _fact(self.path / name)
    except FileNotFoundError:
      return None

  def _delete(self, names: Iterable[str]) -> None:
    for name in names:
      store.delete(self.url, [name])
      self._known.pop(name, None)


def in_order(times: dict[str, int]) -> list[str]:
  """Names of files in the order in which a store gets them.

  That is the order in which they were written. The files of a version, or of a record set, come together, and last the
  one that says that they are whole.

  Args:
    times: Time of writing of each file by its path.
  """
  units = {
    name.rpartition("/")[0]: name
    for name in times
    if _last(name) in _WHOLE and (_last(name) != DATASET or f"{name[: -len(DATASET)]}{EXPERIMENT}" not in times)
  }

  def unit(name: str) -> str | None:
    folder = name
    while folder:
      folder = folder.rpartition("/")[0]
      if folder in units:
        return folder
    return None

  of = {name: unit(name) for name in times}
  ended = {folder: max(times[name] for name in times if of[name] == folder) for folder in units}

  def key(name: str) -> tuple[int, bool, bool, int]:
    folder = of[name]
    time = times[name] if folder is None else ended[folder]
    # two files may have the same time
    return time, folder is not None and units[folder] == name, name.endswith(".index"), times[name]

  return sorted(times, key=key)


def working(path: str, kind: Literal["folder", "records"] = "folder") -> str:
  """The local copy of a folder to write to, until `finishing` ends; a local path as it is."""
  where = store.url(path)
  if where is None:
    return path
  copy = next((one for one in _open if one.url == where), None)
  if copy is None:
    copy = WorkingCopy(where, kind)
    _open.append(copy)
  return str(copy.path)


def put(folder: str | pathlib.Path) -> None:
  """Brings stores to what a working copy in or above a folder has; nothing is done for other folders."""
  for copy in _open:
    if pathlib.Path(folder).is_relative_to(copy.path):
      copy.put()


@contextlib.contextmanager
def finishing() -> Iterator[None]:
  """Brings the stores to what all working copies have when the block has ended, in whatever way, and gives them back.

  A disk has what a command leaves that fails, too: a checkpoint, parts that go on.

  Raises:
    UserError: As `WorkingCopy.put`. An error of the block comes before it.
  """
  try:
    yield
  except BaseException as error:
    try:
      _finish(lost=isinstance(error, store.LostError))
    except UserError as another:
      logging.error("%s", another)
    raise
  _finish(lost=False)


def _finish(lost: bool) -> None:
  problem: UserError | None = None
  while _open:
    copy = _open.pop()
    try:
      if not lost:
        copy.put()
    except UserError as error:
      problem, lost = problem or error, isinstance(error, store.LostError)
    finally:
      copy.release(lost)
  if problem:
    raise problem


def _names(folder: pathlib.Path) -> list[str]:
  paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
  return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]


def _fact(file: pathlib.Path) -> Fact:
  stat = file.stat()
  return stat.st_size, stat.st_mtime_ns, sha256(file)


def _last(name: str) -> str:
  return name.rpartition("/")[2]
