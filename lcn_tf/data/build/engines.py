"""Where the tasks of a build run: in this process and in others beside it, or on a cluster.

A task is a function of a module and one argument. It reads and writes files of a folder that all tasks share, and gives
a result. What a task leaves is the same however often it runs, since an engine may run it again after a failure. All of
it can be pickled: task, argument, result and error.
"""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from lcn_tf import processes

A = TypeVar("A")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Shared(Protocol[T_co]):
  """A value that many tasks read."""

  def get(self) -> T_co:
    """The value, which a process reads once."""


class Engine(Protocol):
  """Runs tasks.

  Attributes:
    memory: Bytes for the interactions of a task where nobody says how many; None = all interactions are in memory.
    apart: True if tasks never run in this process.
  """

  memory: int | None
  apart: bool

  def started(self, folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """A block in which the other methods may be called; `folder` is the one that the tasks share."""

  def share(self, name: str, value: T) -> Shared[T]:
    """A value that the arguments of tasks may have, under a name that no other value of the build has."""

  def map(self, task: Callable[[A], R], arguments: Sequence[A], workers: int = 1) -> Generator[R, None, None]:
    """The results, in the order of the arguments. An error of a task is raised in its place.

    Args:
      task: A task.
      arguments: Arguments of the task.
      workers: Processes that are worth their start; an engine with processes of its own does not ask.
    """


class Value(Generic[T]):
  """A value in the memory of this process."""

  def __init__(self, value: T):
    self._value = value

  def get(self) -> T:
    return self._value


class Processes:
  """Tasks in this process, or in others on this machine where that is worth their start."""

  memory: int | None = None
  apart = False

  def started(self, folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()

  def share(self, name: str, value: T) -> Shared[T]:
    return Value(value)

  def map(self, task: Callable[[A], R], arguments: Sequence[A], workers: int = 1) -> Generator[R, None, None]:
    if workers <= 1:
      yield from map(task, arguments)
      return
    with processes.pool(workers, _ready) as pool:
      yield from pool.map(task, arguments)


def _ready() -> None:
  """What a process of the pool does first."""


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `path` for a file that becomes `path` when the block ends well.

  A task that runs twice at a time leaves one whole file.
  """
  aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
  try:
    yield aside
    os.replace(aside, path)
  finally:
    aside.unlink(missing_ok=True)
