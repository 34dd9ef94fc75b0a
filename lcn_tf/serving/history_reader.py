"""The newest behaviours of a request: times are read first, and ids and values of what is kept alone."""

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lcn_tf.data.build.values import EXACT, MILLISECONDS, seconds_of
from lcn_tf.errors import UserError, unknown
from lcn_tf.serving.requests import Behaviour, BehaviourColumns

_PLAIN = {int, float}
_timestamp, _item_id, _fields = map(operator.attrgetter, ("timestamp", "item_id", "fields"))
_Read = TypeVar("_Read")


class Seen(NamedTuple):
  """The behaviours that a request's candidates see, newest first.

  Attributes:
    item_ids: Ids `[K]`.
    times: Seconds int64 `[K]`.
    fields: Values `[K]` of each cross field that some of them have, by name; None where one has no value.
    place: Function from a name in (`item_id`, `timestamp`, a field) and a position in [0, K) to the place in the
      request, for messages.
  """

  item_ids: Sequence[Any]
  times: np.ndarray
  fields: dict[str, list[Any]]
  place: Callable[[str, int], str]


def told(where: str, read: Callable[[Any], _Read], value: Any) -> _Read:
  """The result of `read` for a value; the message of its error begins with the place."""
  try:
    return read(value)
  except ValueError as error:
    raise UserError(f"{where}: {error}") from None


def newest(
  history: Sequence[Behaviour] | BehaviourColumns, now: int, length: int, fields: Collection[str], where: str
) -> Seen:
  """The newest `length` behaviours that are strictly older than the request.

  Args:
    history: Behaviours in any order.
    now: Moment of the request, seconds.
    length: Largest number of behaviours to keep.
    fields: Names that the behaviours' fields may have.
    where: Place of the history, for messages.

  Raises:
    UserError: A time is no moment, a kept behaviour has an unknown field, or columns differ in length.
  """
  if isinstance(history, BehaviourColumns):
    return _of_columns(history, now, length, fields, where)
  times = _moments(list(map(_timestamp, history)), lambda i: f"{where}[{i}].timestamp")
  kept = _newest(times, now, length)
  behaviours = [history[i] for i in kept.tolist()]
  given = list(map(_fields, behaviours))
  names = set().union(*given)
  if not names.issubset(fields):
    i, wrong = next(
      (i, name) for i, one in zip(kept.tolist(), given, strict=True) for name in one if name not in fields
    )
    raise unknown(f"{where}[{i}].fields", "field", wrong, fields)

  def place(name: str, k: int) -> str:
    at = f"{where}[{kept[k]}]"
    return f"{at}.{name}" if name in ("item_id", "timestamp") else f"{at}.fields[{name!r}]"

  values = {name: [one.get(name) for one in given] for name in names}
  return Seen(list(map(_item_id, behaviours)), times[kept], values, place)


def _of_columns(history: BehaviourColumns, now: int, length: int, fields: Collection[str], where: str) -> Seen:
  timestamps, item_ids = _positional(history.timestamps), _positional(history.item_ids)
  columns = {name: _positional(column) for name, column in history.fields.items()}
  total = len(timestamps)
  for name, column in [("item_ids", item_ids), *columns.items()]:
    if len(column) != total:
      raise UserError(f"{where}: {name!r} has {len(column)} values, and timestamps has {total}")
  for name in columns:
    if name not in fields:
      raise unknown(f"{where}.fields", "field", name, fields)
  times = _moments(timestamps, lambda i: f"{where}.timestamps[{i}]")
  kept = _newest(times, now, length)

  def place(name: str, k: int) -> str:
    known = {"item_id": ".item_ids", "timestamp": ".timestamps"}
    return f"{where}{known.get(name, f'.fields[{name!r}]')}[{kept[k]}]"

  values = {name: _taken(column, kept) for name, column in columns.items()}
  return Seen(_taken(item_ids, kept), times[kept], values, place)


def _taken(column: Sequence[Any] | np.ndarray, kept: np.ndarray) -> list[Any]:
  """The values at the positions `kept`, by the rules of single values."""
  if not isinstance(column, np.ndarray):
    return [column[i] for i in kept.tolist()]
  # floats of other sizes and dates say what they are only as NumPy's scalars
  plain = column.dtype == np.float64 or column.dtype.kind in "iubOUS"
  return column[kept].tolist() if plain else list(column[kept])


def _positional(column: Sequence[Any] | np.ndarray) -> Sequence[Any] | np.ndarray:
  """The column as what is read by position: a pandas Series is read by its labels. What is masked is None."""
  if isinstance(column, np.ma.MaskedArray):
    hidden = np.ma.getmaskarray(column)
    return [None if gone else value for gone, value in zip(hidden, column.data, strict=True)]
  return column if isinstance(column, (np.ndarray, list, tuple)) else list(column)


def _moments(values: Sequence[Any] | np.ndarray, place: Callable[[int], str]) -> np.ndarray:
  """Seconds int64 `[L]`, by the rule of `seconds_of`."""
  plain = isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iuf"
  if not plain and not set(map(type, values)) <= _PLAIN:
    return np.array([told(place(i), seconds_of, value) for i, value in enumerate(values)], np.int64)
  try:
    numbers = np.asarray(values) if plain else np.array(values, np.float64)
  except OverflowError:  # a whole number that no float holds
    return np.array([told(place(i), seconds_of, value) for i, value in enumerate(values)], np.int64)
  most = min(MILLISECONDS, EXACT.get(numbers.dtype.name, MILLISECONDS))
  for i in np.flatnonzero(~((numbers >= 0) & (numbers < most)))[:1].tolist():
    told(place(i), seconds_of, values[i])
  return np.floor(numbers).astype(np.int64)


def _newest(times: np.ndarray, now: int, length: int) -> np.ndarray:
  """Positions of the newest `length` times before `now`, newest first; of equal ones the later position first."""
  if (times[:-1] <= times[1:]).all():
    end = int(np.searchsorted(times, now))
    return np.arange(end - 1, max(end - length, 0) - 1, -1)
  older = np.flatnonzero(times < now)[::-1]
  if len(older) > length:
    least = np.partition(times[older], len(older) - length)[len(older) - length]
    older = older[times[older] >= least]
  return older[np.argsort(-times[older], kind="stable")][:length]
