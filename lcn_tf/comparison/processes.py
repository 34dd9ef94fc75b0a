"""Every cell is a process of its own, with its own peak memory; its end ends no other cell."""

import os
import pathlib
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import yaml

from lcn_tf import places
from lcn_tf.comparison.cells import Cell
from lcn_tf.comparison.config import slug
from lcn_tf.errors import SettingsError, StorageError, UserError
from lcn_tf.machine import shares, threads
from lcn_tf.processes import python_path

_TAIL = 12  # lines of a log that a failure shows


class Runner(Protocol):
  """Worker of the grid.

  Its methods raise a `SettingsError` for a job that would fail again wherever and whenever it ran, a `StorageError` for
  a disk that was full or gone, and a plain `UserError` for every other failure.
  """

  def train(self, cell: Cell, evaluate: bool) -> None:
    """Leaves `training.json` and `history.csv` in the cell's folder, and, if it may `evaluate`, `metrics.json` and
    `predictions.parquet` of the test split.

    Raises:
      UserError: The job failed.
    """

  def pretrain(self, config: pathlib.Path, folder: pathlib.Path) -> None:
    """Leaves the item vectors of an experiment in a folder.

    Raises:
      UserError: The job failed.
    """

  def stop(self) -> None:
    """Ends the running jobs."""


class Commands:
  """Runs `pipelines.train` and `pipelines.pretrain`.

  Args:
    records: Folder of the record set.
    output: Folder of the comparison, with `experiments/`.
    replicates: Bootstrap samples for the intervals in the report of each cell.
    inherit: File descriptors that stay open in the processes.
    jobs: Number of cells at the same time. Several share the cores and the GPUs: small steps use a share of the cores
      better than all of them.
    environment: Variables of the processes besides those of this process.
  """

  def __init__(
    self,
    records: pathlib.Path | str,
    output: pathlib.Path,
    replicates: int,
    inherit: Sequence[int] = (),
    jobs: int = 1,
    environment: Mapping[str, str] | None = None,
  ):
    self._environment = {**threads(jobs), **os.environ, **(environment or {})}
    self._records = records
    self._output = output
    self._replicates = replicates
    self._inherit = tuple(inherit)
    self._running: set[subprocess.Popen] = set()
    self._lock = threading.Lock()
    self._shares: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()  # of the GPUs, those not in use
    for share in shares(jobs):
      self._shares.put(share)
    self._stopped = False

  def train(self, cell: Cell, evaluate: bool) -> None:
    command = ["pipelines.train", "--config", str(self._output / "experiments" / f"{slug(cell.label)}.yaml")]
    command += ["--records", str(self._records), "--run_dir", str(cell.folder)]
    for key, value in {**cell.tuned, "train.seed": cell.seed}.items():
      command += ["--set", f"{key}={inline(value)}"]
    self._run([*command, "--bootstrap", str(self._replicates)] if evaluate else [*command, "--noevaluate"], cell.log)

  def pretrain(self, config: pathlib.Path, folder: pathlib.Path) -> None:
    command = ["pipelines.pretrain", "--config", str(config), "--records", str(self._records), "--output", str(folder)]
    self._run(command, folder.with_suffix(".log"))

  def stop(self) -> None:
    with self._lock:
      self._stopped = True
      for process in self._running:
        process.terminate()

  def _run(self, command: Sequence[str], log: pathlib.Path) -> None:
    share = self._shares.get()
    try:
      self._run_with(share, command, log)
    finally:
      self._shares.put(share)

  def _run_with(self, share: dict[str, str], command: Sequence[str], log: pathlib.Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as lines:
      lines.write(places.shown(f"$ python -m {shlex.join(command)}\n"))
      lines.flush()
      with self._lock:
        if self._stopped:
          raise UserError("stopped")
        process = subprocess.Popen(
          [sys.executable, "-m", *command],
          stdin=subprocess.DEVNULL,
          stdout=lines,
          stderr=subprocess.STDOUT,
          env=self._environment | share | python_path(),
          pass_fds=self._inherit,
          # a signal to the whole group, Ctrl-C among them, reaches it once, through `stop`: it saves its checkpoint
          start_new_session=True,
        )
        self._running.add(process)
      code = process.wait()
    with self._lock:
      self._running.discard(process)
    if code:
      how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
      kinds = {kind.exit_code: kind for kind in (SettingsError, StorageError)}
      raise kinds.get(code, UserError)(f"{how}; {log} ends with\n{tail(log)}")


def inline(value: Any) -> str:
  """A value in YAML, on one line."""
  text = yaml.safe_dump(value, default_flow_style=True, width=1_000_000)
  return text.removesuffix("...\n").strip()


def tail(log: pathlib.Path) -> str:
  """The last lines of a log, indented."""
  lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
  return "\n".join(f"    {line[:300]}" for line in lines[-_TAIL:])
