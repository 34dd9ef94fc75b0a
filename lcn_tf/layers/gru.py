"""Gated recurrent unit over masked histories; it returns all of its states."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.recurrence import back_through_time, products_over_steps, project, states_oldest_first


@keras.saving.register_keras_serializable("lcn_tf")
class GRU(keras.layers.Layer):
  """Reads each history from its oldest to its newest step and returns the state after each step.

      z_i = sigmoid(x_i W_z + h_{i-1} U_z + b_z)
      r_i = sigmoid(x_i W_r + h_{i-1} U_r + b_r)
      c_i = tanh(x_i W_c + r_i * (h_{i-1} U_c) + b_c)
      h_i = z_i * h_{i-1} + (1 - z_i) * c_i,            h_0 = 0

  A masked step leaves the state unchanged. The biases of the two gates start at 1, the bias of c at 0.

  Departures from the paper: the reset gate acts behind U_c, as in cuDNN's unit, so that a step is one matrix product.
  Cho et al. apply it before U_c.

  Args:
    units: Width H of the state.

  Call arguments:
    rows: Steps, `[L, B, X]`, the newest first.
    mask: Mask of the steps, bool `[L, B]`; False steps are skipped.

  Returns:
    State after each step, float32 `[L, B, H]` under every dtype policy.

  Raises:
    ValueError: `units` is not positive.

  Reference: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation", EMNLP 2014, https://arxiv.org/abs/1406.1078, section 2.3.
  """

  def __init__(self, units: int, **kwargs: Any):
    super().__init__(**kwargs)
    if units < 1:
      raise ValueError(f"units: expected a positive width, found {units}")
    self.units = units

  def build(self, rows_shape: tf.TensorShape) -> None:
    self.kernel = self.add_weight("kernel", [rows_shape[-1], 3 * self.units], initializer="glorot_uniform")
    self.recurrent = self.add_weight(
      "recurrent", [self.units, 3 * self.units], initializer="orthogonal", experimental_autocast=False
    )
    self.bias = self.add_weight("bias", [3 * self.units], initializer=_gates_open)
    super().build(rows_shape)

  def call(self, rows: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    inputs = tf.cast(tf.nn.bias_add(project(rows, self.kernel), self.bias), tf.float32)
    skipped = 1.0 - tf.cast(mask, tf.float32)[..., tf.newaxis]
    return _states(inputs, skipped, tf.convert_to_tensor(self.recurrent))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "units": self.units}


def _gates_open(shape: list[int], dtype: Any = None, **kwargs: Any) -> tf.Tensor:
  """Initial biases: 1 for the two gates, 0 for c."""
  return tf.concat([tf.ones([2 * (shape[0] // 3)], dtype), tf.zeros([shape[0] // 3], dtype)], axis=0)


def _gates(
  inputs: tf.Tensor, skipped: tf.Tensor, product: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """z, r, c and h_{i-1} U_c, each `[..., H]`, from x_i W + b and h_{i-1} U, each `[..., 3 H]`."""
  units = inputs.shape[-1] // 3
  opened = tf.sigmoid(inputs[..., : 2 * units] + product[..., : 2 * units])
  z, r, past = opened[..., :units], opened[..., units:], product[..., 2 * units :]
  # z = 1 at a masked step makes h_i equal to h_{i-1} to the last bit
  return tf.maximum(z, skipped), r, tf.tanh(inputs[..., 2 * units :] + r * past), past


@tf.custom_gradient
def _states(inputs: tf.Tensor, skipped: tf.Tensor, recurrent: tf.Tensor) -> tuple[tf.Tensor, Any]:
  """All states `[L, B, H]`.

  Args:
    inputs: x_i W + b, `[L, B, 3 H]`.
    skipped: 1 for each masked step, else 0, `[L, B, 1]`.
    recurrent: Matrices U of z, r and c side by side, `[H, 3 H]`.
  """
  units = recurrent.shape[0]

  def step(state: tf.Tensor, now: tf.Tensor, skip: tf.Tensor) -> tf.Tensor:
    z, _, c, _ = _gates(now, skip, tf.matmul(state, recurrent))
    return z * state + (1 - z) * c

  states = states_oldest_first(step, [inputs, skipped], units)

  def step_back(total: tf.Tensor, z: tf.Tensor, factors: tf.Tensor) -> Any:
    return total * z, [tf.concat([total] * 3, axis=-1) * factors, total], []

  def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, None, tf.Tensor]:
    begun = states[1:]
    z, r, c, past = _gates(inputs, skipped, project(begun, recurrent))
    by_z = (begun - c) * z * (1 - z)
    by_c = (1 - z) * (1 - c * c)
    by_r = by_c * past * r * (1 - r)
    factors = tf.concat([by_z, by_r, by_c * r], axis=-1)
    (by_product, total), _ = back_through_time(step_back, upstream, [z, factors], recurrent, [3 * units, units])
    by_inputs = tf.concat([by_product[..., : 2 * units], total * by_c], axis=-1)
    return by_inputs, None, products_over_steps(begun, by_product)

  return states[:-1], backward
