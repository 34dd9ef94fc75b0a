"""LAP: the Lifelong Attention Pyramid of LCN."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.interest.base import Extractor, kept_buckets, kept_recency, static_rows
from lcn_tf.layers.masked import Picked, gather_rows, masked_softmax, masked_top_k
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.layers.target_attention import target_attention

LEVELS = ("csa", "msa", "fsa")


@keras.utils.register_keras_serializable("lcn_tf")
class LAP(Extractor):
  """Lifelong interest through three attentions, each over what the one before it found most relevant.

  Complete scope (CSA) weighs the whole history by plain inner products, median scope (MSA) the `top_k[0]` best of it by
  a projected attention with side information, focused scope (FSA) the `top_k[1]` best of those by multi-head attention
  and a feed-forward layer. The cost of each level is paid on ever fewer behaviours.

      a_c = softmax(E e_v)                    R_c = a_c E                       Eq. (3), (4)
      s_m = (X1 W_k)(e_v W_q)^T / sqrt(d_m)   R_m = softmax(s_m) X1 W_v         Eq. (5)-(8)
      head_h = softmax((X2 W_k_h)(e_v W_q_h)^T / sqrt(d_h)) X2 W_v_h            Eq. (9)-(12)
      R_f = act(concat(head) W_o W_1 + b_1) W_2 + b_2                           Eq. (13)-(15)

  where E are the behaviours' item embeddings, X1 and X2 the kept rows of [E, side information]. Keys and values are
  never projected row by row: the query is carried through W_k^T instead and the pooled row through W_v, which gives the
  same numbers and costs K times less.

  Departures from the paper: its equations are reconstructed (they are lost in the text at hand); the order of the kept
  behaviours never matters; R_f of a candidate that sees nothing is zero although the feed-forward layer has biases.

  Args:
    levels: Which of "csa", "msa", "fsa" are part of the output. CSA always ranks; without MSA, FSA reads CSA's best.
    top_k: Behaviours that MSA and FSA read.
    num_heads, head_dim: Of FSA.
    msa_dim: Width d_m of MSA's queries and keys.
    output_dim: Width of R_m and of R_f.
    ffn_dim: Hidden width of FSA's feed-forward layer.
    csa_norm: "softmax", "none" (raw inner products) or "sigmoid".
    fsa_side: Whether FSA reads side information.
    activation: Of the feed-forward layer.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[R_c ; R_m ; R_f]`, `[B, N, D + 2 * output_dim]` with all levels. Zeros for a candidate that sees no
    behaviour. Padding never changes the result; fewer than `top_k` visible behaviours are all used.

  Raises:
    ValueError: An unknown level or `csa_norm`, a size that is not positive, or `top_k` that grows.

  Reference: LCN: Hou et al., "Cross-domain lifelong sequential modeling for online CTR prediction", arXiv 2312.06424.
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
    sizes = {"num_heads": num_heads, "head_dim": head_dim, "msa_dim": msa_dim}
    for name, value in (sizes | {"output_dim": output_dim, "ffn_dim": ffn_dim}).items():
      if value < 1:
        raise ValueError(f"{name} must be positive; found {value}")
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
    rows_BLX = static_rows(behaviours)
    pools, interests = [], []
    if "msa" in self.levels:
      # [E, side information, recency] W_k (e_v W_q)^T, with the query carried through W_k^T
      msa_query_BNX = tf.matmul(tf.matmul(query, self.msa_query), self.msa_key, transpose_b=True)
      msa_query_BNX *= self.msa_dim**-0.5
      scores_BNL, msa_scores_BNL = self._both_scores(query, msa_query_BNX[..., : rows_BLX.shape[-1]], rows_BLX)
    else:
      scores_BNL = tf.matmul(query, items, transpose_b=True)
    if "csa" in self.levels:
      pools.append(self._csa_weights(scores_BNL, visible))
    if self.levels != ["csa"]:
      kept = self.top_k[0] if "msa" in self.levels else self.top_k[1]
      indices_BNK, valid_BNK = masked_top_k(scores_BNL, visible, kept)
    if "msa" in self.levels:
      picked = Picked(msa_scores_BNL, indices_BNK)
      scores_BNK = picked.pick(msa_scores_BNL)
      recency = behaviours.recency
      if recency.shape[0]:
        bucket_scores_BNR = tf.matmul(msa_query_BNX[..., rows_BLX.shape[-1] :], recency, transpose_b=True)
        buckets = Picked(bucket_scores_BNR, kept_buckets(candidates, behaviours, indices_BNK))
        scores_BNK += buckets.pick(bucket_scores_BNR)
      weights_BNK = tf.cast(masked_softmax(scores_BNK, valid_BNK), query.dtype)
      pools.append(picked.place(weights_BNK))
    if pools:
      pooled = tf.split(tf.matmul(tf.concat(pools, axis=1), rows_BLX), len(pools), axis=1)
      if "csa" in self.levels:
        interests.append(pooled[0][..., : items.shape[-1]])
      if "msa" in self.levels:
        parts = [pooled[-1]]
        if recency.shape[0]:
          parts.append(tf.matmul(buckets.place(weights_BNK), recency))
        interests.append(tf.matmul(tf.concat(parts, axis=-1), self.msa_value))
    if "fsa" in self.levels:
      if "msa" in self.levels:
        chosen, valid_BNK = masked_top_k(scores_BNK, valid_BNK, self.top_k[1])
        indices_BNK = tf.gather(indices_BNK, tf.cast(chosen, tf.int64), axis=2, batch_dims=2)
      interests.append(self._fsa(query, self._fsa_rows(candidates, behaviours, indices_BNK), valid_BNK))
    return tf.concat(interests, axis=-1)

  def _both_scores(self, query: tf.Tensor, msa_query: tf.Tensor, rows_BLX: tf.Tensor) -> list[tf.Tensor]:
    """CSA's and MSA's scores of the whole history as one matrix product, `[B, N, L]` each.

    MSA's are needed of the kept behaviours only, but picking them from all costs less than gathering [B, N, K, X] rows
    of them, above all in the gradient: two products more instead of a scatter of rows.
    """
    side = rows_BLX.shape[-1] - query.shape[-1]
    csa_query = tf.pad(query, [[0, 0], [0, 0], [0, side]]) if side else query
    both = tf.matmul(tf.concat([csa_query, msa_query], axis=1), rows_BLX, transpose_b=True)
    return tf.split(both, 2, axis=1)

  def _csa_weights(self, scores_BNL: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    if self.csa_norm == "softmax":
      return tf.cast(masked_softmax(scores_BNL, visible), scores_BNL.dtype)
    weights = tf.sigmoid(scores_BNL) if self.csa_norm == "sigmoid" else scores_BNL
    return weights * tf.cast(visible, scores_BNL.dtype)

  def _fsa_rows(self, candidates: Candidates, behaviours: Behaviours, indices_BNK: tf.Tensor) -> tf.Tensor:
    """The rows that FSA attends to, `[B, N, K, D + S]`."""
    if not self.fsa_side:
      return gather_rows(behaviours.embedding, indices_BNK)
    rows_BNKX = gather_rows(static_rows(behaviours), indices_BNK)
    recency = kept_recency(candidates, behaviours, indices_BNK)
    return rows_BNKX if recency is None else tf.concat([rows_BNKX, recency], axis=-1)

  def _fsa(self, query: tf.Tensor, rows_BNKD: tf.Tensor, valid_BNK: tf.Tensor) -> tf.Tensor:
    heads = target_attention(query, rows_BNKD, valid_BNK, self.fsa_query, self.fsa_key, self.fsa_value)
    hidden = self._activation(tf.matmul(tf.matmul(heads, self.fsa_output), self.fsa_ffn_in) + self.fsa_ffn_in_bias)
    result = tf.matmul(hidden, self.fsa_ffn_out) + self.fsa_ffn_out_bias
    return result * tf.cast(tf.reduce_any(valid_BNK, axis=-1, keepdims=True), result.dtype)

  def get_config(self) -> dict[str, Any]:
    names = ("levels", "top_k", "num_heads", "head_dim", "msa_dim", "output_dim", "ffn_dim", "csa_norm", "fsa_side")
    return super().get_config() | {name: getattr(self, name) for name in (*names, "activation")}
