"""Embeddings of a batch of records. Every table is read once per batch, at the distinct rows of the batch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import Embedding
from lcn_tf.data.records import visibility
from lcn_tf.errors import UserError
from lcn_tf.layers.masked import repeat_rows
from lcn_tf.layers.parts import copy, frozen_zeros, put
from lcn_tf.layers.replicas import gather_rows
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models.field_values import field_lookups, item_values, projected_users, slopes, user_projections
from lcn_tf.models.lookups import Handles, Lookups, join, nothing, split_like
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS, DomainName, Schema, columns, item_vocabulary

_KEY = "/key"  # ends the names of the tables of keys


class Embedded(NamedTuple):
  """A batch as the models read it.

  Attributes:
    profile: Embedded fields of the user, then projections of his vectors, `[B, P]` float.
    context: Embedded context of each candidate, `[B, N, C]` float; C may be 0.
    candidates: `Candidates` to be scored.
    histories: `Behaviours` by domain.
    projected: Projections of the behaviours by domain, `[B, L, H * E]` float32, where the request brings some.
  """

  profile: tf.Tensor
  context: tf.Tensor
  candidates: Candidates
  histories: dict[DomainName, Behaviours]
  projected: dict[DomainName, tf.Tensor]


class RequestEmbedding(keras.layers.Layer):
  """Embeds batches of records.

  An item is represented by the embeddings of its id and its inherent fields side by side, or by a linear projection of
  these, one projection per domain. Its fields come from the item catalogue `[items, columns]`, a variable of the model,
  at the distinct items of the batch.

  Args:
    schema: Schema with sizes.
    config: Widths and initial values.
    histories: Domains whose histories are read; source-domain candidates need "source" among them.
    item_dim: Width of the projection; 0 = none.
    deduplicate: Switch of the look-up by distinct rows; see `EmbeddingTables`.
    pretrained: Frozen item vectors or clusters, or both. They become weights of the model. None = neither.
    max_length: Largest number of behaviours of each history that a candidate sees, the newest ones. 0 = the
      `max_length` of the schema, to which larger values are reduced.
    key_dim: Width A of the key of an item, a second learned vector: the sum of its fields' rows in tables of their own,
      which both histories and the candidates share. 0 = none.
    starts: Initial values of tables, `[size, width]`, by vocabulary; the others begin as `config` says.
  """

  def __init__(
    self,
    schema: Schema,
    config: Embedding,
    histories: Sequence[DomainName],
    item_dim: int = 0,
    deduplicate: bool = True,
    pretrained: Pretrained | None = None,
    max_length: int = 0,
    key_dim: int = 0,
    starts: Mapping[str, np.ndarray] | None = None,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    self.schema = schema
    limits = {d: schema.domain(d).max_length for d in histories}
    self.max_lengths = {d: min(limit, max_length or limit) for d, limit in limits.items()}
    self.config = config
    self.histories = tuple(histories)
    self.deduplicate = deduplicate
    domains: list[DomainName] = [d for d in DOMAINS if d == "target" or d in self.histories]
    cross = {f.vocabulary for d in self.histories for f in schema.domain(d).cross_fields}
    features = [*schema.user_fields, *schema.context_fields]
    for d in domains:
      features += schema.catalogue_features(d)
    used = sorted(cross | {feature.vocabulary for feature in features})
    widths = {name: config.dims.get(name, config.cross_dim if name in cross else config.dim) for name in used}
    sizes = {name: schema.vocabularies[name].size for name in used}
    vector_widths = {
      v.name: config.dims.get(v.name, config.dim) for d in domains for v in schema.domain(d).item_vectors
    }
    item_widths = {
      d: sum(widths[f.vocabulary] for f in schema.catalogue_features(d))
      + sum(vector_widths[v.name] for v in schema.domain(d).item_vectors)
      for d in domains
    }
    if not item_dim:
      _check_widths(item_widths)
    unknown = {name: schema.vocabularies[name].oov for name in used}
    self.key_dim = key_dim
    keyed = {f.vocabulary for d in domains for f in schema.catalogue_features(d)} if key_dim else set()
    keys = {name + _KEY: name for name in sorted(keyed)}  # initial values are drawn in the order of the tables
    for key, name in keys.items():
      sizes[key], unknown[key], widths[key] = sizes[name], unknown[name], key_dim
    frozen = [item_vocabulary(d) for d in domains] if config.init_from == "pretrained_frozen" else []
    self.tables = EmbeddingTables(
      sizes, unknown, widths, config.init, deduplicate, config.init_scale, starts or {}, frozen, keys, name="tables"
    )
    self.catalogues = {d: self._empty_catalogue(d) for d in domains}
    self.item_values = item_values(self.add_weight, schema, domains)
    self.slopes = slopes(self.add_weight, schema, widths, _KEY)
    self.recency = {
      # zeros: an age that training never met (later data have older behaviours) adds nothing instead of noise
      d: self.add_weight(f"recency/{d}", [config.recency_buckets, config.cross_dim], initializer="zeros")
      for d in self.histories
      if config.recency_buckets
    }
    self.contents = {d: self._empty_contents(d) for d in domains}
    self.content_projections = {
      name: keras.layers.Dense(width, use_bias=False, name=f"content/{name}") for name, width in vector_widths.items()
    }
    self.user_projections = user_projections(schema, config)
    self.vectors: dict[DomainName, tf.Variable] = {}
    self.clusters: dict[DomainName, tf.Variable] = {}
    if pretrained:
      for d in domains:
        if pretrained.vectors:
          self.vectors[d] = self._frozen(f"vectors/{d}", pretrained.vectors[d], tf.float32)
        if pretrained.clusters:
          self.clusters[d] = self._frozen(f"clusters/{d}", pretrained.clusters[d], tf.int64)
    self.projections = {d: keras.layers.Dense(item_dim, use_bias=False, name=f"item/{d}") for d in domains if item_dim}

  def _empty_catalogue(self, domain: DomainName) -> tf.Variable:
    """Variable for the indices of a domain's items, `[items, columns]`."""
    shape = [self.schema.domain(domain).items, columns(self.schema.catalogue_features(domain))]
    # int64, since TensorFlow keeps int32 variables on the host
    return frozen_zeros(self.add_weight, f"catalogue/{domain}", shape, tf.int64)

  def _empty_contents(self, domain: DomainName) -> dict[str, tf.Variable]:
    """Variables for the frozen vectors of a domain's items, `[items, width]` by name."""
    own = self.schema.domain(domain)
    return {
      v.name: frozen_zeros(self.add_weight, f"content/{domain}/{v.name}", [own.items, v.width], v.dtype)
      for v in own.item_vectors
    }

  def _frozen(self, name: str, values: np.ndarray, dtype: tf.DType) -> tf.Variable:
    frozen = frozen_zeros(self.add_weight, name, values.shape, dtype)
    put(frozen, values)
    return frozen

  def set_catalogue(self, domain: DomainName, table: np.ndarray) -> None:
    """Fills the catalogue of a domain, if the model reads that domain."""
    if domain in self.catalogues:
      put(self.catalogues[domain], table.astype(np.int64))

  def set_item_values(self, domain: DomainName, values: np.ndarray) -> None:
    """Fills the float values of a domain's items, if they have some and the model reads that domain."""
    if domain in self.item_values:
      put(self.item_values[domain], values)

  def set_contents(self, domain: DomainName, vectors: Mapping[str, np.ndarray]) -> None:
    """Fills the frozen vectors of a domain's items by name, if the model reads that domain."""
    for name, content in self.contents.get(domain, {}).items():
      put(content, vectors[name])

  def copy_catalogues(self, other: "RequestEmbedding") -> None:
    """Takes catalogues, float values and frozen vectors of items over from a layer of the same schema and histories."""
    for d, catalogue in other.catalogues.items():
      copy(self.catalogues[d], catalogue)
      for name, content in other.contents[d].items():
        copy(self.contents[d][name], content)
    for d, values in other.item_values.items():
      copy(self.item_values[d], values)

  def call(self, batches: Sequence[tuple[DomainName, dict[str, tf.Tensor]]]) -> list[Embedded]:
    """The embedded batches.

    Args:
      batches: Pairs of the domain of the candidates and the tensors of `lcn_tf.data.records`.
    """
    batches = [(domain, self._cut(batch)) for domain, batch in batches]
    plan = Lookups()
    items: dict[DomainName, list[tf.Tensor]] = {}
    for domain, batch in batches:
      items.setdefault(domain, []).append(batch["candidate_items"])
      for d in self.histories:
        items.setdefault(d, []).append(batch[f"{d}_items"])
    item_parts = {}
    for d, ids in items.items():
      # int64 first: int32 would be joined on the host
      flat = tf.concat([tf.reshape(tf.cast(part, tf.int64), [-1]) for part in ids], axis=0)
      index = None
      if self.deduplicate:
        flat, index = tf.unique(flat, out_idx=tf.int64)
      fields = gather_rows(self.catalogues[d], flat)
      features = self.schema.catalogue_features(d)
      values = gather_rows(self.item_values[d], flat) if d in self.item_values else None
      handles = plan.add(features, fields, values), plan.add(features, fields, values, _KEY) if self.key_dim else []
      if self.clusters:
        fields = tf.concat([fields, gather_rows(self.clusters[d], flat)], axis=-1)
      item_parts[d] = (index, fields, self._content(d, flat), handles)
    batch_parts = []
    for _, batch in batches:
      user = field_lookups(plan, self.schema.user_fields, batch, "user_fields", "user_values")
      context = field_lookups(plan, self.schema.context_fields, batch, "candidate_context", "candidate_values")
      cross = {
        d: field_lookups(plan, self.schema.domain(d).cross_fields, batch, f"{d}_cross", f"{d}_values")
        for d in self.histories
      }
      batch_parts.append((user, context, cross))
    plan.run(self.tables, self.slopes)

    item_rows = {d: self._item_rows(plan, d, items[d], *part) for d, part in item_parts.items()}

    embedded = []
    for (domain, batch), (user, context, cross) in zip(batches, batch_parts, strict=True):
      of_vectors = projected_users(self.user_projections, self.schema, batch)
      embedding, fields, vectors, keys = item_rows[domain].pop(0)
      times = batch["candidate_times"]
      candidates = Candidates(embedding, batch["candidate_items"], fields, times, vectors, keys)
      histories = {}
      for d in self.histories:
        embedding, fields, vectors, keys = item_rows[d].pop(0)
        history_items = batch[f"{d}_items"]
        visible = visibility(
          batch[f"{d}_first_visible"],
          batch[f"{d}_length"],
          self.max_lengths[d],
          tf.shape(history_items)[1],
        )
        histories[d] = Behaviours(
          embedding=embedding,
          items=history_items,
          fields=fields,
          times=batch[f"{d}_times"],
          side=join(plan.features(cross[d]), history_items, self.compute_dtype),
          recency=self._recency(d),
          visible=visible,
          vectors=vectors,
          keys=keys,
        )
      embedded.append(
        Embedded(
          profile=join([*plan.features(user), *of_vectors], batch["user_fields"], self.compute_dtype, rank=1),
          context=join(plan.features(context), batch["candidate_items"], self.compute_dtype),
          candidates=candidates,
          histories=histories,
          projected={d: batch[f"{d}_projections"] for d in self.histories if f"{d}_projections" in batch},
        )
      )
    return embedded

  def _item_rows(
    self,
    plan: Lookups,
    domain: DomainName,
    items: list[tf.Tensor],
    index: tf.Tensor | None,
    fields: tf.Tensor,
    contents: list[tf.Tensor],
    handles: tuple[Handles, Handles],
  ) -> list[tuple[tf.Tensor, ...]]:
    """Representation, catalogue columns, frozen vectors and keys of each tensor of catalogue rows in `items`.

    Args:
      plan: Look-ups, done.
      domain: Domain of the items.
      items: Catalogue rows, int.
      index: Place of each item among the distinct ones; None = `fields` has a row for each.
      fields: Catalogue columns.
      contents: Projected frozen vectors of the items.
      handles: Handles of the fields' embeddings, and of their keys.
    """
    of_rows, of_keys = handles
    rows = tf.concat([*plan.features(of_rows), *contents], axis=-1)
    if self.projections:
      rows = self.projections[domain](rows)
    keys = tf.add_n(plan.features(of_keys)) if of_keys else None
    if index is not None:
      rows, fields = repeat_rows(rows, index), tf.gather(fields, index)
      keys = None if keys is None else repeat_rows(keys, index)
    # no distinct rows here: they only help gradients, and frozen vectors have none
    vectors = [self._vectors(domain, ids) for ids in items]
    all_keys = [nothing(ids) for ids in items] if keys is None else split_like(keys, items)
    return list(zip(split_like(rows, items), split_like(fields, items), vectors, all_keys, strict=True))

  def _cut(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The batch without the behaviours that no candidate sees, if the model reads fewer than the records hold.

    The remaining number is known only when the step runs. Compiled steps, which do not deduplicate either, skip the
    cut.
    """
    changed = dict(batch)
    for d in self.histories:
      if self.max_lengths[d] == self.schema.domain(d).max_length or not self.deduplicate:
        continue
      width = tf.reduce_max(batch[f"{d}_first_visible"]) + self.max_lengths[d]
      for part in ("items", "times", "cross", "values", "projections"):
        if (name := f"{d}_{part}") not in batch:
          continue
        history = batch[name]
        # as int64: int32 would be cut on the host
        wide = tf.cast(history, tf.int64) if history.dtype.is_integer else history
        changed[name] = tf.cast(wide[:, :width], history.dtype)
    return changed

  def _content(self, domain: DomainName, items: tf.Tensor) -> list[tf.Tensor]:
    """Projections of the frozen vectors of distinct catalogue rows, `[rows, width]` each."""
    return [
      self.content_projections[name](tf.cast(gather_rows(content, items), self.compute_dtype))
      for name, content in self.contents[domain].items()
    ]

  def _vectors(self, domain: DomainName, items: tf.Tensor) -> tf.Tensor:
    """Frozen vectors of catalogue rows, `[..., P]`; P = 0 if there are none."""
    if not self.vectors:
      return nothing(items)
    return gather_rows(self.vectors[domain], tf.cast(items, tf.int64))

  def _recency(self, domain: DomainName) -> tf.Tensor:
    table = self.recency[domain] if self.recency else tf.zeros([0, self.config.cross_dim])
    return tf.convert_to_tensor(tf.cast(table, tf.float32))


def _check_widths(widths: Mapping[DomainName, int]) -> None:
  """Checks that items of both domains are equally wide; they are compared as they are.

  Raises:
    UserError: They are not.
  """
  if len(set(widths.values())) > 1:
    raise UserError(
      "model.item_dim is 0, so items are compared across domains by their fields' embeddings side by side, but these "
      f"are {widths['target']} wide in the target domain and {widths['source']} in the source domain. "
      "Set model.item_dim (64, say), or give both domains as wide fields."
    )
