"""Scored candidates in Parquet files, whose columns are read when they are needed."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from lcn_tf import formats, storage
from lcn_tf.errors import DamagedError, StorageError, UserError, nearest, one_line
from lcn_tf.metrics import Scored
from lcn_tf.metrics.scored import dense

NEEDED = ("user", "label", "probability")


class Candidates:
  """Rows of one or several Parquet files.

  Args:
    files: Files, one after the other.
    name: Name of them in messages; empty = the first file.

  Attributes:
    columns: Types by name.

  Raises:
    UserError: A file is missing.
    DamagedError: A file is no Parquet.
  """

  def __init__(self, files: Sequence[pathlib.Path], name: str = ""):
    self.name = name or str(files[0])
    for file in files:
      if not file.is_file():
        raise UserError(f"{file}: no such predictions file")
    self._files = list(files)
    self.columns: dict[str, pl.DataType] = dict(self._read(lambda: self.scan().collect_schema()))

  def __len__(self) -> int:
    return int(self._read(lambda: self.scan().select(pl.len()).collect()).item())

  def scan(self) -> pl.LazyFrame:
    """All rows, lazily."""
    return pl.scan_parquet(self._files, glob=False, hive_partitioning=False)

  def column(self, name: str) -> pl.Series:
    """One column.

    Raises:
      UserError: There is no such column.
      DamagedError: A file is damaged.
    """
    if name not in self.columns:
      raise UserError(
        f"{self.name}: no column {name!r}.{nearest(name, self.columns)} Columns: {', '.join(self.columns)}"
      )
    return self._read(lambda: self.scan().select(name).collect()[name])

  def scored(self) -> Scored:
    """The input of the metrics: users as numbers in the order of their ids, no weights when all of them are 1.

    Raises:
      UserError: A column is missing, has empty rows, or holds what no metric is defined for.
    """
    missing = [name for name in NEEDED if name not in self.columns]
    if missing:
      raise UserError(
        f"{self.name}: no predictions: the columns {', '.join(missing)} are missing. Columns: {', '.join(self.columns)}"
      )
    label, probability = self._numbers("label"), self._numbers("probability")
    weight = self._numbers("weight") if "weight" in self.columns else None
    try:
      scored = Scored(probability, label, _codes(self._whole("user")), weight)
    except ValueError as error:
      raise UserError(f"{self.name}: {error}") from None
    if weight is not None and (weight == 1).all():
      return Scored(scored.scores, scored.labels, scored.users)
    return scored

  def requests(self, users: np.ndarray) -> np.ndarray | None:
    """Request of each candidate, int32 `[n]`: the column `request`, or user and timestamp; None without either.

    Args:
      users: Users as numbers, those of `scored`.
    """
    if "request" in self.columns:
      return _codes(self._whole("request"))
    if "timestamp" not in self.columns:
      return None
    times = _codes(self._whole("timestamp"))
    return dense(users.astype(np.int64) * (int(times.max(initial=0)) + 1) + times)[0]

  def _numbers(self, name: str) -> np.ndarray:
    column = self._whole(name)
    if column.dtype == pl.Boolean:
      return column.to_numpy()
    if not column.dtype.is_numeric():
      raise UserError(f"{self.name}: the column {name!r} holds {column.dtype}, no numbers")
    return column.to_numpy()

  def _whole(self, name: str) -> pl.Series:
    column = self.column(name)
    if column.null_count():
      raise UserError(f"{self.name}: {column.null_count()} rows of the column {name!r} are empty")
    return column

  def _read(self, read: Any) -> Any:
    try:
      return read()
    except BaseException as error:  # polars' panics are no exceptions
      if isinstance(error, (KeyboardInterrupt, SystemExit, UserError)):
        raise
      if reason := storage.failure(error):
        raise StorageError(f"{self.name}: {reason}") from None
      raise DamagedError(f"{self.name}: damaged, or no Parquet file: {one_line(error)}. {formats.REMEDY}") from None


def _codes(column: pl.Series) -> np.ndarray:
  """Values as numbers in their order, int32 `[n]`."""
  if column.dtype.is_integer():
    return dense(column.to_numpy())[0]
  return (column.rank("dense") - 1).cast(pl.Int32).to_numpy()
