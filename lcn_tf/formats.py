"""Files with checksums, JSON that every parser reads, and Parquet: damaged ones are named."""

import contextlib
import hashlib
import io
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lcn_tf import files, places, storage
from lcn_tf.errors import DamagedError, StorageError, one_line

if TYPE_CHECKING:
  import polars as pl

CHECKSUM = "checksum"  # of a sealed file, its own key
SEALED = 2  # `format` of the files that have one
REMEDY = "Take it from a backup, or make it again."
_CHECKED = "# written by lcn_tf; sha256 of the lines below: "


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Writes `value` as JSON that every parser reads: NaN and infinities become null."""
  files.write_text(path, to_json(value))


def write_sealed(path: str | pathlib.Path, value: dict[str, Any]) -> None:
  """Writes an object as JSON with a checksum of its own, which `read_sealed` compares."""
  files.write_text(path, sealed(value))


def sealed(value: dict[str, Any]) -> str:
  """The text of `write_sealed`."""
  tree = {"format": SEALED, **jsonable(value)}
  return to_json({**tree, CHECKSUM: _checksum(tree)})


def read_sealed(path: str | pathlib.Path, remedy: str = REMEDY) -> dict[str, Any]:
  """The object in a file of `write_sealed`, without its checksum. One that was written before there were any is read.

  Args:
    path: The file.
    remedy: Advice about a damaged file.

  Raises:
    DamagedError: It is no such file, or its checksum does not agree.
  """
  path = pathlib.Path(path)
  tree = read_json(path, remedy)
  if not isinstance(tree, dict):
    raise DamagedError(f"{path}: damaged: expected a JSON object. {remedy}")
  found = tree.pop(CHECKSUM, None)
  if (found is not None or tree.get("format", 1) != 1) and found != _checksum(tree):
    raise DamagedError(f"{path}: damaged, or changed by hand: its checksum is not that of what it holds. {remedy}")
  return tree


def write_checked(path: str | pathlib.Path, text: str) -> None:
  """Writes a text under a comment with its checksum, which `check_text` compares."""
  text = places.shown(text)
  files.write_text(path, f"{_CHECKED}{_digest(text.encode())}\n{text}")


def check_text(path: str | pathlib.Path, remedy: str = REMEDY) -> None:
  """Checks a file of `write_checked`. One that was written before there were checksums passes.

  Raises:
    DamagedError: Its checksum does not agree.
  """
  head, _, rest = pathlib.Path(path).read_bytes().partition(b"\n")
  first = head.decode(errors="replace")
  # the head of another file is a key
  if (first.startswith("#") or first[1:].startswith(_CHECKED[1:])) and first != f"{_CHECKED}{_digest(rest)}":
    raise DamagedError(f"{path}: damaged, or changed by hand: its checksum is not that of what it holds. {remedy}")


def read_json(path: str | pathlib.Path, remedy: str = REMEDY) -> Any:
  """What a JSON file holds.

  Raises:
    DamagedError: It is none.
  """
  try:
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise DamagedError(f"{path}: damaged: not JSON: {one_line(error)}. {remedy}") from None


def parquet(
  source: str | pathlib.Path | BinaryIO,
  columns: Sequence[str] | None = None,
  where: str = "",
  remedy: str = REMEDY,
  part: tuple[int, int] | None = None,
) -> "pl.DataFrame":
  """A Parquet file; its path is no pattern.

  Args:
    source: The file, or its bytes.
    columns: The columns to read; None = all.
    where: Name of the file in messages; empty = the path.
    remedy: Advice about a damaged file.
    part: First row and number of rows to read of a file; None = all.

  Raises:
    DamagedError: It is no Parquet, is damaged, or lacks a column.
    StorageError: The disk is gone.
  """
  import polars as pl  # not for a wrong flag or config

  with _reading(where or str(source), remedy):
    if part is not None:
      rows = pl.scan_parquet(_there(source), glob=False, hive_partitioning=False)
      return (rows.select(list(columns)) if columns else rows).slice(*part).collect()
    with contextlib.ExitStack() as stack:
      opened = source if isinstance(source, io.IOBase) else stack.enter_context(pathlib.Path(source).open("rb"))  # type: ignore[arg-type]
      return pl.read_parquet(opened, columns=list(columns) if columns else None)


def parquet_rows(source: str | pathlib.Path, remedy: str = REMEDY) -> int:
  """The number of rows of a Parquet file; arguments and errors as of `parquet`."""
  import polars as pl

  with _reading(str(source), remedy):
    return int(pl.scan_parquet(_there(source), glob=False, hive_partitioning=False).select(pl.len()).collect().item())


def _there(source: str | pathlib.Path | BinaryIO) -> str:
  """The path of a file that can be opened; the system says why another one cannot."""
  with pathlib.Path(source).open("rb"):  # type: ignore[arg-type]
    return str(pathlib.Path(source).absolute())  # type: ignore[arg-type]


@contextlib.contextmanager
def _reading(where: str, remedy: str) -> Iterator[None]:
  """Errors of reading Parquet as those of `parquet`."""
  try:
    yield
  except OSError as error:
    if storage.failure(error):
      raise
    raise DamagedError(f"{where}: {one_line(error)}. {remedy}") from None
  except BaseException as error:
    # polars' panics are no exceptions
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
      raise
    if reason := storage.failure(error):
      raise StorageError(f"{where}: {reason}") from None
    raise DamagedError(f"{where}: damaged, or no Parquet file: {one_line(error)}. {remedy}") from None


def to_json(value: Any) -> str:
  """`value` as JSON that every parser reads: NaN and infinities become null."""
  return json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n"


def sha256(file: pathlib.Path) -> str:
  """Checksum of a file's bytes, in hexadecimal."""
  with file.open("rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()


def _checksum(tree: dict[str, Any]) -> str:
  return _digest(json.dumps(tree, sort_keys=True).encode())


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()[:32]


def jsonable(value: Any) -> Any:
  """`value` with plain types, and None for what JSON has no number for."""
  if isinstance(value, dict):
    return {str(key): jsonable(entry) for key, entry in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [jsonable(entry) for entry in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return places.shown(str(value)) if isinstance(value, (str, pathlib.PurePath)) else value
