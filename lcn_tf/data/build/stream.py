"""Raw input in pieces: what `parquet.read` would read, of which a part is in memory at a time."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence, Set

import polars as pl

from lcn_tf import formats
from lcn_tf.data.build import parquet
from lcn_tf.data.build.parquet import Numbers, element
from lcn_tf.errors import UserError, one_line

_SAMPLE = 1000  # rows that say how large a row is


@dataclasses.dataclass(frozen=True)
class Piece:
  """Where a piece of a table is.

  Attributes:
    first: Position of its first row in the table.
    file: Number of the file.
    start: Position of its first row in the file.
    rows: Number of rows.
  """

  first: int
  file: int
  start: int
  rows: int


@dataclasses.dataclass(frozen=True)
class Stream:
  """A table in pieces, in the types of all its files.

  Attributes:
    source: Facts as of `parquet.read`, and a frame without rows.
    whole: Columns of floats, or lists of them -> whether all are whole numbers.
    rows: Number of rows.
    row_bytes: Bytes of a row in memory, about.
    read: Function that reads the given columns of a piece (None = all); it can be pickled.
  """

  source: parquet.Source
  whole: dict[str, bool]
  rows: int
  row_bytes: float
  read: Callable[[Piece, Sequence[str] | None], pl.DataFrame]

  def pieces(self, rows: int) -> Iterator[Piece]:
    """Pieces of at most `rows` rows, of all."""
    first = 0
    for number, (_, count) in enumerate(self.source.files):
      for start in range(0, count, rows):
        yield Piece(first + start, number, start, min(rows, count - start))
      first += count


def of_frame(frame: pl.DataFrame, name: str, source: parquet.Source | None) -> Stream:
  """A table that is in memory.

  Args:
    frame: All rows.
    name: Name of the table in messages.
    source: Files that it was read from; None = none.
  """
  if source is None:
    source = parquet.Source(frame, name, ((name, len(frame)),), 0, parquet.vague([frame], [name]), {})
  whole = {
    column: Numbers.of(frame[column]).fit(element(kind))
    for column, kind in frame.schema.items()
    if element(kind).is_float()
  }
  size = frame.estimated_size() / max(len(frame), 1)
  return Stream(dataclasses.replace(source, frame=frame.clear()), whole, len(frame), size, _Frame(frame))


@dataclasses.dataclass(frozen=True)
class _Frame:
  """`Stream.read` of rows that are in memory."""

  frame: pl.DataFrame

  def __call__(self, piece: Piece, columns: Sequence[str] | None = None) -> pl.DataFrame:
    found = self.frame.slice(piece.first, piece.rows)
    return found.select(columns) if columns else found


def read(path: str, memory: int) -> Stream:
  """The table of a file, or of a folder of files.

  Args:
    path: As of `parquet.read`.
    memory: Bytes that the pieces which are looked at take.

  Raises:
    UserError: As of `parquet.read`.
  """
  top, found = parquet.find(path)
  files = [_File.open(file, top) for file in found]
  floats = {name for file in files for name, kind in file.empty.schema.items() if element(kind).is_float()}
  size = max(file.row_bytes for file in files)
  rows = piece_rows(memory, size)
  unreadable: dict[str, str] = {}
  for number, file in enumerate(files):
    files[number], lacking = file.looked_at(floats, rows)
    unreadable |= lacking
  schemas = [file.empty.schema for file in files]
  unclear = parquet.vague_of(schemas, found, lambda number, name: files[number].numbers[name].finite)
  apart: dict[str, str] = {}
  as_texts: set[str] = set()
  if len(files) > 1:
    apart, as_texts = parquet.types_apart(schemas, found)
  for file in files:
    apart |= file.converted(file.empty, as_texts)[1]
  empty = parquet.stacked([file.converted(file.empty, as_texts)[0] for file in files], apart)

  counts = [file.rows for file in files]
  source = parquet.source_of(empty, path, top, found, counts, unclear, unreadable | apart)
  reader = _Files(tuple(files), empty, frozenset(as_texts))
  return Stream(source, _whole(empty, files), sum(counts), size, reader)


def piece_rows(memory: int, row_bytes: float) -> int:
  """Rows of a piece."""
  return max(int(memory / 16 / max(row_bytes, 1.0)), 1)


def _whole(empty: pl.DataFrame, files: Sequence["_File"]) -> dict[str, bool]:
  whole = {}
  for name, kind in empty.schema.items():
    if element(kind).is_float():
      numbers = Numbers()
      for file in files:
        numbers += file.numbers.get(name, Numbers())
      whole[name] = numbers.fit(element(kind))
  return whole


@dataclasses.dataclass(frozen=True)
class _File:
  """A file of the table.

  Attributes:
    path: The file, as it was given.
    place: The file, from whatever folder it is read.
    rows: Number of rows.
    columns: Names of its own columns that can be read.
    partitions: Columns that its folders say.
    empty: No rows, with all columns.
    row_bytes: Bytes of a row in memory, about.
    numbers: Facts about the numbers of columns that are floats in some file.
  """

  path: pathlib.Path
  place: pathlib.Path
  rows: int
  columns: tuple[str, ...]
  partitions: dict[str, pl.Expr]
  empty: pl.DataFrame
  row_bytes: float
  numbers: dict[str, Numbers] = dataclasses.field(default_factory=dict)

  @classmethod
  def open(cls, path: pathlib.Path, top: pathlib.Path) -> "_File":
    rows = formats.parquet_rows(path, parquet.REMEDY)
    columns = tuple(parquet.names_of(path))
    partitions = parquet.partitions(path, top, columns)
    try:
      sample = formats.parquet(path, remedy=parquet.REMEDY, part=(0, _SAMPLE))
    except UserError:  # some column cannot be read
      sample = formats.parquet(path, remedy=parquet.REMEDY, part=(0, 0))
    sample = sample.with_columns(**partitions)
    size = sample.estimated_size() / max(len(sample), 1)
    return cls(path, path.absolute(), rows, columns, partitions, sample.clear(), size)

  def looked_at(self, floats: set[str], rows: int) -> tuple["_File", dict[str, str]]:
    """The file, without the columns that cannot be read, and why they cannot; all of it is read."""
    try:
      return dataclasses.replace(self, numbers=self._numbers(self.columns, floats, rows)), {}
    except UserError:
      numbers: dict[str, Numbers] = {}
      lacking: dict[str, str] = {}
      for name in self.columns:
        try:
          numbers |= self._numbers([name], floats, rows)
        except UserError as error:
          lacking[name] = one_line(error)
      if len(lacking) == len(self.columns):
        raise
      parquet.tell_lacking(self.path, lacking)
      columns = tuple(name for name in self.columns if name not in lacking)
      return dataclasses.replace(self, columns=columns, numbers=numbers, empty=self.empty.drop(lacking)), lacking

  def _numbers(self, columns: Sequence[str], floats: set[str], rows: int) -> dict[str, Numbers]:
    found: dict[str, Numbers] = {}
    for start in range(0, self.rows, rows):
      frame = formats.parquet(self.path, columns, remedy=parquet.REMEDY, part=(start, rows))
      for name in floats & set(columns):
        kind = element(frame.schema[name])
        if kind.is_numeric() or kind == pl.Boolean:
          found[name] = found.get(name, Numbers()) + Numbers.of(frame[name])
    return {name: found.get(name, Numbers()) for name in floats & set(columns)}

  def read(self, start: int, rows: int, columns: Sequence[str]) -> pl.DataFrame:
    """Some rows, of at least the columns asked for that there are."""
    own = [name for name in self.columns if name in columns]
    frame = formats.parquet(self.place, own or self.columns, remedy=parquet.REMEDY, part=(start, rows))
    return frame.with_columns(**self.partitions)

  def converted(self, frame: pl.DataFrame, as_texts: Set[str]) -> tuple[pl.DataFrame, dict[str, str]]:
    """`parquet.with_texts` of rows of this file."""
    kinds = {name: element(kind) for name, kind in self.empty.schema.items()}
    whole = {name: one.fit(kinds[name]) for name, one in self.numbers.items() if kinds[name].is_float()}
    return parquet.with_texts(frame, as_texts, self.path, whole)


@dataclasses.dataclass(frozen=True)
class _Files:
  """`Stream.read` of files.

  Attributes:
    files: The files.
    empty: No rows, with the columns and types of all of them.
    as_texts: Columns that are read as texts.
  """

  files: tuple[_File, ...]
  empty: pl.DataFrame
  as_texts: frozenset[str]

  def __call__(self, piece: Piece, columns: Sequence[str] | None = None) -> pl.DataFrame:
    file, asked = self.files[piece.file], self.empty.select(columns) if columns else self.empty
    frame, _ = file.converted(file.read(piece.start, piece.rows, asked.columns), self.as_texts)
    known = frame.select(name for name in frame.columns if name in asked.columns)
    return parquet.stacked([asked, known], {})
