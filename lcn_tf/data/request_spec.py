"""The serving signature: the third reading of the schema."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from lcn_tf.data.field_values import value_groups
from lcn_tf.schema import DOMAINS, DomainName, Schema, columns, value_columns


def served_spec(schema: Schema) -> dict[str, tf.TensorSpec]:
  """What `rank` takes: the tensors of `request_spec` that have columns. Some servers and clients send no others."""
  return {name: spec for name, spec in request_spec(schema).items() if 0 not in spec.shape}


def with_empty(request: Mapping[str, tf.Tensor], schema: Schema) -> dict[str, tf.Tensor]:
  """The tensors of `request_spec` from those of `served_spec`: those without columns are added."""
  full = dict(request)
  axes = {"candidate_context": "candidate_items"} | {f"{d}_cross": f"{d}_items" for d in DOMAINS}
  for name, spec in request_spec(schema).items():
    if name not in full:
      size = tf.shape(request[axes[name]]) if name in axes else tf.shape(request["candidate_items"])[:1]
      full[name] = tf.zeros(tf.concat([size, [0]], axis=0), spec.dtype)
  return full


def request_spec(schema: Schema) -> dict[str, tf.TensorSpec]:
  """What a model takes: the tensors of `lcn_tf.data.records` that do not need a label, any B, N and L.

  Several users' requests are rows of B. Candidates that share one moment may be given `first_visible` as `[B, 1]`.
  """
  context, user = columns(schema.context_fields), columns(schema.user_fields)
  shapes: dict[str, tuple[list[int | None], tf.DType]] = {
    "user_fields": ([None, user], tf.int32),
    "candidate_items": ([None, None], tf.int32),
    "candidate_times": ([None, None], tf.int64),
    "candidate_context": ([None, None, context], tf.int32),
  }
  for d in DOMAINS:
    shapes[f"{d}_items"] = ([None, None], tf.int32)
    shapes[f"{d}_times"] = ([None, None], tf.int64)
    shapes[f"{d}_cross"] = ([None, None, columns(schema.domain(d).cross_fields)], tf.int32)
    shapes[f"{d}_length"] = ([None], tf.int32)
    shapes[f"{d}_first_visible"] = ([None, None], tf.int32)
  for name, (axis, features) in value_groups(schema).items():
    shapes[name] = ([None, *([None] if axis else []), value_columns(features)], tf.float32)
  return {name: tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in shapes.items()}


def at_least_one_column(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """The request, with a column of padding in place of histories of width 0, which nothing can be gathered from.

  Integers of histories come back as int64: int32 would be joined on the host.
  """
  padded = dict(request)
  for d in DOMAINS:
    for name in (f"{d}_items", f"{d}_times", f"{d}_cross", f"{d}_values", f"{d}_projections"):
      if name not in request:
        continue
      dtype = tf.int64 if request[name].dtype.is_integer else request[name].dtype
      shape = tf.shape(request[name])
      missing = tf.concat([shape[:1], [tf.maximum(1 - shape[1], 0)], shape[2:]], axis=0)
      padded[name] = tf.concat([tf.cast(request[name], dtype), tf.zeros(missing, dtype)], axis=1)
      padded[name].set_shape([None, None, *request[name].shape[2:]])
  return padded


def example_batch(schema: Schema, requests: int = 1, candidates: int = 1, length: int = 1) -> dict[str, tf.Tensor]:
  """A batch of zeros with every tensor of `lcn_tf.data.records`, to build models with."""
  sizes = [requests, candidates]
  batch = {}
  for name, spec in request_spec(schema).items():
    of_history = name.endswith(("_items", "_times", "_cross", "_values")) and not name.startswith("candidate")
    shape = [requests, length if of_history else candidates, *spec.shape[2:]] if spec.shape.rank > 1 else [requests]
    if name in ("user_fields", "user_values"):
      shape = [requests, spec.shape[1]]
    batch[name] = tf.zeros(shape, spec.dtype)
  batch["user"] = tf.zeros([requests], tf.int64)
  batch["candidate_mask"] = tf.zeros(sizes, tf.bool)
  batch["label"] = tf.zeros(sizes, tf.float32)
  batch["weight"] = tf.zeros(sizes, tf.float32)
  return batch


def batch_spec(schema: Schema, requests: int, widths: Mapping[DomainName, int]) -> dict[str, tf.TensorSpec]:
  """The specs of a batch with every tensor of `lcn_tf.data.records` and `schema.candidates` candidates.

  Args:
    schema: Schema with sizes.
    requests: Number of requests B.
    widths: Behaviours L of each history.
  """
  specs = {}
  for name, tensor in example_batch(schema).items():
    shape = [requests, *tensor.shape[1:]]
    if tensor.shape.rank > 1 and not name.startswith("user_"):
      domain = next((d for d in DOMAINS if name.startswith(f"{d}_") and not name.endswith("_first_visible")), None)
      shape[1] = schema.candidates if domain is None else widths[domain]
    specs[name] = tf.TensorSpec(shape, tensor.dtype, name)
  return specs


def traced(function: Callable[..., Any], specs: Mapping[str, tf.TensorSpec], inline: bool = True) -> Any:
  """The graph of a function of named tensors, as a signature of an export.

  Args:
    function: Function.
    specs: Shapes and types of its tensors.
    inline: True if TensorFlow may copy the graph to where it is called. A large one that is called in two places is
      made ready once without.
  """
  attributes = None if inline else {"_noinline": True}
  return tf.function(function, autograph=False, experimental_attributes=attributes).get_concrete_function(**specs)
