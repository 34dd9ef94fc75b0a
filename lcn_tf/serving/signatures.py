"""The signatures of an export: those of requests return `probability` `[B, N]`."""

import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from lcn_tf.data import records
from lcn_tf.data.id_mapping import IdMapping
from lcn_tf.data.request_spec import at_least_one_column, example_batch, request_spec, served_spec, with_empty
from lcn_tf.models.base import RequestModel
from lcn_tf.schema import DOMAINS, DomainName, Schema
from lcn_tf.serving.checks import asserted, checked, within
from lcn_tf.serving.raw_requests import RawRequests
from lcn_tf.serving.raw_spec import refusal

Tensors = dict[str, tf.Tensor]
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
  """

  def __init__(self, model: RequestModel, schema: Schema, mapping: IdMapping, folder: pathlib.Path):
    super().__init__(name="signatures")
    self.weights = model.served_variables()
    self._schema = schema
    self._score = _score_function(model, schema)  # traced once
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
    self.functions: dict[str, Any] = {name: self._ranking(name, spec) for name, spec in specs.items()}
    self.functions["item_embedding"] = _embedding_function(model, schema, raw)
    self.functions["serving_default"] = self.functions.get("rank_raw", self.functions["rank"])

  def answer(self, name: str, request: Tensors) -> Tensors:
    """The answer of a signature that ranks: the request is read step by step, then the model scores it."""
    return _called(self._score, self.read(name, request), self._schema)

  def read(self, name: str, request: Tensors) -> Tensors:
    """The request of a signature that ranks as tensors of `request_spec`, integers of any type."""
    return self._readers[name](request)

  def _ranking(self, name: str, spec: dict[str, tf.TensorSpec]) -> Any:
    return _concrete(lambda **request: self.answer(name, request), spec)

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
  """The function `rank` of a model: it takes the tensors of `served_spec`."""
  score = _score_function(model, schema)
  return _concrete(lambda **request: _called(score, checked(request, schema), schema), served_spec(schema))


def _score_function(model: RequestModel, schema: Schema) -> Any:
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


def _embedding_function(model: RequestModel, schema: Schema, raw: RawRequests | None) -> Any:
  """The function `item_embedding`: the representations `{d}` `[K, D]` of items `{d}_ids` `[K]` of each domain d.

  Without `rank_raw` it takes catalogue rows, `{d}_items`. A model that does not read a domain has none of its items.
  """

  def embedding(domain: DomainName, rows: tf.Tensor) -> tf.Tensor:
    batch = example_batch(schema)
    for name in ("candidate_items", "candidate_times", "candidate_context", "candidate_values"):
      if name in batch:
        width = batch[name].shape[2:]
        batch[name] = tf.zeros(tf.concat([[1, tf.size(rows)], width], axis=0), batch[name].dtype)
    batch["candidate_items"] = rows[tf.newaxis]
    return model.embedder([(domain, batch)])[0].candidates.embedding[0]

  def item_embedding(**request: tf.Tensor) -> Tensors:
    found: Tensors = {}
    for d in domains:
      if raw:
        found[d] = embedding(d, raw.rows(d, request[f"{d}_ids"]))
      else:
        rows, size = {f"{d}_items": tf.cast(request[f"{d}_items"], tf.int64)}, schema.domain(d).items
        with tf.control_dependencies([within(rows, f"{d}_items", size, f"rows of the {d} catalogue")]):
          found[d] = embedding(d, tf.identity(rows[f"{d}_items"]))
    return found

  domains = list(model.embedder.catalogues)
  if raw:
    spec = {f"{d}_ids": tf.TensorSpec([None], raw.spec[f"{d}_ids"].dtype, f"{d}_ids") for d in domains}
  else:
    spec = {f"{d}_items": tf.TensorSpec([None], tf.int32, f"{d}_items") for d in domains}
  return _concrete(item_embedding, spec)


def _concrete(function: Any, spec: dict[str, tf.TensorSpec]) -> Any:
  return tf.function(function, autograph=False).get_concrete_function(**spec)
