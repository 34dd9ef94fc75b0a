"""Values and numbers of fields, counted over rows that come in parts."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from lcn_tf.data.build import arrays
from lcn_tf.data.id_mapping import ValueTable
from lcn_tf.data.statistics import KEPT, QUANTILES, Categories, FieldStatistics, Numbers
from lcn_tf.schema import PADDING, Feature

_POWERS = [float(f"{2 ** (i / 4):.6g}") for i in range(-80, 161)]
# of numbers: four bins per factor of two, so that the sizes of any field show
EDGES = (float("-1e300"), *(-edge for edge in reversed(_POWERS)), 0.0, *_POWERS)
LENGTH_EDGES = (0.0, *(2.0**i for i in range(40)))  # of history lengths: none, then doubling


def fields_of(
  of: Literal["user", "item", "context", "behaviour"],
  features: tuple[Feature, ...],
  indices: np.ndarray,
  sources: list[np.ndarray],
  tables: dict[str, ValueTable],
  weights: np.ndarray | None = None,
) -> Iterator[FieldStatistics]:
  """The statistics of fields that lie side by side.

  Args:
    of: Kind of thing that they describe.
    features: Fields.
    indices: Vocabulary indices `[rows, columns(features)]`.
    sources: Array `[rows]` of each field, see `field_sources`.
    tables: Vocabularies by name.
    weights: Number of times that each row counts `[rows]`; None = once.
  """
  counted = Fields(of, features, tables)
  counted.add(indices, sources, weights)
  yield from counted.found()


class Fields:
  """Counts the values of fields that lie side by side, of rows that come in parts; arguments as of `fields_of`."""

  def __init__(
    self,
    of: Literal["user", "item", "context", "behaviour"],
    features: tuple[Feature, ...],
    tables: dict[str, ValueTable],
  ):
    self._of: Literal["user", "item", "context", "behaviour"] = of
    self._features = features
    self._counted: list[_Values | _Numbers] = [
      _Numbers(EDGES) if feature.numeric else _Values(tables[feature.vocabulary]) for feature in features
    ]

  def add(self, indices: np.ndarray, sources: list[np.ndarray], weights: np.ndarray | None = None) -> None:
    start = 0
    for feature, source, counted in zip(self._features, sources, self._counted, strict=True):
      counted.add(indices[:, start : start + feature.max_values], source, weights)
      start += feature.max_values

  def found(self) -> Iterator[FieldStatistics]:
    for feature, counted in zip(self._features, self._counted, strict=True):
      facts: dict[str, Any] = {"numbers" if feature.numeric else "categories": counted.found()}
      yield FieldStatistics(name=feature.name, of=self._of, vocabulary=feature.vocabulary, **facts)


def categories(indices: np.ndarray, missing: np.ndarray, weights: np.ndarray | None, table: ValueTable) -> Categories:
  """Counts the values of a categorical field.

  Args:
    indices: Vocabulary indices `[rows, max_values]`, 0 = no value.
    missing: Rows without a value, bool `[rows]`; their index is that of an unknown one, if the field has one value.
    weights: Number of times that each row counts `[rows]`; None = once.
    table: Vocabulary.
  """
  counted = _Values(table)
  counted.add(indices, missing, weights)
  return counted.found()


class _Values:
  """`categories` of rows that come in parts."""

  def __init__(self, table: ValueTable):
    self._table = table
    self._rows = self._missing = 0
    self._counts = np.zeros(table.size, np.int64)

  def add(self, indices: np.ndarray, missing: np.ndarray, weights: np.ndarray | None) -> None:
    weights = np.ones(len(indices), np.int64) if weights is None else weights
    present = weights * ~missing
    self._rows += int(weights.sum())
    self._missing += int(weights[missing].sum())
    for column in indices.T:
      # sums of whole numbers below 2 ** 53 are exact
      self._counts += np.bincount(column, present, self._table.size).astype(np.int64)

  def found(self) -> Categories:
    counts = self._counts.copy()
    counts[PADDING] = 0
    first = 1 + self._table.oov
    known = counts[first:]
    order = np.argsort(-known, kind="stable")[:KEPT]
    order = order[known[order] > 0]
    return Categories(
      rows=self._rows,
      missing=self._missing,
      unknown=int(counts[1:first].sum()),
      distinct=int((known > 0).sum()),
      values=tuple(self._table.values.gather(order).to_list()),
      counts=tuple(known[order].tolist()),
      rest=int(known.sum() - known[order].sum()),
    )


def numbers(values: np.ndarray, weights: np.ndarray | None, edges: tuple[float, ...]) -> Numbers:
  """Counts numbers in bins.

  Args:
    values: Numbers `[rows]`, NaN = missing.
    weights: Number of times that each row counts `[rows]`; None = once.
    edges: Lower ends of the bins; the last bin has no upper end.
  """
  counted = _Numbers(edges)
  counted.add(np.zeros((len(values), 0), np.int32), values, weights)
  return counted.found()


class _Numbers:
  """`numbers` of rows that come in parts; those with weights come at once."""

  def __init__(self, edges: tuple[float, ...]):
    self._edges = edges
    self._rows = 0
    self._ordered, self._times = np.zeros(0), np.zeros(0, np.int64)
    self._weighted = False

  def add(self, indices: np.ndarray, values: np.ndarray, weights: np.ndarray | None) -> None:
    there = np.flatnonzero(~np.isnan(values))
    found = values[there].astype(np.float64) + 0.0  # -0 is 0
    self._weighted = weights is not None
    if weights is not None:
      order = np.argsort(found, kind="stable")
      self._ordered, self._times = found[order], weights[there][order]
      self._rows = int(weights.sum())
      return
    self._rows += len(values)
    new, times = np.unique(found, return_counts=True)
    self._ordered, place = np.unique(np.concatenate([self._ordered, new]), return_inverse=True)
    self._times = np.bincount(place, np.concatenate([self._times, times]), len(self._ordered)).astype(np.int64)

  def found(self) -> Numbers:
    ordered, times = self._ordered, self._times
    below = np.cumsum(times)
    total = int(below[-1]) if len(below) else 0
    ranks = np.ceil(np.multiply(QUANTILES, total) - 1e-6).clip(1)
    bins = np.maximum(np.searchsorted(self._edges, ordered, "right") - 1, 0)
    counts = np.bincount(bins, times, len(self._edges)).astype(np.int64)
    full = np.flatnonzero(counts)
    mean = None
    if total:
      summed = (ordered * times).sum() if self._weighted else sum_of_repeated(ordered, below)
      mean = float(summed / total)
    return Numbers(
      rows=self._rows,
      missing=self._rows - total,
      mean=mean,
      quantiles=tuple(ordered[np.searchsorted(below, ranks)].tolist()) if total else (),
      edges=tuple(self._edges[i] for i in full),
      counts=tuple(counts[full].tolist()),
    )


def sum_of_repeated(values: np.ndarray, ends: np.ndarray) -> float:
  """What NumPy sums up to, to the last bit, where each value is repeated, without the memory that this takes.

  Args:
    values: Numbers `[V]` float64.
    ends: Positions where the repetitions of each end `[V]` int64.
  """

  def between(start: int, end: int) -> float:
    if end - start > max(arrays.RUN, 128):
      # of more than 128 numbers NumPy adds the sums of two halves, the first one a multiple of eight long
      half = (end - start) // 2
      half -= half % 8
      return between(start, start + half) + between(start + half, end)
    first, last = np.searchsorted(ends, (start, end - 1), "right")
    own = np.diff(ends[first : last + 1].clip(max=end), prepend=start)
    return float(np.repeat(values[first : last + 1], own).sum())

  return between(0, int(ends[-1]))
