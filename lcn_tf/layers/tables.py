"""Embedding tables; each is read once per batch, at the distinct rows of the batch."""

import functools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.masked import repeat_rows
from lcn_tf.layers.narrow import Dtype, from_int8, stored
from lcn_tf.layers.parts import in_parts, put
from lcn_tf.layers.replicas import gather_rows


class EmbeddingTables(keras.layers.Layer):
  """One embedding table `[size, width]` per vocabulary.

  Row 0 starts as zeros and stays zero: the readers of rows mask padding, so no gradient reaches it. The
  out-of-vocabulary rows start as zeros too. If training meets no unknown value, they add nothing instead of noise.

  Args:
    sizes: Rows of each table, by vocabulary.
    unknown: Out-of-vocabulary rows of each table, by vocabulary. They follow the padding row.
    widths: Width of each table, by vocabulary.
    init: Initial values; see `lcn_tf.config.Embedding`.
    deduplicate: Switch of the look-up by distinct rows, which are then gathered locally. The gradient, which replicas
      exchange and the optimizer applies, then has one row per distinct id. False for XLA, which has no `tf.unique`.
    scale: Factor of the initial values that `init` draws.
    starts: Initial values, `[size, width]`, of the tables that do not begin with random ones, by vocabulary.
    frozen: Vocabularies whose tables are not trained.
    vocabularies: Vocabulary of each table that is not called by its own, by the name of the table.

  Attributes:
    tables: Tables by name.
    vocabularies: Vocabulary of each table by name. A warm start carries rows by the values of the vocabulary.
    narrow: Variables by name that look-ups read in the place of a table: its rows in a narrower type, then their scales
      if that is int8. Empty until `make_narrow`.
  """

  narrow: Mapping[str, list[tf.Variable]] = MappingProxyType({})  # in an instance it would be part of checkpoints

  def __init__(
    self,
    sizes: Mapping[str, int],
    unknown: Mapping[str, int],
    widths: Mapping[str, int],
    init: str,
    deduplicate: bool = True,
    scale: float = 1.0,
    starts: Mapping[str, np.ndarray] | None = None,
    frozen: Collection[str] = (),
    vocabularies: Mapping[str, str] | None = None,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    self.deduplicate = deduplicate
    self.vocabularies = {name: (vocabularies or {}).get(name, name) for name in sizes}
    self.tables = {}
    for name, size in sizes.items():
      width = widths[name]
      limit = initial_limit(init, size, width, scale)
      with in_parts():
        self.tables[name] = self.add_weight(
          f"{name}/table",
          [size, width],
          initializer=functools.partial(_initial, 1 + unknown[name], limit),
          trainable=name not in frozen,
          experimental_autocast=False,  # only the rows that are read are cast
        )
      # after the draw: whatever is drawn next does not depend on it
      if (start := (starts or {}).get(name)) is not None:
        put(self.tables[name], start)

  def call(self, lookups: Sequence[tuple[str, tf.Tensor]]) -> list[tf.Tensor]:
    """Embeddings `[..., width]` of each (vocabulary, indices `[...]` int64), in order."""
    order: dict[str, list[int]] = {}
    for position, (name, _) in enumerate(lookups):
      order.setdefault(name, []).append(position)
    results: list[Any] = [None] * len(lookups)
    for name, positions in order.items():
      flat = [tf.reshape(lookups[position][1], [-1]) for position in positions]
      joined = tf.concat(flat, axis=0)
      if self.deduplicate:
        distinct, index = tf.unique(joined, out_idx=tf.int64)
        rows = repeat_rows(self._rows(name, distinct), index)
      else:
        rows = self._rows(name, joined)
      for position, part in zip(positions, tf.split(rows, [tf.size(ids) for ids in flat], num=len(flat)), strict=True):
        ids = lookups[position][1]
        part = tf.reshape(part, tf.concat([tf.shape(ids), [rows.shape[-1]]], axis=0))
        part.set_shape(ids.shape.concatenate([rows.shape[-1]]))
        results[position] = part
    return results

  def make_narrow(self, dtype: Dtype) -> None:
    """Stores the rows of the tables in a narrower type, for serving. Look-ups widen the rows that they read.

    Tables that change afterwards are not followed.

    Args:
      dtype: Type of the stored rows. float32 leaves the tables as they are.

    Raises:
      ValueError: A table has a number that is not finite, and `dtype` is int8. The message has the table.
    """
    if dtype != "float32":
      self.narrow = {name: self._stored(name, dtype) for name in self.tables}

  def _stored(self, name: str, dtype: Dtype) -> list[tf.Variable]:
    try:
      parts = stored(self.tables[name], dtype)
    except ValueError as error:
      raise ValueError(f"{name}: {error}") from None
    options: dict[str, Any] = {"trainable": False, "experimental_autocast": False}
    return [
      self.add_weight(
        f"{name}/table_{part}", values.shape, values.dtype, initializer=functools.partial(_given, values), **options
      )
      for part, values in parts.items()
    ]

  def unread(self) -> list[tf.Variable]:
    """The tables that `make_narrow` has put others in the place of."""
    return [self.tables[name] for name in self.narrow]

  def _rows(self, name: str, indices: tf.Tensor) -> tf.Tensor:
    parts = self.narrow.get(name, [self.tables[name]])
    rows, *scales = (gather_rows(part, indices) for part in parts)
    return tf.cast(from_int8(rows, *scales) if scales else rows, self.compute_dtype)


def initial_limit(init: str, size: int, width: int, scale: float = 1.0) -> float:
  """Largest of the initial values of a table `[size, width]`, which are uniform in +- the limit."""
  return scale * float(np.sqrt(6.0 / (size + width)) if init == "glorot" else width**-0.5)


def _initial(first: int, limit: float, shape: Sequence[int], dtype: Any = None, **kwargs: Any) -> tf.Tensor:
  """Uniform values in [-limit, limit] from row `first` on, zeros before; or a part of the rows."""
  rows = keras.initializers.RandomUniform(-limit, limit)(shape, dtype, **kwargs)
  zeros = max(0, first - kwargs.get("partition_offset", [0])[0])
  return tf.concat([tf.zeros_like(rows[:zeros]), rows[zeros:]], axis=0)


def _given(values: Any, shape: Sequence[int], dtype: Any = None, **kwargs: Any) -> tf.Tensor:
  return tf.constant(values, dtype, shape)
