"""Raw input: a Parquet file, or a folder of them as Spark, Hive and daily jobs leave it, as one table."""

import dataclasses
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence, Set

import polars as pl
from absl import logging

from lcn_tf import files, formats, storage
from lcn_tf.data.build.values import EXACT
from lcn_tf.errors import StorageError, UserError, nearest, one_line

_TEXT = (pl.String, pl.Categorical, pl.Enum)
_LIST = (pl.List, pl.Array)
_NOT_GIVEN = "__HIVE_DEFAULT_PARTITION__"
REMEDY = "Write the file again."


@dataclasses.dataclass(frozen=True)
class Source:
  """What was read.

  Attributes:
    frame: All rows.
    path: Path as it was given.
    files: Path below the folder, or the name, and rows of each file, in the order of the rows.
    size: Bytes of all files.
    vague: Column -> from which number on it does not tell whole numbers apart, and why that matters.
    unreadable: Column -> why it is not (or not whole) in `frame`, though files hold it.
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
    UserError: There is no such file, a link leads nowhere, a folder cannot be listed, or a file is not Parquet.
  """
  top, found = find(path)
  parts: list[pl.DataFrame] = []
  unreadable: dict[str, str] = {}
  for file in found:
    frame, lacking = _frame(file)
    unreadable |= lacking
    parts.append(frame.with_columns(**partitions(file, top, frame.columns)))
  unclear = vague(parts, found)
  frame, apart = _joined(parts, found)
  return source_of(frame, path, top, found, list(map(len, parts)), unclear, unreadable | apart)


def find(path: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
  """The path, and the files that `read` reads there, in the order of the rows. Errors as of `read`."""
  top = files.local(path)
  files.check_link(top)
  if not top.exists():
    there = [str(other) for other in top.parent.iterdir()] if top.parent.is_dir() else []
    raise UserError(f"{path}: no such file.{nearest(path, there)}")
  found = _files(top) if top.is_dir() else [top]
  if not found:
    raise UserError(f"{path}: this folder holds no .parquet file")
  return top, found


def source_of(
  frame: pl.DataFrame,
  path: str,
  top: pathlib.Path,
  found: list[pathlib.Path],
  rows: list[int],
  unclear: dict[str, tuple[int, str]],
  unreadable: dict[str, str],
) -> Source:
  """What was read of the files `found`, of `rows` rows each, which is logged; other arguments as in `Source`."""
  names = [file.relative_to(top).as_posix() if file != top else file.name for file in found]
  counted = tuple(zip(names, rows, strict=True))
  source = Source(frame, path, counted, sum(file.stat().st_size for file in found), unclear, unreadable)
  logging.info("%s: %d files, %d rows, %s", path, len(found), sum(rows), storage.readable(source.size))
  return source


def _files(top: pathlib.Path) -> list[pathlib.Path]:
  found: list[pathlib.Path] = []
  others: list[pathlib.Path] = []
  seen = set()
  for folder, below, names in os.walk(top, onerror=_not_listed, followlinks=True):
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
      files.check_link(file)
      (found if file.suffix == ".parquet" else others).append(file)
  if others:
    logging.warning("%s: %d files do not end with .parquet and are not read: %s", top, len(others), others[0].name)
  return sorted(found)


def _not_listed(error: OSError) -> None:
  kind = StorageError if storage.failure(error) else UserError
  raise kind(f"{error.filename}: this folder cannot be read: {error.strerror}") from None


def _frame(file: pathlib.Path) -> tuple[pl.DataFrame, dict[str, str]]:
  """The columns of a file that can be read, and why the others cannot."""
  try:
    return formats.parquet(file, remedy=REMEDY), {}
  except UserError:
    frames, lacking = [], {}
    for name in names_of(file):
      try:
        frames.append(formats.parquet(file, [name], remedy=REMEDY))
      except UserError as error:
        lacking[name] = one_line(error)
    if not frames:
      raise
    tell_lacking(file, lacking)
    return pl.concat(frames, how="horizontal"), lacking


def names_of(file: pathlib.Path) -> list[str]:
  """The names of a file's columns; none if it does not say them."""
  with file.open("rb") as opened:
    try:
      return list(pl.read_parquet_schema(opened))
    except Exception:
      return []


def tell_lacking(file: pathlib.Path, lacking: Mapping[str, str]) -> None:
  logging.warning("%s: columns that cannot be read: %s", file, ", ".join(lacking))


def partitions(file: pathlib.Path, top: pathlib.Path, names: Sequence[str]) -> dict[str, pl.Expr]:
  """The columns that the folders between `top` and `file` say, and which are not among the file's own, `names`."""
  columns = {}
  for part in file.relative_to(top).parts[:-1] if file != top else ():
    name, equals, value = part.partition("=")
    if equals and name and name not in names:
      text = urllib.parse.unquote(value)
      if text == _NOT_GIVEN:
        columns[name] = pl.lit(None)  # of whatever type the others are
      else:
        columns[name] = pl.lit(int(text), pl.Int64) if _is_number(text) else pl.lit(text)
  return columns


def _is_number(text: str) -> bool:
  return text.isascii() and text.isdigit() and text == str(int(text)) and int(text) < 2**63


def vague(parts: Sequence[pl.DataFrame], names: Sequence[str | pathlib.Path]) -> dict[str, tuple[int, str]]:
  """Columns whose whole numbers some file cannot tell apart, or would not when it is joined with the others."""
  return vague_of([part.schema for part in parts], names, lambda file, name: _largest(parts[file][name]))


def _largest(column: pl.Series) -> float | None:
  # of the finite ones; the absolute value of the smallest integer is none
  numbers = column.cast(pl.Float64)
  return numbers.filter(numbers.is_finite()).abs().max()  # type: ignore[return-value]


def vague_of(
  schemas: Sequence[pl.Schema],
  names: Sequence[str | pathlib.Path],
  largest_of: Callable[[int, str], float | None],
) -> dict[str, tuple[int, str]]:
  """`vague` of files by their columns, and by the largest finite number of a column of a file (its position)."""
  reasons: dict[str, tuple[int, str]] = {}
  kinds = _kinds(schemas, names)
  for number, (schema, file) in enumerate(zip(schemas, names, strict=True)):
    for name, kind in schema.items():
      limit = EXACT.get(str(kind).lower(), 0)
      if kind.is_integer() and any(other.is_float() for other in kinds[name]):
        limit = EXACT["float64"]
      if not limit or name in reasons:
        continue
      largest = largest_of(number, name)
      if isinstance(largest, float) and largest >= limit:
        reasons[name] = (
          limit,
          f"{file}: column {name!r} holds {kind}, and from {limit:,} on floats do not tell whole numbers apart; found "
          f"{largest:.10g}. Write it as integers or text",
        )
  return reasons


def _kinds(
  schemas: Sequence[pl.Schema], names: Sequence[str | pathlib.Path]
) -> dict[str, dict[pl.DataType, str | pathlib.Path]]:
  """The types of each column, and the first file that has it."""
  kinds: dict[str, dict[pl.DataType, str | pathlib.Path]] = {}
  for schema, file in zip(schemas, names, strict=True):
    for name, kind in schema.items():
      kinds.setdefault(name, {}).setdefault(kind, file)
  return kinds


def _joined(parts: list[pl.DataFrame], names: Sequence[pathlib.Path]) -> tuple[pl.DataFrame, dict[str, str]]:
  """All rows, and why columns are left out that files have in types with nothing in common."""
  if len(parts) == 1:
    return parts[0], {}
  apart, as_texts = types_apart([part.schema for part in parts], names)
  joined = []
  for part, file in zip(parts, names, strict=True):
    frame, lacking = with_texts(part, as_texts, file)
    apart |= lacking
    joined.append(frame)
  return stacked(joined, apart), apart


def types_apart(schemas: Sequence[pl.Schema], names: Sequence[pathlib.Path]) -> tuple[dict[str, str], set[str]]:
  """Why columns are left out that files have in types with nothing in common, and which columns are read as texts."""
  apart: dict[str, str] = {}
  as_texts = set()
  for name, found in _kinds(schemas, names).items():
    if not _have_common(list(found)):
      apart[name] = "no common type: " + "; ".join(f"{kind} in {file}" for kind, file in found.items())
    elif len(found) > 1 and any(isinstance(element(kind), _TEXT) for kind in found):
      as_texts.add(name)
  return apart, as_texts


def with_texts(
  frame: pl.DataFrame, as_texts: Set[str], file: pathlib.Path, whole: Mapping[str, bool] | None = None
) -> tuple[pl.DataFrame, dict[str, str]]:
  """The rows of a file with the columns `as_texts` as texts, and why some cannot be; `whole` as in `plain`."""
  texts, apart = [], {}
  for name in as_texts & set(frame.columns):
    column = plain(frame[name], None if whole is None else whole.get(name))  # 7.0 in one file is the "7" of another
    if element(column.dtype).is_float():
      apart[name] = f"{file}: {column.dtype} that are no whole numbers, and other files hold text"
    elif column.dtype != pl.Null:
      texts.append(column.cast(pl.List(pl.String) if isinstance(column.dtype, _LIST) else pl.String))
  return frame.with_columns(texts), apart


def stacked(frames: Sequence[pl.DataFrame], apart: Mapping[str, str]) -> pl.DataFrame:
  """All rows, without the columns `apart`, in the types that the frames have in common."""
  # files of other days may lack a column, or hold whole numbers where others have floats
  return pl.concat([frame.drop(apart, strict=False) for frame in frames], how="diagonal_relaxed")


def element(kind: pl.DataType) -> pl.DataType:
  """The type of the elements of lists, or the type itself."""
  return kind.inner if isinstance(kind, _LIST) else kind  # type: ignore[return-value]


def _have_common(kinds: Sequence[pl.DataType]) -> bool:
  """Whether values of these types can be in one column; moments and numbers cannot, though polars has them as one."""
  kinds = [kind for kind in dict.fromkeys(kinds) if kind != pl.Null]
  if len(kinds) < 2:
    return True
  if any(isinstance(kind, _LIST) for kind in kinds):
    return all(isinstance(kind, _LIST) for kind in kinds) and _have_common([element(kind) for kind in kinds])
  if any(isinstance(kind, _TEXT) for kind in kinds):
    return all(isinstance(kind, (*_TEXT, pl.Boolean)) or kind.is_integer() or kind.is_float() for kind in kinds)
  if not (all(kind.is_temporal() for kind in kinds) or all(kind.is_numeric() or kind == pl.Boolean for kind in kinds)):
    return False
  try:
    pl.concat([pl.DataFrame(schema={"": kind}) for kind in kinds], how="vertical_relaxed")
    return True
  except pl.exceptions.PolarsError:
    return False


def plain(column: pl.Series, whole: bool | None = None) -> pl.Series:
  """The column, or lists, with whole floats as integers (pandas makes floats of integers with nulls); NaN is null.

  Args:
    column: Values of any type.
    whole: True if all floats of the column that these rows are of are whole, see `Numbers`; None = the rows say it.
  """
  if isinstance(column.dtype, _LIST):
    lists = column.cast(pl.List(column.dtype.inner))
    if not lists.dtype.inner.is_float():  # type: ignore[attr-defined]
      return lists
    return lists.list.eval(pl.element().fill_nan(None)).cast(pl.List(plain(lists.explode(), whole).dtype))
  if not column.dtype.is_float():
    return column
  if whole is None:
    whole = Numbers.of(column).fit(column.dtype)
  return column.fill_nan(None).cast(pl.Int64) if whole else column


@dataclasses.dataclass(frozen=True)
class Numbers:
  """What floats of a column are like.

  Attributes:
    whole: True if none of them, NaN aside, has a fraction.
    size: Largest absolute value; infinite if one is.
    finite: Largest absolute value of the finite ones.
  """

  whole: bool = True
  size: float = 0.0
  finite: float = 0.0

  @classmethod
  def of(cls, column: pl.Series) -> "Numbers":
    """Those of a column of numbers, or of lists of them."""
    values = column.explode() if isinstance(column.dtype, _LIST) else column
    numbers = (values if values.dtype.is_float() else values.cast(pl.Float64)).fill_nan(None).drop_nulls()
    sizes = numbers.abs()
    finite = sizes.filter(sizes.is_finite()).max()
    return cls(bool((numbers == numbers.floor()).all()), *(float(one or 0) for one in (sizes.max(), finite)))  # type: ignore[arg-type]

  def __add__(self, other: "Numbers") -> "Numbers":
    return Numbers(self.whole and other.whole, max(self.size, other.size), max(self.finite, other.finite))

  def fit(self, kind: pl.DataType) -> bool:
    """Whether they are all whole, and told apart by floats of that type."""
    return self.whole and self.size < EXACT[str(kind).lower()]
