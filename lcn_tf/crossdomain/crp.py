"""CRP: the losses by which LCN ties the item representations of two domains."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.crossdomain.losses import click_losses, info_nce
from lcn_tf.crossdomain.pairs import (
  DomainBatch,
  Pairs,
  Positives,
  global_positives,
  is_among,
  negatives_of,
  noises,
  row_noise,
  sample_pairs,
)
from lcn_tf.layers.masked import gather_rows, masked_mean
from lcn_tf.layers.mlp import MLP
from lcn_tf.layers.replicas import global_sum

NEGATIVES = ("candidates", "history_query")


@keras.saving.register_keras_serializable("lcn_tf")
class CrossRepresentationProduction(keras.layers.Layer):
  """Cross Representation Production: what a user liked in both domains is drawn together, in one space.

  An anchor is an item that the user just clicked (t in the target domain, s in the source domain); its partner is a
  past behaviour of the same user in the same or in the other domain (t', s' for t; s', t' for s); the negatives are
  what other users of the batch clicked in the anchor's domain. Two light heads keep predicting each domain's clicks.

      L_xy  = sum_ip w_ip l_ip / max(sum_ip w_ip, 1),  l = InfoNCE of the pairs (x, y')   Eq. (16)-(19)
      L_x   = mean cross entropy of MLP([profile ; e ; mean(own history) ; mean(other history)])
      L_CRP = l1 L_tt + l2 L_ts + l3 L_ss + l4 L_st + l5 L_t + l6 L_s                Eq. (20)

  w_ip is 1 if anchor i exists and has partner p and at least one negative. All losses are those of the global batch.

  Departures from the paper: its equations are lost in the text at hand and are rebuilt from its sentences. Cosine,
  temperature, removal of false negatives and of a user's repeated rows, and the form of the heads are ours.

  Args:
    contrastive: Weights of (t, t'), (t, s'), (s, s'), (s, t').
    supervised: Weights of the target and of the source domain's own click loss.
    temperature: tau of the contrastive losses.
    negatives: "candidates": the anchor against other users' positives. "history_query": the partner against them, the
      usual in-batch form, which contrasts across domains too.
    anchors: Positives of a request that are anchors, drawn anew at each step where a request has more. 1 where every
      request has one candidate, as in the paper's batches.
    partners: Drawn for each anchor from each history. The paper draws one; more make the same losses less noisy, at
      hardly any cost, since an anchor's negatives are the same for all of them: none is an item of any partner.
    dedupe_users: Only the first request of a user (with a positive) in the global batch has anchors.
    mask_history_negatives: Drop negatives that are among the newest 50 behaviours which the anchor sees.
    mask_same_user: Drop negatives of the anchor's own user (off only for ablation).
    units: Hidden widths of the two heads.

  Call arguments:
    target: `DomainBatch` of target-domain requests, item embeddings `[.., D]` in both histories and the candidates.
    source: `DomainBatch` of source-domain requests; it may have another B, N and L.
    seed: int32 `[2]`, the same on all replicas, another at every step.

  Returns:
    Scalars "tt", "ts", "ss", "st", "t", "s", and "total" = Eq. (20). Under a strategy with several replicas each
    returns the share of its own rows: their SUM is the loss of the global batch. 0 if there is nothing to learn from.

  Raises:
    ValueError: A weight is negative, `temperature` or a width is not positive, `negatives` is unknown, or the items of
      the two domains differ in width.

  Reference: Hou et al., "Cross-Domain LifeLong Sequential Modeling for Online Click-Through Rate Prediction",
    KDD 2024, https://arxiv.org/abs/2312.06424, section 3.4.
  """

  def __init__(
    self,
    contrastive: Sequence[float] = (0.1, 0.1, 0.1, 0.1),
    supervised: Sequence[float] = (1.0, 1.0),
    temperature: float = 0.1,
    negatives: str = "candidates",
    anchors: int = 4,
    partners: int = 16,
    dedupe_users: bool = True,
    mask_history_negatives: bool = True,
    mask_same_user: bool = True,
    units: Sequence[int] = (256, 128),
    **kwargs: Any,
  ):
    super().__init__(autocast=False, **kwargs)
    for name, weights, size in (("contrastive", contrastive, 4), ("supervised", supervised, 2)):
      if len(weights) != size or min(weights) < 0:
        raise ValueError(f"{name}: expected {size} weights, none negative; found {list(weights)}")
    if temperature <= 0:
      raise ValueError(f"temperature: expected a positive number, found {temperature}")
    if negatives not in NEGATIVES:
      raise ValueError(f"negatives: expected one of {', '.join(NEGATIVES)}; found {negatives!r}")
    for name, number in (("anchors", anchors), ("partners", partners)):
      if number < 1:
        raise ValueError(f"{name}: expected a positive number, found {number}")
    self.contrastive = tuple(contrastive)
    self.supervised = tuple(supervised)
    self.temperature = temperature
    self.negatives = negatives
    self.anchors = anchors
    self.partners = partners
    self.dedupe_users = dedupe_users
    self.mask_history_negatives = mask_history_negatives
    self.mask_same_user = mask_same_user
    self.units = tuple(units)
    self._target_head = self._head("target")
    self._source_head = self._head("source")

  def call(self, target: DomainBatch, source: DomainBatch, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    widths = {b.embedding.shape[-1] for d in (target, source) for b in (d.candidates, d.own, d.other)}
    if len(widths) > 1:
      raise ValueError(f"the items of both domains must have one width, found {sorted(widths)}")
    sizes = (tf.shape(target.user)[0], tf.shape(source.user)[0])
    drawn = (self.anchors, self.partners)
    width = noises(max(target.label.shape[1], source.label.shape[1]), *drawn)
    target_noise, source_noise = row_noise(seed, sizes, width)
    losses = {}
    losses["tt"], losses["ts"] = self._contrastive_losses(target, sample_pairs(target, target_noise, *drawn))
    losses["ss"], losses["st"] = self._contrastive_losses(source, sample_pairs(source, source_noise, *drawn))
    losses["t"] = self._click_loss(target, self._target_head)
    losses["s"] = self._click_loss(source, self._source_head)
    weights = (*self.contrastive, *self.supervised)
    losses["total"] = tf.add_n([weight * loss for weight, loss in zip(weights, losses.values(), strict=True)])
    return losses

  def get_config(self) -> dict[str, Any]:
    config = {
      "contrastive": self.contrastive,
      "supervised": self.supervised,
      "temperature": self.temperature,
      "negatives": self.negatives,
      "anchors": self.anchors,
      "partners": self.partners,
      "dedupe_users": self.dedupe_users,
      "mask_history_negatives": self.mask_history_negatives,
      "mask_same_user": self.mask_same_user,
      "units": self.units,
    }
    return {**super().get_config(), **config}

  def _head(self, domain: str) -> keras.Sequential:
    hidden = MLP(self.units, name=f"{domain}_hidden", dtype=self.dtype_policy)
    logit = keras.layers.Dense(1, name=f"{domain}_logit", dtype="float32")
    return keras.Sequential([hidden, logit], name=f"{domain}_head")

  def _contrastive_losses(self, batch: DomainBatch, pairs: Pairs) -> tuple[tf.Tensor, tf.Tensor]:
    """Of the pairs with the own and with the other domain's history."""
    positives = global_positives(batch)
    keep = negatives_of(batch, pairs, positives, self.mask_same_user, self.mask_history_negatives)
    anchors = pairs.anchor.found
    if self.dedupe_users:
      anchors &= positives.first_of_user[:, tf.newaxis]
    partner_items = tf.cast(gather_rows(batch.own.items, pairs.own.index), tf.int64)
    keep_own = keep & ~is_among(positives.items, partner_items)
    anchor = gather_rows(batch.candidates.embedding, pairs.anchor.index)
    own = gather_rows(batch.own.embedding, pairs.own.index)
    other = gather_rows(batch.other.embedding, pairs.other.index)
    anchors = anchors[..., tf.newaxis]
    return (
      self._contrastive_loss(anchor, own, positives, keep_own, anchors & pairs.own.found),
      self._contrastive_loss(anchor, other, positives, keep, anchors & pairs.other.found),
    )

  def _contrastive_loss(
    self, anchor: tf.Tensor, partners: tf.Tensor, positives: Positives, keep: tf.Tensor, paired: tf.Tensor
  ) -> tf.Tensor:
    """Of `[B, A, D]` anchors and `[B, A, P, D]` partners."""
    # anchors in one axis: einsum's gradient by an ellipsis takes twenty times as long
    count, width = self.partners, anchor.shape[-1]
    query, key = tf.reshape(anchor, [-1, width]), tf.reshape(partners, [-1, count, width])
    paired, keep = tf.reshape(paired, [-1, count]), tf.reshape(keep, [-1, tf.shape(keep)[-1]])
    if self.negatives == "history_query":
      query, key = tf.reshape(key, [-1, width]), tf.repeat(query, count, axis=0)[:, tf.newaxis]
      paired, keep = tf.reshape(paired, [-1, 1]), tf.repeat(keep, count, axis=0)
    losses = info_nce(query, key, positives.embedding, keep, self.temperature)
    counted = tf.cast(paired & tf.reduce_any(keep, axis=-1, keepdims=True), tf.float32)
    return tf.reduce_sum(losses * counted) / tf.maximum(global_sum(tf.reduce_sum(counted)), 1.0)

  def _click_loss(self, batch: DomainBatch, head: keras.Sequential) -> tf.Tensor:
    shape = tf.shape(batch.label)
    parts = [
      batch.profile[:, tf.newaxis],
      batch.candidates.embedding,
      masked_mean(batch.own.embedding, batch.own.visible),
      masked_mean(batch.other.embedding, batch.other.visible),
    ]
    parts = [tf.broadcast_to(part, [shape[0], shape[1], part.shape[-1]]) for part in parts]
    logits = head(tf.concat([tf.cast(part, self.compute_dtype) for part in parts], axis=-1))
    losses = click_losses(logits[..., 0], batch.label, batch.weight, batch.mask)
    weight = tf.reduce_sum(tf.where(batch.mask, tf.cast(batch.weight, tf.float32), 0.0))
    return tf.math.divide_no_nan(tf.reduce_sum(losses), global_sum(weight))
