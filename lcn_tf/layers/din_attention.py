"""DIN's attention: a small network weighs each behaviour against the candidate."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.masked import KeptColumns, masked_softmax, repeat_rows

Recency = tuple[tf.Tensor, tf.Tensor]
NORMS = ("softmax", "none")


@keras.utils.register_keras_serializable("lcn_tf")
class DINAttention(keras.layers.Layer):
  """Weighs what a candidate sees of its history by an MLP over pairs, and sums it.

      w_j = act(act([e_v ; z_j ; e_v - e_j ; e_v * e_j] W_1 + b_1) W_2 + b_2) w_3 + b_3
      out = sum_j g_j z_j,   g = softmax(w / sqrt(D)), or g = w

  where e_j, the item, is the first D columns of z_j. Pairs are never written down side by side. With W_1 in blocks
  [W_v ; W_z ; W_d ; W_p] the first layer is

      z_j M_v + e_v (W_v + W_d) + b_1,   M_v = W_z - W_d + diag(e_v) W_p   (the latter two in the rows of e_j)

  so the behaviours that N candidates share are multiplied once, by the candidates' `[X, N * units]` matrix.

  Departures from the paper: softmax is the default, so that the interest does not grow with the history; the activation
  is "sigmoid" instead of Dice, whose statistics padding would enter. b_3 exists without softmax only, which cancels it.

  Args:
    units: Widths of the two hidden layers.
    activation: "sigmoid", "relu", or any other that keeps no statistics of the batch (padding would be among them).
    norm: "softmax", or "none": the raw intensities of the DIN paper.

  Call arguments:
    candidates: `[B, N, D]`.
    rows: `[B, N, K, X]`, each candidate's own, or `[B, K, X]`, shared by the candidates of a request; X >= D, the first
      D columns are the item embedding.
    valid: bool `[B, N, K]` (or `[B, 1, K]` if the rows are shared).
    recency: None, or of shared rows all that is not shared: a table `[R, S]` and int64 `[B, N, K]` in [0, R), which of
      its rows are the last S columns of each behaviour for each candidate.

  Returns:
    `[B, N, X]` (`[B, N, X + S]`); zeros for a candidate without a valid behaviour.

  Raises:
    ValueError: A width is not positive, or `norm` is unknown.

  Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, section 4.3.
  """

  def __init__(
    self, units: Sequence[int] = (80, 40), activation: str = "sigmoid", norm: str = "softmax", **kwargs: Any
  ):
    super().__init__(**kwargs)
    if len(units) != 2 or min(units) < 1:
      raise ValueError(f"units: expected two positive widths, found {list(units)}")
    if norm not in NORMS:
      raise ValueError(f"norm must be one of {list(NORMS)}; found {norm!r}")
    self.units = tuple(units)
    self.activation = activation
    self.norm = norm
    self._activation = keras.activations.get(activation)
    self._weights_made = False

  def make_weights(self, item_width: int, row_width: int) -> None:
    """Makes the variables, for items `[D]` and rows with recency `[X + S]`; the first call does if nobody did."""
    if self._weights_made:
      return
    first, second = self.units
    self.kernel_1 = self.add_weight("kernel_1", [3 * item_width + row_width, first])
    self.bias_1 = self.add_weight("bias_1", [first], initializer="zeros")
    self.kernel_2 = self.add_weight("kernel_2", [first, second])
    self.bias_2 = self.add_weight("bias_2", [second], initializer="zeros")
    self.kernel_3 = self.add_weight("kernel_3", [second, 1])
    if self.norm == "none":
      self.bias_3 = self.add_weight("bias_3", [1], initializer="zeros")
    self._weights_made = True

  def __call__(
    self,
    candidates: tf.Tensor,
    rows: tf.Tensor,
    valid: tf.Tensor,
    recency: Recency | None = None,
    **kwargs: Any,
  ) -> tf.Tensor:
    with tf.init_scope(), tf.name_scope(self.name):
      self.make_weights(candidates.shape[-1], rows.shape[-1] + (recency[0].shape[-1] if recency else 0))
    return super().__call__(candidates, rows, valid, recency, **kwargs)

  def call(
    self,
    candidates: tf.Tensor,
    rows: tf.Tensor,
    valid: tf.Tensor,
    recency: Recency | None = None,
  ) -> tf.Tensor:
    weights_BNK = tf.cast(self.attention(candidates, rows, valid, recency), self.compute_dtype)
    rows = tf.cast(rows, self.compute_dtype)
    if rows.shape.rank == 4:
      pooled = tf.matmul(weights_BNK[:, :, tf.newaxis], rows)[:, :, 0]
    else:
      pooled = tf.matmul(weights_BNK, rows)
    if recency is None:
      return pooled
    table, buckets_BNK = recency
    shape = tf.shape(buckets_BNK)
    shares_BNR = KeptColumns(tf.zeros([shape[0], shape[1], table.shape[0]]), buckets_BNK).place(weights_BNK)
    return tf.concat([pooled, tf.matmul(shares_BNR, tf.cast(table, pooled.dtype))], axis=-1)

  def attention(
    self,
    candidates: tf.Tensor,
    rows: tf.Tensor,
    valid: tf.Tensor,
    recency: Recency | None = None,
  ) -> tf.Tensor:
    """The weights g, float32 `[B, N, K]`; 0 where not valid. Arguments as of the call."""
    candidates, rows = (tf.cast(tensor, self.compute_dtype) for tensor in (candidates, rows))
    if rows.shape.rank == 4:  # B * N requests of one candidate each
      shape, width = tf.shape(rows), candidates.shape[-1]
      alone = tf.reshape(candidates, [shape[0] * shape[1], 1, width])
      own = tf.reshape(rows, [shape[0] * shape[1], shape[2], rows.shape[-1]])
      logits_BNK = tf.reshape(self._logits(alone, own, None), shape[:3])
    else:
      logits_BNK = self._logits(candidates, rows, recency)
    logits_BNK = tf.cast(logits_BNK, tf.float32)
    if self.norm == "softmax":
      return masked_softmax(logits_BNK * candidates.shape[-1] ** -0.5, valid)
    return tf.where(valid, logits_BNK, 0.0)

  def _logits(self, candidates_BND: tf.Tensor, rows_BKX: tf.Tensor, recency: Recency | None) -> tf.Tensor:
    """w `[B, N, K]` of rows that the candidates share."""
    shape, item, row = tf.shape(rows_BKX), candidates_BND.shape[-1], rows_BKX.shape[-1]
    size, units = tf.shape(candidates_BND)[1], self.units[0]
    (kernel, bias_1), (kernel_2, bias_2), (kernel_3, bias_3), activation = self._layers()
    extra = kernel.shape[0] - 3 * item - row
    of_candidate, of_item, of_side, of_recency, of_difference, of_product = tf.split(
      kernel, [item, item, row - item, extra, item, item]
    )
    # one after the other: a gradient that is summed over requests and candidates at once takes twice the time
    of_product, of_item = (
      tf.broadcast_to(part[:, tf.newaxis], [item, size, units]) for part in (of_product, of_item - of_difference)
    )
    mixed_BDNU = tf.transpose(candidates_BND, [0, 2, 1])[..., tf.newaxis] * of_product + of_item
    side_BSNU = tf.broadcast_to(of_side[:, tf.newaxis], [shape[0], row - item, size, units])
    own_BNU = tf.matmul(candidates_BND, of_candidate + of_difference) + bias_1
    # what belongs to the candidate alone rides along as one more column of the rows, all ones
    mixed = tf.concat([mixed_BDNU, side_BSNU, own_BNU[:, tf.newaxis]], axis=1)
    ones = tf.ones([shape[0], shape[1], 1], rows_BKX.dtype)
    hidden = tf.matmul(tf.concat([rows_BKX, ones], axis=-1), tf.reshape(mixed, [shape[0], row + 1, size * units]))
    hidden = tf.reshape(hidden, [-1, units])
    if recency is not None:
      table, buckets_BNK = recency
      table_RU = tf.matmul(tf.cast(table, hidden.dtype), of_recency)
      hidden += repeat_rows(table_RU, tf.reshape(tf.transpose(buckets_BNK, [0, 2, 1]), [-1]))
    hidden = activation(tf.matmul(activation(hidden), kernel_2) + bias_2)
    logits = tf.matmul(hidden, kernel_3) + bias_3
    return tf.transpose(tf.reshape(logits, [shape[0], shape[1], size]), [0, 2, 1])

  def _layers(self) -> tuple[Any, ...]:
    """Weights and biases of the three layers, and the activation between them.

    sigmoid(x) is (1 + tanh(x / 2)) / 2, and tanh takes half the time; the factors are put into the weights.
    """
    last = self.bias_3 if self.norm == "none" else tf.zeros([1])
    weights = (self.kernel_1, self.bias_1, self.kernel_2, self.bias_2, self.kernel_3, last)
    kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3 = (tf.cast(w, self.compute_dtype) for w in weights)
    if self.activation != "sigmoid":
      return (kernel_1, bias_1), (kernel_2, bias_2), (kernel_3, bias_3), self._activation
    half, quarter = kernel_3 / 2, kernel_2 / 4
    bias_2 = bias_2 / 2 + tf.reduce_sum(quarter, axis=0)
    return (kernel_1 / 2, bias_1 / 2), (quarter, bias_2), (half, bias_3 + tf.reduce_sum(half)), tf.tanh

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"units": self.units, "activation": self.activation, "norm": self.norm}
