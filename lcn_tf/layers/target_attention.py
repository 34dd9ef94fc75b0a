"""Multi-head target attention over the behaviours that each candidate kept."""

import tensorflow as tf

from lcn_tf.layers.pooling import attend_and_pool


def target_attention(
  candidates_BND: tf.Tensor,
  rows_BNKX: tf.Tensor,
  valid_BNK: tf.Tensor,
  query_HDE: tf.Tensor,
  key_HXE: tf.Tensor,
  value_HXE: tf.Tensor,
) -> tf.Tensor:
  """Heads of target attention, side by side.

      head_h = softmax((rows W_k_h)(candidate W_q_h)^T / sqrt(E)) rows W_v_h

  Rows are not projected. The query is carried through W_k^T and the pooled row through W_v, which gives the same
  numbers with K times fewer products.

  Args:
    candidates_BND: Embeddings of the candidates.
    rows_BNKX: Behaviours that each candidate attends to.
    valid_BNK: Mask of the real behaviours, bool.
    query_HDE: Weights W_q of each head.
    key_HXE: Weights W_k of each head.
    value_HXE: Weights W_v of each head.

  Returns:
    Heads `[B, N, H * E]`; zeros for a candidate without a valid behaviour.
  """
  heads, _, width = query_HDE.shape
  query_BNHE = tf.einsum("bnd,hde->bnhe", candidates_BND, query_HDE)
  query_BNHX = tf.einsum("bnhe,hxe->bnhx", query_BNHE, key_HXE)
  pooled_BNHX = attend_and_pool(query_BNHX * width**-0.5, rows_BNKX, valid_BNK)
  heads_BNHE = tf.einsum("bnhx,hxe->bnhe", pooled_BNHX, value_HXE)
  shape = tf.shape(candidates_BND)
  return tf.reshape(heads_BNHE, [shape[0], shape[1], heads * width])
