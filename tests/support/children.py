"""Small Python programs as processes of their own: to kill them, and to see how they end."""

import os
import pathlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence

from tests.shipped.workspace import ROOT

SECONDS = 300  # far more than anything here takes


def program(code: str) -> str:
  """The code as `python -c` takes it."""
  return textwrap.dedent(code)


def start(code: str, *arguments: object, pass_fds: Sequence[int] = (), **environment: object) -> subprocess.Popen[str]:
  """Starts a program; an environment variable that is None is not set."""
  there = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
  return subprocess.Popen(
    [sys.executable, "-c", program(code), *map(str, arguments)],
    env={name: str(value) for name, value in there.items() if value is not None},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    pass_fds=pass_fds,
  )


def line(process: subprocess.Popen[str]) -> str:
  """What a program prints next: it is there, then, and has got so far."""
  assert process.stdout
  found = process.stdout.readline().strip()
  assert found, process.communicate(timeout=SECONDS)
  return found


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
  """Exit code, stdout and stderr of a program that ends by itself."""
  try:
    output, errors = process.communicate(timeout=SECONDS)
  except subprocess.TimeoutExpired:
    process.kill()
    raise
  return process.returncode, output, errors


def kill(process: subprocess.Popen[str]) -> None:
  process.kill()
  ended(process)


def eventually(holds: Callable[[], bool]) -> bool:
  """Waits until something holds."""
  until = time.monotonic() + SECONDS
  while not holds() and time.monotonic() < until:
    time.sleep(0.02)
  return holds()


def alive(process: int) -> bool:
  """Whether a process is there, and no mere entry in the table of processes."""
  try:
    return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
  except (FileNotFoundError, ProcessLookupError):
    return False
