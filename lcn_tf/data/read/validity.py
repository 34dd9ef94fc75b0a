"""The definition of a valid record, twice side by side: for one record with a reason, and for a batch in the graph.

Every size agrees with the schema; ids and indices are rows of their tables; times fall; and no candidate may see a
behaviour that is not strictly older than itself.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.data.field_values import least_values, value_groups
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema

FAILED = "invalid record"  # heads every assertion of `assert_valid`


def problem(request: records.Request, schema: Schema, domain: DomainName) -> str | None:
  """The reason why a record with candidates of `domain` is not valid; None for a valid one."""
  count = len(request.items)
  if not 1 <= count <= schema.candidates:
    return f"{count} candidates, allowed are 1 to {schema.candidates}."
  if request.user < 1:
    return f"user {request.user}, allowed are 1 and above."
  tables: list[tuple[str, np.ndarray, int, int]] = [
    ("candidate", request.items[:, np.newaxis], 1, schema.domain(domain).items)
  ]
  groups = [("user field", schema.user_fields, request.user_fields[np.newaxis])]
  groups += [("candidate, context field", schema.context_fields, request.context)]
  for d in DOMAINS:
    history = request.history(d)
    if len(history.items) > schema.capacity(d):
      return f"{len(history.items)} {d!r} behaviours, a record holds {schema.capacity(d)} at most."
    tables += [(f"{d!r} behaviour", history.items[:, np.newaxis], 1, schema.domain(d).items)]
    groups += [(f"{d!r} behaviour, cross field", schema.domain(d).cross_fields, history.cross)]
  for what, values, lowest, size in tables:
    for row in np.flatnonzero((values[:, 0] < lowest) | (values[:, 0] >= size))[:1]:
      return f"{what} {row}: item {values[row, 0]}, allowed are {lowest} to {size - 1} (rows of the catalogue)."
  for what, fields, values in groups:
    limits = _limits(fields, schema)
    for row, column in np.argwhere((values < 0) | (values >= limits))[:1]:
      name = [feature.name for feature in fields for _ in range(feature.max_values)][column]
      where, _, kind = what.rpartition(", ")
      where = f"{where} {row}: " if where else ""
      return f"{where}{kind} {name!r}: index {values[row, column]}, allowed are 0 to {limits[column] - 1}."
  if wrong := _wrong_value(request, schema):
    return wrong
  for row in np.flatnonzero(~np.isfinite(request.labels) | ~np.isfinite(request.weights) | (request.weights < 0))[:1]:
    return f"candidate {row}: label {request.labels[row]}, weight {request.weights[row]}."
  for d in DOMAINS:
    history = request.history(d)
    for row in np.flatnonzero(np.diff(history.times) > 0)[:1]:
      return f"{d!r} behaviour {row + 1} is newer than behaviour {row}; a history is stored newest first."
    for row, first in enumerate(history.first_visible):
      if first < 0:
        return f"candidate {row}: first visible {d!r} behaviour {first}."
      if first < len(history.times) and history.times[first] >= request.times[row]:
        return f"candidate {row} may see {d!r} behaviour {first}, which is not older than it."
  return None


def assert_valid(
  data: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor], schema: Schema, domain: DomainName
) -> None:
  """Asserts in the graph that `problem` finds no fault of any record.

  Args:
    data: Result of `records.features` for the batch.
    batch: Result of `records.tensors` for the batch, wide enough for the longest history.
    schema: Schema with sizes.
    domain: Domain of the candidates.

  Raises:
    tf.errors.InvalidArgumentError: A record is broken when the graph runs. The message has the fault;
      `diagnosis.explain` finds the place.
  """

  checked: dict[str, tf.Tensor] = {}

  def check(holds: tf.Tensor, what: str) -> None:
    checked[what] = tf.reduce_all(holds)

  counts = {"": tf.constant(1), "N": records.values(data["candidate_items"], "int32")}
  counts |= {d: records.values(data[f"{d}_items"], "int32") for d in DOMAINS}
  sizes_agree = [
    tf.strings.length(data[name]) == counts[axis] * (abs(width) * tf.as_dtype(dtype).size)
    for name, (dtype, axis, width) in records.layout(schema).items()
  ]
  check(tf.stack([tf.reduce_all(agree) for agree in sizes_agree]), "a feature's size")
  check((counts["N"] >= 1) & (counts["N"] <= schema.candidates), "the number of candidates")
  check(batch["user"] >= 1, "the user")
  for name, (_, group) in value_groups(schema).items():
    sound = tf.math.is_finite(batch[name]) & (batch[name] >= least_values(group))
    check(sound, f"a value of {name}")
  finite = tf.math.is_finite(batch["label"]) & tf.math.is_finite(batch["weight"]) & (batch["weight"] >= 0)
  check(finite, "a label or weight")
  ids = {"candidate": (batch["candidate_items"], counts["N"], domain)}
  fields = {"user": (batch["user_fields"], schema.user_fields)}
  fields |= {"context": (batch["candidate_context"], schema.context_fields)}
  for d in DOMAINS:
    check(counts[d] <= schema.capacity(d), f"the length of a {d} history")
    ids[d] = (batch[f"{d}_items"], counts[d], d)
    fields[f"{d} cross"] = (batch[f"{d}_cross"], schema.domain(d).cross_fields)
  for what, (items, count, d) in ids.items():
    in_table = (items >= 0) & (items < schema.domain(d).items)
    check(tf.reduce_all(in_table) & tf.reduce_all(tf.math.count_nonzero(items, 1, dtype=tf.int32) == count), what)
  for what, (indices, group) in fields.items():
    if group:
      check((indices >= 0) & (indices < _limits(group, schema)), f"a {what} field")
  for d in DOMAINS:
    times, first = batch[f"{d}_times"], batch[f"{d}_first_visible"]
    real = tf.range(tf.shape(times)[1])[tf.newaxis] < counts[d][:, tf.newaxis]
    check((times[:, 1:] <= times[:, :-1]) | ~real[:, 1:], f"the order of a {d} history")
    sees = batch["candidate_mask"] & (first < counts[d][:, tf.newaxis])
    newest = tf.gather(times, tf.clip_by_value(first, 0, tf.shape(times)[1] - 1), batch_dims=1)
    check((first >= 0) & ((newest < batch["candidate_times"]) | ~sees), f"what a candidate sees of its {d} history")
  holds = tf.stack(list(checked.values()))
  tf.debugging.Assert(tf.reduce_all(holds), [FAILED, tf.boolean_mask(list(checked), ~holds)])


def _wrong_value(request: records.Request, schema: Schema) -> str | None:
  """The first float value of a record that is none."""
  found = {"user_values": request.user_values[np.newaxis], "candidate_values": request.context_values}
  found |= {f"{d}_values": request.history(d).values for d in DOMAINS}
  for name, (_, features) in value_groups(schema).items():
    least = least_values(features)
    names = [feature.name for feature in features for _ in range(feature.value_columns)]
    for row, column in np.argwhere(~np.isfinite(found[name]) | (found[name] < least))[:1]:
      bound = " of at least 0" if least[column] == 0 else ""
      value = found[name][row, column]
      return f"{name} {row}: value {value} of {names[column]!r}, allowed are finite numbers{bound}."
  return None


def _limits(fields: tuple[Feature, ...], schema: Schema) -> np.ndarray:
  """Rows of the vocabulary of each column."""
  sizes = [schema.vocabularies[feature.vocabulary].size for feature in fields for _ in range(feature.max_values)]
  return np.array(sizes, np.int32)
