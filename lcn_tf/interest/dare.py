"""DARE: attention and representation with embeddings of their own (Feng et al., 2025)."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.errors import positive
from lcn_tf.interest.base import Extractor, every_bucket, in_float32, kept_buckets, static_rows
from lcn_tf.layers.masked import KeptColumns, masked_softmax, masked_top_k
from lcn_tf.layers.structures import Behaviours, Candidates


@keras.saving.register_keras_serializable("lcn_tf")
class DARE(Extractor):
  """Searches and weighs behaviours by learned keys, and pools the item embeddings, which never decide what is found.

  One vector per item that has to attend and to represent gets gradients of both tasks, which differ in size and often
  in direction. Two vectors learn one task each, and the one that is searched with may be short.

      a_j  = k_v . k_j / sqrt(A) + [s_j ; r_j] w       attention embeddings (section 4.1), time (section 2)
      kept = the K visible behaviours of highest a_j
      out  = [sum_j softmax(a)_j (e_j * e_v) ; sum_j softmax(a)_j [s_j ; r_j]]    target-aware representation (4.2)

  k are the keys, e the item embeddings, s the side information, r the embedded age; `*` is elementwise. The keys of a
  request's history serve all its candidates: one matrix product gives every score.

  Departures from the paper: the key of an item is the sum of its fields' key embeddings, where the paper has them side
  by side, so that both domains' items compare whatever fields they have; side information besides time enters, as in
  TWIN, as a bias of the attention and beside the pooled items; the MLP reads the pooled vector alone, since the
  candidate's embedding reaches it anyway.

  Args:
    top_k: Behaviours K that the search hands over.
    key_dim: Width A of the keys.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`, keys `[B, N, A]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, keys `[B, L, A]`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[B, N, D + S + S']`. Zeros for a candidate that sees no behaviour. Padding never changes the result;
    fewer than `top_k` visible behaviours are all used.

  Raises:
    ValueError: `top_k` or `key_dim` is not positive.

  Reference: Feng et al., "Long-Sequence Recommendation Models Need Decoupled Embeddings", ICLR 2025, arXiv 2410.02604.
  """

  def __init__(self, top_k: int = 100, key_dim: int = 16, **kwargs: Any):
    super().__init__(**kwargs)
    positive(top_k=top_k, key_dim=key_dim)
    self.top_k = top_k
    self.key_dim = key_dim

  @property
  def key_width(self) -> int:
    return self.key_dim

  def make_weights(self, item_width: int, row_width: int) -> None:
    self.bias: Any = self.weight("bias", [row_width - item_width]) if row_width > item_width else None

  def call(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    scores_BNL, of_age_R = self._scores(candidates, behaviours)
    found_BNL = scores_BNL
    if of_age_R is not None:
      found_BNL += tf.gather(of_age_R, every_bucket(candidates, behaviours))
    indices_BNK, valid_BNK = masked_top_k(found_BNL, behaviours.visible, self.top_k, ordered=False)
    kept = KeptColumns(scores_BNL, indices_BNK)
    scores_BNK = kept.pick(scores_BNL)
    if of_age_R is not None:
      buckets_BNK = kept_buckets(candidates, behaviours, indices_BNK)
      scores_BNK += tf.gather(of_age_R, buckets_BNK)
    weights_BNK = tf.cast(masked_softmax(scores_BNK, valid_BNK), self.compute_dtype)
    pooled_BNX = tf.matmul(kept.place(weights_BNK), static_rows(behaviours))
    width = candidates.embedding.shape[-1]
    parts = [pooled_BNX[..., :width] * candidates.embedding, pooled_BNX[..., width:]]
    if of_age_R is not None:
      buckets = KeptColumns(tf.zeros([*tf.unstack(tf.shape(scores_BNL)[:2]), of_age_R.shape[0]]), buckets_BNK)
      parts.append(tf.matmul(buckets.place(weights_BNK), tf.cast(behaviours.recency, self.compute_dtype)))
    return tf.concat(parts, axis=-1)

  def _scores(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Attention without age `[B, N, L]`, and what each age adds `[R]` (None if age is no feature); float32."""
    scores_BNL = tf.cast(tf.matmul(candidates.keys, behaviours.keys, transpose_b=True), tf.float32) * self.key_dim**-0.5
    side = behaviours.side.shape[-1]
    if side:
      by_side_BL = tf.linalg.matvec(behaviours.side, tf.cast(self.bias[:side], behaviours.side.dtype))
      scores_BNL += tf.cast(by_side_BL, tf.float32)[:, tf.newaxis]
    if not behaviours.recency.shape[0]:
      return scores_BNL, None
    return scores_BNL, tf.linalg.matvec(tf.cast(behaviours.recency, tf.float32), tf.cast(self.bias[side:], tf.float32))

  def search_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    scores_BNL, of_age_R = self._scores(*in_float32(candidates, behaviours))
    return scores_BNL if of_age_R is None else scores_BNL + tf.gather(of_age_R, every_bucket(candidates, behaviours))

  def exact_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    return masked_softmax(self.search_scores(candidates, behaviours), behaviours.visible)

  def mult_adds(self, sizes: Any) -> tuple[int, int]:
    n, kept = sizes.N, min(self.top_k, sizes.L)
    beside = sizes.S + sizes.C
    literal = n * sizes.L * (self.key_dim + beside) + n * kept * sizes.W + n * sizes.D
    shared = n * sizes.L * self.key_dim + sizes.L * sizes.S + sizes.R * sizes.C
    return literal, shared + n * sizes.L * (sizes.D + sizes.S) + n * sizes.R * sizes.C

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"top_k": self.top_k, "key_dim": self.key_dim}
