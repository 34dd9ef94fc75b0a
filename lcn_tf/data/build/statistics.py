"""The statistics of a record set, counted from what the builder has in memory: whole columns, no shard is read."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import polars as pl

from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.shards import Plan, UserLog
from lcn_tf.data.field_values import vector_columns
from lcn_tf.data.id_mapping import ValueTable, field_sources
from lcn_tf.data.record_set import SPLITS, SplitName
from lcn_tf.data.statistics import (
  KEPT,
  QUANTILES,
  BehaviourStatistics,
  Categories,
  Curve,
  FieldStatistics,
  Numbers,
  PartStatistics,
  Statistics,
)
from lcn_tf.schema import DOMAINS, PADDING, DomainName, Feature, Schema

_POWERS = [float(f"{2 ** (i / 4):.6g}") for i in range(-80, 161)]
# of numbers: four bins per factor of two, so that the sizes of any field show
EDGES = (float("-1e300"), *(-edge for edge in reversed(_POWERS)), 0.0, *_POWERS)
LENGTH_EDGES = (0.0, *(2.0**i for i in range(40)))  # of history lengths: none, then doubling
MOST_DAYS = 120  # that a curve has a point for each of
BINS = 30  # of the curves of a longer or shorter log
DAY = 86_400


def statistics(
  indexed: Indexed,
  checked: raw.Checked,
  log: UserLog,
  plans: list[Plan],
  split_of: dict[DomainName, np.ndarray],
  schema: Schema,
) -> Statistics:
  """Counts everything.

  Args:
    indexed: Numbers of the input.
    checked: Input with its missing values, which the numbers do not tell from unknown ones.
    log: Behaviours and candidates of all users.
    plans: Records of each part.
    split_of: Split of each candidate (position in `SPLITS`) per domain.
    schema: Fields, and lengths of histories.
  """
  tables = indexed.mapping.vocabularies
  users = _profile_sources(indexed, checked, schema.user_fields)
  items = {d: _item_sources(indexed, checked, schema, d) for d in DOMAINS}
  older = {d: _Older(log, d) for d in DOMAINS}
  parts: dict[SplitName, dict[DomainName, PartStatistics]] = {}
  for plan in plans:
    d, candidates = plan.domain, log.candidates[plan.domain]
    rows = np.flatnonzero(split_of[d] == SPLITS.index(plan.split))
    owners = np.unique(plan.spans[:, 0])
    lengths = {name: older[name](plan.spans[:, 0], candidates.times[plan.spans[:, 2] - 1]) for name in DOMAINS}
    of_users = _fields("user", schema.user_fields, log.fields[owners], [source[owners] for source in users], tables)
    of_vectors = _vectors_of_users(log.values[owners], schema)
    of_items = _of_items(indexed, schema, d, items[d], candidates.items[rows])
    sources = [source[rows] for source in log.context_sources[d]]
    of_context = _fields("context", schema.context_fields, candidates.context[rows], sources, tables)
    parts.setdefault(plan.split, {})[d] = PartStatistics(
      records=len(plan.spans),
      candidates=len(rows),
      positives=int((candidates.labels[rows] > 0.5).sum()),
      users=len(owners),
      hours=_counts(candidates.times[rows] // 3600 % 24, 24),
      histories={name: numbers(lengths[name], None, LENGTH_EDGES) for name in DOMAINS},
      longer={name: int((lengths[name] > schema.domain(name).max_length).sum()) for name in DOMAINS},
      fields=(*of_users, *of_vectors, *of_items, *of_context),
    )
  return Statistics(
    parts=parts,
    behaviours=_behaviours(indexed, log, schema, items),
    curves={d: _curve(log.candidates[d].times, log.candidates[d].labels) for d in DOMAINS if len(split_of[d])},
  )


def _behaviours(
  indexed: Indexed, log: UserLog, schema: Schema, items: dict[DomainName, list[np.ndarray]]
) -> dict[SplitName, dict[DomainName, BehaviourStatistics]]:
  found: dict[SplitName, dict[DomainName, BehaviourStatistics]] = {}
  for d in DOMAINS:
    behaviours = log.behaviours[d]
    for number, split in enumerate(SPLITS):
      rows = np.flatnonzero(log.behaviour_splits[d] == number)
      if not len(rows):
        continue
      of_items = _of_items(indexed, schema, d, items[d], behaviours.items[rows])
      cross, sources = behaviours.cross[rows], [source[rows] for source in log.cross_sources[d]]
      of_events = _fields("behaviour", schema.domain(d).cross_fields, cross, sources, indexed.mapping.vocabularies)
      found.setdefault(split, {})[d] = BehaviourStatistics(behaviours=len(rows), fields=(*of_items, *of_events))
  return {split: found[split] for split in SPLITS if split in found}


def _of_items(
  indexed: Indexed, schema: Schema, d: DomainName, sources: list[np.ndarray], rows: np.ndarray
) -> Iterator[FieldStatistics]:
  """Fields of the items in the catalogue rows `rows`: each row of the catalogue is looked at once, with its weight."""
  catalogue = indexed.mapping.catalogues[d]
  weights = np.bincount(rows, minlength=len(catalogue))
  met = np.flatnonzero(weights)
  own = [source[met] for source in sources]
  features, tables = schema.catalogue_features(d), indexed.mapping.vocabularies
  yield from _fields("item", features, catalogue[met], own, tables, weights[met])
  for name, vectors in indexed.mapping.vectors[d].items():
    yield FieldStatistics(name=name, of="item", vocabulary="", numbers=_norms(vectors[met], weights[met]))


def _vectors_of_users(values: np.ndarray, schema: Schema) -> Iterator[FieldStatistics]:
  """The vectors behind the other float values of users, `[users, V]`."""
  for name, own in vector_columns(schema).items():
    yield FieldStatistics(name=name, of="user", vocabulary="", numbers=_norms(values[:, own]))


def _norms(vectors: np.ndarray, weights: np.ndarray | None = None) -> Numbers:
  """Lengths of vectors `[rows, width]`; a row of zeros has none. `weights` as in `numbers`."""
  norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
  return numbers(np.where(norms > 0, norms, np.nan), weights, EDGES)


def _fields(
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
  start = 0
  for feature, source in zip(features, sources, strict=True):
    own = indices[:, start : start + feature.max_values]
    start += feature.max_values
    counted: dict[str, Any] = (
      {"numbers": numbers(source, weights, EDGES)}
      if feature.numeric
      else {"categories": categories(own, source, weights, tables[feature.vocabulary])}
    )
    yield FieldStatistics(name=feature.name, of=of, vocabulary=feature.vocabulary, **counted)


def categories(indices: np.ndarray, missing: np.ndarray, weights: np.ndarray | None, table: ValueTable) -> Categories:
  """Counts the values of a categorical field.

  Args:
    indices: Vocabulary indices `[rows, max_values]`, 0 = no value.
    missing: Rows without a value, bool `[rows]`; their index is that of an unknown one, if the field has one value.
    weights: Number of times that each row counts `[rows]`; None = once.
    table: Vocabulary.
  """
  weights = np.ones(len(indices), np.int64) if weights is None else weights
  present = weights * ~missing
  counts = np.zeros(table.size, np.int64)
  for column in indices.T:
    # sums of whole numbers below 2 ** 53 are exact
    counts += np.bincount(column, present, table.size).astype(np.int64)
  counts[PADDING] = 0
  first = 1 + table.oov
  known = counts[first:]
  order = np.argsort(-known, kind="stable")[:KEPT]
  order = order[known[order] > 0]
  return Categories(
    rows=int(weights.sum()),
    missing=int(weights[missing].sum()),
    unknown=int(counts[1:first].sum()),
    distinct=int((known > 0).sum()),
    values=tuple(table.values.gather(order).to_list()),
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
  weights = np.ones(len(values), np.int64) if weights is None else weights
  there = np.flatnonzero(~np.isnan(values))
  there = there[np.argsort(values[there], kind="stable")]
  ordered, times = values[there].astype(np.float64), weights[there]
  below = np.cumsum(times)
  total = int(below[-1]) if len(below) else 0
  ranks = np.ceil(np.multiply(QUANTILES, total) - 1e-6).clip(1)
  bins = np.maximum(np.searchsorted(edges, ordered, "right") - 1, 0)
  counts = np.bincount(bins, times, len(edges)).astype(np.int64)
  full = np.flatnonzero(counts)
  return Numbers(
    rows=int(weights.sum()),
    missing=int(weights.sum()) - total,
    mean=float((ordered * times).sum() / total) if total else None,
    quantiles=tuple(ordered[np.searchsorted(below, ranks)].tolist()) if total else (),
    edges=tuple(edges[i] for i in full),
    counts=tuple(counts[full].tolist()),
  )


def _curve(times: np.ndarray, labels: np.ndarray) -> Curve:
  """By days if there are neither too few nor too many, else in `BINS` of one width."""
  first, last = int(times.min()), int(times.max())
  days = last // DAY - first // DAY + 1
  if BINS <= days <= MOST_DAYS:
    start, width, bins = first // DAY * DAY, DAY, days
  else:
    start, width, bins = first, (last - first) // BINS + 1, BINS
  bin_of = (times - start) // width
  return Curve(
    start=start, width=width, candidates=_counts(bin_of, bins), positives=_counts(bin_of[labels > 0.5], bins)
  )


class _Older:
  """Counts a user's behaviours of one domain that are strictly older than a moment, for many users at once."""

  def __init__(self, log: UserLog, d: DomainName):
    times, self._offsets = log.behaviours[d].times, log.behaviour_offsets[d]
    self._first = int(times.min()) if len(times) else 0
    self._span = (int(times.max()) if len(times) else 0) - self._first + 2
    owners = np.repeat(np.arange(len(self._offsets) - 1), np.diff(self._offsets))
    self._keys = owners * self._span + (times - self._first)

  def __call__(self, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Numbers of behaviours `[rows]` of `users` before `moments`, both `[rows]`."""
    keys = users * self._span + np.clip(moments - self._first, 0, self._span - 1)
    return np.searchsorted(self._keys, keys, "left") - self._offsets[users]


def _counts(values: np.ndarray, bins: int) -> tuple[int, ...]:
  return tuple(np.bincount(values, minlength=bins).tolist())


def _profile_sources(indexed: Indexed, checked: raw.Checked, features: tuple[Feature, ...]) -> list[np.ndarray]:
  """`field_sources` of the user fields by the index of the user, arrays `[users + 1]`."""
  profiles = indexed.users.join(checked.users, on="user_id", how="left", maintain_order="left")
  return [np.append(source[:1], source) for source in field_sources(profiles, features)]


def _item_sources(indexed: Indexed, checked: raw.Checked, schema: Schema, d: DomainName) -> list[np.ndarray]:
  """`field_sources` of the item fields by the row of the catalogue, arrays `[items]`."""
  as_text = pl.col("item_id").cast(pl.String)  # as the encoder of requests compares them
  items = checked.items.filter(pl.col("domain") == d).with_columns(as_text)
  rows = indexed.mapping.items[d].with_columns(as_text).join(items, on="item_id", how="left", maintain_order="left")
  found = field_sources(rows, schema.catalogue_features(d))
  # padding and the unknown item: a number that there is not, else no missing value
  return [np.append(np.full(2, 0 if one.dtype == bool else np.nan, one.dtype), one) for one in found]
