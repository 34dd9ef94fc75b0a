"""How a single id or value is read: the rules of `lcn_tf.data.build.tables` for whole columns, one value at a time."""

import contextlib
import math
from typing import Any

import numpy as np
import polars as pl

MILLISECONDS = 10**11  # seconds of the year 5138, milliseconds of 1973: what is not before is no moment
# by the name of a type of floats: from there on they do not tell whole numbers apart
EXACT = {"float16": 2**11, "float32": 2**24, "float64": 2**53}
_LARGEST = float(np.finfo(np.float32).max)


def _is_integer(value: Any) -> bool:
  """Whether it is a whole number: no truth value, and no duration, which NumPy counts among integers."""
  return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def text_of(value: Any) -> str | None:
  """The text that a value of a field is compared by; None for a missing one.

  Whole floats are their integers' text, 4.0 is "4"; the text "4.0" is itself. NaN, infinities and floats so large that
  they do not tell whole numbers apart are missing.

  Raises:
    ValueError: It is no text, number or truth value, or a text that no file can hold.
  """
  if value is None:
    return None
  if isinstance(value, str):
    if not value.isascii():
      try:
        value.encode()
      except UnicodeEncodeError:
        raise ValueError(f"{value!r} is not a text that UTF-8 can hold") from None
    return str(value)
  if isinstance(value, (bool, np.bool_)):
    return str(bool(value)).lower()
  if _is_integer(value):
    return str(int(value))
  if isinstance(value, (float, np.floating)):
    if not abs(float(value)) < EXACT.get(np.dtype(type(value)).name, EXACT["float64"]):  # NaN neither
      return None
    if value == int(value):
      return str(int(value))
    return str(pl.Series([float(value)]).cast(pl.String)[0])
  raise ValueError(f"{value!r} is no text, number or truth value")


def number_of(value: Any, least: float | None = None) -> float | None:
  """The number that a value of a numeric field is; None for a missing one.

  Args:
    value: Value.
    least: Smallest number that the field takes; None = it takes any.

  Raises:
    ValueError: It is no finite number and no text of one, or is less than `least`.
  """
  if value is None:
    return None
  number = None
  if isinstance(value, str):
    number = pl.Series([value]).cast(pl.Float64, strict=False)[0]
  elif _is_integer(value) or isinstance(value, (float, np.floating)):
    with contextlib.suppress(OverflowError):
      number = float(value)
  if number is None or not math.isfinite(number):
    raise ValueError(f"{value!r} is no finite number")
  if least is not None and number < least:
    raise ValueError(f"{value!r} is below {least:g}, which log1p does not take")
  return number


def weights_of(value: Any, count: int) -> list[float]:
  """The weights of the values of a list.

  Args:
    value: Numbers, or one number; None = none.
    count: Length of the list.

  Raises:
    ValueError: They are not `count` finite numbers of at least 0.
  """
  given = [] if value is None else list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
  try:
    numbers = [number_of(one, least=0.0) for one in given if not isinstance(one, str)]
  except ValueError:
    numbers = []
  if len(given) != count or len(numbers) != count or None in numbers:
    raise ValueError(f"{value!r} is not {count} finite numbers of at least 0, one for each value of the list")
  return [number for number in numbers if number is not None]


def vector_of(value: Any, width: int) -> list[float] | None:
  """The numbers of a vector; None for a missing one.

  Args:
    value: List or NumPy array; None = missing.
    width: Numbers of a vector.

  Raises:
    ValueError: It is not `width` finite numbers that a 32-bit float can hold.
  """
  if value is None:
    return None
  expected = f"expected {width} finite numbers of float32"
  if not isinstance(value, (list, tuple, np.ndarray)) or (isinstance(value, np.ndarray) and not value.ndim):
    raise ValueError(f"{value!r} is no list: {expected}")
  if len(value) != width:
    raise ValueError(f"{len(value)} values: {expected}")
  numbers = []
  for place, one in enumerate(value):
    try:
      number = None if isinstance(one, str) else number_of(one)
    except ValueError:
      number = None
    if number is None or abs(number) > _LARGEST:
      raise ValueError(f"value {place} is {one!r}: {expected}")
    numbers.append(number)
  return numbers


def id_of(value: Any) -> str | None:
  """The text that an id is compared by; None for what is no id: a missing value, a truth value, a fraction, a list, a
  float that does not tell whole numbers apart.

  7, 7.0 and "7" are one id; "007", " 7 " and "7.0" are others.
  """
  if isinstance(value, (bool, np.bool_)) or (isinstance(value, (float, np.floating)) and not float(value).is_integer()):
    return None
  try:
    return text_of(value)
  except ValueError:
    return None


def whole_id_of(value: Any) -> int | None:
  """The number of an id whose text is that of a 64-bit integer; None for other ids."""
  text = id_of(value)
  try:
    number = int(text or "")
  except ValueError:
    return None
  return number if str(number) == text and abs(number) < 2**63 else None


def seconds_of(value: Any) -> int:
  """A moment in whole seconds since 1970.

  Raises:
    ValueError: It is no number, not finite, before 1970, so late that it is milliseconds, or of a type whose floats of
      that size are further apart than seconds.
  """
  if not (_is_integer(value) or isinstance(value, (float, np.floating))):
    raise ValueError(f"{value!r} is no moment: expected seconds since 1970")
  if not 0 <= value < MILLISECONDS:  # NaN neither
    late = ", and it is of the year 5138 or later: milliseconds?" if value >= MILLISECONDS else ""
    raise ValueError(f"{value!r} is no moment: expected seconds since 1970{late}")
  if isinstance(value, np.floating) and value >= EXACT.get(np.dtype(type(value)).name, MILLISECONDS):
    raise ValueError(f"{value!r} is a {np.dtype(type(value)).name}, and these do not tell seconds of that size apart")
  return math.floor(value)
