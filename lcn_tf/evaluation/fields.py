"""Fields that candidates are sliced by, with the log's values: those of records, and columns of a predictions file."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl

from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError, unknown
from lcn_tf.evaluation import predictions
from lcn_tf.evaluation.candidates import Candidates
from lcn_tf.evaluation.slices import DEFAULT, Coded, buckets, crossed
from lcn_tf.schema import DomainName, Feature, item_vocabulary, placed

FEW = 30  # different numbers of a column up to which each is a slice
_PARTS = 10  # of a column with more: about equally many candidates each
_NONE, _UNKNOWN = "no value", "unknown"


class Fields(Protocol):
  """What candidates can be sliced by."""

  def check(self, name: str) -> str:
    """The full name of a field.

    Raises:
      UserError: There is no such field.
    """

  def has(self, name: str) -> bool:
    """Whether one of the slices `DEFAULT` can be made."""

  def coded(self, name: str) -> Coded:
    """The field of that full name."""


def check(fields: Fields, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """The fields of each slice, one or two, by the name of the slice.

  Raises:
    UserError: There is no such field.
  """
  return {name: tuple(fields.check(field) for field in name.split("*")) for name in names}


def coded(fields: Fields, name: str) -> Coded:
  """The values of a slice, of one field or a cross of two."""
  found = [fields.coded(fields.check(field)) for field in name.split("*")]
  return found[0] if len(found) == 1 else crossed(*found)


class RecordFields:
  """The fields of records: `user.<field>`, `item.<field>`, `context.<field>` or the field of a context alone,
  `history_target`, `history_source`, `item_count`, and `hour`, the hour of the day (UTC) if no context field has that
  name.

  Args:
    record_set: Records of the candidates.
    domain: Domain of the candidates.
  """

  def __init__(self, record_set: RecordSet, domain: DomainName):
    self._record_set, self._domain = record_set, domain
    schema = record_set.record_schema
    self._features: dict[str, Feature] = {}
    for prefix, features in (("user", schema.user_fields), ("context", schema.context_fields)):
      self._features |= {f"{prefix}.{feature.name}": feature for feature in features}
    self._items = {
      f"item.{feature.name}": (feature, place) for feature, place in placed(schema.catalogue_features(domain))
    }
    self._candidates: Candidates | None = None

  def of(self, candidates: Candidates) -> "RecordFields":
    """The fields of candidates, which have the columns `stored`."""
    self._candidates = candidates
    return self

  def check(self, name: str) -> str:
    if f"context.{name}" in self._features:
      return f"context.{name}"
    known = [*DEFAULT, "hour", *self._features, *self._items]
    if name not in known:
      raise unknown(str(self._record_set.path), "field of a slice", name, known)
    return name

  def has(self, name: str) -> bool:
    return name != "item_count" or self._record_set.has(f"vocabularies/{item_vocabulary(self._domain)}.parquet")

  def stored(self, names: Sequence[str]) -> tuple[str, ...]:
    """The fields of slices that records hold and predictions do not (`predictions.field_places`)."""
    every = [field for fields in check(self, names).values() for field in fields]
    return tuple(sorted({field for field in every if field in self._features}))

  def coded(self, name: str) -> Coded:
    if self._candidates is None:
      raise ValueError("no candidates")
    if name == "item_count":
      counts = predictions.item_counts(self._record_set, self._domain)
      if counts is None:
        raise UserError(f"{self._record_set.path}: the vocabulary of the items is missing: no slices by item_count")
      return buckets(counts[self._numbers("item")])
    if name in DEFAULT:
      return buckets(self._numbers(name))
    if name == "hour":
      return _hours(self._numbers("timestamp"))
    if name in self._items:
      feature, place = self._items[name]
      table = self._record_set.catalogue(self._domain)[:, place]
      return self._named(feature, table[self._numbers("item")])
    feature = self._features[name]
    names = predictions.field_columns(name, feature.max_values)
    return self._named(feature, np.stack([self._numbers(column) for column in names], 1))

  def _numbers(self, column: str) -> np.ndarray:
    assert self._candidates is not None
    return self._candidates.column(column).to_numpy()

  def _named(self, feature: Feature, indices: np.ndarray) -> Coded:
    """Vocabulary indices `[n, k]` with the values that they stand for."""
    vocabulary = self._record_set.record_schema.vocabularies[feature.vocabulary]
    names = [_NONE, *[_UNKNOWN] * vocabulary.oov, *map(str, range(1 + vocabulary.oov, vocabulary.size))]
    file = f"vocabularies/{feature.vocabulary}.parquet"
    values = dict[int, str]()
    if self._record_set.has(file):
      table = self._record_set.table(file, ["index", "value"])
      values = dict(zip(table["index"].to_list(), table["value"].cast(pl.String).to_list(), strict=True))
    if feature.numeric:
      return _ranges(indices, [values[i] for i in range(1 + vocabulary.oov, vocabulary.size) if i in values], names)
    for index, value in values.items():
      if index > vocabulary.oov:
        names[index] = value
    if indices.shape[1] > 1:  # a list that is not full is padded; an empty one has no value
      indices = indices.copy()
      indices[(indices == 0) & (indices.max(axis=1, keepdims=True) > 0)] = -1
    return Coded(indices, names)


class FileFields:
  """The columns of a predictions file, and `hour`, the hour of the day (UTC) of `timestamp`."""

  def __init__(self, candidates: Candidates):
    self._candidates = candidates

  def check(self, name: str) -> str:
    known = [*self._candidates.columns, *(["hour"] if "timestamp" in self._candidates.columns else [])]
    if name not in known:
      raise unknown(self._candidates.name, "column of a slice", name, known)
    return name

  def has(self, name: str) -> bool:
    return name in self._candidates.columns

  def coded(self, name: str) -> Coded:
    if name == "hour" and name not in self._candidates.columns:
      return _hours(self._candidates.column("timestamp").to_numpy())
    column = self._candidates.column(name)
    if isinstance(column.dtype, pl.List):
      return _lists(column)
    if column.dtype.is_numeric():
      return buckets(column.fill_null(0).to_numpy()) if name in DEFAULT else _parts(column)
    text = column.cast(pl.String).fill_null(_NONE)
    values = text.unique().sort()
    codes = text.cast(pl.Enum(values)).to_physical().cast(pl.Int32).to_numpy()
    return Coded(codes[:, np.newaxis], values.to_list())


def _hours(seconds: np.ndarray) -> Coded:
  codes = (seconds // 3600 % 24).astype(np.int32)
  return Coded(codes[:, np.newaxis], [str(hour) for hour in range(24)], list(range(24)))


def _ranges(indices: np.ndarray, lower: Sequence[str], names: list[str]) -> Coded:
  """Buckets of a numeric field with these lower ends, the first of which is -inf; they begin at index 2."""
  names = [_NONE, _NONE, *names[2:]]
  for i, low in enumerate(lower):
    low, high = _short(low), _short(lower[i + 1]) if i + 1 < len(lower) else ""
    names[2 + i] = _range(low if i else "", high)
  return Coded(np.maximum(indices, 1), names, [-np.inf, -np.inf, *(float(low) for low in lower)])


def _parts(column: pl.Series) -> Coded:
  """Numbers: each a slice if they are few, else ranges of about equally many candidates."""
  numbers = column.cast(pl.Float64).fill_nan(None)
  values = numbers.drop_nulls()
  few = values.unique().sort().to_numpy() if values.n_unique() <= FEW else None
  if few is not None:
    names = [_short(str(value)) for value in few]
    codes = np.searchsorted(few, numbers.fill_null(np.inf).to_numpy())
    lows = list(map(float, few))
  else:
    edges = np.unique(np.quantile(values.to_numpy(), np.arange(1, _PARTS) / _PARTS, method="higher"))
    ends = ["", *(_short(str(edge)) for edge in edges), ""]
    names = [_range(ends[i], ends[i + 1]) for i in range(len(edges) + 1)]
    codes = np.searchsorted(edges, numbers.fill_null(np.inf).to_numpy(), "right")
    lows = [float(values.min()), *map(float, edges)]  # type: ignore[arg-type]
  missing = numbers.is_null().to_numpy()
  codes = np.where(missing, len(names), codes).astype(np.int32)
  return Coded(codes[:, np.newaxis], [*names, _NONE], [*lows, np.inf])


def _lists(column: pl.Series) -> Coded:
  rows = pl.DataFrame({"row": pl.int_range(len(column), eager=True), "value": column}).explode("value")
  text = rows["value"].cast(pl.String).fill_null(_NONE)
  values = text.unique().sort()
  codes = text.cast(pl.Enum(values)).to_physical().cast(pl.Int32).to_numpy()
  row = rows["row"].to_numpy()
  place = np.arange(len(row)) - np.searchsorted(row, row)
  table = np.full((len(column), int(place.max(initial=0)) + 1), -1, np.int32)
  table[row, place] = codes
  return Coded(table, values.to_list())


def _range(low: str, high: str) -> str:
  if not high:
    return f"{low} and more" if low else "all"
  return f"{low} to below {high}" if low else f"below {high}"


def _short(number: Any) -> str:
  """A number as a text, without a fraction of 0."""
  return f"{float(number):.6g}"
