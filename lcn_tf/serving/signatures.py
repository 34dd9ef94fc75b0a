"""The signatures of an export, all of which return `probability` `[B, N]`."""

import pathlib
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf.data import records
from lcn_tf.data.id_mapping import IdMapping
from lcn_tf.data.request_spec import at_least_one_column, request_spec, served_spec, with_empty
from lcn_tf.schema import DOMAINS, Schema
from lcn_tf.serving.checks import checked
from lcn_tf.serving.raw_requests import RawRequests
from lcn_tf.serving.raw_spec import refusal

Tensors = dict[str, tf.Tensor]
_AXES = {"N": "candidate"} | {d: d for d in DOMAINS}
NO_REQUEST = ("label", "weight", "user")  # features of a record that a request has not


class Signatures(tf.Module):
  """The functions of an export, and the tables that they look up in.

  Args:
    model: Model.
    schema: Schema with sizes.
    mapping: Id mapping of the model; None = there is no `rank_raw`.
    folder: Folder for the files that the SavedModel copies to its assets.
  """

  def __init__(self, model: keras.Model, schema: Schema, mapping: IdMapping | None, folder: pathlib.Path):
    super().__init__(name="signatures")
    self.weights = list(model.variables)
    score = _score_function(model, schema)  # traced once
    self.functions: dict[str, Any] = {
      "rank": _rank_function(score, schema),
      "rank_examples": _examples_function(score, schema),
    }
    reason = refusal(mapping, schema) if mapping else ""
    if reason:
      logging.warning("the export has no signature 'rank_raw': %s", reason)
    elif mapping:
      self.raw = RawRequests(mapping, schema, folder)
      self.functions["rank_raw"] = _raw_function(score, self.raw)
    self.functions["serving_default"] = self.functions.get("rank_raw", self.functions["rank"])


def rank_function(model: keras.Model, schema: Schema) -> Any:
  """The function `rank` of a model: it takes the tensors of `served_spec`."""
  return _rank_function(_score_function(model, schema), schema)


def _score_function(model: keras.Model, schema: Schema) -> Any:
  """The part of all signatures that has the model: it takes the tensors of `request_spec`, integers as int64."""

  def score(**request: tf.Tensor) -> Tensors:
    return {"probability": tf.sigmoid(model(at_least_one_column(request), training=False))}

  return _concrete(score, {name: _widened(spec) for name, spec in request_spec(schema).items()})


def _widened(spec: tf.TensorSpec) -> tf.TensorSpec:
  return tf.TensorSpec(spec.shape, tf.int64 if spec.dtype.is_integer else spec.dtype, spec.name)


def _called(score: Any, request: Tensors, schema: Schema) -> Tensors:
  """The scores of a valid request, whose tensors without columns may be left out."""
  whole = with_empty(request, schema)
  return score(  # type: ignore[no-any-return]
    **{name: tf.cast(whole[name], _widened(spec).dtype) for name, spec in request_spec(schema).items()}
  )


def _rank_function(score: Any, schema: Schema) -> Any:
  def rank(**request: tf.Tensor) -> Tensors:
    return _called(score, checked(request, schema), schema)

  return _concrete(rank, served_spec(schema))


def _raw_function(score: Any, raw: RawRequests) -> Any:
  """The function `rank_raw`: it takes the tensors of `lcn_tf.serving.raw_spec`."""

  def rank_raw(**request: tf.Tensor) -> Tensors:
    return _called(score, raw(request), raw.schema)

  return _concrete(rank_raw, raw.spec)


def _examples_function(score: Any, schema: Schema) -> Any:
  """The function `rank_examples`: it takes records `[B]` (`lcn_tf.data.records`), with or without `NO_REQUEST`."""

  def rank_examples(**request: tf.Tensor) -> Tensors:
    data = records.features(request["examples"], schema, without=NO_REQUEST)
    counts = {axis: records.values(data[f"{name}_items"], "int32") for axis, name in _AXES.items()}
    with tf.control_dependencies(_whole(data, counts, schema)):
      # a width of at least 1, which bytes can be decoded to
      widest = {axis: tf.reduce_max(tf.concat([count, [1]], axis=0)) for axis, count in counts.items()}
    tensors = records.tensors(data, schema, {d: widest[d] for d in DOMAINS}, widest["N"])
    return _called(score, checked({name: tensors[name] for name in request_spec(schema)}, schema), schema)

  return _concrete(rank_examples, {"examples": tf.TensorSpec([None], tf.string, "examples")})


def _whole(data: Tensors, counts: Tensors, schema: Schema) -> list[tf.Operation]:
  """Assertions that each feature of records has as many values as there are candidates or behaviours."""
  made = []
  for name, (dtype, axis, width) in records.layout(schema).items():
    if name in data:
      size = tf.strings.length(data[name])
      expected = counts.get(axis, tf.ones_like(size)) * (abs(width) * tf.as_dtype(dtype).size)
      message = f"{name}: expected {abs(width)} {dtype} for each of {_AXES.get(axis, 'request')}; found, bytes"
      made.append(tf.debugging.Assert(tf.reduce_all(size == expected), [message, size]))
  return made


def _concrete(function: Any, spec: dict[str, tf.TensorSpec]) -> Any:
  return tf.function(function, autograph=False).get_concrete_function(**spec)
