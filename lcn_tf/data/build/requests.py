"""From one user's events to records: the function that the builder calls for every user, on every engine."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lcn_tf.data.records import History, Request, no_values
from lcn_tf.schema import DOMAINS, DomainName, Schema


@dataclasses.dataclass(frozen=True)
class EventColumns:
  """Behaviours of one domain, each user's oldest first. Those of one second keep the order of the log.

  Attributes:
    items: Catalogue rows `[E]` int32.
    times: Seconds `[E]` int64.
    cross: Vocabulary indices of the domain's cross fields `[E, J]` int32.
    values: Float values of these `[E, V]` float32.
  """

  items: np.ndarray
  times: np.ndarray
  cross: np.ndarray
  values: np.ndarray = dataclasses.field(default_factory=no_values)

  def __getitem__(self, part: slice | np.ndarray) -> "EventColumns":
    return EventColumns(self.items[part], self.times[part], self.cross[part], self.values[part])


@dataclasses.dataclass(frozen=True)
class CandidateColumns:
  """Candidates of one domain: by user, of each user those of one split together, of these the oldest first.

  Attributes:
    items: Catalogue rows `[C]` int32.
    times: Seconds `[C]` int64.
    context: Vocabulary indices of the context fields `[C, F]` int32.
    labels, weights: `[C]` float32.
    groups: `[C]` int64. Neighbours with the same number stay in one record where they fit: a positive and its sampled
      negatives. Candidates of one group share their time. Groups of different users may have the same number.
    values: Float values of the context fields `[C, V]` float32.
  """

  items: np.ndarray
  times: np.ndarray
  context: np.ndarray
  labels: np.ndarray
  weights: np.ndarray
  groups: np.ndarray
  values: np.ndarray = dataclasses.field(default_factory=no_values)

  def __getitem__(self, part: slice) -> "CandidateColumns":
    return CandidateColumns(
      self.items[part],
      self.times[part],
      self.context[part],
      self.labels[part],
      self.weights[part],
      self.groups[part],
      self.values[part],
    )


def record_spans(
  times: np.ndarray, groups: np.ndarray, history_times: Mapping[DomainName, np.ndarray], schema: Schema
) -> list[tuple[int, int]]:
  """Where one user's candidates are cut into records: `(start, stop)` pairs that follow one another.

  A record ends before candidate N + 1, and before the behaviours that are strictly older than its newest but not
  than its oldest candidate outnumber what the record holds beyond `max_length`. A group is cut only if it is larger
  than N.

  Args:
    times: Times of the candidates, `[C]`, rising; all of one split.
    groups: Groups of the candidates, `[C]`.
    history_times: Times of the user's behaviours per domain, rising.
    schema: Says N, `max_length` and the capacity.
  """
  total = len(times)
  if not total:
    return []
  extra = {d: schema.capacity(d) - schema.domain(d).max_length for d in DOMAINS}
  if total <= schema.candidates:
    ends = {d: history_times[d].searchsorted(times[[0, -1]], "left") for d in DOMAINS}
    if all(ends[d][1] - ends[d][0] <= extra[d] for d in DOMAINS):
      return [(0, total)]
  # For a record that starts at any of the candidates, where it would have to end.
  limits = np.minimum(np.arange(total) + schema.candidates, total)
  for d in DOMAINS:
    older = history_times[d].searchsorted(times, "left")
    limits = np.minimum(limits, older.searchsorted(older + extra[d], "right"))
  group_ends = np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, total)
  whole = np.append(0, group_ends)[group_ends.searchsorted(limits, "right")]
  stops = np.where(whole > np.arange(total), whole, limits).tolist()
  spans = []
  start = 0
  while start < total:
    spans.append((start, stops[start]))
    start = stops[start]
  return spans


def make_request(
  user: int,
  user_fields: np.ndarray,
  behaviours: Mapping[DomainName, EventColumns],
  candidates: CandidateColumns,
  schema: Schema,
  user_values: np.ndarray,
) -> Request:
  """The record of `candidates`, which are those of one span of `record_spans`.

  Args:
    user: The user's index, at least 1.
    user_fields: `[P]`.
    behaviours: All of the user's, per domain.
    candidates: `[N]`, chronological.
    schema: Says how much of a history a record holds.
    user_values: `[V]`.
  """
  histories = {}
  for d in DOMAINS:
    log = behaviours[d]
    older = log.times.searchsorted(candidates.times, "left")
    end = int(older[-1])
    kept = log[max(end - schema.capacity(d), 0) : end]
    newest_first = (kept.items[::-1], kept.times[::-1], kept.cross[::-1])
    histories[d] = History(*newest_first, (end - older).astype(np.int32), kept.values[::-1])
  return Request(
    user,
    user_fields,
    candidates.items,
    candidates.times,
    candidates.context,
    candidates.labels,
    candidates.weights,
    **histories,
    user_values=user_values,
    context_values=candidates.values,
  )


def user_requests(
  user: int,
  user_fields: np.ndarray,
  behaviours: Mapping[DomainName, EventColumns],
  candidates: CandidateColumns,
  schema: Schema,
  user_values: np.ndarray | None = None,
) -> list[Request]:
  """One user's records of one split and candidate domain.

  Args:
    user: The user's index, at least 1.
    user_fields: `[P]` vocabulary indices.
    behaviours: All of the user's behaviours per domain, whatever the split: a candidate sees only older ones.
    candidates: The user's candidates of one split and domain.
    schema: Schema of the records.
    user_values: Float values of the user's fields and vectors `[V]`; None if there are none.
  """
  values = no_values() if user_values is None else user_values
  times = {d: behaviours[d].times for d in DOMAINS}
  return [
    make_request(user, user_fields, behaviours, candidates[start:stop], schema, values)
    for start, stop in record_spans(candidates.times, candidates.groups, times, schema)
  ]
