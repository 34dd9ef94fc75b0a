"""Attention whose rows are keys and values at once."""

from collections.abc import Callable

import tensorflow as tf

from lcn_tf.layers.masked import masked_softmax


@tf.custom_gradient
def attend_and_pool(
  query_BNHX: tf.Tensor, rows_BNKX: tf.Tensor, valid_BNK: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, None]]]:
  """softmax(query rows^T) rows per head: the core of an attention whose projections the query and the result carry.

  One product makes a row's gradient as a key and its gradient as a value. This avoids writing, reading and adding two
  tensors as large as the rows, a third of the time of the gradient.

  Args:
    query_BNHX: Query of each head, scaled and carried through the transposed projection of the keys.
    rows_BNKX: Behaviours that each candidate attends to.
    valid_BNK: Mask of the real behaviours, bool.

  Returns:
    Pooled rows `[B, N, H, X]`, to which the caller applies each head's projection of the values. Zeros without a valid
    behaviour.
  """
  alpha_BNHK = tf.matmul(query_BNHX, rows_BNKX, transpose_b=True)
  weights_BNHK = masked_softmax(alpha_BNHK, valid_BNK[:, :, tf.newaxis])
  shares_BNHK = tf.cast(weights_BNHK, rows_BNKX.dtype)

  def gradient(upstream_BNHX: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
    by_weight = tf.cast(tf.matmul(upstream_BNHX, rows_BNKX, transpose_b=True), tf.float32)
    mean = tf.reduce_sum(by_weight * weights_BNHK, axis=-1, keepdims=True)
    by_alpha = tf.cast(weights_BNHK * (by_weight - mean), rows_BNKX.dtype)
    by_query = tf.matmul(by_alpha, rows_BNKX)
    as_value_and_key = tf.concat([shares_BNHK, by_alpha], axis=2)
    by_rows = tf.matmul(as_value_and_key, tf.concat([upstream_BNHX, query_BNHX], axis=2), transpose_a=True)
    return by_query, by_rows, None

  return tf.matmul(shares_BNHK, rows_BNKX), gradient
