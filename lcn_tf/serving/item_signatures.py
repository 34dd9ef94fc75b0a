"""The signatures of an export that take items alone."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from lcn_tf.data.request_spec import traced
from lcn_tf.models.base import RequestModel
from lcn_tf.models.projections import item_embeddings, item_projections, searched
from lcn_tf.schema import DomainName, Schema
from lcn_tf.serving.checks import within
from lcn_tf.serving.raw_requests import RawRequests

Tensors = dict[str, tf.Tensor]


def item_embedding(model: RequestModel, schema: Schema, raw: RawRequests | None) -> Any:
  """The function `item_embedding`: the representations `{d}` `[K, D]` of items of each domain d.

  A model that does not read a domain has none of its items. Arguments as of `_items_function`.
  """
  domains = list(model.embedder.catalogues)
  return _items_function(domains, lambda d, rows: item_embeddings(model, d, rows), schema, raw)


def project_items(model: RequestModel, schema: Schema, raw: RawRequests | None) -> Any:
  """The function `project_items`: the projections `{d}` `[K, H * E]` that the search reads of items of each domain d.

  These are the domains of `searched`. Arguments as of `_items_function`.
  """
  return _items_function(list(searched(model)), lambda d, rows: item_projections(model, d, rows), schema, raw)


def projection_specs(model: RequestModel) -> dict[str, tf.TensorSpec]:
  """The tensors that `rank_projected` takes besides those of `rank`, by name."""
  return {
    f"{d}_projections": tf.TensorSpec(
      [None, None, extractor.num_heads * extractor.head_dim], tf.float32, f"{d}_projections"
    )
    for d, extractor in searched(model).items()
  }


def _items_function(
  domains: Sequence[DomainName],
  of_rows: Callable[[DomainName, tf.Tensor], tf.Tensor],
  schema: Schema,
  raw: RawRequests | None,
) -> Any:
  """A function of items `{d}_ids` `[K]` of each domain d, which may be of different numbers.

  Args:
    domains: Domains of the items.
    of_rows: Function from a domain and catalogue rows `[K]` to what is known of these items, `[K, ...]`.
    schema: Schema with sizes.
    raw: Look-up of ids. None = the function takes catalogue rows, `{d}_items`, and checks them.
  """

  def answer(**request: tf.Tensor) -> Tensors:
    found: Tensors = {}
    for d in domains:
      if raw:
        found[d] = of_rows(d, raw.rows(d, request[f"{d}_ids"]))
      else:
        rows, size = {f"{d}_items": tf.cast(request[f"{d}_items"], tf.int64)}, schema.domain(d).items
        with tf.control_dependencies([within(rows, f"{d}_items", size, f"rows of the {d} catalogue")]):
          found[d] = of_rows(d, tf.identity(rows[f"{d}_items"]))
    return found

  if raw:
    spec = {f"{d}_ids": tf.TensorSpec([None], raw.spec[f"{d}_ids"].dtype, f"{d}_ids") for d in domains}
  else:
    spec = {f"{d}_items": tf.TensorSpec([None], tf.int32, f"{d}_items") for d in domains}
  return traced(answer, spec)
