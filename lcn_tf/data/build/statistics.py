"""The statistics of a record set, counted from what the builder has at hand: no shard is read."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.arrays import runs, slices
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.shards import Plan, UserLog
from lcn_tf.data.build.tallies import EDGES, LENGTH_EDGES, Fields, fields_of, numbers
from lcn_tf.data.field_values import vector_columns
from lcn_tf.data.id_mapping import field_sources
from lcn_tf.data.record_set import SPLITS, SplitName
from lcn_tf.data.statistics import BehaviourStatistics, Curve, FieldStatistics, Numbers, PartStatistics, Statistics
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema

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
  parts: dict[SplitName, dict[DomainName, PartStatistics]] = {}
  for plan in plans:
    d = plan.domain
    owners = np.unique(plan.spans[:, 0])
    moments = log.candidates[d].times[plan.spans[:, 2] - 1]
    lengths = {name: _older(log, name, plan.spans[:, 0], moments) for name in DOMAINS}
    of_users = fields_of("user", schema.user_fields, log.fields[owners], [source[owners] for source in users], tables)
    of_vectors = _vectors_of_users(log.values[owners], schema)
    counted = _Candidates(indexed, schema, d)
    for part in slices(len(split_of[d])):
      counted.add(log, part, split_of[d][part] == SPLITS.index(plan.split))
    parts.setdefault(plan.split, {})[d] = PartStatistics(
      records=len(plan.spans),
      candidates=counted.rows,
      positives=counted.positives,
      users=len(owners),
      hours=tuple(counted.hours.tolist()),
      histories={name: numbers(lengths[name], None, LENGTH_EDGES) for name in DOMAINS},
      longer={name: int((lengths[name] > schema.domain(name).max_length).sum()) for name in DOMAINS},
      fields=(
        *of_users,
        *of_vectors,
        *_of_items(indexed, schema, d, items[d], counted.items),
        *counted.context.found(),
      ),
    )
  return Statistics(
    parts=parts,
    behaviours=_behaviours(indexed, log, schema, items),
    curves={d: _curve(log, d) for d in DOMAINS if len(split_of[d])},
  )


class _Candidates:
  """Counts the candidates of one split and domain."""

  def __init__(self, indexed: Indexed, schema: Schema, d: DomainName):
    self._domain = d
    self.rows = self.positives = 0
    self.hours = np.zeros(24, np.int64)
    self.items = np.zeros(len(indexed.mapping.catalogues[d]), np.int64)
    self.context = Fields("context", schema.context_fields, indexed.mapping.vocabularies)

  def add(self, log: UserLog, part: slice, chosen: np.ndarray) -> None:
    """Counts those of a slice of all candidates that are `chosen`, bool."""
    candidates = log.candidates[self._domain][part]
    self.rows += int(chosen.sum())
    self.positives += int((candidates.labels[chosen] > 0.5).sum())
    self.hours += np.bincount(candidates.times[chosen] // 3600 % 24, minlength=24)
    self.items += np.bincount(candidates.items[chosen], minlength=len(self.items))
    sources = [source[part][chosen] for source in log.context_sources[self._domain]]
    self.context.add(candidates.context[chosen], sources)
    log.release()


def _behaviours(
  indexed: Indexed, log: UserLog, schema: Schema, items: dict[DomainName, list[np.ndarray]]
) -> dict[SplitName, dict[DomainName, BehaviourStatistics]]:
  found: dict[SplitName, dict[DomainName, BehaviourStatistics]] = {}
  for d in DOMAINS:
    for number, split in enumerate(SPLITS):
      weights = np.zeros(len(indexed.mapping.catalogues[d]), np.int64)
      fields = Fields("behaviour", schema.domain(d).cross_fields, indexed.mapping.vocabularies)
      for part in slices(len(log.behaviour_splits[d])):
        chosen = log.behaviour_splits[d][part] == number
        behaviours = log.behaviours[d][part]
        weights += np.bincount(behaviours.items[chosen], minlength=len(weights))
        fields.add(behaviours.cross[chosen], [source[part][chosen] for source in log.cross_sources[d]])
        log.release()
      if weights.any():
        of_items = _of_items(indexed, schema, d, items[d], weights)
        found.setdefault(split, {})[d] = BehaviourStatistics(
          behaviours=int(weights.sum()), fields=(*of_items, *fields.found())
        )
  return {split: found[split] for split in SPLITS if split in found}


def _of_items(
  indexed: Indexed, schema: Schema, d: DomainName, sources: list[np.ndarray], weights: np.ndarray
) -> Iterator[FieldStatistics]:
  """Fields of the items: each row of the catalogue is looked at once, with its weight, `[items]`."""
  catalogue = indexed.mapping.catalogues[d]
  met = np.flatnonzero(weights)
  own = [source[met] for source in sources]
  features, tables = schema.catalogue_features(d), indexed.mapping.vocabularies
  yield from fields_of("item", features, catalogue[met], own, tables, weights[met])
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


def _curve(log: UserLog, d: DomainName) -> Curve:
  """By days if there are neither too few nor too many, else in `BINS` of one width."""
  times, labels = log.candidates[d].times, log.candidates[d].labels
  parts = list(slices(len(times)))
  first, last = min(int(times[part].min()) for part in parts), max(int(times[part].max()) for part in parts)
  days = last // DAY - first // DAY + 1
  if BINS <= days <= MOST_DAYS:
    start, width, bins = first // DAY * DAY, DAY, days
  else:
    start, width, bins = first, (last - first) // BINS + 1, BINS
  candidates, positives = np.zeros((2, bins), np.int64)
  for part in parts:
    bin_of = (times[part] - start) // width
    candidates += np.bincount(bin_of, minlength=bins)
    positives += np.bincount(bin_of[labels[part] > 0.5], minlength=bins)
  log.release()
  return Curve(start=start, width=width, candidates=tuple(candidates.tolist()), positives=tuple(positives.tolist()))


def _older(log: UserLog, d: DomainName, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
  """Numbers of behaviours `[rows]` of `users`, which rise, that are strictly older than `moments`, both `[rows]`."""
  found = np.zeros(len(users), np.int64)
  offsets = log.behaviour_offsets[d]
  for first, end in runs(offsets):
    own = slice(*np.searchsorted(users, (first, end)))
    bounds = offsets[first : end + 1]
    times = log.behaviours[d].times[bounds[0] : bounds[-1]]
    if not len(times):
      continue
    oldest = int(times.min())
    span = int(times.max()) - oldest + 2
    keys = np.repeat(np.arange(end - first), np.diff(bounds)) * span + (times - oldest)
    wanted = (users[own] - first) * span + np.clip(moments[own] - oldest, 0, span - 1)
    found[own] = np.searchsorted(keys, wanted, "left") - (bounds[users[own] - first] - bounds[0])
    log.release()
  return found


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
