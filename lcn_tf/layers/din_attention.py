"""Attention of DIN: a small network weighs each behaviour against the candidate."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.masked import KeptColumns, masked_softmax, repeat_rows

Recency = tuple[tf.Tensor, tf.Tensor]
NORMS = ("softmax", "none")


@keras.utils.register_keras_serializable("lcn_tf")
class DINAttention(keras.layers.Layer):
  """Weighted sum of the behaviours that a candidate sees; an MLP over (candidate, behaviour) pairs gives the weights.

      w_j = act(act([e_v ; z_j ; e_v - e_j ; e_v * e_j] W_1 + b_1) W_2 + b_2) w_3 + b_3
      out = sum_j g_j z_j,   g = softmax(w / sqrt(D)), or g = w

  e_v is the candidate, z_j a behaviour, and e_j the item of the behaviour, which is the first D columns of z_j.

  The concatenated pairs are never stored. With W_1 in blocks [W_v ; W_z ; W_d ; W_p], the first layer is

      z_j M_v + e_v (W_v + W_d) + b_1,   M_v = W_z - W_d + diag(e_v) W_p

  where W_d and diag(e_v) W_p change only the rows of M_v that meet e_j. The behaviours that N candidates share are
  thus multiplied once, by one `[X, N * units]` matrix that holds M_v of all candidates.

  Departures from the paper: softmax is the default, so that the interest does not grow with the length of the history.
  The default activation is "sigmoid" instead of Dice, because padding would enter Dice's statistics. b_3 exists only
  without softmax, because softmax cancels it.

  Args:
    units: Widths of the two hidden layers.
    activation: Name of a Keras activation that keeps no statistics of the batch, because padding would enter them.
    norm: Normalisation of the weights: "softmax", or "none" for the raw weights of the DIN paper.

  Call arguments:
    candidates: Item embeddings of the candidates, `[B, N, D]`.
    rows: Behaviours, `[B, N, K, X]` with rows of its own for each candidate, or `[B, K, X]` with rows that the
      candidates of a request share. X >= D, and the first D columns are the item embedding.
    valid: Mask of the behaviours that count, bool `[B, N, K]`, or `[B, 1, K]` for shared rows.
    recency: Age of shared rows, the part of a behaviour that differs between candidates: a table `[R, S]`, and int64
      `[B, N, K]` in [0, R), the row of the table that forms the last S columns of each behaviour for each candidate.
      None = behaviours without an age, or with the age in `rows`.

  Returns:
    Interest `[B, N, X]`, or `[B, N, X + S]` with `recency`. Zeros for a candidate without a valid behaviour.

  Raises:
    ValueError: `units` is not two positive widths, or `norm` or `activation` is unknown.

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
    """Makes the variables, if the layer has none yet. The first call does this too.

    Args:
      item_width: Width D of an item.
      row_width: Width X + S of a row with recency.
    """
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
    """Weights g, float32 `[B, N, K]`, 0 where not valid. The arguments are those of the call."""
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
    """Logits w, `[B, N, K]`, for rows that the candidates share."""
    shape, item, row = tf.shape(rows_BKX), candidates_BND.shape[-1], rows_BKX.shape[-1]
    size, units = tf.shape(candidates_BND)[1], self.units[0]
    (kernel, bias_1), (kernel_2, bias_2), (kernel_3, bias_3), activation = self._layers()
    extra = kernel.shape[0] - 3 * item - row
    of_candidate, of_item, of_side, of_recency, of_difference, of_product = tf.split(
      kernel, [item, item, row - item, extra, item, item]
    )
    # two broadcasts: one gradient sum over requests and candidates together takes twice the time
    of_product, of_item = (
      tf.broadcast_to(part[:, tf.newaxis], [item, size, units]) for part in (of_product, of_item - of_difference)
    )
    mixed_BDNU = tf.transpose(candidates_BND, [0, 2, 1])[..., tf.newaxis] * of_product + of_item
    side_BSNU = tf.broadcast_to(of_side[:, tf.newaxis], [shape[0], row - item, size, units])
    own_BNU = tf.matmul(candidates_BND, of_candidate + of_difference) + bias_1
    # the term of the candidate alone is one more row of the matrix, for a column of ones in the rows
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

    sigmoid(x) is (1 + tanh(x / 2)) / 2, and tanh takes half the time. The weights and biases absorb the constants.
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
