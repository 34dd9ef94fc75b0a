"""Softmax, mean, top-k and gather over the behaviours that a candidate may see.

A row without a visible behaviour gives zeros, never NaN and never an average of padding. Masks are bool and broadcast
against the scores, so `[B, 1, L]` serves all candidates of a request.
"""

from collections.abc import Callable

import tensorflow as tf


def masked_softmax(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
  """Softmax over the last axis among the entries that the mask keeps.

  Args:
    scores: Logits, `[..., L]` float.
    mask: Mask, bool `[..., L]`, broadcast against `scores`.

  Returns:
    Weights, float32 `[..., L]`, also under a float16 policy. Masked entries are 0. A row without an entry is all 0.
  """
  seen = tf.cast(tf.reduce_any(mask, axis=-1, keepdims=True), tf.float32)
  return tf.nn.softmax(_fill(scores, mask)) * seen


def _fill(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
  """The scores in float32, with the lowest finite number where masked; one node where softmax and top-k share them."""
  return tf.where(mask, tf.cast(scores, tf.float32), tf.float32.min)


def attend(scores: tf.Tensor, mask: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
  """Average of the rows of a shared history, weighted by the softmax of the scores that the mask keeps.

  The result is that of `masked_softmax(scores, mask) @ rows`. The gradient passes fewer times over `[B, N, L]`: the
  number that the gradient of a softmax subtracts from each entry is the inner product of the result and its gradient.

  Args:
    scores: Logits, `[B, N, L]` float.
    mask: Mask, bool `[B, N | 1, L]`.
    rows: Rows of the history, `[B, L, X]` float.

  Returns:
    Averages, `[B, N, X]` of the dtype of `rows`; zeros where nothing is kept. Masked entries get no gradient.
  """
  seen = tf.cast(tf.reduce_any(mask, axis=-1, keepdims=True), rows.dtype)

  @tf.custom_gradient
  def pool(scores: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    weights = tf.nn.softmax(_fill(scores, mask))
    pooled = tf.matmul(tf.cast(weights, rows.dtype), rows) * seen

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      upstream *= seen
      change = tf.cast(tf.matmul(upstream, rows, transpose_b=True), tf.float32)
      mean = tf.reduce_sum(tf.cast(upstream * pooled, tf.float32), axis=-1, keepdims=True)
      to_rows = tf.matmul(tf.cast(weights, rows.dtype), upstream, transpose_a=True)
      return tf.cast(weights * (change - mean), scores.dtype), to_rows

    return pooled, gradient

  return pool(scores, rows)


def masked_mean(values: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
  """Mean of the rows that each candidate sees, as one matrix product over the shared history.

  Args:
    values: Rows of the history, `[B, L, D]` float, finite also where invisible.
    visible: Mask, bool `[B, N, L]` or `[B, 1, L]`.

  Returns:
    Means, `[B, N, D]` or `[B, 1, D]` as `visible`, of the dtype of `values`; zeros where nothing is visible.
  """
  weights = tf.cast(visible, tf.float32)
  weights /= tf.maximum(tf.reduce_sum(weights, axis=-1, keepdims=True), 1.0)
  return tf.matmul(tf.cast(weights, values.dtype), values)


def masked_top_k(scores: tf.Tensor, mask: tf.Tensor, k: int, ordered: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
  """The k highest scores of the last axis among the entries that the mask keeps.

  Ties go to the lower index, which is the more recent behaviour if the history is newest first. No masked entry comes
  before a kept one. No gradient passes.

  Args:
    scores: Scores, `[..., L]` float, finite.
    mask: Mask, bool `[..., L]`, broadcast against `scores`.
    k: Static width of the result, also where L < k.
    ordered: Order of the result. True = by falling score; False = the same set in any order, a fifth faster.

  Returns:
    indices: Positions of the scores, int64 `[..., k]`; 0 where not valid.
    valid: Mask of the indices, bool `[..., k]`. Fewer than k kept entries are all returned, and the rest is not valid.
  """
  filled = tf.stop_gradient(_fill(scores, mask))
  there = tf.minimum(k, tf.shape(filled)[-1])
  values, indices = tf.math.top_k(filled, there, sorted=ordered)
  # int64: int32 would be moved to the host; it has no tf.pad on a GPU
  none = tf.zeros(tf.concat([tf.shape(filled)[:-1], [k - there]], axis=0), tf.int64)
  valid = tf.pad(values > tf.float32.min, [[0, 0]] * (len(filled.shape) - 1) + [[0, k - there]])
  indices = tf.where(valid, tf.concat([tf.cast(indices, tf.int64), none], axis=-1), tf.constant(0, tf.int64))
  for tensor in (indices, valid):
    tensor.set_shape([*filled.shape[:-1], k])
  return indices, valid


def gather_rows(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
  """The rows of each request's history at the positions that its candidates chose.

  Args:
    values: Rows of the histories, `[B, L, ...]`.
    indices: Chosen positions, integers in [0, L), `[B, ..]`, mostly `[B, N, K]`.

  Returns:
    Chosen rows, `[B, .., ...]`, mostly `[B, N, K, ...]`. Only they get a gradient. It is added up in float32, because
    several candidates choose the same row.
  """
  # int32 index arithmetic of the gradient would be placed on the host
  indices = tf.cast(indices, tf.int64)
  if values.dtype not in (tf.bfloat16, tf.float16):
    return tf.gather(values, indices, axis=1, batch_dims=1)
  size = tf.shape(values, out_type=tf.int64)
  offsets = tf.reshape(tf.range(size[0]) * size[1], [-1, *[1] * (len(indices.shape) - 1)])
  return repeat_rows(tf.reshape(values, tf.concat([[-1], size[2:]], axis=0)), indices + offsets)


class KeptColumns:
  """The columns, among L, that each row keeps: picks scores from `[B, N, L]` and places weights back there.

  Args:
    like: Tensor of the shape `[B, N, L]`.
    indices: Kept columns, integers `[B, N, K]` in [0, L).
  """

  def __init__(self, like: tf.Tensor, indices: tf.Tensor):
    self._shape = tf.shape(like, out_type=tf.int64)
    rows = self._shape[0] * self._shape[1]
    offsets = tf.reshape(tf.range(rows) * self._shape[2], [self._shape[0], self._shape[1], 1])
    self._flat = tf.cast(indices, tf.int64) + offsets

  def pick(self, values: tf.Tensor) -> tf.Tensor:
    """Entries `[B, N, K]` of `values` `[B, N, L]` at the kept columns."""
    return tf.gather(tf.reshape(values, [-1]), self._flat)

  def place(self, weights: tf.Tensor) -> tf.Tensor:
    """`[B, N, L]` with `weights` `[B, N, K]` added at the kept columns and zeros elsewhere, summed in float32."""
    total = tf.reduce_prod(self._shape)
    placed = tf.math.unsorted_segment_sum(tf.cast(weights, tf.float32), self._flat, total)
    return tf.cast(tf.reshape(placed, self._shape), weights.dtype)


def repeat_rows(rows: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
  """The rows of `rows` `[R, ...]` at `index` (`[...]` int64 in [0, R)), with a gradient that is added up in float32.

  A row may be taken thousands of times, and a sum of that many half-precision numbers would stop growing.
  """
  if rows.dtype == tf.float32:
    return tf.gather(rows, index)

  @tf.custom_gradient
  def taken(rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    def gradient(upstream: tf.Tensor) -> tf.Tensor:
      count = tf.shape(rows, out_type=tf.int64)[0]
      return tf.cast(tf.math.unsorted_segment_sum(tf.cast(upstream, tf.float32), index, count), rows.dtype)

    return tf.gather(rows, index), gradient

  return taken(rows)
