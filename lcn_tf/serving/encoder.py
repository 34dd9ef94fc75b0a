"""From the ids and values that a service knows to the tensors that `rank` takes."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lcn_tf.data.indexing import field_table, numbering_of
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.tables import field_column
from lcn_tf.data.vocabulary import NULL, ValueTable, oov_index
from lcn_tf.errors import UserError, unknown
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Feature, columns

USER_ID = "user_id"


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """What a user did once.

  Attributes:
    item_id: As in the interactions that the records were built from.
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
    time: The moment, seconds, fractions cut off. Behaviours that are not strictly older are not seen.
    candidates: Item ids of the target domain `[N]`.
    user: Values of the user fields by name, `user_id` among them if it is one.
    context: Values of the context fields by name, the same for all candidates.
    target, source: What the user did in each domain. Where two share a second, the later one of the list is newer.
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

  Two things that `pipelines.build_records` does with a log are the caller's: to leave out behaviours on items that the
  items file does not have, and events that came twice.

  Items that the record set does not have become its unknown item, values of fields fall out of vocabulary. Values are
  compared as texts, those of whole floats being their integers': 4.0 is 4, the text "4.0" is not. Loading reads the
  vocabularies once; encoding looks values up in dictionaries.

  Args:
    record_set: What the model was trained with; its shards are not read. An export carries one that has no shards:
      `RecordSet.open("RUN/export/<version>/assets.extra")`.

  Raises:
    UserError: Vocabularies or items cannot be read.
  """

  def __init__(self, record_set: RecordSet):
    self._schema = record_set.record_schema
    numbering = numbering_of(record_set)
    self._vocabularies: dict[str, ValueTable] = {
      name: _Lookup(table.name, table.values, table.counts, table.oov, table.seed)
      for name, table in numbering.vocabularies.items()
    }
    self._rows = {d: dict(numbering.items[d].select("item_id", "row").iter_rows()) for d in DOMAINS}
    self._text = {d: numbering.items[d]["item_id"].dtype == pl.String for d in DOMAINS}

  def encode(self, requests: Sequence[RankRequest]) -> dict[str, np.ndarray]:
    """The tensors of `lcn_tf.serving.signatures.request_spec`, B = len(requests).

    N is that of the longest list of candidates, L that of the longest history that is seen, at most the schema's
    `max_length`. Padding is 0; what the model returns for padded candidates means nothing.

    Raises:
      UserError: A request names a field that the schema does not have, or gives one what is no value.
    """
    for number, request in enumerate(requests):
      self._check(f"requests[{number}]", request)
    size, width = len(requests), max((len(r.candidates) for r in requests), default=0)
    items = np.zeros((size, width), np.int32)
    times = np.zeros((size, width), np.int64)
    for b, request in enumerate(requests):
      items[b, : len(request.candidates)] = [self._row("target", item) for item in request.candidates]
      times[b, : len(request.candidates)] = math.floor(request.time)
    context = self._fields([r.context for r in requests], self._schema.context_fields)
    tensors = {
      "user_fields": self._fields([r.user for r in requests], self._schema.user_fields),
      "candidate_items": items,
      "candidate_times": times,
      "candidate_context": np.where((items > 0)[..., np.newaxis], context[:, np.newaxis], 0).astype(np.int32),
    }
    for d in DOMAINS:
      tensors |= self._history(d, [self._seen(r, d) for r in requests], width)
    return tensors

  def _check(self, where: str, request: RankRequest) -> None:
    schema = self._schema
    given = [("user", request.user, schema.user_fields), ("context", request.context, schema.context_fields)]
    for d in DOMAINS:
      fields = schema.domain(d).cross_fields
      given += [(f"{d}[{i}].fields", behaviour.fields, fields) for i, behaviour in enumerate(request.history(d))]
    for part, values, fields in given:
      names = [field.name for field in fields]
      wrong = [name for name in values if name not in names and not (part == "user" and name == USER_ID)]
      if wrong:
        raise unknown(f"{where}.{part}", "field", wrong[0], names)

  def _row(self, domain: DomainName, item: int | str) -> int:
    try:
      key = str(item) if self._text[domain] else int(item)
    except (ValueError, TypeError, OverflowError):  # a text where all ids are numbers, or no id at all
      return UNKNOWN_ITEM
    if not self._text[domain] and not isinstance(item, str) and key != item:  # 7.9 is not item 7
      return UNKNOWN_ITEM
    return self._rows[domain].get(key, UNKNOWN_ITEM)

  def _seen(self, request: RankRequest, domain: DomainName) -> list[Behaviour]:
    now = math.floor(request.time)
    older = [b for b in request.history(domain) if math.floor(b.timestamp) < now]
    # from the back, so that the later one of a second comes first
    newest_first = sorted(reversed(older), key=lambda b: -math.floor(b.timestamp))
    return newest_first[: self._schema.domain(domain).max_length]

  def _history(self, domain: DomainName, seen: list[list[Behaviour]], candidates: int) -> dict[str, np.ndarray]:
    length = np.array([len(behaviours) for behaviours in seen], np.int32)
    real = np.arange(length.max(initial=0)) < length[:, np.newaxis]
    flat = [behaviour for behaviours in seen for behaviour in behaviours]
    fields = self._schema.domain(domain).cross_fields
    items, times = np.zeros(real.shape, np.int32), np.zeros(real.shape, np.int64)
    cross = np.zeros((*real.shape, columns(fields)), np.int32)
    items[real] = [self._row(domain, b.item_id) for b in flat]
    times[real] = [math.floor(b.timestamp) for b in flat]
    cross[real] = self._fields([b.fields for b in flat], fields)
    return {
      f"{domain}_items": items,
      f"{domain}_times": times,
      f"{domain}_cross": cross,
      f"{domain}_length": length,
      f"{domain}_first_visible": np.zeros((len(seen), candidates), np.int32),
    }

  def _fields(self, rows: list[Mapping[str, Any]], features: tuple[Feature, ...]) -> np.ndarray:
    """`[len(rows), columns(features)]` int32."""
    values: dict[str, Any] = {"row": range(len(rows))}  # a frame without fields has rows, too
    for feature in features:
      read, kind = (_texts, pl.List(pl.String)) if feature.max_values > 1 else (_text, pl.String)
      column = [read(row.get(feature.name), feature.name) for row in rows]
      values[field_column(feature)] = pl.Series(column, dtype=kind)
    return field_table(pl.DataFrame(values), features, self._vocabularies)


def _text(value: Any, field: str) -> str | None:
  """The text that a column of such values is cast to; each value on its own, whatever else is in the call."""
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, (bool, np.bool_)):
    return str(value).lower()
  if isinstance(value, (int, np.integer)):
    return str(int(value))
  if isinstance(value, (float, np.floating)):
    if not np.isfinite(value):
      return None
    if value == int(value):  # as a column of whole floats is read
      return str(int(value))
    return str(pl.Series([float(value)]).cast(pl.String)[0])
  raise UserError(f"field {field!r}: {value!r} is no text, number or truth value")


def _texts(value: Any, field: str) -> list[str | None] | None:
  if value is None:
    return None
  many = value if isinstance(value, (list, tuple, set, np.ndarray)) else [value]
  return [_text(one, field) for one in many]


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
