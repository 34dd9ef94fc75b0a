"""Tables of numbers in fewer bits than float32, row by row."""

from typing import Any, Literal

import numpy as np
import tensorflow as tf

Dtype = Literal["float32", "bfloat16", "int8"]
_LARGEST = 127  # of int8; -128 is not used, so that a row and its negative are stored alike
_CHUNK = 2**16  # rows whose quotients are in memory at a time


def stored(table: tf.Variable, dtype: Dtype) -> dict[str, Any]:
  """What stands for a table in a narrower type: its rows, then their scales if it has some, by name.

  Raises:
    ValueError: As `to_int8`.
  """
  if dtype == "int8":
    return dict(zip(("int8", "scales"), to_int8(table.numpy()), strict=True))
  return {dtype: tf.cast(table, dtype)}


def to_int8(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rows as integers with a scale each.

      scale_i = max_j |x_ij| / 127,    q_ij = round(x_ij / scale_i),    x_ij = q_ij scale_i to within scale_i / 2

  Args:
    table: Numbers, `[rows, width]` float32.

  Returns:
    The integers q `[rows, width]` int8, and the scales `[rows]` float32. A row of zeros has the scale 0.

  Raises:
    ValueError: A number is not finite.
  """
  integers, scales = np.zeros(table.shape, np.int8), np.zeros(len(table), np.float32)
  for first in range(0, len(table), _CHUNK):
    rows = table[first : first + _CHUNK].astype(np.float64)  # a quotient of the smallest float32 numbers is no integer
    largest = np.abs(rows).max(axis=1, initial=0.0)
    if not np.isfinite(largest).all():
      row = first + int(np.flatnonzero(~np.isfinite(largest))[0])
      raise ValueError(f"row {row} has a number that is not finite")
    scale = (largest / _LARGEST).astype(np.float32)
    exact = np.where(scale > 0, scale, np.inf).astype(np.float64)[:, np.newaxis]
    integers[first : first + _CHUNK] = np.clip(np.rint(rows / exact), -_LARGEST, _LARGEST)
    scales[first : first + _CHUNK] = scale
  return integers, scales


def from_int8(integers: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
  """The numbers `[rows, width]` float32 of `to_int8`, of all its rows or some of them."""
  return tf.cast(integers, tf.float32) * scales[:, tf.newaxis]
