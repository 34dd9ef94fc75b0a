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
  """Cross Representation Production: losses that draw together the items that a user likes in both domains.

  An anchor is an item that the user just clicked: t in the target domain, s in the source domain. A partner is a past
  behaviour of the same user, in the same domain or in the other one: t' and s' for t, s' and t' for s. The negatives
  are items that other users of the batch clicked in the anchor's domain. Two light heads also predict the clicks of
  each domain.

      L_xy  = sum_ip w_ip l_ip / max(sum_ip w_ip, 1),  l = InfoNCE of the pairs (x, y')   Eq. (16)-(19)
      L_x   = mean cross entropy of MLP([profile ; e ; mean(own history) ; mean(other history)])
      L_CRP = l1 L_tt + l2 L_ts + l3 L_ss + l4 L_st + l5 L_t + l6 L_s                Eq. (20)

  w_ip is 1 if anchor i exists and has partner p and at least one negative, else 0. All losses are those of the global
  batch.

  Departures from the paper: the text at hand lacks its equations, so they are rebuilt from its sentences. The cosine,
  the temperature, the removal of false negatives, the removal of a user's repeated rows, and the form of the heads are
  choices of this project.

  Args:
    contrastive: Weights of the contrastive losses (t, t'), (t, s'), (s, s'), (s, t').
    supervised: Weights of the click losses of the target domain and of the source domain.
    temperature: Temperature tau of the contrastive losses.
    negatives: Side of a pair that is contrasted with the negatives. "candidates": the anchor. "history_query": the
      partner, the usual in-batch form, which contrasts across domains too.
    anchors: Anchors of a request, at most. A request with more positives draws its anchors anew at each step. The
      paper's requests have one candidate, and so one anchor.
    partners: Partners that are drawn for each anchor from each history. The paper draws one. More partners make the
      same losses less noisy and cost little, because all partners of an anchor share its negatives. No negative is the
      item of any partner.
    dedupe_users: Restriction of the anchors to the first request of a user, among the user's requests with a positive
      in the global batch.
    mask_history_negatives: Removal of negatives that are among the newest 50 behaviours that the anchor sees.
    mask_same_user: Removal of negatives of the anchor's own user. False is for ablations only.
    units: Hidden widths of the two heads.

  Call arguments:
    target: `DomainBatch` of target-domain requests, with item embeddings `[.., D]` in the candidates and both
      histories.
    source: `DomainBatch` of source-domain requests. Its B, N and L may differ from those of `target`.
    seed: Seed, int32 `[2]`, the same on all replicas and different at every step.

  Returns:
    Scalars "tt", "ts", "ss", "st", "t", "s", and "total" = Eq. (20). Each replica returns the share of its own rows,
    and the sum over replicas is the loss of the global batch. A loss without a pair or a candidate is 0.

  Raises:
    ValueError: `contrastive` or `supervised` has a negative weight or another number of weights; `temperature`,
      `anchors`, `partners` or a width is not positive; `negatives` is unknown; or the items of the two domains differ
      in width.

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
    """Losses of the pairs with the own domain's history and of the pairs with the other domain's history."""
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
    """Loss of anchors `[B, A, D]` and their partners `[B, A, P, D]`."""
    # one axis for all anchors: the gradient of an einsum with an ellipsis takes twenty times as long
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
