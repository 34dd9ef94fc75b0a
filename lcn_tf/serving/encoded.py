"""The signatures `encode_user` and `rank_encoded`: the user's side of a request once, kept by the caller in between.

    encode_user    the tensors of `rank` without candidates and `first_visible` -> the embedded user
    rank_encoded   that, the candidates and `first_visible` -> probabilities, as of `rank`

The embedded user is, for each domain d whose history the model reads:

    user_profile   [B, P]      float32  embedded fields and vectors of the user
    {d}_items      [B, L]      int64    catalogue rows
    {d}_times      [B, L]      int64    seconds
    {d}_length     [B]         int64    real behaviours
    {d}_fields     [B, L, F]   int64    catalogue columns
    {d}_embedding  [B, L, D]   float32  item embeddings
    {d}_side       [B, L, S]   float32  embedded cross fields
    {d}_vectors    [B, L, P']  float32  frozen item vectors
    {d}_keys       [B, L, A]   float32  learned keys

Tensors without columns are left out.
"""

from typing import Any

import tensorflow as tf

from lcn_tf.data.records import visibility
from lcn_tf.data.request_spec import at_least_one_column, request_spec, served_spec, traced, with_empty
from lcn_tf.errors import UserError
from lcn_tf.models.base import RequestModel
from lcn_tf.schema import DOMAINS, DomainName, Schema
from lcn_tf.serving.blocks import blocked, is_of_candidates
from lcn_tf.serving.checks import asserted, checked, holds, same_size

Tensors = dict[str, tf.Tensor]
Specs = dict[str, tf.TensorSpec]
_EMBEDDED = ("fields", "embedding", "side", "vectors", "keys")  # of `Behaviours`
_COUNTED = "target_length"  # has the size B of a user's side


def encoded_functions(model: RequestModel, schema: Schema, at_once: int) -> dict[str, Any]:
  """The functions of both signatures by name.

  Args:
    model: Model.
    schema: Schema with sizes.
    at_once: Most candidates that are scored at once, 0 = all of a call (`lcn_tf.serving.blocks`).

  Raises:
    UserError: The model embeds a request more than once.
  """
  if type(model).call is not RequestModel.call:
    raise UserError(
      "encoded_user: this model has no embedded user: its search unit embeds requests by weights of its own "
      "(model.auxiliary_seed). Export it without"
    )
  served = served_spec(schema)
  of_user = {name: spec for name, spec in served.items() if not is_of_candidates(name)}
  encode = traced(lambda **user: encode_user(model, schema, user), of_user)
  kept = {name: _any_size(name, spec) for name, spec in encode.structured_outputs.items()}
  read = [f"{d}_first_visible" for d in model.embedder.histories]
  of_candidates = {name: spec for name, spec in served.items() if name.startswith("candidate_") or name in read}
  return {
    "encode_user": encode,
    "rank_encoded": traced(lambda **request: rank_encoded(model, schema, request, at_once), kept | of_candidates),
  }


def _any_size(name: str, spec: tf.TensorSpec) -> tf.TensorSpec:
  free = min(1 if name == "user_profile" else 2, spec.shape.rank)
  return tf.TensorSpec([None] * free + spec.shape[free:].as_list(), spec.dtype, name)


def encode_user(model: RequestModel, schema: Schema, user: Tensors) -> Tensors:
  """The embedded users of the tensors of `rank` without candidates. A padded candidate stands for later ones."""
  requests = tf.shape(user[_COUNTED])[0]
  request = _zeros(schema, requests, tf.ones([], tf.int32)) | user
  batch = at_least_one_column(with_empty(checked(request, schema, _COUNTED), schema))
  for d in DOMAINS:
    # candidates may begin to see at any behaviour, so none is cut
    width = tf.shape(batch[f"{d}_items"], out_type=tf.int64)[1]
    batch[f"{d}_first_visible"] = tf.fill([requests, 1], width)
  embedded = model.embedder([("target", batch)])[0]
  found = {"user_profile": embedded.profile}
  for d, behaviours in embedded.histories.items():
    found |= {f"{d}_items": batch[f"{d}_items"], f"{d}_times": batch[f"{d}_times"], f"{d}_length": batch[f"{d}_length"]}
    found |= {f"{d}_{part}": getattr(behaviours, part) for part in _EMBEDDED}
  return {name: tensor for name, tensor in found.items() if tensor.shape[-1] != 0}


def rank_encoded(model: RequestModel, schema: Schema, request: Tensors, at_once: int) -> Tensors:
  """The probabilities `[B, N]` of candidates for embedded users. The arguments are those of `encoded_functions`."""
  valid = _valid(request, schema, model.embedder.histories)
  specs = {name: _any_size(name, tf.TensorSpec(tensor.shape, tensor.dtype)) for name, tensor in valid.items()}
  score = blocked(lambda **part: _scores(model, schema, part), specs, at_once)
  return {"probability": score(**valid)}


def _valid(request: Tensors, schema: Schema, histories: tuple[DomainName, ...]) -> Tensors:
  """The request with all integers as int64, and with assertions on its tensors."""
  with tf.control_dependencies(_checks(request, histories)):
    # an identity of int32 would be on the host
    request = request | {
      name: tf.identity(tensor) for name, tensor in request.items() if name not in request_spec(schema)
    }
  size = tf.shape(request["candidate_items"])
  # what only the embedded user has left is neither checked nor embedded again
  facts = _zeros(schema, size[0], size[1])
  for d in histories:
    width = tf.shape(request[f"{d}_items"])[1]
    facts |= {name: _widened(tensor, width) for name, tensor in facts.items() if name in (f"{d}_cross", f"{d}_values")}
  facts |= {name: tensor for name, tensor in request.items() if name in request_spec(schema)}
  whole = request | checked(facts, schema)
  return {
    name: tf.cast(whole[name], tf.int64) if whole[name].dtype.is_integer else whole[name] for name in sorted(request)
  }


def _scores(model: RequestModel, schema: Schema, request: Tensors) -> tf.Tensor:
  """The probabilities `[B, N]` of a request of `_valid`, or of a block of it."""
  size = tf.shape(request["candidate_items"])
  candidates = {name: tensor for name, tensor in request.items() if name.startswith("candidate_")}
  batch = with_empty(_zeros(schema, size[0], size[1]) | candidates, schema)
  embedded = model.embedder([("target", at_least_one_column(batch))])[0]
  behaviours = {}
  for d, empty in embedded.histories.items():
    items = request[f"{d}_items"]
    seen = request[f"{d}_first_visible"], request[f"{d}_length"]
    parts = {part: request[f"{d}_{part}"] for part in _EMBEDDED if f"{d}_{part}" in request}
    nothing = {part: _widened(getattr(empty, part), tf.shape(items)[1]) for part in _EMBEDDED if part not in parts}
    behaviours[d] = empty._replace(
      items=items,
      times=request[f"{d}_times"],
      visible=visibility(*seen, model.embedder.max_lengths[d], tf.shape(items)[1]),
      **parts,
      **nothing,
    )
  profile = request.get("user_profile", embedded.profile)
  return tf.sigmoid(model.score(embedded._replace(profile=profile, histories=behaviours), training=False))


def _zeros(schema: Schema, requests: tf.Tensor, candidates: tf.Tensor) -> Tensors:
  """The tensors of `served_spec`: padded candidates of unknown users without behaviours."""
  found = {}
  for name, spec in served_spec(schema).items():
    shape = [requests]
    if spec.shape.rank > 1 and not name.startswith("user_"):
      shape.append(candidates if name.startswith("candidate_") else int(name.endswith("_first_visible")))
    dtype = tf.int64 if spec.dtype.is_integer else spec.dtype
    found[name] = tf.zeros(tf.stack([*shape, *spec.shape[len(shape) :]]), dtype)
  return found


def _widened(tensor: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
  """Zeros of the shape of a tensor `[B, L, ...]` with another L."""
  shape = tf.shape(tensor)
  wide = tf.zeros(tf.concat([shape[:1], [width], shape[2:]], axis=0), tensor.dtype)
  wide.set_shape([None, None, *tensor.shape[2:]])
  return wide


def _checks(request: Tensors, histories: tuple[str, ...]) -> list[tf.Operation]:
  """Assertions on the embedded parts of users: their sizes, and that numbers are finite."""
  shapes = {name: tf.shape(tensor, out_type=tf.int64) for name, tensor in request.items()}
  requests, made = shapes["candidate_items"][0], []
  for d in histories:
    width = shapes[f"{d}_items"][1]
    message = f"{d}_items: expected at least one column, as encode_user answers; found, columns"
    made.append(asserted(width > 0, [message, width]))
  for name in sorted(request):
    d, _, part = name.partition("_")
    if part not in (*_EMBEDDED, "profile"):
      continue
    made.append(same_size(name, shapes, 0, requests, "as many requests as candidate_items"))
    if part != "profile":
      made.append(same_size(name, shapes, 1, shapes[f"{d}_items"][1], f"as many behaviours as {d}_items"))
    if request[name].dtype.is_floating:
      made.append(holds(request, name, tf.math.is_finite(request[name]), "finite numbers"))
  return made
