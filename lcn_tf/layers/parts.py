"""Variables that servers hold in parts of their rows."""

import contextlib
import contextvars
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_IN_PARTS = contextvars.ContextVar("in_parts", default=False)
_AT_ONCE = 1 << 28  # bytes in a message to a server; messages have less than 2 GB


@contextlib.contextmanager
def in_parts() -> Iterator[None]:
  """Lets variables that are made within the block lie on servers in parts of their rows."""
  token = _IN_PARTS.set(True)
  try:
    yield
  finally:
    _IN_PARTS.reset(token)


def may_be_in_parts() -> bool:
  """Whether a variable that is made now may lie on servers in parts."""
  return _IN_PARTS.get()


def frozen_zeros(
  add_weight: Callable[..., Any], name: str, shape: Sequence[int], dtype: tf.DType | str = tf.float32
) -> Any:
  """A variable of zeros, in parts where there are servers, that nobody trains; `put` gives it its values.

  Mixed precision leaves it in its type: Keras cannot cast a variable in parts, and only the rows that are read need it.

  Args:
    add_weight: Method `add_weight` of the layer that has it.
    name: Name.
    shape: Shape, `[rows, ...]`.
    dtype: Type.
  """
  with in_parts():
    return add_weight(name, shape, dtype, initializer="zeros", trainable=False, experimental_autocast=False)


def is_in_parts(variable: Any) -> bool:
  """Whether a variable is one that `ParameterServerStrategy` has made of parts."""
  return isinstance(variable, tf.__internal__.distribute.ShardedVariable)


def parts_of(variable: Any) -> list[tf.Variable]:
  """The parts of a variable, in the order of their rows; itself if it has none."""
  return list(variable.variables) if is_in_parts(variable) else [variable]


def whole(variable: Any) -> Any:
  """The variable that a part is of; a variable that is none is its own."""
  found = getattr(variable, "_sharded_container", None)
  return variable if found is None else found()


def reference(variable: Any) -> Hashable:
  """What stands for a variable, whole or in parts, in sets and dicts."""
  return parts_of(variable)[0].ref()


def wholes(variables: Sequence[Any]) -> list[Any]:
  """The variables that variables and parts are of, each once, in their order."""
  return list({reference(v): v for v in map(whole, variables)}.values())


def put(variable: Any, values: np.ndarray, at_once: int | None = None) -> None:
  """Gives a variable its values; a server gets large ones in blocks of rows.

  Args:
    variable: Variable, `[rows, ...]` or of another shape, whole or in parts.
    values: Values, of its shape and of a type that can be cast to its own.
    at_once: Bytes of a block, at least a row. None = 256 MiB on a server, and all at once elsewhere.

  Raises:
    ValueError: `values` have another shape.
  """
  if list(values.shape) != list(variable.shape):
    raise ValueError(f"{variable.name} has the shape {list(variable.shape)}, and the values {list(values.shape)}")
  parts = parts_of(variable)
  each = np.split(values, np.cumsum([part.shape[0] for part in parts])[:-1]) if is_in_parts(variable) else [values]
  for part, own in zip(parts, each, strict=True):
    _put(part, own, at_once)


def copy(variable: Any, other: Any, at_once: int | None = None) -> None:
  """Gives a variable the values of another one; from server to server large ones go in blocks of rows.

  Args:
    variable: Variable, whole or in parts.
    other: Variable of the same shape, type and parts.
    at_once: Bytes of a block, as in `put`.
  """
  for part, source in zip(parts_of(variable), parts_of(other), strict=True):
    _put(part, source, at_once)


def _rows(values: np.ndarray | tf.Variable, first: int, end: int, dtype: tf.DType) -> tf.Tensor:
  if isinstance(values, np.ndarray):
    return tf.constant(values[first:end], dtype)
  with tf.device(values.device):  # the rows alone cross the network
    return tf.gather(values, tf.range(first, min(end, values.shape[0])))


def _put(part: tf.Variable, values: np.ndarray | tf.Variable, at_once: int | None) -> None:
  size = part.dtype.size * part.shape.num_elements()
  if at_once is None:
    at_once = _AT_ONCE if tf.DeviceSpec.from_string(part.device).job == "ps" else size
  if size <= at_once:
    part.assign(values)
    return
  count = part.shape[0]
  each = max(1, at_once * count // size)
  for first in range(0, count, each):
    block = _rows(values, first, first + each, part.dtype)
    part.scatter_update(tf.IndexedSlices(block, tf.range(first, first + len(block))))
