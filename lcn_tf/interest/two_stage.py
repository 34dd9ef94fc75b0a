"""Search, then attention: the common part of SIM, ETA and SDIM's attention mode."""

from typing import Any

import tensorflow as tf

from lcn_tf.errors import positive
from lcn_tf.interest.base import Extractor, every_recency, in_float32, kept_rows, static_rows
from lcn_tf.layers.din_attention import DINAttention
from lcn_tf.layers.masked import masked_softmax, masked_top_k
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.layers.target_attention import target_attention

ESUS = ("din", "mha")


class TwoStage(Extractor):
  """A general search unit (GSU) keeps `top_k` behaviours, and an exact search unit (ESU) attends to them.

  A subclass defines its search in `search`. Of each kept behaviour the ESU reads item embedding, side information and
  recency, so all two-stage models see the same features as TWIN.

      mha:  concat_h(softmax((z W_k_h)(e_v W_q_h)^T / sqrt(E)) z W_v_h) W_o
      din:  DIN's attention (lcn_tf/layers/din_attention.py), sum_j softmax(w)_j z_j

  No gradient passes the search, so only kept behaviours learn.

  Args:
    top_k: Behaviours K that the search keeps.
    esu: Attention of the ESU, "din" or "mha".
    num_heads: Number of heads of "mha".
    head_dim: Width E of a head of "mha".
    output_dim: Width of the interest of "mha".

  Returns:
    Interest `[B, N, D + S + S']` of "din", `[B, N, output_dim]` of "mha". Zeros for a candidate whose search finds
    nothing. Padding never changes the result. Fewer than `top_k` found behaviours are all used.

  Raises:
    ValueError: A size is not positive, or `esu` is unknown.
  """

  def __init__(
    self,
    top_k: int = 100,
    esu: str = "din",
    num_heads: int = 4,
    head_dim: int = 16,
    output_dim: int = 64,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    positive(top_k=top_k, num_heads=num_heads, head_dim=head_dim, output_dim=output_dim)
    if esu not in ESUS:
      raise ValueError(f"esu must be one of {list(ESUS)}; found {esu!r}")
    self.top_k = top_k
    self.esu = esu
    self.num_heads = num_heads
    self.head_dim = head_dim
    self.output_dim = output_dim
    self._din = DINAttention(name="esu", dtype=self.dtype_policy) if esu == "din" else None

  def make_weights(self, item_width: int, row_width: int) -> None:
    if self._din is not None:
      with tf.name_scope(self._din.name):
        self._din.make_weights(item_width, row_width)
      return
    self.query = self.head_weight("esu/query", self.num_heads, item_width, self.head_dim)
    self.key = self.head_weight("esu/key", self.num_heads, row_width, self.head_dim)
    self.value = self.head_weight("esu/value", self.num_heads, row_width, self.head_dim)
    self.output_weight = self.weight("esu/output", [self.num_heads * self.head_dim, self.output_dim])

  def search(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor]:
    """The search unit. No gradient is taken of it.

    Returns:
      Scores `[B, N, L]`, the highest kept first and ties to the newer, and the mask of the behaviours that may be kept,
      bool `[B, N | 1, L]`, among the visible ones.
    """
    raise NotImplementedError

  def call(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    scores_BNL, findable = self.search(candidates, behaviours)
    indices_BNK, valid_BNK = masked_top_k(scores_BNL, findable, self.top_k, ordered=False)
    rows_BNKX = kept_rows(candidates, behaviours, indices_BNK)
    if self._din is not None:
      return self._din(candidates.embedding, rows_BNKX, valid_BNK)
    heads = target_attention(candidates.embedding, rows_BNKX, valid_BNK, self.query, self.key, self.value)
    return tf.matmul(heads, self.output_weight)

  def search_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    scores, findable = self.search(candidates, behaviours)
    # behaviours that a hard filter leaves out come last, the newest first
    return tf.where(findable, tf.cast(scores, tf.float32), tf.float32.min)

  def exact_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    candidates, behaviours = in_float32(candidates, behaviours)
    query, rows_BLX, recency = candidates.embedding, static_rows(behaviours), every_recency(candidates, behaviours)
    if self._din is not None:
      return self._din.attention(query, rows_BLX, behaviours.visible, recency)
    query_BNHX = tf.einsum("bnhe,hxe->bnhx", tf.einsum("bnd,hde->bnhe", query, self.query), self.key)
    scores_BNHL = tf.einsum("bnhx,blx->bnhl", query_BNHX[..., : rows_BLX.shape[-1]], rows_BLX)
    if recency is not None:
      table, buckets_BNL = recency
      # no matmul: oneDNN writes outside of its memory for four axes times a matrix where N is 1 (TensorFlow 2.16)
      query_BNHS = query_BNHX[..., rows_BLX.shape[-1] :]
      of_bucket_BNHR = tf.einsum("bnhs,rs->bnhr", query_BNHS, table)
      scores_BNHL += tf.gather(
        of_bucket_BNHR, tf.repeat(buckets_BNL[:, :, tf.newaxis], self.num_heads, 2), batch_dims=3
      )
    visible_BNHL = behaviours.visible[:, :, tf.newaxis]
    return tf.reduce_mean(masked_softmax(scores_BNHL * self.head_dim**-0.5, visible_BNHL), axis=2)

  def get_config(self) -> dict[str, Any]:
    names = ("top_k", "esu", "num_heads", "head_dim", "output_dim")
    return super().get_config() | {name: getattr(self, name) for name in names}
