"""Arrays that may be larger than the memory: appended to files, mapped, and looked at in runs."""

import io
import mmap
import pathlib
from collections.abc import Iterator
from types import TracebackType

import numpy as np

RUN = 2**20  # rows that are looked at together
_BINS = 2**16


def runs(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
  """Users `first` .. `end` - 1 who own about `RUN` rows, or one who owns more: `(first, end)` of all users.

  Args:
    offsets: Rows `offsets[u] .. offsets[u + 1] - 1` are those of user u, `[users + 1]`.
  """
  first = 0
  while first < len(offsets) - 1:
    end = max(int(np.searchsorted(offsets, offsets[first] + RUN, "right")) - 1, first + 1)
    yield first, end
    first = end


def slices(rows: int) -> Iterator[slice]:
  """Slices of at most `RUN` rows, of all."""
  return (slice(start, min(start + RUN, rows)) for start in range(0, rows, RUN))


class Appended:
  """Arrays that grow along their first axis, each in an .npy file of a folder.

  Args:
    folder: A folder that is there.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._files: dict[str, io.BufferedWriter] = {}
    self._first: dict[str, np.ndarray] = {}  # no rows, with the type and the other axes
    self._rows: dict[str, int] = {}

  def __enter__(self) -> "Appended":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    for name, file in self._files.items():
      with file:
        if kind is None:
          self._write_header(name)
    self._files.clear()

  def append(self, name: str, array: np.ndarray) -> None:
    """Adds rows to the array `name`, which have the type and the other axes of the rows before."""
    if name not in self._files:
      self._files[name] = (self.folder / f"{name}.npy").open("wb")
      self._first[name], self._rows[name] = array[:0], 0
      self._write_header(name)
    self._rows[name] += len(array)
    self._files[name].write(np.ascontiguousarray(array, self._first[name].dtype).data)

  def rows(self, name: str) -> int:
    return self._rows.get(name, 0)

  def _write_header(self, name: str) -> None:
    first, file = self._first[name], self._files[name]
    file.seek(0)
    # NumPy leaves space for as many rows as there may be
    np.lib.format.write_array_header_1_0(
      file,
      {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (self._rows[name], *first.shape[1:]),
      },
    )


class Mapped:
  """The arrays of a folder, mapped.

  Args:
    folder: Folder of .npy files.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._maps: list[mmap.mmap] = []

  def __call__(self, name: str) -> np.ndarray:
    """An array. It is a plain one over the mapped pages: slicing a memmap takes ten times as long."""
    mapped = np.load(self.folder / f"{name}.npy", mmap_mode="r")
    self._maps.append(mapped._mmap)
    return mapped.view(np.ndarray)

  def has(self, name: str) -> bool:
    return (self.folder / f"{name}.npy").exists()

  def release(self) -> None:
    """Gives the pages back that were looked at. They come again, from the file, if they are looked at again."""
    for one in self._maps:
      one.madvise(mmap.MADV_DONTNEED)


def order_statistic(values: np.ndarray, rank: int) -> int:
  """The number at position `rank` of all in their order.

  Args:
    values: Whole numbers `[rows]`.
    rank: Position, from 0 on.
  """
  low, high = (
    min(int(values[part].min()) for part in slices(len(values))),
    max(int(values[part].max()) for part in slices(len(values))),
  )
  while low < high:
    width = (high - low) // _BINS + 1
    counts = np.zeros(_BINS, np.int64)
    for part in slices(len(values)):
      own = values[part]
      counts += np.bincount((own[(own >= low) & (own <= high)] - low) // width, minlength=_BINS)
    ends = np.cumsum(counts)
    found = int(np.searchsorted(ends, rank, "right"))
    rank -= int(ends[found - 1]) if found else 0
    low, high = low + found * width, min(low + (found + 1) * width - 1, high)
  return low
