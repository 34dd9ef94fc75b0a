"""The tensors of the signature `rank_raw`: ids, values and times as a service has them.

    time              [B]         int64    moment of the request, in seconds
    candidate_ids     [B, N]      ids      items of the target domain; what is behind the count is padding
    candidate_count   [B]         int32    candidates that are real
    user_{field}      [B]         values   a field that holds lists: [B, M]
    user_{vector}     [B, width]  float32  a user without a vector has zeros
    context_{field}   [B, N | 1]  values   one column is for all candidates
    {d}_ids           [B, L]      ids      the behaviours in domain d ('target', 'source'), in any order
    {d}_times         [B, L]      int64    their moments, in seconds
    {d}_count         [B]         int32    behaviours that are real
    {d}_{field}       [B, L]      values   cross fields

Ids are int64 if those of the log are integers, else strings. The values of a categorical field are strings, those of a
numeric one float64. Weights of a list are float64 `[B, M]`, under the name of their column. A missing value is the
empty string or NaN; in a list the empty string is no value, whatever its weight.
"""

import re
from collections import Counter
from typing import Literal

import tensorflow as tf

from lcn_tf.data.id_mapping import IdMapping
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema

Group = Literal["user", "context", "target", "source"]


def group_fields(schema: Schema) -> dict[Group, tuple[Feature, ...]]:
  """The fields that a request has values of."""
  return {
    "user": schema.user_fields,
    "context": schema.context_fields,
    **{d: schema.domain(d).cross_fields for d in DOMAINS},  # type: ignore[dict-item]
  }


def input_name(group: Group, column: str) -> str:
  """The name of the tensor of a column. Letters, digits and the underscore stay."""
  return f"{group}_{re.sub('[^0-9A-Za-z_]', '_', column)}"


def raw_spec(schema: Schema, id_types: dict[DomainName, tf.DType]) -> dict[str, tf.TensorSpec]:
  """Tensors of a raw request.

  Args:
    schema: Schema of the records.
    id_types: Type of the item ids of each domain, int64 or string.

  Raises:
    ValueError: Two columns have one name.
  """
  shapes: list[tuple[str, list[int | None], tf.DType]] = [
    ("time", [None], tf.int64),
    ("candidate_ids", [None, None], id_types["target"]),
    ("candidate_count", [None], tf.int32),
  ]
  for d in DOMAINS:
    shapes += [
      (f"{d}_ids", [None, None], id_types[d]),
      (f"{d}_times", [None, None], tf.int64),
      (f"{d}_count", [None], tf.int32),
    ]
  for group, features in group_fields(schema).items():
    for feature in features:
      shape: list[int | None] = [None] if group == "user" and feature.max_values == 1 else [None, None]
      shapes.append((input_name(group, feature.name), shape, tf.float64 if feature.numeric else tf.string))
      if feature.weights:
        shapes.append((input_name(group, feature.weights), [None, None], tf.float64))
  shapes += [(input_name("user", vector.name), [None, vector.width], tf.float32) for vector in schema.user_vectors]
  twice = [name for name, count in Counter(name for name, _, _ in shapes).items() if count > 1]
  if twice:
    raise ValueError(f"two columns would be the input {twice[0]!r}")
  return {name: tf.TensorSpec(shape, dtype, name) for name, shape, dtype in shapes}


def id_types(mapping: IdMapping) -> dict[DomainName, tf.DType]:
  """The type of the item ids of each domain."""
  return {d: tf.int64 if mapping.items[d]["item_id"].dtype.is_integer() else tf.string for d in DOMAINS}


def refusal(mapping: IdMapping, schema: Schema) -> str:
  """Why an export with this id mapping has no raw signature; empty if it has one."""
  for name, table in mapping.vocabularies.items():
    if table.oov > 1 and table.seed is not None:
      return f"the vocabulary {name!r} has {table.oov} out-of-vocabulary rows by a hash that graphs do not compute"
  try:
    raw_spec(schema, id_types(mapping))
  except ValueError as error:
    return str(error)
  return ""
