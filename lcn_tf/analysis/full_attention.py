"""Multi-head target attention over the whole history, with which LAP and TWIN are compared."""

from typing import Any

import tensorflow as tf

from lcn_tf.interest.base import Extractor, static_rows
from lcn_tf.layers.masked import masked_softmax
from lcn_tf.layers.structures import Behaviours, Candidates

PROJECTIONS = ("per_candidate", "shared", "carried")


class FullAttention(Extractor):
  """LAP's last level (MODELS: FSA) over all behaviours, in three ways of the same numbers.

      head_h = softmax((X W_k_h)(e_v W_q_h)^T / sqrt(E)) X W_v_h
      out    = act(concat(head) W_o W_1 + b_1) W_2 + b_2

  Recency is left out: keys of behaviours must not depend on the candidate for `shared` to be possible.

  Args:
    projections: "per_candidate": keys and values of every behaviour anew for each candidate, the cost that papers
      state. "shared": once per history, as a careful implementation of standard attention does. "carried": never, the
      query is carried through W_k^T and the pooled row through W_v, as LAP does here.
    num_heads: Heads, as LAP's.
    head_dim: Width of a head, as LAP's.
    output_dim: Width of the result, as LAP's.
    ffn_dim: Hidden width of the feed-forward layer, as LAP's.
  """

  def __init__(
    self,
    projections: str = "shared",
    num_heads: int = 4,
    head_dim: int = 16,
    output_dim: int = 64,
    ffn_dim: int = 256,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    if projections not in PROJECTIONS:
      raise ValueError(f"projections must be one of {list(PROJECTIONS)}; found {projections!r}")
    self.projections = projections
    self.num_heads = num_heads
    self.head_dim = head_dim
    self.output_dim = output_dim
    self.ffn_dim = ffn_dim

  def make_weights(self, item_width: int, row_width: int) -> None:
    heads, head = self.num_heads, self.head_dim
    self.query = self.head_weight("query", heads, item_width, head)
    self.key = self.head_weight("key", heads, row_width, head)
    self.value = self.head_weight("value", heads, row_width, head)
    self.output_weight = self.weight("output", [heads * head, self.output_dim])
    self.ffn_in = self.weight("ffn_in", [self.output_dim, self.ffn_dim])
    self.ffn_in_bias = self.weight("ffn_in_bias", [self.ffn_dim], "zeros")
    self.ffn_out = self.weight("ffn_out", [self.ffn_dim, self.output_dim])
    self.ffn_out_bias = self.weight("ffn_out_bias", [self.output_dim], "zeros")

  def call(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    rows_BLX, visible = static_rows(behaviours), behaviours.visible[:, :, tf.newaxis]
    query_BNHE = tf.einsum("bnd,hde->bnhe", candidates.embedding, self.query) * self.head_dim**-0.5
    if self.projections == "carried":
      query_BNHX = tf.einsum("bnhe,hxe->bnhx", query_BNHE, self.key)
      weights_BNHL = masked_softmax(_all_heads(query_BNHX, rows_BLX, transpose=True), visible)
      heads_BNHE = tf.einsum("bnhx,hxe->bnhe", _all_heads(weights_BNHL, rows_BLX), self.value)
    else:
      query_BNHE, rows_BLX, visible = self._for_candidates(query_BNHE, rows_BLX, visible)
      key_BHLE, value_BHLE = (self._project(rows_BLX, weight) for weight in (self.key, self.value))
      query_BHNE = tf.transpose(query_BNHE, [0, 2, 1, 3])
      weights_BHNL = masked_softmax(
        tf.matmul(query_BHNE, key_BHLE, transpose_b=True), tf.transpose(visible, [0, 2, 1, 3])
      )
      heads_BNHE = tf.transpose(tf.matmul(weights_BHNL, value_BHLE), [0, 2, 1, 3])
    shape = tf.shape(candidates.embedding)
    heads = tf.reshape(heads_BNHE, [shape[0], shape[1], self.num_heads * self.head_dim])
    hidden = tf.nn.relu(tf.matmul(tf.matmul(heads, self.output_weight), self.ffn_in) + self.ffn_in_bias)
    return tf.matmul(hidden, self.ffn_out) + self.ffn_out_bias

  def _for_candidates(
    self, query_BNHE: tf.Tensor, rows_BLX: tf.Tensor, visible: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Every candidate a request of its own, if its projections are to be."""
    if self.projections == "shared":
      return query_BNHE, rows_BLX, visible
    count = tf.shape(query_BNHE)[1]
    visible = tf.broadcast_to(visible, tf.concat([tf.shape(query_BNHE)[:2], tf.shape(visible)[2:]], axis=0))
    query, visible = (tf.reshape(x, tf.concat([[-1, 1], tf.shape(x)[2:]], axis=0)) for x in (query_BNHE, visible))
    return query, tf.repeat(rows_BLX, count, axis=0), visible

  def _project(self, rows_BLX: tf.Tensor, weight_HXE: tf.Tensor) -> tf.Tensor:
    """Of every behaviour, in one product; `[B, H, L, E]`."""
    heads, width, head = weight_HXE.shape
    shape = tf.shape(rows_BLX)
    matrix = tf.reshape(tf.transpose(weight_HXE, [1, 0, 2]), [width, heads * head])
    projected = tf.matmul(tf.reshape(rows_BLX, [-1, width]), matrix)
    return tf.transpose(tf.reshape(projected, [shape[0], shape[1], heads, head]), [0, 2, 1, 3])


def _all_heads(of_heads_BNHY: tf.Tensor, rows_BLX: tf.Tensor, transpose: bool = False) -> tf.Tensor:
  """One product of all candidates and heads with the shared rows."""
  shape = tf.shape(of_heads_BNHY)
  flat = tf.reshape(of_heads_BNHY, [shape[0], shape[1] * shape[2], of_heads_BNHY.shape[-1] or shape[3]])
  product = tf.matmul(flat, rows_BLX, transpose_b=transpose)
  return tf.reshape(product, [shape[0], shape[1], shape[2], tf.shape(product)[-1]])
