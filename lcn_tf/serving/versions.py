"""Folders of numbered versions, each of which is renamed to its number when it is whole. No TensorFlow is needed."""

import pathlib
import shutil
import uuid
from typing import Any

from absl import logging

from lcn_tf import files

SAVED_MODEL = "saved_model.pb"


def versions(folder: pathlib.Path, holds: str = SAVED_MODEL) -> list[pathlib.Path]:
  """The numbered versions in `folder` that hold a certain file, oldest first."""
  there = [path for path in folder.glob("*") if path.name.isdecimal() and (path / holds).is_file()]
  return sorted(there, key=lambda path: int(path.name))


def newest_version(folder: pathlib.Path, holds: str = SAVED_MODEL) -> pathlib.Path | None:
  """The newest numbered version in `folder` that holds a certain file."""
  return next(reversed(versions(folder, holds)), None)


def appear(aside: pathlib.Path, folder: pathlib.Path, number: int, holds: str = SAVED_MODEL) -> pathlib.Path:
  """Renames a whole version to `folder/<number>`, or to a higher number: readers take the highest one."""
  newest = newest_version(folder, holds)
  number = max(number, int(newest.name) + 1 if newest else 0)
  while (folder / str(number)).exists():
    number += 1
  return aside.rename(folder / str(number))


def keep_newest(folder: pathlib.Path, keep: int, holds: str = SAVED_MODEL) -> None:
  """Removes versions, each of them whole: a reader meets no half of one.

  Args:
    folder: Folder of versions.
    keep: Number of versions that stay, the newest ones; 0 = all.
    holds: File that every version has.
  """
  if not keep:
    return
  for old in versions(folder, holds)[:-keep]:
    # the name of what a killed process leaves: the next one who writes here removes it
    away = old.rename(old.with_name(f".{old.name}.{uuid.uuid4().hex[:12]}.{files.ASIDE}"))
    shutil.rmtree(away)
    logging.info("%s: removed; the newest %d stay", old, keep)


def weights_of(described: dict[str, Any]) -> str:
  """The weights that an export reads, in words: the digest of their checkpoint, and the type of narrow tables.

  Args:
    described: Description of the export.

  Returns:
    The words; empty if the weights are of no checkpoint.
  """
  dtype = described.get("tables", {}).get("dtype", "float32")
  digest = str(described.get("weights", ""))
  return f"{digest} in {dtype}" if digest and dtype != "float32" else digest
