"""Look-ups of ids and values in a graph."""

import pathlib
from collections.abc import Sequence

import tensorflow as tf

from lcn_tf.data.field_values import LIMIT, Scale
from lcn_tf.data.id_mapping import NULL, BucketTable, ValueTable


class RowTable(tf.Module):
  """Rows of keys by number: the keys `[K]` have the rows `first`, `first + 1`, and so on.

  Args:
    keys: Keys, all texts or all integers, each once.
    first: Row of the first key.
    file: File that is written for the keys, and that a SavedModel takes as an asset. Not every table needs one.
    dtype: Type of the keys, int64 or string.
  """

  def __init__(self, keys: Sequence[str] | Sequence[int], first: int, file: pathlib.Path, dtype: tf.DType):
    super().__init__()
    self.first = first
    initializer: tf.lookup.TextFileInitializer | tf.lookup.KeyValueTensorInitializer
    if not keys or (dtype == tf.string and any({"\n", "\r"} & set(key) for key in keys)):  # type: ignore[arg-type]
      rows = tf.range(len(keys), dtype=tf.int64)
      initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(list(keys), dtype), rows)
    else:
      file.write_bytes("".join(f"{key}\n" for key in keys).encode())
      whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
      initializer = tf.lookup.TextFileInitializer(
        str(file), dtype, whole if dtype == tf.string else 0, tf.int64, number
      )
    self.table = tf.lookup.StaticHashTable(initializer, -1)

  def __call__(self, keys: tf.Tensor) -> tf.Tensor:
    """The row of every key, int64, and -1 for others."""
    rows = self.table.lookup(keys)
    return tf.where(rows < 0, tf.constant(-1, tf.int64), rows + self.first)


class Vocabulary(tf.Module):
  """The vocabulary of a categorical field: `ValueTable.indices` in a graph.

  Args:
    table: Vocabulary.
    file: As of `RowTable`.
  """

  def __init__(self, table: ValueTable, file: pathlib.Path):
    super().__init__()
    self.oov = table.oov
    self.rows = RowTable(table.values.to_list(), 1 + table.oov, file, tf.string)
    self.empty_is_missing = "" not in set(table.values.to_list())

  def missing(self, texts: tf.Tensor) -> tf.Tensor:
    """Which texts are no values, bool."""
    return texts == "" if self.empty_is_missing else tf.zeros_like(texts, tf.bool)

  def __call__(self, texts: tf.Tensor) -> tf.Tensor:
    """The index of every text, int64."""
    rows = self.rows(texts)
    unseen = 1 + tf.strings.to_hash_bucket_fast(texts, self.oov) if self.oov > 1 else tf.ones_like(rows)
    return tf.where(rows < 0, tf.where(self.missing(texts), tf.constant(NULL, tf.int64), unseen), rows)


class Buckets(tf.Module):
  """The buckets of a numeric field, and its standardised value: `BucketTable` in a graph.

  Args:
    table: Vocabulary of the field.
  """

  def __init__(self, table: BucketTable):
    super().__init__()
    self.first = 1 + table.oov
    self.edges = tf.constant(table.values[1:].cast(float).to_numpy(), tf.float64)
    self.scale = table.scale

  def __call__(self, numbers: tf.Tensor) -> tf.Tensor:
    """The index of every number (NaN for a missing one), int64."""
    flat = tf.reshape(tf.where(tf.math.is_nan(numbers), tf.zeros_like(numbers), numbers), [-1])
    found = tf.reshape(tf.searchsorted(self.edges, flat, "right", tf.int64), tf.shape(numbers))
    return tf.where(tf.math.is_nan(numbers), tf.constant(NULL, tf.int64), self.first + found)

  def standardised(self, numbers: tf.Tensor) -> tf.Tensor:
    """The standardised value of every number, float32; 0 for a missing one. The field must have a scale."""
    assert self.scale is not None
    return scaled(self.scale, numbers)


def scaled(scale: Scale, numbers: tf.Tensor) -> tf.Tensor:
  """`Scale.__call__` in a graph: float32 of numbers float64."""
  if not scale.deviation:
    return tf.zeros_like(numbers, tf.float32)
  low, high = scale.clip or (None, None)
  if low is not None:
    numbers = tf.maximum(numbers, tf.constant(low, tf.float64))
  if high is not None:
    numbers = tf.minimum(numbers, tf.constant(high, tf.float64))
  if scale.log1p:
    numbers = tf.math.log1p(numbers)
  values = (numbers / 2 - scale.mean / 2) / (scale.deviation / 2)
  values = tf.clip_by_value(values, tf.constant(-LIMIT, tf.float64), tf.constant(LIMIT, tf.float64))
  return tf.cast(tf.where(tf.math.is_nan(values), tf.zeros_like(values), values), tf.float32)


def shares(weights: tf.Tensor) -> tf.Tensor:
  """The share of each weight in the sum of its row: `[B, M]` float32 of float64; zeros where all are 0."""
  scaled_down = tf.math.divide_no_nan(weights, tf.reduce_max(weights, axis=1, keepdims=True))
  return tf.cast(tf.math.divide_no_nan(scaled_down, tf.reduce_sum(scaled_down, axis=1, keepdims=True)), tf.float32)


def positions_of(mask: tf.Tensor, width: int) -> tf.Tensor:
  """The columns where a mask `[B, M]` is true, from the left: `[B, width]` int32. Behind them is M, no column."""
  columns = tf.shape(mask)[1]
  place = tf.where(mask, tf.range(columns)[tf.newaxis], columns)
  padded = tf.pad(tf.sort(place, axis=1), [[0, 0], [0, width]], constant_values=0)[:, :width]
  behind = tf.range(width)[tf.newaxis] >= columns
  return tf.where(behind, columns, padded)
