"""From the ids and values of a service to the tensors of the signature `rank_raw`, without an id mapping."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lcn_tf.data.build.values import id_of, number_of, seconds_of, text_of, vector_of, whole_id_of
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema
from lcn_tf.serving.history_reader import told
from lcn_tf.serving.raw_spec import group_fields, input_name
from lcn_tf.serving.requests import Behaviour, BehaviourColumns, RankRequest

NOBODY = np.iinfo(np.int64).min  # an id that no item has
Cell = Callable[[Any], Any]


def raw_tensors(
  requests: Sequence[RankRequest], schema: Schema, integer_ids: Mapping[DomainName, bool]
) -> dict[str, np.ndarray]:
  """The tensors of `lcn_tf.serving.raw_spec`, B = len(requests).

  N, L and M are those of the longest list of candidates, history and list of values. Nothing is looked up, sorted or
  cut: the model does that.

  Args:
    requests: Requests, each of one user.
    schema: Schema of the model.
    integer_ids: Per domain, True if its item ids are int64, False if they are texts.

  Raises:
    UserError: A time, value or number of values cannot be read. The message has the request and the place in it.
  """
  ids: dict[DomainName, tuple[Cell, Any, Any]] = {
    d: (_whole_id, np.int64, 0) if integer_ids[d] else (_text_id, object, "") for d in DOMAINS
  }
  where = [f"requests[{b}]" for b in range(len(requests))]
  tensors = {
    "time": np.array(
      [told(f"{at}.time", seconds_of, one.time) for at, one in zip(where, requests, strict=True)], np.int64
    ),
    "candidate_ids": _table(
      [one.candidates for one in requests], *ids["target"], places=[f"{at}.candidates" for at in where]
    ),
    "candidate_count": np.array([len(one.candidates) for one in requests], np.int32),
  }
  for d in DOMAINS:
    histories = [_as_columns(one.history(d), schema.domain(d).cross_fields) for one in requests]
    places = [f"{at}.{d}" for at in where]
    tensors[f"{d}_ids"] = _table([list(one.item_ids) for one in histories], *ids[d], places=places)
    tensors[f"{d}_times"] = _table([list(one.timestamps) for one in histories], seconds_of, np.int64, 0, places=places)
    tensors[f"{d}_count"] = np.array([len(one.timestamps) for one in histories], np.int32)
  for group, features in group_fields(schema).items():
    for feature in features:
      name = input_name(group, feature.name)
      places = [f"{at}.{group}[{feature.name!r}]" for at in where]
      given = [_values(one, group, feature, at) for one, at in zip(requests, where, strict=True)]
      tensors[name] = _table(given, *_cell(feature), places=places)
      if group == "user" and feature.max_values == 1:
        tensors[name] = tensors[name][:, 0] if len(requests) else tensors[name].reshape(0)
      if feature.weights:
        weights = [_listed(one.user.get(feature.weights)) for one in requests]
        read = functools.partial(number_of, least=0.0)
        table = _table(weights, read, np.float64, 0.0, places=places)
        widened = np.zeros((len(requests), max(table.shape[1], tensors[name].shape[1])))
        widened[:, : table.shape[1]] = table
        tensors[input_name(group, feature.weights)] = widened
  for vector in schema.user_vectors:
    numbers = functools.partial(vector_of, width=vector.width)
    table = np.zeros((len(requests), vector.width), np.float32)
    for b, request in enumerate(requests):
      table[b] = told(f"{where[b]}.user[{vector.name!r}]", numbers, request.user.get(vector.name)) or 0
    tensors[input_name("user", vector.name)] = table
  return tensors


def _cell(feature: Feature) -> tuple[Cell, Any, Any]:
  """The function that reads a value of a field, the type of the column, and its padding."""
  if feature.numeric:
    return functools.partial(number_of, least=0.0 if feature.refuses_negative else None), np.float64, np.nan
  return text_of, object, ""


def _values(request: RankRequest, group: str, feature: Feature, where: str) -> Sequence[Any]:
  """The values of a field: of a list, of all behaviours, of all candidates, or one."""
  if group == "user":
    value = request.user.get(feature.name)
    return _listed(value) if feature.max_values > 1 else [value]
  if group == "context":
    many = [request.context] if isinstance(request.context, Mapping) else request.context
    if len(many) not in (1, len(request.candidates)):
      raise UserError(f"{where}.context: {len(many)} mappings, and there are {len(request.candidates)} candidates")
    values = [one.get(feature.name) for one in many]
    return values * max(len(request.candidates), 1) if len(values) == 1 else values
  history = request.history(group)  # type: ignore[arg-type]
  return list(_as_columns(history, (feature,)).fields[feature.name])


def _as_columns(history: Sequence[Behaviour] | BehaviourColumns, fields: Sequence[Feature]) -> BehaviourColumns:
  if isinstance(history, BehaviourColumns):
    missing = [None] * len(history.timestamps)
    return BehaviourColumns(
      list(history.item_ids),
      list(history.timestamps),
      {field.name: list(history.fields.get(field.name, missing)) for field in fields},
    )
  return BehaviourColumns(
    [one.item_id for one in history],
    [one.timestamp for one in history],
    {field.name: [one.fields.get(field.name) for one in history] for field in fields},
  )


def _table(rows: Sequence[Sequence[Any]], read: Cell, dtype: Any, padding: Any, places: Sequence[str]) -> np.ndarray:
  """Rows of different lengths side by side; what `read` gives None for is padding, too."""
  width = max(map(len, rows), default=0)
  table = np.full((len(rows), width), padding, dtype)
  for b, row in enumerate(rows):
    try:
      found = [read(value) for value in row]
    except ValueError:  # once more, for the place
      found = [told(f"{places[b]}[{n}]", read, value) for n, value in enumerate(row)]
    table[b, : len(row)] = [padding if one is None else one for one in found]
  return table


def _listed(value: Any) -> Sequence[Any]:
  """The values of a list, or of one value."""
  if value is None:
    return []
  return list(value) if isinstance(value, (list, tuple, set, np.ndarray)) else [value]


def coded_ids(ids: Sequence[Any], integer: bool) -> np.ndarray:
  """Item ids as graphs look them up, `[K]`: int64 or texts, and what is no id as one that no item has."""
  return np.array([_whole_id(one) if integer else _text_id(one) for one in ids], np.int64 if integer else object)


def _text_id(value: Any) -> str:
  text = id_of(value)
  return "" if text is None else text


def _whole_id(value: Any) -> int:
  number = whole_id_of(value)
  return NOBODY if number is None else number
