"""The workers of a job as processes of this machine: started, watched, ended and started again together."""

import contextlib
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO

from absl import logging

from lcn_tf import machine, processes
from lcn_tf.errors import LostWorkerError, UserError
from lcn_tf.launching.cluster import members, tf_config

LOST = LostWorkerError.exit_code
_TICK = 0.1  # seconds between two looks at the workers
_GRACE = 20.0  # seconds in which workers notice by themselves that another one has ended
_CLEAN = 10.0  # seconds between SIGTERM and SIGKILL for those that do not
_BLOCK = 2**16  # bytes of a log that are read at a time


def launch(
  command: Sequence[str],
  workers: int,
  restarts: int = 0,
  logs: pathlib.Path | None = None,
  out: IO[str] = sys.stdout,
  servers: int = 0,
) -> int:
  """Runs a command in several processes, each with its TF_CONFIG, to the end of all of them.

  SIGTERM and SIGINT are passed on to all. If one fails, the others are ended. None outlives this process, even if that
  is killed, if its program calls `processes.end_with_parent`, as all commands here do.

  Args:
    command: Program and arguments.
    workers: Number of workers.
    restarts: Number of times that all of them are started again when one was lost: ended by a signal, or for want of
      another one.
    logs: Folder for a log of each process, `worker_0.log` and so on, to which another call appends; None = no files.
    out: Receiver of the processes' lines, each with its process in front.
    servers: Number of parameter servers. There is a chief besides then. The others end when it has.

  Returns:
    0 if all have ended with 0; else the exit code of the first one that failed. That of a process that was ended by a
    signal is 128 + its number.

  Raises:
    UserError: The machine has fewer GPUs than workers.
  """
  gpus = machine.gpus()
  if gpus and len(gpus) < workers:
    raise UserError(f"{workers} workers need a GPU each, and there are {len(gpus)}; CUDA_VISIBLE_DEVICES=-1 hides them")
  kinds = members(workers + servers + 1 if servers else workers, servers)
  with _signals() as asked, contextlib.ExitStack() as stack:
    environment, line = stack.enter_context(processes.lifeline())
    files = [stack.enter_context(_log(logs, one)) for one in _names(kinds)]
    for again in range(restarts + 1):
      if again:
        logging.warning(
          "all %d %s are started again, for time %d of %d",
          len(kinds),
          "processes" if servers else "workers",
          again,
          restarts,
        )
      job = _Job(command, kinds, files, environment, line, out)
      code = job.run(asked)
      if asked or not job.lost(code):
        break
  return code


class _Job:
  """The processes of one start."""

  def __init__(
    self,
    command: Sequence[str],
    members: Sequence[tuple[str, int]],
    files: Sequence[IO[bytes]],
    environment: Mapping[str, str],
    line: int,
    out: IO[str],
  ):
    self._members = members
    self._names = _names(members)
    self._files = files
    self._out = out
    self._read = [os.fstat(file.fileno()).st_size for file in files]
    self._ends: list[tuple[int, int]] = []  # workers in the order of their ends, with their exit codes
    self._passed = 0
    self._failed_at = math.inf
    self._means = [(signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE + _CLEAN)]
    self._counted: int | None = None  # ends before the first of these signals
    count = len(files)
    addresses = [f"localhost:{port}" for port in _free_ports(count)]
    own = {**machine.threads(count), **os.environ, **processes.python_path(), "PYTHONUNBUFFERED": "1", **environment}
    self._processes: dict[int, subprocess.Popen[bytes]] = {}
    servers = sum(kind == "ps" for kind, _ in members)
    shares = iter(machine.shares(sum(kind == "worker" for kind, _ in members)))
    for index, ((kind, _), file) in enumerate(zip(members, files, strict=True)):
      share = next(shares) if kind == "worker" else {"CUDA_VISIBLE_DEVICES": "-1"}
      self._processes[index] = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env={**own, **share, "TF_CONFIG": tf_config(addresses, index, servers)},
        pass_fds=[line],
        # a signal to the whole group, Ctrl-C among them, reaches it once, from here
        start_new_session=True,
      )

  def run(self, asked: list[int]) -> int:
    """Waits until all have ended; passes the signals on that others put into `asked`."""
    while self._processes:
      time.sleep(_TICK)
      for number in asked[self._passed :]:
        self._send(number)
      self._passed = len(asked)
      self._reap()
      self._forward()
      if not asked:  # else they have the time that they need to end clean
        self._end_the_others()
    return self._code()

  def lost(self, code: int) -> bool:
    """Whether an exit code is of a worker that was lost, and not of a failure that would come again."""
    return code == LOST or (code > 128 and code != processes.INTERRUPTED)

  def _code(self) -> int:
    failed = [code for _, code in self._ends[: self._counted] if code]
    # a worker that has lost another one is not the one that failed
    return next((code for code in failed if code != LOST), failed[0] if failed else 0)

  def _end_the_others(self) -> None:
    """Ends the workers that do not notice by themselves that one has failed."""
    while self._means and time.monotonic() - self._failed_at > self._means[0][1]:
      if self._counted is None:
        self._counted = len(self._ends)
      self._send(self._means.pop(0)[0])

  def _send(self, number: int) -> None:
    for process in self._processes.values():
      process.send_signal(number)

  def _reap(self) -> None:
    for index, process in list(self._processes.items()):
      code = process.poll()
      if code is None:
        continue
      del self._processes[index]
      self._ends.append((index, code if code >= 0 else 128 - code))
      if code or self._members[index][0] == "chief":
        self._failed_at = min(self._failed_at, time.monotonic())
      if code:
        how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        kind = self._members[index][0]
        logging.warning("%s of %d: %s", self._names[index], sum(one == kind for one, _ in self._members), how)

  def _forward(self) -> None:
    """Writes the workers' new lines to the receiver; the last one of a worker that has ended may have no end."""
    for index, file in enumerate(self._files):
      ended = index not in self._processes
      while block := os.pread(file.fileno(), _BLOCK, self._read[index]):
        end = block.rfind(b"\n") + 1
        if len(block) == _BLOCK:
          end = end or _BLOCK
        elif ended:
          end = len(block)
        if not end:
          break
        self._read[index] += end
        for line in block[:end].decode(errors="replace").splitlines():
          self._out.write(f"[{self._names[index]}] {line}\n")
    self._out.flush()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """The numbers of the SIGTERM and SIGINT that come within the block."""
  asked: list[int] = []

  def ask(number: int, frame: FrameType | None) -> None:
    asked.append(number)

  before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield asked
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _names(members: Sequence[tuple[str, int]]) -> list[str]:
  """Names of processes for people: `worker 0`, `server 1`, `chief`."""
  return ["chief" if kind == "chief" else f"{'server' if kind == 'ps' else kind} {index}" for kind, index in members]


def _log(logs: pathlib.Path | None, name: str) -> IO[bytes]:
  """A file that a worker appends to. Not a pipe: the worker goes on writing when its launcher is killed."""
  if logs is None:
    return tempfile.TemporaryFile("a+b")
  logs.mkdir(parents=True, exist_ok=True)
  return (logs / f"{name.replace(' ', '_')}.log").open("a+b")


def _free_ports(count: int) -> list[int]:
  servers = [socket.create_server(("localhost", 0)) for _ in range(count)]
  ports = [server.getsockname()[1] for server in servers]
  for server in servers:
    server.close()
  return ports
