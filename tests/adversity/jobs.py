"""Shipped commands as processes to which something happens, and what has to be the same in the end."""

import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import tensorflow as tf

from lcn_tf.data.record_set import RecordSet
from lcn_tf.training.checkpoint_store import Store
from lcn_tf.training.checkpoints import Kind
from tests.data.logs import file_bytes
from tests.shipped.workspace import environment, once, succeeds
from tests.support import children
from tests.support.forks import Fork

CONFIG = "configs/movielens/lcn.yaml"
BUILD = f"python -m pipelines.build_records --config {CONFIG}"
TRAIN = (
  f"python -m pipelines.train --config {CONFIG} --records adversity/records --bootstrap 2 "
  "--set train.epochs=2 --set train.checkpoint_every=1"
)
BUILD_SYNTHETIC = (
  "python -m pipelines.build_records --config configs/synthetic/lcn.yaml --output runs/records/synthetic"
)
COMPARE = (
  "python -m pipelines.compare --config configs/compare/synthetic.yaml --records runs/records/synthetic "
  "--only Avg-Pooling,LCN"
)
WALK = (
  "python -m pipelines.walk --config configs/synthetic/average_pooling.yaml --bootstrap 2 --export "
  "--set train.checkpoint_every=1 --set walk.period=432000 --set walk.periods=2"
)
_SECONDS = 600
# what two unbroken runs do not have in common
_CLOCK = re.compile(r"seconds|per_second|memory|starts|cores|checksum|latency|version")
_VERSION = re.compile(r"/\d{9,}/")
_EVENTS = re.compile(r"events\.out\.tfevents\..*")


class Process:
  """A command in the workspace, in a process group of its own, with a folder for temporary files.

  Args:
    command: As printed: `python -m ...`.
    workspace: Where.
    temporary: TMPDIR, made if need be.
  """

  def __init__(self, command: str, workspace: pathlib.Path, temporary: pathlib.Path):
    temporary.mkdir(exist_ok=True)
    self.log = temporary.with_name(f"{temporary.name}.log")
    with self.log.open("w") as log:
      self._process = Fork(
        shlex.split(command)[1:],
        cwd=workspace,
        env=environment() | {"TMPDIR": str(temporary)},
        stdout=log,
        stderr=log,
        start_new_session=True,
      )

  def kill_after(self, seconds: float) -> bool:
    """Kills it, and it alone, after so long; False if it has ended before."""
    try:
      code = self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
      return True
    assert code == 0, self.said()
    return False

  def terminate_after(self, seconds: float) -> int:
    """Sends SIGTERM so long after it has begun to listen to signals; the exit code."""
    while self._process.poll() is None and not _listens(self._process.pid):
      time.sleep(0.01)
    try:
      return self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      self._process.send_signal(signal.SIGTERM)
      return self._process.wait(_SECONDS)

  def succeeds(self) -> None:
    code = self._process.wait(_SECONDS)
    assert code == 0, self.said()

  def group_ends(self) -> None:
    """Waits until no process that it has started is there."""
    assert children.eventually(lambda: not _alive(self._process.pid)), f"{self._process.args} has left processes"

  def said(self) -> str:
    return f"{self._process.args}\n{self.log.read_text()[-6000:]}"


def _listens(process: int) -> bool:
  """Whether a process has a handler for SIGTERM: not in the first moments of Python."""
  try:
    status = pathlib.Path(f"/proc/{process}/status").read_text()
  except OSError:
    return True
  caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
  return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _alive(group: int) -> bool:
  """Whether a process of a session is there, and no mere entry in the table of processes."""
  for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
    except OSError:
      continue
    if int(session) == group and state != "Z":
      return True
  return False


def seconds(call: Callable[[], object]) -> float:
  began = time.monotonic()
  call()
  return time.monotonic() - began


def timed(command: str, output: pathlib.Path, workspace: pathlib.Path) -> pathlib.Path:
  """Runs a command, once for all processes of a test run, with its output after it; returns that."""

  def make() -> None:
    shutil.rmtree(output, ignore_errors=True)
    took = seconds(lambda: succeeds(f"{command} {output}", workspace))
    _took(output).write_text(str(took))

  once(_took(output), make)
  return output


def seconds_of(output: pathlib.Path) -> float:
  """How long what `timed` has run took."""
  return float(_took(output).read_text())


def _took(output: pathlib.Path) -> pathlib.Path:
  return output.with_name(f"{output.name}.seconds")


class Killer:
  """Kills processes at any moment of the time that they take.

  Args:
    seconds: What an unbroken one has taken; another may take less, or more.
    seed: Of the moments.
  """

  def __init__(self, seconds: float, seed: int):
    self._seconds = seconds
    self._rng = np.random.default_rng(seed)
    self.kills = 0

  def __call__(self, process: Process) -> bool:
    """Whether it was killed; else it has ended before."""
    killed = process.kill_after(self._seconds * self._rng.random())
    self.kills += killed
    # this machine may be faster now than when the unbroken one was measured
    self._seconds *= 1.0 if killed else 0.8
    return killed


def weights(checkpoint: str | pathlib.Path) -> dict[str, np.ndarray]:
  """The values of a checkpoint, by their keys."""
  reader = tf.train.load_checkpoint(str(checkpoint))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name}


def same_weights(one: str | pathlib.Path, other: str | pathlib.Path) -> None:
  mine, theirs = weights(one), weights(other)
  assert mine.keys() == theirs.keys()
  for name, value in mine.items():
    np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def same_run(run: pathlib.Path, other: pathlib.Path) -> None:
  """Checks that two run folders hold the same results, and the same files."""
  assert listing(run) == listing(other)
  kinds: tuple[Kind, ...] = ("last", "best")
  for kind in kinds:
    mine, theirs = Store(run, kind), Store(other, kind)
    newest = theirs.newest()
    assert newest is not None
    assert mine.newest() == newest
    same_weights(mine.path(newest), theirs.path(newest))
  same_export(run / "export", other / "export")
  assert (run / "history.csv").read_text() == (other / "history.csv").read_text()
  assert pl.read_parquet(run / "predictions.parquet").equals(pl.read_parquet(other / "predictions.parquet"))
  assert lasting(run / "metrics.json") == lasting(other / "metrics.json")


def same_export(export: pathlib.Path, other: pathlib.Path) -> None:
  """Checks that two folders hold one version each, of the same model."""
  (mine,), (theirs,) = (list(folder.iterdir()) for folder in (export, other))
  assert listing(mine) == listing(theirs)
  same_weights(mine / "variables" / "variables", theirs / "variables" / "variables")


def same_comparison(output: pathlib.Path, other: pathlib.Path) -> None:
  """Checks that two comparisons hold the same files, and their cells the same results."""
  assert listing(output) == listing(other)
  for cell in sorted(other.glob("cells/*/seed_*")):
    mine = output / cell.relative_to(other)
    assert lasting(mine / "metrics.json") == lasting(cell / "metrics.json")
    assert (mine / "history.csv").read_text() == (cell / "history.csv").read_text()


def same_walk(folder: pathlib.Path, other: pathlib.Path) -> None:
  """Checks that two walks hold the same files, the same scores and models of the same weights."""
  assert listing(folder) == listing(other)
  for file in (
    "days.parquet",
    *(f"predictions/{n:05d}/{name}.parquet" for n in (1, 2) for name in ("walked", "frozen")),
  ):
    assert pl.read_parquet(folder / file).equals(pl.read_parquet(other / file)), file
  for number in range(3):
    same_export(folder / f"run/{number:05d}/export", other / f"run/{number:05d}/export")


def same_records(records: pathlib.Path, other: pathlib.Path) -> None:
  """Checks that two record sets hold the same bytes."""
  assert RecordSet.open(records).verify_tables() == []
  mine, theirs = file_bytes(records), file_bytes(other)
  assert mine.keys() == theirs.keys()
  assert [name for name, data in mine.items() if data != theirs[name]] == []


def listing(folder: pathlib.Path) -> list[str]:
  """The files below a folder, without what tells two runs apart."""
  names = {str(path.relative_to(folder)) for path in folder.glob("**/*") if path.is_file()}
  return sorted({_EVENTS.sub("events", _VERSION.sub("/version/", name)) for name in names})


def lasting(file: pathlib.Path) -> object:
  """What a JSON file says, without what is of one run alone: times, memory, folders."""
  return _lasting(json.loads(file.read_text()))


def _lasting(tree: object) -> object:
  if isinstance(tree, dict):
    return {key: _lasting(value) for key, value in tree.items() if not _CLOCK.search(key)}
  if isinstance(tree, list):
    return [_lasting(value) for value in tree]
  return None if isinstance(tree, str) and "/" in tree else tree


def nothing_left(*folders: pathlib.Path) -> None:
  """Checks that neither what is half written nor what is temporary lies in or below some folders."""
  for folder in folders:
    left = [path for path in folder.glob("**/.*") if path.name != ".lock"]
    left += [path for path in folder.glob("**/*") if path.name.endswith(("_temp", ".aside"))]
    assert not left, left
