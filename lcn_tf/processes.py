"""How processes end: on a signal with a word and clean, children with their parent, temporary files with them."""

import atexit
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from absl import logging

from lcn_tf import files
from lcn_tf.errors import StorageError

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
PARENT = "LCN_TF_PARENT"  # environment variable: the descriptor that is at its end when the parent has ended
_SPACE = 2**20  # bytes for temporary files; TensorFlow goes on with other code where it cannot write what it generates
_own: list[pathlib.Path] = []  # temporary folders of this process
_GRACE = 10.0  # seconds that a child has to save what it has when its parent has ended


def end_clean_at_sigterm() -> None:
  """SIGTERM ends the program as an exception does: what is half written is removed, the exit code is 143."""

  def terminated(number: int, frame: FrameType | None) -> None:
    print("SIGTERM: ended; nothing half written is left", file=sys.stderr, flush=True)
    sys.exit(TERMINATED)

  signal.signal(signal.SIGTERM, terminated)


def end_with_parent() -> None:
  """Ends this process when the one that started it has ended, even if that was killed.

  A process that `child_environment` started gets SIGTERM, which saves a job's checkpoint, and some seconds for it. A
  worker of `multiprocessing` ends at once.
  """
  if descriptor := os.environ.pop(PARENT, ""):
    _watch(lambda: os.read(int(descriptor), 1), _terminate)
  elif parent := multiprocessing.parent_process():
    sentinel = parent.sentinel
    # the parent gets what the terminal sends, and ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _watch(lambda: multiprocessing.connection.wait([sentinel]), lambda: os._exit(1))


@contextlib.contextmanager
def pool(
  workers: int, start: Callable[..., None], *arguments: object
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
  """A pool of processes that end with this one, and that are ended when the block fails.

  They are not forked, since TensorFlow's threads do not survive that.

  Args:
    workers: Number of processes.
    start: Function that each process calls first, of a module, with `arguments`.
    arguments: Arguments, which are pickled.
  """
  context = multiprocessing.get_context("spawn")
  made = concurrent.futures.ProcessPoolExecutor(workers, context, _start, (start, arguments))
  try:
    yield made
  except BaseException:
    for worker in multiprocessing.active_children():
      worker.terminate()
    raise
  finally:
    made.shutdown(cancel_futures=True)


def _start(start: Callable[..., None], arguments: tuple[object, ...]) -> None:
  atexit.register(lambda: os._exit(0) if aborts_at_exit() else None)  # comes last: first in, last out
  end_with_parent()
  start(*arguments)


def aborts_at_exit() -> bool:
  """Whether this process would abort at its end: tensorflow-io does that once it has read from a store."""
  return "tensorflow_io" in sys.modules


def end_at_once(code: int) -> NoReturn:
  """Ends this process after what is registered for its end, without the destructors of its libraries."""
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def python_path() -> dict[str, str]:
  """The environment variable by which Python processes import this package, whatever folder they run in."""
  root = str(pathlib.Path(__file__).parents[1])
  return {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextlib.contextmanager
def lifeline() -> Iterator[tuple[dict[str, str], int]]:
  """What a child process needs in its environment, and the descriptor that it has to inherit, to end with this one."""
  reading, writing = os.pipe()
  try:
    yield {PARENT: str(reading)}, reading
  finally:
    os.close(reading)
    os.close(writing)


def _watch(wait: Callable[[], object], then: Callable[[], None]) -> None:
  def run() -> None:
    wait()
    then()

  threading.Thread(target=run, name="parent", daemon=True).start()


def _terminate() -> None:
  os.kill(os.getpid(), signal.SIGTERM)
  threading.Event().wait(_GRACE)
  os._exit(TERMINATED)


def _try(file: pathlib.Path) -> None:
  """Writes a file and removes it.

  Raises:
    OSError: It could not be written.
  """
  try:
    file.write_bytes(bytes(_SPACE))
  finally:
    file.unlink(missing_ok=True)


def become(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
  """Goes on as another command, in the place of this process.

  Args:
    command: A program and its arguments.
    environment: Variables besides those of this process.
  """
  there = {**os.environ, **environment}
  for folder in _own:
    there["TMPDIR"] = str(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
  sys.stdout.flush()
  os.execvpe(command[0], list(command), there)


def own_temporary_folder() -> None:
  """Gives this process, its libraries and its children a temporary folder of their own, removed at the end.

  TensorFlow leaves files behind when it is killed. The next process removes folders that nobody holds. It lies in
  TMPDIR, if that is set, and nowhere else: the places that Python would try next may be too small.

  Raises:
    StorageError: There is no place for it.
  """
  mine = os.getpid()

  def remove() -> None:
    if os.getpid() == mine:  # not at the end of a fork
      shutil.rmtree(folder, ignore_errors=True)

  above = os.environ.get("TMPDIR", "")
  try:
    above = above or tempfile.gettempdir()
    # what others left there is no news of this command
    path = pathlib.Path(above).absolute() / f"lcn_tf-{os.getuid()}"
    folder, _ = files.claim(path, folder=True, level=logging.DEBUG)
    atexit.register(remove)
    _try(folder / "space")
  except OSError as error:
    raise StorageError(
      f"{above or 'TMPDIR'}: no space for temporary files: {error.strerror or error}. Make some there, or "
      "set TMPDIR to another folder."
    ) from None
  _own.append(folder)
  os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
