"""Raw input: a Parquet file, or a folder of them as Spark, Hive and daily jobs leave it, as one table."""

import dataclasses
import os
import pathlib
import urllib.parse
from collections.abc import Sequence

import polars as pl
from absl import logging

from lcn_tf import files, storage
from lcn_tf.errors import UserError, nearest, one_line

_EXACT: dict[type[pl.DataType], int] = {
  pl.Float32: 2**24,
  pl.Float64: 2**53,
}  # from there on floats do not tell whole numbers apart
_NOT_GIVEN = "__HIVE_DEFAULT_PARTITION__"
_REMEDY = "Write the file again."


@dataclasses.dataclass(frozen=True)
class Source:
  """What was read.

  Attributes:
    frame: All rows.
    path: As it was given.
    files: Path below the folder, or the name, and rows of each file, in the order of the rows.
    size: Bytes of all files.
    vague: Column -> from which number on it does not tell whole numbers apart, and why that matters.
    unreadable: Column -> why it is not in `frame`, though files hold it.
  """

  frame: pl.DataFrame
  path: str
  files: tuple[tuple[str, int], ...]
  size: int
  vague: dict[str, tuple[int, str]]
  unreadable: dict[str, str]


def read(path: str) -> Source:
  """Reads a file, or all `.parquet` files of a folder and of those below it.

  Names that begin with `_` or `.` are left out, as what is temporary or hidden; links are followed. `key=value` folders
  are columns where the files have none of that name. Where files of other days hold whole numbers as floats or as text,
  they are read as integers, or as their text.

  Raises:
    UserError: There is no such file, a link leads nowhere, a file is not Parquet, or the files have no common columns.
  """
  top = files.local(path)
  if top.is_symlink() and not top.exists():
    raise UserError(f"{path}: a link to {os.readlink(top)}, which is not there")
  if not top.exists():
    there = [str(other) for other in top.parent.iterdir()] if top.parent.is_dir() else []
    raise UserError(f"{path}: no such file.{nearest(path, there)}")
  found = _files(top) if top.is_dir() else [top]
  if not found:
    raise UserError(f"{path}: this folder holds no .parquet file")
  parts: list[pl.DataFrame] = []
  unreadable: dict[str, str] = {}
  for file in found:
    frame, lacking = _frame(file)
    unreadable |= {name: f"{file}: {reason}" for name, reason in lacking.items()}
    parts.append(frame.with_columns(**_partitions(file, top, frame)))
  unclear = vague(parts, found)
  frame = _joined(parts, path)
  names = [file.relative_to(top).as_posix() if file != top else file.name for file in found]
  counted = tuple(zip(names, map(len, parts), strict=True))
  source = Source(frame, path, counted, sum(file.stat().st_size for file in found), unclear, unreadable)
  logging.info("%s: %d files, %d rows, %s", path, len(found), len(frame), storage.readable(source.size))
  return source


def _files(top: pathlib.Path) -> list[pathlib.Path]:
  found: list[pathlib.Path] = []
  others: list[pathlib.Path] = []
  seen = set()
  for folder, below, names in os.walk(top, followlinks=True):
    where = os.path.realpath(folder)
    below[:] = sorted(name for name in below if not name.startswith(("_", ".")))
    if where in seen:  # a link to a folder above it, or to one that was read
      below.clear()
      continue
    seen.add(where)
    for name in sorted(names):
      file = pathlib.Path(folder, name)
      if name.startswith(("_", ".")):
        continue
      if not file.exists():
        raise UserError(f"{file}: a link to {os.readlink(file)}, which is not there")
      (found if file.suffix == ".parquet" else others).append(file)
  if others:
    logging.warning("%s: %d files do not end with .parquet and are not read: %s", top, len(others), others[0].name)
  return sorted(found)


def _frame(file: pathlib.Path) -> tuple[pl.DataFrame, dict[str, str]]:
  """The columns of a file that can be read, and why the others cannot."""
  try:
    return files.parquet(file, remedy=_REMEDY), {}
  except UserError:
    with file.open("rb") as opened:
      try:
        names = list(pl.read_parquet_schema(opened))
      except Exception:
        names = []
    frames, lacking = [], {}
    for name in names:
      try:
        frames.append(files.parquet(file, [name], remedy=_REMEDY))
      except UserError as error:
        lacking[name] = one_line(error)
    if not frames:
      raise
    logging.warning("%s: columns that cannot be read: %s", file, ", ".join(lacking))
    return pl.concat(frames, how="horizontal"), lacking


def _partitions(file: pathlib.Path, top: pathlib.Path, frame: pl.DataFrame) -> dict[str, pl.Expr]:
  """The columns that the names of the folders between `top` and `file` say, which the file does not have."""
  columns = {}
  for part in file.relative_to(top).parts[:-1] if file != top else ():
    name, equals, value = part.partition("=")
    if equals and name and name not in frame.columns:
      text = urllib.parse.unquote(value)
      columns[name] = pl.lit(None if text == _NOT_GIVEN else _number(text), pl.Int64 if _is_number(text) else pl.String)
  return columns


def _is_number(text: str) -> bool:
  return text.isascii() and text.isdigit() and text == str(int(text)) and int(text) < 2**63


def _number(text: str) -> int | str:
  return int(text) if _is_number(text) else text


def vague(parts: Sequence[pl.DataFrame], names: Sequence[str | pathlib.Path]) -> dict[str, tuple[int, str]]:
  """Columns whose whole numbers some file cannot tell apart, or would not when it is joined with the others."""
  reasons: dict[str, tuple[int, str]] = {}
  for frame, file in zip(parts, names, strict=True):
    for name, kind in frame.schema.items():
      limit = _EXACT.get(type(kind), 0)
      if kind.is_integer() and any(part.schema.get(name) in (pl.Float32, pl.Float64) for part in parts):
        limit = 2**53
      if not limit or name in reasons:
        continue
      # of the finite ones; the absolute value of the smallest integer is none
      numbers = frame[name].cast(pl.Float64)
      largest = numbers.filter(numbers.is_finite()).abs().max()
      if isinstance(largest, float) and largest >= limit:
        reasons[name] = (
          limit,
          f"{file}: column {name!r} holds {kind}, and from {limit:,} on floats do not tell whole numbers apart; found "
          f"{largest:.10g}. Write it as integers or text",
        )
  return reasons


def _joined(parts: list[pl.DataFrame], path: str) -> pl.DataFrame:
  if len(parts) == 1:
    return parts[0]
  kinds: dict[str, set[pl.DataType]] = {}
  for frame in parts:
    for name, kind in frame.schema.items():
      kinds.setdefault(name, set()).add(kind)
  text = (pl.String, pl.Categorical, pl.Enum)
  mixed = {name for name, found in kinds.items() if len(found) > 1 and any(isinstance(kind, text) for kind in found)}
  # 7.0 in one file is the "7" of another
  parts = [frame.with_columns(plain(frame[name]) for name in mixed & set(frame.columns)) for frame in parts]
  try:
    # files of other days may lack a column, or hold whole numbers where others have floats
    return pl.concat(parts, how="diagonal_relaxed")
  except pl.exceptions.PolarsError as error:
    raise UserError(f"{path}: these files have no common columns: {one_line(error)}") from None


def plain(column: pl.Series) -> pl.Series:
  """The column with whole floats as integers (pandas makes floats of integers with nulls); NaN is null there."""
  if not column.dtype.is_float():
    return column
  filled = column.fill_nan(None)
  whole = filled.drop_nulls()
  fits = ((whole == whole.floor()) & (whole.abs() < _EXACT[type(column.dtype)])).all()
  return filled.cast(pl.Int64) if fits else column
