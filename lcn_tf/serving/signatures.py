"""The signatures of an export: those of requests return `probability` `[B, N]`."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from lcn_tf.data import records
from lcn_tf.data.id_mapping import IdMapping
from lcn_tf.data.request_spec import at_least_one_column, request_spec, served_spec, traced, with_empty
from lcn_tf.models.base import RequestModel
from lcn_tf.models.projections import item_projections
from lcn_tf.schema import DOMAINS, Schema
from lcn_tf.serving.blocks import at_once_here, blocked
from lcn_tf.serving.checks import asserted, checked
from lcn_tf.serving.encoded import encoded_functions
from lcn_tf.serving.item_signatures import item_embedding, project_items, projection_specs
from lcn_tf.serving.raw_requests import RawRequests
from lcn_tf.serving.raw_spec import refusal

Tensors = dict[str, tf.Tensor]
Specs = dict[str, tf.TensorSpec]
_Reader = Callable[[Tensors], Tensors]
_AXES = {"N": "candidate"} | {d: d for d in DOMAINS}
NO_REQUEST = ("label", "weight", "user")  # features of a record that a request has not


class Signatures(tf.Module):
  """The functions of an export, and the tables that they look up in.

  Args:
    model: Model.
    schema: Schema with sizes.
    mapping: Id mapping of the model.
    folder: Folder for the files that the SavedModel copies to its assets.
    encoded_user: True to have `encode_user` and `rank_encoded`, too.
    at_once: Most candidates that are scored at once, 0 = all of a call, None = what suits the devices of this process
      (`lcn_tf.serving.blocks`).

  Raises:
    UserError: `encoded_user` is True, and the model has none.
  """

  def __init__(
    self,
    model: RequestModel,
    schema: Schema,
    mapping: IdMapping,
    folder: pathlib.Path,
    encoded_user: bool = False,
    at_once: int | None = None,
  ):
    super().__init__(name="signatures")
    self.at_once = at_once_here() if at_once is None else at_once
    self.weights = model.served_variables()
    self._schema = schema
    self._score = _score_function(model, schema, self.at_once)  # traced once
    self._projections = projection_specs(model)
    self._project = functools.partial(item_projections, model)
    self._readers: dict[str, _Reader] = {
      "rank": lambda request: checked(request, schema),
      "rank_examples": self._parsed,
    }
    specs = {"rank": served_spec(schema), "rank_examples": {"examples": tf.TensorSpec([None], tf.string, "examples")}}
    raw = None
    if reason := refusal(mapping, schema):
      logging.warning("the export has no signature 'rank_raw': %s", reason)
    else:
      raw = self._readers["rank_raw"] = RawRequests(mapping, schema, folder)
      specs["rank_raw"] = raw.spec
    if self._projections:
      self._score_projected = _score_function(model, schema, self.at_once, self._projections)
      self._readers["rank_projected"] = self._readers["rank"]
      specs["rank_projected"] = {**specs["rank"], **self._projections}
    self.functions: dict[str, Any] = {name: self._ranking(name, spec) for name, spec in specs.items()}
    self.functions["item_embedding"] = item_embedding(model, schema, raw)
    if self._projections:
      self.functions["project_items"] = project_items(model, schema, raw)
    if encoded_user:
      self.functions.update(encoded_functions(model, schema, self.at_once))
    self.functions["serving_default"] = self.functions.get("rank_raw", self.functions["rank"])

  def answer(self, name: str, request: Tensors) -> Tensors:
    """The answer of a signature that ranks: the request is read step by step, then the model scores it."""
    if name == "rank_encoded":
      return self.functions[name](**request)  # type: ignore[no-any-return]
    if name == "rank_projected":
      return _called(self._score_projected, self.read(name, request), self._schema, self._projections)
    return _called(self._score, self.read(name, request), self._schema)

  def projections(self, request: Tensors) -> Tensors:
    """The tensors that `rank_projected` takes besides those of a request of `rank`."""
    found: Tensors = {}
    for d in DOMAINS:
      if (name := f"{d}_projections") in self._projections:
        rows = request[f"{d}_items"]
        found[name] = tf.reshape(
          self._project(d, tf.reshape(rows, [-1])), [*rows.shape, self._projections[name].shape[-1]]
        )
    return found

  def read(self, name: str, request: Tensors) -> Tensors:
    """The request of a signature that ranks as tensors of `request_spec`, and projections, integers of any type."""
    return self._readers[name](request)

  def _ranking(self, name: str, spec: dict[str, tf.TensorSpec]) -> Any:
    return traced(lambda **request: self.answer(name, request), spec)

  def _parsed(self, request: Tensors) -> Tensors:
    """The tensors of records `examples` `[B]` (`lcn_tf.data.records`), with or without `NO_REQUEST`."""
    schema = self._schema
    data = records.features(request["examples"], schema, without=NO_REQUEST)
    counts = {axis: records.values(data[f"{name}_items"], "int32") for axis, name in _AXES.items()}
    with tf.control_dependencies(_whole(data, counts, schema)):
      # a width of at least 1, which bytes can be decoded to
      widest = {axis: tf.reduce_max(tf.concat([count, [1]], axis=0)) for axis, count in counts.items()}
    tensors = records.tensors(data, schema, {d: widest[d] for d in DOMAINS}, widest["N"])
    return checked({name: tensors[name] for name in request_spec(schema)}, schema)


def rank_function(model: RequestModel, schema: Schema) -> Any:
  """The function `rank` of a model, for the devices of this process: it takes the tensors of `served_spec`."""
  score = _score_function(model, schema, at_once_here())
  return traced(lambda **request: _called(score, checked(request, schema), schema), served_spec(schema))


def _score_function(model: RequestModel, schema: Schema, at_once: int, more: Specs | None = None) -> Any:
  """The part of signatures that has the model: it takes tensors of `request_spec` and `more`, integers as int64."""

  def score(**request: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid(model(at_least_one_column(request), training=False))

  return blocked(score, _widened({**request_spec(schema), **(more or {})}), at_once)


def _widened(specs: Specs) -> Specs:
  return {
    name: tf.TensorSpec(spec.shape, tf.int64 if spec.dtype.is_integer else spec.dtype, spec.name)
    for name, spec in specs.items()
  }


def _called(score: Any, request: Tensors, schema: Schema, more: Specs | None = None) -> Tensors:
  """The scores of a valid request, whose tensors without columns may be left out."""
  whole, specs = with_empty(request, schema), _widened({**request_spec(schema), **(more or {})})
  wide = {name: tf.cast(whole[name], spec.dtype) for name, spec in specs.items()}
  return {"probability": score(**wide)}


def _whole(data: Tensors, counts: Tensors, schema: Schema) -> list[tf.Operation]:
  """Assertions that each feature of records has as many values as there are candidates or behaviours."""
  made = []
  for name, (dtype, axis, width) in records.layout(schema).items():
    if name in data:
      size = tf.strings.length(data[name])
      expected = counts.get(axis, tf.ones_like(size)) * (abs(width) * tf.as_dtype(dtype).size)
      message = f"{name}: expected {abs(width)} {dtype} for each of {_AXES.get(axis, 'request')}; found, bytes"
      made.append(asserted(tf.reduce_all(size == expected), [message, size]))
  return made
