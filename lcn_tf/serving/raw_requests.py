"""Raw requests to the tensors of `rank`, in a graph: what `RequestEncoder` does, without Python."""

import pathlib

import tensorflow as tf

from lcn_tf.data.build.values import MILLISECONDS
from lcn_tf.data.field_values import value_groups
from lcn_tf.data.id_mapping import BucketTable, IdMapping
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Feature, Schema
from lcn_tf.serving.checks import holds, same_size
from lcn_tf.serving.raw_spec import Group, group_fields, id_types, input_name, raw_spec
from lcn_tf.serving.raw_tables import Buckets, RowTable, Vocabulary, positions_of, shares

Tensors = dict[str, tf.Tensor]


class RawRequests(tf.Module):
  """The tensors of `lcn_tf.data.request_spec` from those of `lcn_tf.serving.raw_spec`.

  Histories come in any order and length. What is not strictly older than the request is left out, and the newest
  `max_length` are kept; of equal times the later column is newer. An item that the id mapping does not have becomes
  the unknown item, an unknown value the out-of-vocabulary row that the records would have.

  Args:
    mapping: Id mapping of the model.
    schema: Schema with sizes.
    folder: Folder for the files that the SavedModel copies to its assets.
  """

  def __init__(self, mapping: IdMapping, schema: Schema, folder: pathlib.Path):
    super().__init__(name="raw_requests")
    self.schema = schema
    self.spec = raw_spec(schema, id_types(mapping))
    self.items: dict[str, RowTable] = {}
    self.fields: dict[str, Vocabulary | Buckets] = {}
    for d, dtype in id_types(mapping).items():
      ids = mapping.items[d].sort("row")["item_id"].to_list()
      keys = ids if dtype == tf.int64 else list(map(str, ids))
      self.items[d] = RowTable(keys, UNKNOWN_ITEM + 1, folder / f"{d}_items.txt", dtype)
    for number, name in enumerate(
      sorted({feature.vocabulary for features in group_fields(schema).values() for feature in features})
    ):
      table = mapping.vocabularies[name]
      self.fields[name] = (
        Buckets(table) if isinstance(table, BucketTable) else Vocabulary(table, folder / f"vocabulary_{number}.txt")
      )

  def __call__(self, raw: Tensors) -> Tensors:
    """The tensors of `rank`; those of histories are as wide as the longest history that is seen.

    Raises:
      tf.errors.InvalidArgumentError: A tensor is wrong when the graph runs; the message has its name.
    """
    for checks in (self._sizes, self._values):  # values of tensors whose sizes agree
      with tf.control_dependencies(checks(raw)):
        raw = {name: tf.identity(tensor) for name, tensor in raw.items()}
    real = _within(raw["candidate_ids"], raw["candidate_count"])
    tensors = {
      "candidate_items": tf.where(real, self.rows("target", raw["candidate_ids"]), 0),
      "candidate_times": tf.where(real, raw["time"][:, tf.newaxis], 0),
    }
    schema = self.schema
    tensors["user_fields"], user = self._group("user", schema.user_fields, raw, raw["time"])
    context, context_values = self._group("context", schema.context_fields, raw, raw["time"][:, tf.newaxis])
    tensors["candidate_context"] = _for_candidates(context, real)
    vectors = [raw[input_name("user", vector.name)] for vector in schema.user_vectors]
    user = tf.concat([user, *vectors], axis=-1)
    values = {"user_values": user, "candidate_values": _for_candidates(context_values, real)}
    for d in DOMAINS:
      history, values[f"{d}_values"] = self._history(d, raw)
      tensors |= history
    return tensors | {name: values[name] for name in value_groups(self.schema)}

  def rows(self, domain: DomainName, ids: tf.Tensor) -> tf.Tensor:
    """The catalogue row of every id, int64."""
    rows = self.items[domain](ids)
    return tf.where(rows < 0, tf.constant(UNKNOWN_ITEM, tf.int64), rows)

  def _history(self, domain: DomainName, raw: Tensors) -> tuple[Tensors, tf.Tensor]:
    """The tensors of a history, and the float values of its cross fields."""
    times = raw[f"{domain}_times"]
    width = tf.shape(times)[1]
    seen = _within(times, raw[f"{domain}_count"]) & (times < raw["time"][:, tf.newaxis])
    length = tf.minimum(
      tf.reduce_sum(tf.cast(seen, tf.int32), axis=1), tf.constant(self.schema.domain(domain).max_length)
    )
    # reversed: of equal ones top_k takes the first
    ages = tf.reverse(tf.where(seen, times, tf.constant(-1, tf.int64)), [1])
    newest, place = tf.math.top_k(ages, tf.reduce_max(tf.concat([length, [0]], axis=0)))
    place = width - 1 - place
    real = _within(place, length)
    fields = self.schema.domain(domain).cross_fields
    columns = {
      input_name(domain, feature.name): tf.gather(raw[input_name(domain, feature.name)], place, batch_dims=1)
      for feature in fields
    }
    cross, values = self._group(domain, fields, columns, place)
    ids = tf.gather(raw[f"{domain}_ids"], place, batch_dims=1)
    there = real[..., tf.newaxis]
    tensors = {
      f"{domain}_items": tf.where(real, self.rows(domain, ids), 0),
      f"{domain}_times": tf.where(real, newest, 0),
      f"{domain}_cross": tf.where(there, cross, tf.zeros([], cross.dtype)),
      f"{domain}_length": length,
      f"{domain}_first_visible": tf.zeros([tf.shape(times)[0], 1], tf.int32),
    }
    return tensors, tf.where(there, values, tf.zeros([], values.dtype))

  def _group(
    self, group: Group, features: tuple[Feature, ...], raw: Tensors, like: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Indices `[..., columns]` int64 and float values `[..., value_columns]` of a group of fields.

    Without fields both have the shape of `like` and 0 columns.
    """
    rows, values = [], []
    for feature in features:
      given, table = raw[input_name(group, feature.name)], self.fields[feature.vocabulary]
      if isinstance(table, Buckets):
        rows.append(table(given)[..., tf.newaxis])
        if feature.standardise:
          values.append(table.standardised(given)[..., tf.newaxis])
      elif feature.max_values == 1:
        rows.append(table(given)[..., tf.newaxis])
      else:
        place = positions_of(given != "", feature.max_values)
        rows.append(tf.gather(tf.pad(table(given), [[0, 0], [0, 1]]), place, batch_dims=1))
        if feature.weights:
          weights = tf.pad(raw[input_name(group, feature.weights)], [[0, 0], [0, 1]])
          values.append(shares(tf.gather(weights, place, batch_dims=1)))
    none = tf.concat([tf.shape(like), [0]], axis=0)
    return (
      tf.concat(rows, axis=-1) if rows else tf.zeros(none, tf.int64),
      tf.concat(values, axis=-1) if values else tf.zeros(none, tf.float32),
    )

  def _sizes(self, raw: Tensors) -> list[tf.Operation]:
    """Assertions on the sizes of all axes."""
    shapes = {name: tf.shape(tensor, out_type=tf.int64) for name, tensor in raw.items()}
    made = [
      same_size(name, shapes, 0, shapes["time"][0], "as many requests as time") for name in sorted(set(raw) - {"time"})
    ]
    for feature in self.schema.context_fields:
      name = input_name("context", feature.name)
      candidates = "as many candidates as candidate_ids, or one column"
      made.append(same_size(name, shapes, 1, shapes["candidate_ids"][1], candidates, or_one=True))
    for d in DOMAINS:
      names = [f"{d}_times", *(input_name(d, feature.name) for feature in self.schema.domain(d).cross_fields)]
      made += [same_size(name, shapes, 1, shapes[f"{d}_ids"][1], f"as many behaviours as {d}_ids") for name in names]
    for feature in self.schema.user_fields:
      if feature.weights:
        values, weights = input_name("user", feature.name), input_name("user", feature.weights)
        made.append(same_size(weights, shapes, 1, shapes[values][1], f"as many columns as {values}"))
    return made

  def _values(self, raw: Tensors) -> list[tf.Operation]:
    """Assertions on numbers and times."""
    moment = f"seconds since 1970, at least 0 and below {MILLISECONDS} (no milliseconds)"
    made = [holds(raw, "time", (raw["time"] >= 0) & (raw["time"] < MILLISECONDS), moment)]
    for count, ids in [("candidate_count", "candidate_ids"), *((f"{d}_count", f"{d}_ids") for d in DOMAINS)]:
      width = tf.shape(raw[ids])[1]
      made.append(
        holds(raw, count, (raw[count] >= 0) & (raw[count] <= width), f"at least 0 and at most the width of {ids}")
      )
    for d in DOMAINS:
      times = raw[f"{d}_times"]
      valid = (times >= 0) & (times < MILLISECONDS) | ~_within(times, raw[f"{d}_count"])
      made.append(holds(raw, f"{d}_times", valid, moment))
    for group, features in group_fields(self.schema).items():
      for feature in features:
        if feature.numeric:
          made.append(_number(raw, input_name(group, feature.name), 0.0 if feature.refuses_negative else None))
        if feature.weights:
          made.append(_number(raw, input_name(group, feature.weights), 0.0, missing=False))
    for vector in self.schema.user_vectors:
      made.append(_number(raw, input_name("user", vector.name), None, missing=False))
    return made


def _number(raw: Tensors, name: str, least: float | None, missing: bool = True) -> tf.Operation:
  """Assertion that numbers are finite and at least `least`; if they may be missing, NaN."""
  found = raw[name]
  valid = tf.math.is_finite(found) & (found >= least if least is not None else True)
  allowed = "finite numbers" + (f" of at least {least:g}" if least is not None else "")
  if missing:
    valid, allowed = valid | tf.math.is_nan(found), allowed + ", or NaN for a missing one"
  return holds(raw, name, valid, allowed)


def _within(tensor: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
  """Which columns of `[B, M]` are below a count `[B]`: `[B, M]` bool."""
  return tf.range(tf.shape(tensor)[1])[tf.newaxis] < count[:, tf.newaxis]


def _for_candidates(part: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
  """A part `[B, N | 1, F]` for every candidate, zeros where there is none: `[B, N, F]`."""
  return tf.where(real[..., tf.newaxis], part, tf.zeros([], part.dtype))
