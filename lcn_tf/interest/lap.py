"""LAP: the Lifelong Attention Pyramid of LCN."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.errors import positive
from lcn_tf.interest.base import (
  Extractor,
  SearchLevel,
  every_bucket,
  in_float32,
  kept_buckets,
  kept_rows,
  static_rows,
)
from lcn_tf.layers.masked import KeptColumns, attend, gather_rows, masked_softmax, masked_top_k
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.layers.target_attention import target_attention

LEVELS = ("csa", "msa", "fsa")


@keras.utils.register_keras_serializable("lcn_tf")
class LAP(Extractor):
  """Lifelong interest from three attentions, each over the most relevant behaviours of the one before.

  The complete scope attention (CSA) weighs the whole history by plain inner products. The median scope attention (MSA)
  weighs the `top_k[0]` behaviours that CSA scores highest, by a projected attention with side information. The focused
  scope attention (FSA) weighs the `top_k[1]` behaviours that MSA scores highest, by multi-head attention, and applies a
  feed-forward layer. Each level costs more per behaviour than the one before and reads fewer behaviours.

      a_c = softmax(E e_v)                    R_c = a_c E                       Eq. (3), (4)
      s_m = (X1 W_k)(e_v W_q)^T / sqrt(d_m)   R_m = softmax(s_m) X1 W_v         Eq. (5)-(8)
      head_h = softmax((X2 W_k_h)(e_v W_q_h)^T / sqrt(d_h)) X2 W_v_h            Eq. (9)-(12)
      R_f = act(concat(head) W_o W_1 + b_1) W_2 + b_2                           Eq. (13)-(15)

  E holds the item embeddings of the behaviours. X1 and X2 are the kept rows of [E, side information, recency]. Keys and
  values are never projected row by row. The query is carried through W_k^T and the pooled row through W_v, which gives
  the same numbers and costs K times less.

  Departures from the paper: its equations are reconstructed, because the text at hand lacks them. The order of the kept
  behaviours never matters. R_f of a candidate that sees nothing is zero, although the feed-forward layer has biases.

  Args:
    levels: Levels, of "csa", "msa" and "fsa", that are part of the output. CSA always ranks. Without MSA, FSA reads the
      best of CSA.
    top_k: Numbers of behaviours that MSA and FSA read.
    num_heads: Number of heads of FSA.
    head_dim: Width d_h of a head of FSA.
    msa_dim: Width d_m of MSA's queries and keys.
    output_dim: Width of R_m and of R_f.
    ffn_dim: Hidden width of FSA's feed-forward layer.
    csa_norm: Weights of CSA: "softmax" or "sigmoid" of the inner products, or "none" for the raw inner products.
    fsa_side: Switch of side information and recency in FSA. False = item embeddings alone.
    activation: Activation of the feed-forward layer.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[R_c ; R_m ; R_f]`, `[B, N, D + 2 * output_dim]` with all levels. Zeros for a candidate that sees no
    behaviour. Padding never changes the result. Fewer than `top_k` visible behaviours are all used.

  Raises:
    ValueError: A level is unknown or named twice, or there is none; `csa_norm` or `activation` is unknown; a size is
      not positive; or the second `top_k` is larger than the first.

  Reference: Hou et al., "Cross-Domain LifeLong Sequential Modeling for Online Click-Through Rate Prediction",
    KDD 2024, https://arxiv.org/abs/2312.06424.
  """

  def __init__(
    self,
    levels: Sequence[str] = LEVELS,
    top_k: Sequence[int] = (200, 50),
    num_heads: int = 4,
    head_dim: int = 16,
    msa_dim: int = 64,
    output_dim: int = 64,
    ffn_dim: int = 256,
    csa_norm: str = "softmax",
    fsa_side: bool = True,
    activation: str = "relu",
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    wrong = [level for level in levels if level not in LEVELS]
    if wrong or not levels or len(set(levels)) < len(levels):
      raise ValueError(f"levels must be some of {list(LEVELS)}, each once; found {list(levels)}")
    if len(top_k) != 2 or not 0 < top_k[1] <= top_k[0]:
      raise ValueError(f"top_k must be two sizes, positive and not growing; found {list(top_k)}")
    positive(num_heads=num_heads, head_dim=head_dim, msa_dim=msa_dim, output_dim=output_dim, ffn_dim=ffn_dim)
    if csa_norm not in ("softmax", "none", "sigmoid"):
      raise ValueError(f"csa_norm must be 'softmax', 'none' or 'sigmoid'; found {csa_norm!r}")
    self.levels = [level for level in LEVELS if level in levels]
    self.top_k = list(top_k)
    self.num_heads = num_heads
    self.head_dim = head_dim
    self.msa_dim = msa_dim
    self.output_dim = output_dim
    self.ffn_dim = ffn_dim
    self.csa_norm = csa_norm
    self.fsa_side = fsa_side
    self.activation = activation
    self._activation = keras.activations.get(activation)

  def make_weights(self, item_width: int, row_width: int) -> None:
    heads, head = self.num_heads, self.head_dim
    if "msa" in self.levels:
      self.msa_query = self.weight("msa/query", [item_width, self.msa_dim])
      self.msa_key = self.weight("msa/key", [row_width, self.msa_dim])
      self.msa_value = self.weight("msa/value", [row_width, self.output_dim])
    if "fsa" in self.levels:
      width = row_width if self.fsa_side else item_width
      self.fsa_query = self.head_weight("fsa/query", heads, item_width, head)
      self.fsa_key = self.head_weight("fsa/key", heads, width, head)
      self.fsa_value = self.head_weight("fsa/value", heads, width, head)
      self.fsa_output = self.weight("fsa/output", [heads * head, self.output_dim])
      self.fsa_ffn_in = self.weight("fsa/ffn_in", [self.output_dim, self.ffn_dim])
      self.fsa_ffn_in_bias = self.weight("fsa/ffn_in_bias", [self.ffn_dim], "zeros")
      self.fsa_ffn_out = self.weight("fsa/ffn_out", [self.ffn_dim, self.output_dim])
      self.fsa_ffn_out_bias = self.weight("fsa/ffn_out_bias", [self.output_dim], "zeros")

  def call(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    query, items, visible = candidates.embedding, behaviours.embedding, behaviours.visible
    interests = []
    scores_BNL = tf.matmul(query, items, transpose_b=True)
    if "csa" in self.levels:
      interests.append(self._csa(scores_BNL, visible, items))
    if self.levels != ["csa"]:
      kept = self.top_k[0] if "msa" in self.levels else self.top_k[1]
      indices_BNK, valid_BNK = masked_top_k(scores_BNL, visible, kept, ordered=False)
    rows_BNKX = None
    if "msa" in self.levels:
      msa = self._msa_of_rows if query.shape[1] == 1 else self._msa_of_shared_rows
      interest, scores_BNK, rows_BNKX = msa(candidates, behaviours, indices_BNK, valid_BNK)
      interests.append(interest)
    if "fsa" in self.levels:
      if "msa" in self.levels:
        chosen_BNK, valid_BNK = masked_top_k(scores_BNK, valid_BNK, self.top_k[1], ordered=False)
        indices_BNK = tf.gather(indices_BNK, chosen_BNK, axis=2, batch_dims=2)
      if rows_BNKX is None:
        rows_BNKX = self._fsa_rows(candidates, behaviours, indices_BNK)
      else:
        width = rows_BNKX.shape[-1] if self.fsa_side else items.shape[-1]
        rows_BNKX = tf.gather(rows_BNKX[..., :width], chosen_BNK, axis=2, batch_dims=2)
      interests.append(self._fsa(query, rows_BNKX, valid_BNK))
    return tf.concat(interests, axis=-1)

  def _msa_query(self, candidates: Candidates) -> tf.Tensor:
    """Queries carried through W_k^T, `[B, N, X]`; their products with [E, side information, recency] are the scores."""
    projected = tf.matmul(candidates.embedding, self.msa_query)
    return tf.matmul(projected, self.msa_key, transpose_b=True) * self.msa_dim**-0.5

  def _msa_of_rows(
    self, candidates: Candidates, behaviours: Behaviours, indices_BNK: tf.Tensor, valid_BNK: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """MSA from gathered rows, the faster way for one candidate per request.

    Returns:
      Interest of MSA, scores of the kept behaviours, rows of the kept behaviours.
    """
    rows_BNKX = kept_rows(candidates, behaviours, indices_BNK)
    query_BN1X = self._msa_query(candidates)[:, :, tf.newaxis]
    scores_BNK = tf.matmul(query_BN1X, rows_BNKX, transpose_b=True)[:, :, 0]
    weights_BN1K = tf.cast(masked_softmax(scores_BNK, valid_BNK), rows_BNKX.dtype)[:, :, tf.newaxis]
    return tf.matmul(tf.matmul(weights_BN1K, rows_BNKX)[:, :, 0], self.msa_value), scores_BNK, rows_BNKX

  def _msa_of_shared_rows(
    self, candidates: Candidates, behaviours: Behaviours, indices_BNK: tf.Tensor, valid_BNK: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """MSA without gathered rows, the faster way for several candidates that share a history.

    Only the scores of the kept behaviours are needed. Picking them from the scores of all behaviours costs less than
    gathering rows `[B, N, K, X]`, above all in the gradient: two more products replace a scatter of rows.

    Returns:
      Interest of MSA, scores of the kept behaviours, None in the place of rows.
    """
    rows_BLX, query_BNX = static_rows(behaviours), self._msa_query(candidates)
    recency = tf.cast(behaviours.recency, query_BNX.dtype)
    all_scores_BNL = tf.matmul(query_BNX[..., : rows_BLX.shape[-1]], rows_BLX, transpose_b=True)
    picked = KeptColumns(all_scores_BNL, indices_BNK)
    # float32: the gradient adds many behaviours up in one bucket
    scores_BNK = tf.cast(picked.pick(all_scores_BNL), tf.float32)
    if recency.shape[0]:
      bucket_scores_BNR = tf.matmul(query_BNX[..., rows_BLX.shape[-1] :], recency, transpose_b=True)
      bucket_scores_BNR = tf.cast(bucket_scores_BNR, tf.float32)
      buckets = KeptColumns(bucket_scores_BNR, kept_buckets(candidates, behaviours, indices_BNK))
      scores_BNK += buckets.pick(bucket_scores_BNR)
    weights_BNK = tf.cast(masked_softmax(scores_BNK, valid_BNK), query_BNX.dtype)
    pooled_BNX = tf.matmul(picked.place(weights_BNK), rows_BLX)
    if recency.shape[0]:
      pooled_BNX = tf.concat([pooled_BNX, tf.matmul(buckets.place(weights_BNK), recency)], axis=-1)
    return tf.matmul(pooled_BNX, self.msa_value), scores_BNK, None

  def _csa(self, scores_BNL: tf.Tensor, visible: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    if self.csa_norm == "softmax":
      return attend(scores_BNL, visible, items)
    weights = tf.sigmoid(scores_BNL) if self.csa_norm == "sigmoid" else scores_BNL
    return tf.matmul(weights * tf.cast(visible, scores_BNL.dtype), items)

  def _fsa_rows(self, candidates: Candidates, behaviours: Behaviours, indices_BNK: tf.Tensor) -> tf.Tensor:
    """Rows that FSA attends to, `[B, N, K, X]`; X = D without `fsa_side`."""
    if not self.fsa_side:
      return gather_rows(behaviours.embedding, indices_BNK)
    return kept_rows(candidates, behaviours, indices_BNK)

  def _fsa(self, query: tf.Tensor, rows_BNKD: tf.Tensor, valid_BNK: tf.Tensor) -> tf.Tensor:
    heads = target_attention(query, rows_BNKD, valid_BNK, self.fsa_query, self.fsa_key, self.fsa_value)
    hidden = self._activation(tf.matmul(tf.matmul(heads, self.fsa_output), self.fsa_ffn_in) + self.fsa_ffn_in_bias)
    result = tf.matmul(hidden, self.fsa_ffn_out) + self.fsa_ffn_out_bias
    return result * tf.cast(tf.reduce_any(valid_BNK, axis=-1, keepdims=True), result.dtype)

  def search_scores(self, candidates: Candidates, behaviours: Behaviours, level: str = "") -> tf.Tensor:
    """Order of the behaviours after a level, as minus their place in it; see `Extractor.search_scores`.

    After CSA it is the order of the inner products. After MSA the best `top_k[0]` of CSA come first, in MSA's order,
    and then the others in CSA's order.

    Args:
      candidates: `Candidates`, as in the call.
      behaviours: `Behaviours`, as in the call.
      level: Level, "csa" or "msa"; empty = the last one before FSA.

    Raises:
      ValueError: `level` does not search, or this layer lacks it.
    """
    level = level or ("msa" if "msa" in self.levels else "csa")
    if level not in ("csa", "msa") or (level == "msa" and "msa" not in self.levels):
      raise ValueError(f"level must be 'csa', which always ranks, or 'msa' if it is in {self.levels}; found {level!r}")
    candidates, behaviours = in_float32(candidates, behaviours)
    query, visible = candidates.embedding, behaviours.visible
    scores_BNL = tf.where(visible, tf.matmul(query, behaviours.embedding, transpose_b=True), tf.float32.min)
    order_BNL = tf.argsort(scores_BNL, direction="DESCENDING", stable=True)
    if level == "msa":
      query_BN1X = self._msa_query(candidates)[:, :, tf.newaxis]
      best_BNK = order_BNL[..., : self.top_k[0]]
      msa_scores_BNL = tf.where(visible, _projected_scores(candidates, behaviours, query_BN1X)[:, :, 0], tf.float32.min)
      scores_BNK = tf.gather(msa_scores_BNL, best_BNK, batch_dims=2)
      again_BNK = tf.argsort(scores_BNK, direction="DESCENDING", stable=True)
      best_BNK = tf.gather(best_BNK, again_BNK, batch_dims=2)
      order_BNL = tf.concat([best_BNK, order_BNL[..., self.top_k[0] :]], axis=-1)
    return -tf.cast(tf.argsort(order_BNL), tf.float32)

  def search_levels(
    self, candidates: Candidates, behaviours: Behaviours, projected: tf.Tensor | None = None
  ) -> dict[str, SearchLevel]:
    """As `Extractor.search_levels`: the order after CSA, and after MSA if that is one of `levels`."""
    names = ["csa", "msa"] if "msa" in self.levels else ["csa"]
    return {f"after {n.upper()}": SearchLevel(self.search_scores(candidates, behaviours, level=n)) for n in names}

  def exact_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """Weights of FSA's attention over the whole history, averaged over the heads; see `Extractor.exact_scores`."""
    if "fsa" not in self.levels:
      raise NotImplementedError(f"LAP with levels {self.levels} has no final attention over what it found")
    candidates, behaviours = in_float32(candidates, behaviours)
    query_BNHE = tf.einsum("bnd,hde->bnhe", candidates.embedding, self.fsa_query)
    query_BNHX = tf.einsum("bnhe,hxe->bnhx", query_BNHE, self.fsa_key) * self.head_dim**-0.5
    scores_BNHL = _projected_scores(candidates, behaviours, query_BNHX)
    return tf.reduce_mean(masked_softmax(scores_BNHL, behaviours.visible[:, :, tf.newaxis]), axis=2)

  def get_config(self) -> dict[str, Any]:
    names = ("levels", "top_k", "num_heads", "head_dim", "msa_dim", "output_dim", "ffn_dim", "csa_norm", "fsa_side")
    return super().get_config() | {name: getattr(self, name) for name in (*names, "activation")}


def _projected_scores(candidates: Candidates, behaviours: Behaviours, query_BNHX: tf.Tensor) -> tf.Tensor:
  """Products of queries with all behaviours, `[B, N, H, L]`.

  Args:
    candidates: `Candidates`; only their times are read.
    behaviours: `Behaviours`; all of them are scored.
    query_BNHX: Queries, as wide as item, side information and recency together, or as the item alone.
  """
  rows_BLX = static_rows(behaviours)
  if query_BNHX.shape[-1] < rows_BLX.shape[-1]:
    rows_BLX = behaviours.embedding
  shape = tf.shape(query_BNHX)
  width, length = rows_BLX.shape[-1], tf.shape(rows_BLX)[1]
  query_BMX = tf.reshape(query_BNHX[..., :width], [shape[0], shape[1] * shape[2], width])
  scores_BML = tf.matmul(query_BMX, rows_BLX, transpose_b=True)
  scores_BNHL = tf.reshape(scores_BML, [shape[0], shape[1], shape[2], length])
  if query_BNHX.shape[-1] == width:
    return scores_BNHL
  # no matmul: oneDNN writes outside of its memory for four axes times a matrix where N is 1 (TensorFlow 2.16)
  bucket_scores_BNHR = tf.einsum("bnhs,rs->bnhr", query_BNHX[..., width:], behaviours.recency)
  buckets_BNHL = tf.repeat(every_bucket(candidates, behaviours)[:, :, tf.newaxis], shape[2], axis=2)
  return scores_BNHL + tf.gather(bucket_scores_BNHR, buckets_BNHL, batch_dims=3)
