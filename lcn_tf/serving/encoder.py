"""From the ids and values of a service to the tensors of the signature `rank`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from lcn_tf.data.build.values import id_of, number_of, seconds_of, text_of, weights_of
from lcn_tf.data.field_values import value_groups, weights_column
from lcn_tf.data.id_mapping import (
  NULL,
  BucketTable,
  ValueTable,
  field_column,
  field_table,
  field_values,
  items_of,
  oov_index,
  vocabularies_of,
)
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError, unknown
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Feature, columns, value_columns

USER_ID = "user_id"


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """One behaviour of a user.

  Attributes:
    item_id: Item id as in the interactions that the records were built from.
    timestamp: Seconds; fractions are cut off, as in records.
    fields: Values of the domain's cross fields by name; a missing one is out of vocabulary.
  """

  item_id: int | str
  timestamp: float
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RankRequest:
  """One user and the items to rank for them at one moment.

  Attributes:
    time: Unix time of the request, seconds; fractions are cut off. Only strictly older behaviours are seen.
    candidates: Item ids of the target domain `[N]`.
    user: Values of the user fields by name, `user_id` among them if it is one, and weights by the name of their column.
    context: Values of the context fields by name, the same for all candidates.
    target: Behaviours of the user in the target domain. Of two in one second the later one of the list is newer.
    source: Behaviours of the user in the source domain, with the same rule.
  """

  time: float
  candidates: Sequence[int | str]
  user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  target: Sequence[Behaviour] = ()
  source: Sequence[Behaviour] = ()

  def history(self, domain: DomainName) -> Sequence[Behaviour]:
    return self.target if domain == "target" else self.source


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

  def encode(self, requests: Sequence[RankRequest]) -> dict[str, np.ndarray]:
    """The tensors of `lcn_tf.data.request_spec.request_spec`, B = len(requests).

    N is that of the longest list of candidates, L that of the longest history that is seen, at most the schema's
    `max_length`. Padding is 0, and the model's result for padded candidates has no meaning.

    Raises:
      UserError: A request has a field that is not in the schema, or a time or value that cannot be read. The message
        has the request and the place in it.
    """
    size, width = len(requests), max((len(r.candidates) for r in requests), default=0)
    items = np.zeros((size, width), np.int32)
    times = np.zeros((size, width), np.int64)
    seen: dict[DomainName, list[list[_Seen]]] = {d: [] for d in DOMAINS}
    for b, request in enumerate(requests):
      where = f"requests[{b}]"
      self._check_names(where, request)
      now = _told(f"{where}.time", seconds_of, request.time)
      items[b, : len(request.candidates)] = [self._row("target", item) for item in request.candidates]
      times[b, : len(request.candidates)] = now
      for d in DOMAINS:
        seen[d].append(self._seen(request, d, now, where))
    users = [(f"requests[{b}].user", request.user) for b, request in enumerate(requests)]
    contexts = [(f"requests[{b}].context", request.context) for b, request in enumerate(requests)]
    user, user_values = self._fields(users, self._schema.user_fields)
    real = (items > 0)[..., np.newaxis]
    context, context_values = (
      np.where(real, part[:, np.newaxis], np.zeros(1, part.dtype))
      for part in self._fields(contexts, self._schema.context_fields)
    )
    tensors = {
      "user_fields": user,
      "candidate_items": items,
      "candidate_times": times,
      "candidate_context": context,
    }
    values = {"user_values": user_values, "candidate_values": context_values}
    for d in DOMAINS:
      history, values[f"{d}_values"] = self._history(d, seen[d], width)
      tensors |= history
    return tensors | {name: values[name] for name in value_groups(self._schema)}

  def _check_names(self, where: str, request: RankRequest) -> None:
    schema = self._schema
    given = [("user", request.user, schema.user_fields), ("context", request.context, schema.context_fields)]
    for d in DOMAINS:
      fields = schema.domain(d).cross_fields
      given += [(f"{d}[{i}].fields", behaviour.fields, fields) for i, behaviour in enumerate(request.history(d))]
    for part, values, fields in given:
      names = [*(field.name for field in fields), *(field.weights for field in fields if field.weights)]
      wrong = [name for name in values if name not in names and not (part == "user" and name == USER_ID)]
      if wrong:
        raise unknown(f"{where}.{part}", "field", wrong[0], names)

  def _row(self, domain: DomainName, item: int | str) -> int:
    key = id_of(item)
    return UNKNOWN_ITEM if key is None else self._rows[domain].get(key, UNKNOWN_ITEM)

  def _seen(self, request: RankRequest, domain: DomainName, now: int, where: str) -> list["_Seen"]:
    """The newest behaviours that are older than the request, newest first."""
    older = []
    for i, behaviour in enumerate(request.history(domain)):
      at = f"{where}.{domain}[{i}]"
      time = _told(f"{at}.timestamp", seconds_of, behaviour.timestamp)
      if time < now:
        older.append(_Seen(f"{at}.fields", self._row(domain, behaviour.item_id), time, behaviour.fields))
    # from the back, so that the later one of a second comes first
    newest_first = sorted(reversed(older), key=lambda one: -one.time)
    return newest_first[: self._schema.domain(domain).max_length]

  def _history(
    self, domain: DomainName, seen: list[list["_Seen"]], candidates: int
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tensors of a history, and the float values of its cross fields."""
    length = np.array([len(behaviours) for behaviours in seen], np.int32)
    real = np.arange(length.max(initial=0)) < length[:, np.newaxis]
    flat = [behaviour for behaviours in seen for behaviour in behaviours]
    fields = self._schema.domain(domain).cross_fields
    items, times = np.zeros(real.shape, np.int32), np.zeros(real.shape, np.int64)
    cross = np.zeros((*real.shape, columns(fields)), np.int32)
    values = np.zeros((*real.shape, value_columns(fields)), np.float32)
    items[real] = [one.row for one in flat]
    times[real] = [one.time for one in flat]
    cross[real], values[real] = self._fields([(one.where, one.fields) for one in flat], fields)
    tensors: dict[str, np.ndarray] = {
      f"{domain}_items": items,
      f"{domain}_times": times,
      f"{domain}_cross": cross,
      f"{domain}_length": length,
      f"{domain}_first_visible": np.zeros((len(seen), candidates), np.int32),
    }
    return tensors, values

  def _fields(
    self, rows: list[tuple[str, Mapping[str, Any]]], features: tuple[Feature, ...]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Indices `[len(rows), columns(features)]` int32 and float values of (where, values by name)."""
    values: dict[str, Any] = {"row": range(len(rows))}  # a frame without fields has rows, too
    for feature in features:
      read, kind = _reader(feature)
      column = [_told(f"{where}[{feature.name!r}]", read, given.get(feature.name)) for where, given in rows]
      values[field_column(feature)] = pl.Series(column, dtype=kind)
      if feature.weights:
        weights = [_weights_of(feature, where, given, own) for (where, given), own in zip(rows, column, strict=True)]
        values[weights_column(feature)] = pl.Series(weights, dtype=pl.List(pl.Float64))
    frame = pl.DataFrame(values)
    return field_table(frame, features, self._vocabularies), field_values(frame, features, self._vocabularies)


def _reader(feature: Feature) -> tuple[Callable[[Any], Any], Any]:
  """The function that reads a value of a field, and the column type of its results."""
  if feature.numeric:
    return functools.partial(number_of, least=0.0 if feature.refuses_negative else None), pl.Float64
  return (_texts_of, pl.List(pl.String)) if feature.max_values > 1 else (text_of, pl.String)


class _Seen(NamedTuple):
  """A behaviour that the request's candidates see."""

  where: str
  row: int
  time: int
  fields: Mapping[str, Any]


_Read = TypeVar("_Read")


def _told(where: str, read: Callable[[Any], _Read], value: Any) -> _Read:
  """The result of `read` for a value; the message of its error begins with the place."""
  try:
    return read(value)
  except ValueError as error:
    raise UserError(f"{where}: {error}") from None


def _weights_of(feature: Feature, where: str, given: Mapping[str, Any], values: list[str | None] | None) -> list[float]:
  """The weights of the values of a list, as long."""
  if isinstance(given.get(feature.name), (set, frozenset)):
    raise UserError(f"{where}[{feature.name!r}]: a set, which has no order; {feature.weights!r} are weights of a list")
  read = functools.partial(weights_of, count=len(values or ()))
  return _told(f"{where}[{feature.weights!r}]", read, given.get(feature.weights))


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
    rows = [
      null if value is None else self._index.get(value) or oov_index(value, self.oov, self.seed)
      for value in values.cast(pl.String)
    ]
    return np.array(rows, np.int32)
