"""What a model keeps for float values: those of the items, a vector per standardised field, projections of vectors.

A schema without float values gives none of these.
"""

from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import Embedding
from lcn_tf.data.field_values import vector_columns
from lcn_tf.layers.parts import frozen_zeros
from lcn_tf.models.lookups import Handles, Lookups
from lcn_tf.schema import DomainName, Feature, Schema, value_columns

AddWeight = Callable[..., tf.Variable]


def item_values(add_weight: AddWeight, schema: Schema, domains: Iterable[DomainName]) -> dict[DomainName, tf.Variable]:
  """Variables for the float values of the item fields, `[items, value_columns]`, by domain; they are not trained.

  Args:
    add_weight: Method of the layer that keeps them.
    schema: Schema with sizes.
    domains: Domains whose items are read.
  """
  columns = {d: value_columns(schema.catalogue_features(d)) for d in domains}
  return {
    d: frozen_zeros(add_weight, f"item_values/{d}", [schema.domain(d).items, width])
    for d, width in columns.items()
    if width
  }


def slopes(add_weight: AddWeight, schema: Schema, widths: Mapping[str, int], key: str) -> dict[str, tf.Variable]:
  """Vectors `[width]` that standardised values are multiplied by, by the name of the table.

  They begin as zeros, as if there were buckets alone.

  Args:
    add_weight: Method of the layer that keeps them.
    schema: Schema.
    widths: Widths of the embedding tables, by name.
    key: Ending that a table of keys has after the name of its vocabulary.
  """
  return {
    table: add_weight(f"slope/{table}", [width], initializer="zeros")
    for table, width in widths.items()
    if schema.standardised(table.removesuffix(key))
  }


def field_lookups(
  plan: Lookups, features: tuple[Feature, ...], batch: Mapping[str, tf.Tensor], indices: str, values: str
) -> Handles:
  """Handles of a batch's fields, from the names of the tensors of their indices and of their float values."""
  floats = batch[values] if value_columns(features) else None
  return plan.add(features, tf.cast(batch[indices], tf.int64), floats)


def user_projections(schema: Schema, config: Embedding) -> dict[str, keras.layers.Dense]:
  """Linear projections of the users' vectors, by name."""
  return {
    v.name: keras.layers.Dense(config.dims.get(v.name, config.dim), use_bias=False, name=f"user_vector/{v.name}")
    for v in schema.user_vectors
  }


def projected_users(
  projections: Mapping[str, keras.layers.Dense], schema: Schema, batch: Mapping[str, tf.Tensor]
) -> list[tf.Tensor]:
  """The users' vectors of a batch, projected: `[B, width of the projection]` each.

  Args:
    projections: Result of `user_projections`.
    schema: Schema.
    batch: Tensors of `lcn_tf.data.records`.
  """
  columns = vector_columns(schema)
  return [projections[name](batch["user_values"][:, own]) for name, own in columns.items()]
