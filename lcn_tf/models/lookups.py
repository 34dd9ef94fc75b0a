"""Look-ups of a batch, collected so that each embedding table is read once, and the shapes of what they return."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.schema import Feature


class Handle(NamedTuple):
  """A field's place among the look-ups.

  Attributes:
    position: Position of the look-up.
    many: True for a field with several values.
    values: Float values of the field, `[..., its value_columns]`; None = it has none.
  """

  position: int
  many: bool
  values: tf.Tensor | None


Handles = list[Handle]


class Lookups:
  """Collects the table look-ups of a batch, so that each table is read once."""

  def __init__(self) -> None:
    self.requests: list[tuple[str, tf.Tensor]] = []

  def add(
    self, features: tuple[Feature, ...], indices: tf.Tensor, values: tf.Tensor | None = None, table: str = ""
  ) -> Handles:
    """Registers the columns of `indices` `[..., columns]`; returns handles for `features`.

    Args:
      features: Fields of the columns, in order.
      indices: Rows of the tables.
      values: Float values of the fields, `[..., value_columns]`; None if no field has any.
      table: End of the tables' names.
    """
    handles, column, start = [], 0, 0
    for feature in features:
      many = feature.max_values > 1
      part = indices[..., column : column + feature.max_values] if many else indices[..., column]
      own = None
      if feature.value_columns:
        assert values is not None
        own = values[..., start : start + feature.value_columns]
      handles.append(Handle(len(self.requests), many, own))
      self.requests.append((feature.vocabulary + table, part))
      column += feature.max_values
      start += feature.value_columns
    return handles

  def run(self, tables: EmbeddingTables, slopes: Mapping[str, tf.Variable]) -> None:
    """Reads the tables.

    Args:
      tables: Embedding tables.
      slopes: Vectors `[width]` that standardised values are multiplied by, by the name of the table.
    """
    self.results = tables(self.requests) if self.requests else []
    self.slopes = slopes

  def features(self, handles: Handles) -> list[tf.Tensor]:
    """Embeddings of each feature.

    A feature with several values has their average, by its weights if it has some. A standardised value adds its
    product with the table's slope.
    """
    parts = []
    for position, many, values in handles:
      rows = self.results[position]
      name, indices = self.requests[position]
      if many:
        real = tf.cast(indices != 0, rows.dtype)
        if values is None:
          share = real / tf.maximum(tf.reduce_sum(real, axis=-1, keepdims=True), 1)
        else:
          weights = values * tf.cast(real, values.dtype)
          share = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=-1, keepdims=True))
        rows = tf.matmul(tf.cast(share, rows.dtype)[..., tf.newaxis, :], rows)[..., 0, :]
      elif values is not None:
        rows += tf.cast(values, rows.dtype) * tf.cast(self.slopes[name], rows.dtype)
      parts.append(rows)
    return parts


def nothing(items: tf.Tensor) -> tf.Tensor:
  """Vectors of width 0 for items `[...]`."""
  return tf.zeros(tf.concat([tf.shape(items), [0]], axis=0))


def join(parts: list[tf.Tensor], like: tf.Tensor, dtype: Any, rank: int = 2) -> tf.Tensor:
  """Embeddings side by side; of width 0 if there are none."""
  if parts:
    return tf.concat(parts, axis=-1)
  zeros = tf.zeros(tf.concat([tf.shape(like)[:rank], [0]], axis=0), dtype)
  zeros.set_shape(like.shape[:rank].concatenate([0]))
  return zeros


def split_like(rows: tf.Tensor, parts: list[tf.Tensor]) -> list[tf.Tensor]:
  """Rows `[sum of sizes, ...]` cut and shaped like `parts`, with the rows' own axes behind."""
  sizes = [tf.size(part) for part in parts]
  if rows.dtype.is_floating:
    pieces = tf.split(rows, sizes, num=len(parts))
  else:  # tf.split has no GPU kernel for integers; floats use it because its gradient is cheaper than that of slices
    ends = tf.cumsum(tf.stack([0, *sizes]))
    pieces = [rows[ends[i] : ends[i + 1]] for i in range(len(parts))]
  result = []
  for piece, part in zip(pieces, parts, strict=True):
    piece = tf.reshape(piece, tf.concat([tf.shape(part), tf.shape(rows)[1:]], axis=0))
    piece.set_shape(part.shape.concatenate(rows.shape[1:]))
    result.append(piece)
  return result
