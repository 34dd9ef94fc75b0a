"""Projections of items that a search reads: TWIN's K_h W_h, which depend on the item alone."""

from typing import Literal

import tensorflow as tf

from lcn_tf.data.request_spec import example_batch
from lcn_tf.errors import UserError
from lcn_tf.interest.twin import TWIN
from lcn_tf.models.base import RequestModel
from lcn_tf.models.separate_search import SeparateSearch
from lcn_tf.schema import DomainName

Source = Literal["table", "live"]


def searching(model: RequestModel) -> RequestModel:
  """The model whose embeddings and extractors search: the search unit of `SeparateSearch`, otherwise `model` itself."""
  return model.searcher if isinstance(model, SeparateSearch) else model


def searched(model: RequestModel) -> dict[DomainName, TWIN]:
  """The extractors whose search can read projections that are kept per item, by the domain of their history."""
  extractors = getattr(searching(model), "extractors", {})
  return {d: one for d, one in extractors.items() if isinstance(one, TWIN) and one.key == "split"}


def source(model: RequestModel) -> Source | None:
  """Where the search reads projections of items: a table of all items, or the live weights; None = it reads none."""
  extractors = searched(model).values()
  if not extractors:
    return None
  return "live" if any(one.cached is None for one in extractors) else "table"


def search_with(model: RequestModel, wanted: Source) -> None:
  """Changes where the search reads projections of items. A new table has to be filled.

  Raises:
    UserError: The model's search reads no projections of items.
  """
  extractors = searched(model)
  if not extractors:
    found = {type(one).__name__: one for one in getattr(model, "extractors", {}).values()}
    raw = any(isinstance(one, TWIN) for one in found.values())
    reason = "raw keys depend on cross fields (key: raw)" if raw else f"{' and '.join(found) or model.name} reads none"
    raise UserError(
      f"projections {wanted!r}: only the search of 'twin' with key: split reads projections of items, and {reason}"
    )
  for one in extractors.values():
    one.search_with("cached" if wanted == "table" else "live")


def item_embeddings(model: RequestModel, domain: DomainName, rows: tf.Tensor) -> tf.Tensor:
  """Representations of items, `[K, D]`.

  Args:
    model: Model.
    domain: Domain of the items, one that the model reads.
    rows: Rows of the domain's catalogue, `[K]` int.
  """
  batch = example_batch(model.schema)
  for name in ("candidate_items", "candidate_times", "candidate_context", "candidate_values"):
    if name in batch:
      shape = tf.concat([[1, tf.size(rows)], batch[name].shape[2:]], axis=0)
      batch[name] = tf.zeros(shape, batch[name].dtype)
  batch["candidate_items"] = rows[tf.newaxis]
  return model.embedder([(domain, batch)])[0].candidates.embedding[0]


def item_projections(model: RequestModel, domain: DomainName, rows: tf.Tensor) -> tf.Tensor:
  """Projections of items by the weights that search, `[K, H * E]` float32.

  Args:
    model: Model whose history of `domain` is in `searched`.
    domain: Domain of the items.
    rows: Rows of the domain's catalogue, `[K]` int.
  """
  embedded = item_embeddings(searching(model), domain, rows)
  return tf.cast(searched(model)[domain].project(embedded), tf.float32)
