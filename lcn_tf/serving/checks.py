"""Checks of a request in the graph: a wrong request is an error that names the tensor, never a number."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lcn_tf.data.field_values import index_groups, least_values, value_groups
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema, UserVector


def checked(request: dict[str, tf.Tensor], schema: Schema, counted: str = "candidate_items") -> dict[str, tf.Tensor]:
  """The request, whose tensors must agree with each other and with the schema.

  All tensors have the size B of the requests. Those of candidates have N besides, and those of a history L;
  `first_visible` may be `[B, 1]`.

  Items are rows of the catalogue, and fields rows of their vocabularies. A length is at most L. Behaviours come newest
  first, none of them padding before the length. The first visible behaviour of a candidate is strictly older than the
  candidate. Padding only has to be in range: candidates whose item is 0, and behaviours beyond the length.

  Args:
    request: The tensors of `request_spec`; those without columns may be left out. Projections of the items of a
      history may come besides, `{d}_projections` `[B, L, H * E]`, finite.
    schema: Schema with sizes.
    counted: Tensor whose first size is the number of requests, for messages.

  Returns:
    The same values; integers as int64.

  Raises:
    tf.errors.InvalidArgumentError: A tensor is wrong when the graph runs. The message has its name, its values and the
      allowed ones.
  """
  with tf.control_dependencies(_sizes(request, counted)):
    # int64: int32 is compared on the host
    values = {
      name: tf.identity(tf.cast(tensor, tf.int64) if tensor.dtype.is_integer else tensor)
      for name, tensor in request.items()
    }
  made = [within(values, "candidate_items", schema.target.items, "rows of the target catalogue")]
  for name, features in index_groups(schema).items():
    made.append(_fields(values, name, features, schema))
  for d in DOMAINS:
    made += _history(values, d, schema)
  for name, (_, parts) in value_groups(schema).items():
    made += _field_values(values, name, parts)
  for name in sorted({f"{d}_projections" for d in DOMAINS} & set(values)):
    made.append(holds(values, name, tf.math.is_finite(values[name]), "finite projections"))
  with tf.control_dependencies(made):
    return {name: tf.identity(value) for name, value in values.items()}


def _sizes(request: dict[str, tf.Tensor], counted: str) -> list[tf.Operation]:
  """Assertions on the sizes of all axes that the schema does not fix."""
  shapes = {name: tf.shape(tensor, out_type=tf.int64) for name, tensor in request.items()}
  requests, candidates = shapes[counted][0], shapes["candidate_items"][1]
  names = sorted(set(request) - {counted})
  made = [same_size(name, shapes, 0, requests, f"as many requests as {counted}") for name in names]
  for name in sorted({"candidate_times", "candidate_context", "candidate_values"} & set(request)):
    made.append(same_size(name, shapes, 1, candidates, "as many candidates as candidate_items"))
  for d in DOMAINS:
    for name in sorted({f"{d}_times", f"{d}_cross", f"{d}_values", f"{d}_projections"} & set(request)):
      made.append(same_size(name, shapes, 1, shapes[f"{d}_items"][1], f"as many behaviours as {d}_items"))
    shared = "as many columns as candidate_items, or one"
    made.append(same_size(f"{d}_first_visible", shapes, 1, candidates, shared, or_one=True))
  return made


def same_size(
  name: str, shapes: Mapping[str, tf.Tensor], axis: int, size: tf.Tensor, allowed: str, or_one: bool = False
) -> tf.Operation:
  """Assertion on the size of an axis.

  Args:
    name: Name of the tensor.
    shapes: Shapes int64 by name.
    axis: Axis.
    size: Size that it must have.
    allowed: Words for that, for the message.
    or_one: True if it may be 1, too.
  """
  found = shapes[name][axis]
  holds = (found == size) | (found == 1) if or_one else found == size
  return asserted(holds, [f"{name}: expected {allowed}; found a tensor of shape", shapes[name]])


def _history(values: dict[str, tf.Tensor], d: DomainName, schema: Schema) -> list[tf.Operation]:
  """Assertions on the values of one history."""
  items, times, length, first = (values[f"{d}_{part}"] for part in ("items", "times", "length", "first_visible"))
  width = tf.shape(items, out_type=tf.int64)[1]
  real = tf.range(width)[tf.newaxis] < length[:, tf.newaxis]
  falling = (times[:, 1:] <= times[:, :-1]) | ~real[:, 1:]
  # a column of padding behind, so that an empty history can be read from, too
  padded = tf.concat([times, tf.zeros([tf.shape(times)[0], 1], tf.int64)], axis=1)
  newest = tf.gather(padded, tf.clip_by_value(first, 0, width), batch_dims=1)
  sees = (values["candidate_items"] > 0) & (first < length[:, tf.newaxis])
  older = (newest < values["candidate_times"]) | ~sees
  return [
    within(values, f"{d}_items", schema.domain(d).items, f"rows of the {d} catalogue"),
    holds(values, f"{d}_length", (length >= 0) & (length <= width), f"at least 0 and at most the width of {d}_items"),
    holds(values, f"{d}_items", (items > 0) | ~real, f"no padding (0) within {d}_length"),
    holds(values, f"{d}_times", falling, f"behaviours newest first within {d}_length"),
    holds(values, f"{d}_first_visible", first >= 0, "at least 0"),
    holds(values, f"{d}_first_visible", older, f"to begin with one of {d}_times that is older than candidate_times"),
  ]


def _fields(values: dict[str, tf.Tensor], name: str, features: tuple[Feature, ...], schema: Schema) -> tf.Operation:
  """Assertion on vocabulary indices, a column each."""
  sizes = [schema.vocabularies[feature.vocabulary].size for feature in features for _ in range(feature.max_values)]
  return within(values, name, sizes, f"indices of {', '.join(feature.name for feature in features)}")


def _field_values(
  values: dict[str, tf.Tensor], name: str, features: tuple[Feature | UserVector, ...]
) -> list[tf.Operation]:
  """Assertions on float values: finite, and weights at least 0."""
  found = values[name]
  lowest = least_values(features)
  what = ", ".join(feature.name for feature in features if feature.value_columns)
  return [
    holds(values, name, tf.math.is_finite(found), f"finite values of {what}"),
    holds(values, name, found >= lowest, f"values of {what}, weights of at least 0"),
  ]


def within(values: Mapping[str, tf.Tensor], name: str, sizes: int | list[int], what: str) -> tf.Operation:
  """Assertion that all values are in [0, size) of their column."""
  found, size = values[name], tf.constant(sizes, tf.int64)
  return holds(values, name, (found >= 0) & (found < size), f"{what}, at least 0 and below {sizes}")


def holds(values: Mapping[str, tf.Tensor], name: str, condition: tf.Tensor, allowed: str) -> tf.Operation:
  """Assertion that a condition is true of all values of the tensor `name`, which are numbers."""
  found = values[name]
  message = f"{name}: expected {allowed}; found, smallest and largest"
  # the smallest by the largest: Min has no GPU kernel for integers
  span = [-tf.reduce_max(-found), tf.reduce_max(found)]
  return asserted(tf.reduce_all(condition), [message, *span])


def asserted(condition: tf.Tensor, data: list[Any]) -> tf.Operation:
  """Assertion without the branch that `tf.debugging.Assert` makes: that takes longer to trace, and to run."""
  return tf.raw_ops.Assert(condition=condition, data=data, summarize=3)
