"""From the ids and values of a service to the tensors of the signature `rank`."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lcn_tf.data.build.values import id_of, number_of, seconds_of, text_of, vector_of, weights_of
from lcn_tf.data.field_values import index_groups, value_groups, vector_columns, weights_column
from lcn_tf.data.id_mapping import (
  NULL,
  BucketTable,
  ValueTable,
  field_column,
  field_table,
  field_values,
  items_of,
  oov_indices,
  vocabularies_of,
)
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError, unknown
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Feature, UserVector, columns, placed, value_columns
from lcn_tf.serving.history_reader import Seen, newest, told
from lcn_tf.serving.requests import Behaviour, BehaviourColumns, RankRequest

__all__ = ["Behaviour", "BehaviourColumns", "RankRequest", "RequestEncoder"]

USER_ID = "user_id"


class RequestEncoder:
  """Numbers items and values as a record set does: a request comes out as records of the same facts would.

  The caller leaves out behaviours on items that the items file does not have, and events that came twice, as
  `pipelines.build_records` does with a log.

  An item that the record set does not have, and a value that is no id, become the unknown item. An unknown value of a
  field is out of vocabulary. Ids and values are compared as texts by the rules of `lcn_tf.data.build.values`: 7 is "7"
  and 7.0, and neither "007" nor " 7 ". Loading reads the vocabularies once. Encoding looks values up in dictionaries.

  Args:
    record_set: Record set that the model was trained with; its shards are not read. An export carries one without
      shards: `RecordSet.open("RUN/export/<version>/assets.extra")`.

  Raises:
    UserError: Vocabularies or items cannot be read.
  """

  def __init__(self, record_set: RecordSet):
    self._schema = record_set.record_schema
    self._vocabularies: dict[str, ValueTable] = {
      name: table
      if isinstance(table, BucketTable)
      else _Lookup(table.name, table.values, table.counts, table.oov, table.seed)
      for name, table in vocabularies_of(record_set).items()
    }
    # by the text of the id: 7 is "7" (`lcn_tf.data.build.values.id_of`)
    self._rows = {
      d: dict(zip(items["item_id"].cast(pl.String), items["row"], strict=True))
      for d, items in items_of(record_set).items()
    }

  def encode(
    self, requests: Sequence[RankRequest], counts: collections.Counter[str] | None = None
  ) -> dict[str, np.ndarray]:
    """The tensors of `lcn_tf.data.request_spec.served_spec`, B = len(requests).

    N is that of the longest list of candidates, L that of the longest history that is seen, at most the schema's
    `max_length`. Padding is 0, and the model's result for padded candidates has no meaning. Of a longer history the
    newest behaviours are kept, and ids and values of the others are not read.

    Args:
      requests: Requests, each of one user.
      counts: Counter to add to; None = nothing is counted. "candidates" and "<domain>" count items, "<group>.<field>"
        the rows of a field or vector, and each of these with " unknown" behind it those that the records do not know. A
        missing value counts as unknown.

    Raises:
      UserError: A request has a field that is not in the schema, or a time or value that cannot be read. The message
        has the request and the place in it.
    """
    size, width = len(requests), max((len(r.candidates) for r in requests), default=0)
    items = np.zeros((size, width), np.int32)
    times = np.zeros((size, width), np.int64)
    seen: dict[DomainName, list[Seen]] = {d: [] for d in DOMAINS}
    names = {d: self._names(self._schema.domain(d).cross_fields) for d in DOMAINS}
    for b, request in enumerate(requests):
      where = f"requests[{b}]"
      now = told(f"{where}.time", seconds_of, request.time)
      items[b, : len(request.candidates)] = self._rows_of("target", request.candidates)
      times[b, : len(request.candidates)] = now
      for d in DOMAINS:
        length = self._schema.domain(d).max_length
        seen[d].append(newest(request.history(d), now, length, names[d], f"{where}.{d}"))
    tensors: dict[str, np.ndarray] = {"candidate_items": items, "candidate_times": times}
    fields: dict[str, np.ndarray] = {}
    fields["user_fields"], fields["user_values"] = self._of_users(requests)
    fields["candidate_context"], fields["candidate_values"] = self._of_candidates(requests, items > 0)
    for d in DOMAINS:
      history, fields[f"{d}_cross"], fields[f"{d}_values"] = self._history(d, seen[d], width)
      tensors |= history
    if counts is not None:
      self._count(tensors | fields, counts)
    return tensors | {name: fields[name] for name in (*index_groups(self._schema), *value_groups(self._schema))}

  def _names(self, fields: tuple[Feature, ...]) -> list[str]:
    """Names that values may have."""
    return [*(field.name for field in fields), *(field.weights for field in fields if field.weights)]

  def _of_users(self, requests: Sequence[RankRequest]) -> tuple[np.ndarray, np.ndarray]:
    """The user fields `[B, P]`, and the float values of fields and vectors."""
    vectors = self._schema.user_vectors
    known = [*self._names(self._schema.user_fields), *(vector.name for vector in vectors)]
    rows = []
    for b, request in enumerate(requests):
      where = f"requests[{b}].user"
      _check_names(where, request.user, [*known, USER_ID], known)
      rows.append((where, request.user))
    return self._fields(rows, self._schema.user_fields, vectors)

  def _of_candidates(self, requests: Sequence[RankRequest], real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The context fields `[B, N, F]` and their float values; zeros where there is no candidate."""
    fields = self._schema.context_fields
    known = self._names(fields)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    places = np.zeros(real.shape, np.int64)  # the row of each candidate
    for b, request in enumerate(requests):
      where = f"requests[{b}].context"
      if isinstance(request.context, Mapping):
        places[b] = len(rows)
        rows.append((where, request.context))
      else:
        if len(request.context) != len(request.candidates):
          raise UserError(
            f"{where}: {len(request.context)} mappings, and there are {len(request.candidates)} candidates"
          )
        places[b, : len(request.context)] = len(rows) + np.arange(len(request.context))
        rows += [(f"{where}[{n}]", one) for n, one in enumerate(request.context)]
    for where, given in rows:
      _check_names(where, given, known, known)
    own, values = self._fields(rows, fields)
    there = real[..., np.newaxis]
    return (np.where(there, part[places], np.zeros(1, part.dtype)) for part in (own, values))  # type: ignore[return-value]

  def _rows_of(self, domain: DomainName, ids: Sequence[Any]) -> list[int]:
    """The catalogue row of every id."""
    get = self._rows[domain].get
    kinds = set(map(type, ids))
    texts = ids if kinds <= {str} else map(str if kinds <= {int} else id_of, ids)
    return [row or UNKNOWN_ITEM for row in map(get, texts)]

  def _history(
    self, domain: DomainName, seen: list[Seen], candidates: int
  ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The tensors of a history, the indices of its cross fields, and their float values."""
    length = np.array([len(behaviours.times) for behaviours in seen], np.int32)
    real = np.arange(length.max(initial=0)) < length[:, np.newaxis]
    fields = self._schema.domain(domain).cross_fields
    items, times = np.zeros(real.shape, np.int32), np.zeros(real.shape, np.int64)
    cross = np.zeros((*real.shape, columns(fields)), np.int32)
    values = np.zeros((*real.shape, value_columns(fields)), np.float32)
    for b, behaviours in enumerate(seen):
      count = length[b]
      items[b, :count] = self._rows_of(domain, behaviours.item_ids)
      times[b, :count] = behaviours.times
      first = 0
      for column, feature in enumerate(fields):
        given = behaviours.fields.get(feature.name) or [None] * count
        where = functools.partial(behaviours.place, feature.name)
        cross[b, :count, column], own = self._column(feature, given, where)
        values[b, :count, first : first + own.shape[1]] = own
        first += own.shape[1]
    tensors: dict[str, np.ndarray] = {
      f"{domain}_items": items,
      f"{domain}_times": times,
      f"{domain}_length": length,
      f"{domain}_first_visible": np.zeros((len(seen), candidates), np.int32),
    }
    return tensors, cross, values

  def _column(
    self, feature: Feature, given: Sequence[Any], where: Callable[[int], str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Indices `[K]` int32 and float values `[K, 0 | 1]` of a field with one value each."""
    table = self._vocabularies[feature.vocabulary]
    if isinstance(table, _Lookup):
      return table.rows(given, where), np.zeros((len(given), 0), np.float32)
    read, kind = _reader(feature)
    numbers = [told(where(i), read, value) for i, value in enumerate(given)]
    frame = pl.DataFrame({field_column(feature): pl.Series(numbers, dtype=kind)})
    values = field_values(frame, (feature,), self._vocabularies)
    return field_table(frame, (feature,), self._vocabularies)[:, 0], values

  def _fields(
    self,
    rows: list[tuple[str, Mapping[str, Any]]],
    features: tuple[Feature, ...],
    vectors: tuple[UserVector, ...] = (),
  ) -> tuple[np.ndarray, np.ndarray]:
    """Indices `[len(rows), columns(features)]` int32 and float values of (where, values by name)."""
    values: dict[str, Any] = {"row": range(len(rows))}  # a frame without fields has rows, too
    for feature in features:
      read, kind = _reader(feature)
      column = [told(f"{where}[{feature.name!r}]", read, given.get(feature.name)) for where, given in rows]
      values[field_column(feature)] = pl.Series(column, dtype=kind)
      if feature.weights:
        weights = [_weights_of(feature, where, given, own) for (where, given), own in zip(rows, column, strict=True)]
        values[weights_column(feature)] = pl.Series(weights, dtype=pl.List(pl.Float64))
    for vector in vectors:
      read = functools.partial(vector_of, width=vector.width)
      column = [told(f"{where}[{vector.name!r}]", read, given.get(vector.name)) for where, given in rows]
      values[field_column(vector)] = pl.Series(column, dtype=pl.List(pl.Float32))
    frame = pl.DataFrame(values)
    floats = field_values(frame, (*features, *vectors), self._vocabularies)
    return field_table(frame, features, self._vocabularies), floats

  def _count(self, tensors: Mapping[str, np.ndarray], counts: collections.Counter[str]) -> None:
    """Adds what is there, and what of it is unknown."""
    real = {"candidates": tensors["candidate_items"] > 0} | {d: tensors[f"{d}_items"] > 0 for d in DOMAINS}
    for name, mask in real.items():
      items = tensors["candidate_items" if name == "candidates" else f"{name}_items"]
      counts[name] += int(mask.sum())
      counts[f"{name} unknown"] += int((items == UNKNOWN_ITEM).sum())
    schema = self._schema
    everyone = np.ones(len(tensors["user_fields"]), bool)
    groups = [("user", "user_fields", schema.user_fields, everyone)]
    groups += [("context", "candidate_context", schema.context_fields, real["candidates"])]
    groups += [(d, f"{d}_cross", schema.domain(d).cross_fields, real[d]) for d in DOMAINS]
    for group, tensor, features, mask in groups:
      for feature, place in placed(features):
        own = tensors[tensor][mask][:, place]
        known = own > schema.vocabularies[feature.vocabulary].oov
        counts[f"{group}.{feature.name}"] += len(own)
        counts[f"{group}.{feature.name} unknown"] += int((~known.any(axis=1)).sum())
    for name, place in vector_columns(schema).items():
      counts[f"user.{name}"] += len(everyone)
      counts[f"user.{name} unknown"] += int((~tensors["user_values"][:, place].any(axis=1)).sum())


def _check_names(where: str, given: Mapping[str, Any], allowed: Sequence[str], known: Sequence[str]) -> None:
  wrong = [name for name in given if name not in allowed]
  if wrong:
    raise unknown(where, "field", wrong[0], known)


def _reader(feature: Feature) -> tuple[Callable[[Any], Any], Any]:
  """The function that reads a value of a field, and the column type of its results."""
  if feature.numeric:
    return functools.partial(number_of, least=0.0 if feature.refuses_negative else None), pl.Float64
  return (_texts_of, pl.List(pl.String)) if feature.max_values > 1 else (text_of, pl.String)


def _weights_of(feature: Feature, where: str, given: Mapping[str, Any], values: list[str | None] | None) -> list[float]:
  """The weights of the values of a list, as long."""
  if isinstance(given.get(feature.name), (set, frozenset)):
    raise UserError(f"{where}[{feature.name!r}]: a set, which has no order; {feature.weights!r} are weights of a list")
  read = functools.partial(weights_of, count=len(values or ()))
  return told(f"{where}[{feature.weights!r}]", read, given.get(feature.weights))


def _texts_of(value: Any) -> list[str | None] | None:
  if value is None:
    return None
  many = value if isinstance(value, (list, tuple, set, np.ndarray)) else [value]
  return [text_of(one) for one in many]


class _Lookup(ValueTable):
  """A vocabulary for a few values at a time: a join would read all of it at each call."""

  @functools.cached_property
  def _index(self) -> dict[str, int]:
    return {value: row for row, value in enumerate(self.values, start=1 + self.oov)}

  def indices(self, values: pl.Series, null: int = NULL) -> np.ndarray:
    return self._indices(values.cast(pl.String).to_list(), null)

  def rows(self, values: Sequence[Any], where: Callable[[int], str]) -> np.ndarray:
    """The index of every value as a request has it, `[len(values)]` int32."""
    get = self._index.get
    kinds = set(map(type, values))
    plain = values if kinds <= {str} else map(str, values) if kinds <= {int} else [None] * len(values)
    found = np.array(list(map(get, plain)), object)
    unread = [i for i, row in enumerate(found) if row is None]
    texts = [None if values[i] is None else told(where(i), text_of, values[i]) for i in unread]
    found[unread] = self._indices(texts, NULL)
    return found.astype(np.int32)

  def _indices(self, texts: Sequence[str | None], null: int) -> np.ndarray:
    found = np.array([null if text is None else self._index.get(text) for text in texts], object)
    unseen = {
      i: text for i, (row, text) in enumerate(zip(found, texts, strict=True)) if row is None and text is not None
    }
    found[list(unseen)] = oov_indices(list(unseen.values()), self.oov, self.seed)
    return found.astype(np.int32)
