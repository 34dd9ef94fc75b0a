"""A disk that is full: one message, exit code 74, the last good state intact, and with space the same command goes on.

The disk is a file system in memory of the size that a test says, in a namespace of its own, which needs no privileges
where the system allows it.
"""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lcn_tf.serving.export import describe
from lcn_tf.training.checkpoint_store import Store
from tests.adversity import jobs
from tests.data.logs import file_bytes
from tests.shipped.workspace import ROOT, succeeds

pytestmark = pytest.mark.config
STORAGE = os.EX_IOERR
_MOUNT = 'mount -t tmpfs -o size="$1" disk "$2"'
# the disk, filled with what is there; then the command, its exit code and all that is on the disk; then space, and the
# command again; what is on the disk at the end goes back to where the test sees it
_SCRIPT = f"""
set -e
{_MOUNT}
cp -a "$3/." "$2/"
set +e
sh -c "$4" > "$5/first.txt" 2>&1; echo $? > "$5/first.code"
cp -a "$2/." "$5/first"
mount -o remount,size=1g "$2"
sh -c "$4" > "$5/second.txt" 2>&1; echo $? > "$5/second.code"
cp -a "$2/." "$5/second"
"""
_ALONE = ["unshare", "--mount", "--map-root-user"]


def namespaces():
  """Whether a process may have a file system of its own."""
  done = subprocess.run([*_ALONE, "sh", "-c", _MOUNT, "-", "64k", "/tmp"], capture_output=True, check=False)
  return done.returncode == 0


@pytest.fixture(autouse=True, scope="module")
def _allowed():
  if not namespaces():
    pytest.skip("this system allows no mounts in a namespace of its own")


class Disk:
  """A disk of a size, on which a command runs twice: as it is, then with space.

  Args:
    folder: Of the test.
    workspace: Where the command runs.
    there: What lies on the disk at first.
    size: Kilobytes.
    command: As printed; DISK is where the disk is.
  """

  def __init__(self, folder, workspace, there, size, command):
    disk, self.folder = folder / "disk", folder
    for name in (disk, folder / "first", folder / "second", folder / "temporary"):
      name.mkdir(parents=True)
    line = command.replace("python", sys.executable, 1).replace("DISK", str(disk))
    done = subprocess.run(
      [*_ALONE, "sh", "-c", _SCRIPT, "-", f"{size}k", disk, there, line, folder],
      cwd=workspace,
      env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "temporary"), "TF_CPP_MIN_LOG_LEVEL": "2"},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    self.codes = [int((folder / f"{which}.code").read_text()) for which in ("first", "second")]
    self.said = [(folder / f"{which}.txt").read_text() for which in ("first", "second")]

  def was_full(self):
    """Checks what it says then: one message, with where and how much."""
    assert self.codes[0] == STORAGE, self.said[0]
    assert "Traceback" not in self.said[0], self.said[0]
    (told,) = [line for line in self.said[0].splitlines() if line.startswith("error: ")]
    assert "no space left on device" in told
    assert str(self.folder / "disk") in told
    assert re.search(r"\d (bytes|kB|MB|GB) are free there", told), told

  def went_on(self):
    """Checks that the command was right with space, and nothing half written is left."""
    assert self.codes[1] == 0, self.said[1]
    jobs.nothing_left(self.folder / "second", self.folder / "temporary")


def kilobytes(folder):
  return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.glob("**/*") if path.is_file())


def sizes(first, whole, count):
  """Sizes of a disk, in kB, from what lies there at first up to what would do, without either."""
  for share in (np.arange(count) + 0.5) / count:
    yield int(first + 4 + share * (whole - first - 8))


def test_a_build(workspace, records, tmp_path, campaign):
  whole = kilobytes(records)
  for size in sizes(0, whole, campaign(1, 4)):
    (tmp_path / str(size) / "empty").mkdir(parents=True)
    disk = Disk(tmp_path / str(size), workspace, tmp_path / str(size) / "empty", size, f"{jobs.BUILD} --output DISK/r")
    disk.was_full()
    assert not (disk.folder / "first" / "r").exists()
    disk.went_on()
    jobs.same_records(disk.folder / "second" / "r", records)
  print(f"a build: {campaign(1, 4)} sizes of {whole} kB")


def test_a_build_in_the_place_of_another(workspace, records, tmp_path):
  (tmp_path / "there").mkdir()
  shutil.copytree(records, tmp_path / "there" / "r")
  size = int(1.5 * kilobytes(records))
  disk = Disk(tmp_path, workspace, tmp_path / "there", size, f"{jobs.BUILD} --output DISK/r --overwrite")
  disk.was_full()
  jobs.same_records(disk.folder / "first" / "r", records)
  disk.went_on()
  jobs.same_records(disk.folder / "second" / "r", records)


def test_training(workspace, unbroken, tmp_path, campaign):
  (tmp_path / "empty").mkdir()
  whole = kilobytes(unbroken)
  for size in sizes(0, whole, campaign(1, 4)):
    disk = Disk(tmp_path / str(size), workspace, tmp_path / "empty", size, f"{jobs.TRAIN} --run_dir DISK/run")
    disk.was_full()
    disk.went_on()
    jobs.same_run(disk.folder / "second" / "run", unbroken)
    # it went on from there, if there was anything to go on from
    numbers = Store(disk.folder / "first" / "run", "last").numbers()
    assert ("resumed from step" in disk.said[1]) == bool(numbers)
  print(f"training: {campaign(1, 4)} sizes of {whole} kB")


def test_an_export(workspace, unbroken, tmp_path, campaign):
  there = tmp_path / "there"
  shutil.copytree(unbroken, there / "run")
  shutil.move(there / "run" / "export", there / "export")
  (version,) = (there / "export").iterdir()
  first = kilobytes(there)
  command = "python -m pipelines.export --run_dir DISK/run --output DISK/export"
  for size in sizes(first, first + kilobytes(version), campaign(1, 4)):
    disk = Disk(tmp_path / str(size), workspace, there, size, command)
    disk.was_full()
    assert file_bytes(disk.folder / "first") == file_bytes(there)
    disk.went_on()
    before, after = sorted((disk.folder / "second" / "export").iterdir(), key=lambda path: int(path.name))
    assert before.name == version.name
    assert describe(after)["weights"] == describe(before)["weights"]
    jobs.same_weights(after / "variables" / "variables", before / "variables" / "variables")
  print(f"an export: {campaign(1, 4)} sizes of {kilobytes(version)} kB")


def test_an_evaluation(workspace, unbroken, records, tmp_path, campaign):
  there, results = tmp_path / "there", ("metrics.json", "predictions.parquet", "report/index.html")
  (there / "out").mkdir(parents=True)
  command = (
    f"python -m pipelines.evaluate --model {unbroken}/export --records {records} --output DISK/out --bootstrap 2"
  )
  succeeds(command.replace("DISK", str(there)), workspace)
  first = kilobytes(there)
  for size in sizes(first, 2 * first, campaign(1, 4)):
    disk = Disk(tmp_path / str(size), workspace, there, size, command)
    disk.was_full()
    left = file_bytes(disk.folder / "first").items()
    # parts that are whole stay, for the next start
    assert {name: data for name, data in left if "scored/" not in str(name)} == file_bytes(there)
    disk.went_on()
    assert all((disk.folder / "second" / "out" / name).is_file() for name in results)
    assert not (disk.folder / "second" / "out" / "scored").exists()
    mine, theirs = (jobs.lasting(folder / "out" / "metrics.json") for folder in (disk.folder / "second", there))
    assert mine == theirs
  print(f"an evaluation: {campaign(1, 4)} sizes of {first} kB")


def test_a_comparison(workspace, compared, tmp_path, campaign):
  (tmp_path / "empty").mkdir()
  for size in sizes(0, kilobytes(compared), campaign(1, 4)):
    disk = Disk(tmp_path / str(size), workspace, tmp_path / "empty", size, f"{jobs.COMPARE} --output DISK/out")
    assert disk.codes[0] == STORAGE, disk.said[0]
    assert "Traceback" not in disk.said[0], disk.said[0]
    disk.went_on()
    jobs.same_comparison(disk.folder / "second" / "out", compared)
  print(f"a comparison: {campaign(1, 4)} sizes of {kilobytes(compared)} kB")


@pytest.mark.parametrize("what", ["build_records", "train"])
def test_a_full_folder_for_temporary_files(what, workspace, tmp_path):
  (tmp_path / "empty").mkdir()
  command = {
    "build_records": f"env TMPDIR=DISK python -m pipelines.build_records --config {jobs.CONFIG} --output DISK/r",
    "train": f"env TMPDIR=DISK {jobs.TRAIN} --run_dir {tmp_path}/run",
  }[what]
  disk = Disk(tmp_path, workspace, tmp_path / "empty", 4, command)
  assert disk.codes[0] == STORAGE, disk.said[0]
  assert "Traceback" not in disk.said[0], disk.said[0]
