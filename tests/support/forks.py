"""Commands as forks of a process that has loaded TensorFlow and lcn_tf, and has used neither.

A fork is what `python -m ...` is once it has imported its libraries: a process of its own, with its own folder,
environment, arguments and exit code. The imports take three seconds of processor time. The collector of garbage leaves
the imported modules alone, which saves another second of each fork.
"""

import functools
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

import lcn_tf

ROOT = pathlib.Path(__file__).parents[2]
_MESSAGE = 2**20


class Fork:
  """`python -m ...` that has begun, with the methods of `subprocess.Popen` that tests call.

  Args:
    arguments: `-m`, a module of `pipelines` or `tools`, its arguments.
    cwd: Where it runs.
    env: Its whole environment.
    stdout: File that it writes to.
    stderr: Likewise; may be the same.
    start_new_session: Whether it leads a session of its own.
  """

  def __init__(
    self,
    arguments: Sequence[str],
    *,
    cwd: pathlib.Path,
    env: Mapping[str, str],
    stdout: IO[Any],
    stderr: IO[Any],
    start_new_session: bool = False,
  ):
    self.args = ["python", *arguments]
    self.returncode: int | None = None
    self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told = {"argv": list(arguments[1:]), "cwd": str(cwd), "env": dict(env), "session": start_new_session}
    message = json.dumps(told).encode()
    assert arguments[0] == "-m", arguments
    assert len(message) < _MESSAGE
    with theirs:
      socket.send_fds(_server()[0], [message], [stdout.fileno(), stderr.fileno(), theirs.fileno()])
    self.pid = self._read(None)

  def wait(self, timeout: float | None = None) -> int:
    """The exit code, as `subprocess` has it.

    Raises:
      subprocess.TimeoutExpired: It has not ended.
    """
    if self.returncode is None:
      self.returncode = self._read(timeout)
      self._status.close()
    return self.returncode

  def poll(self) -> int | None:
    try:
      return self.wait(0)
    except subprocess.TimeoutExpired:
      return None

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)

  def _read(self, timeout: float | None) -> int:
    if not select.select([self._status], [], [], timeout)[0]:
      raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
    said = self._status.recv(32)
    if not said:
      log = _server()[1]
      log.seek(0)
      raise ChildProcessError(f"{self.args}: the server of forks has ended: {log.read()[-6000:]}")
    return int(said)


@functools.cache
def _server() -> tuple[socket.socket, IO[str]]:
  """This process's end of the socket to its server, which ends with it; what the server has to say."""
  mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _MESSAGE)
  environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
  log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the server)
  with theirs:
    subprocess.Popen(
      [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())],
      cwd=ROOT,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=log,
      pass_fds=[theirs.fileno()],
    )
  return mine, log


def _load() -> None:
  """Imports all that commands import, and makes sure that nothing was computed."""
  for module in pkgutil.walk_packages(lcn_tf.__path__, "lcn_tf."):
    importlib.import_module(module.name)
  # not before lcn_tf, and not in the processes that ask for forks
  context = importlib.import_module("tensorflow.python.eager.context")
  assert context.context()._context_handle is None, "TensorFlow has started: it does not survive a fork"
  gc.collect()
  gc.freeze()
  # as in tests/conftest.py
  gc.set_threshold(20_000, 50, 100)


def _serve(requests: socket.socket) -> None:
  """Forks for each request; returns in a fork, and in no other process."""
  while True:
    message, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE, 3)
    if not message:
      sys.exit(0)
    if os.fork() == 0:
      requests.close()
      return _keep(json.loads(message), *descriptors)
    for descriptor in descriptors:
      os.close(descriptor)
    _reap()


def _reap() -> None:
  try:
    while os.waitpid(-1, os.WNOHANG)[0]:
      pass
  except ChildProcessError:
    pass


def _keep(request: dict[str, Any], stdout: int, stderr: int, status: int) -> None:
  """Forks again, tells the number of that process and how it ends, and ends; returns in that process."""
  process = os.fork()
  if process:
    os.write(status, str(process).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.write(status, str(code).encode())
    os._exit(0)
  os.close(status)
  if request["session"]:
    os.setsid()
  for descriptor, number in ((stdout, 1), (stderr, 2)):
    os.dup2(descriptor, number)
    os.close(descriptor)
  os.chdir(request["cwd"])
  os.environ.clear()
  os.environ.update(request["env"])
  tempfile.tempdir = None
  sys.path[0] = request["cwd"]
  sys.argv = request["argv"]


if __name__ == "__main__":
  _socket = socket.socket(fileno=int(sys.argv[1]))
  _load()
  _serve(_socket)
  # the fork goes on here, to end as any program does
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
