"""Shared-account filter unit of pi-Net: the part of one domain's sequence that passes to the other domain."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.recurrence import back_through_time, newest, products_over_steps, project, states_oldest_first


@keras.saving.register_keras_serializable("lcn_tf")
class SharedFilter(keras.layers.Layer):
  """Recurrence over the steps of domain A, gated by the state of domain B at that moment, for K members of an account.

      f_ik = sigmoid([h^A_i ; h^B_j(i) ; g_{i-1}] W_f + u_k V_f + b_f)
      c_ik = tanh([h^A_i ; g_{i-1}] W_c + u_k V_c + b_c)
      g_i  = mean_k(f_ik * g_{i-1} + (1 - f_ik) * c_ik),            g_0 = 0

  Domain B acts through the gate alone. The members share one recurrence: each begins a step with the mean g_{i-1}. A
  masked step leaves the state unchanged. The biases start at 1, as in the authors' code.

  Departures from the paper: none. The authors' code departs from it: c_ik gets the gate's u_k V_f there, so V_c never
  learns. `official_bug` does the same.

  Args:
    units: Width H of the state.
    members: Latent members K of an account.
    official_bug: Use of u_k V_f in c_ik, as in the authors' code. False = the paper's u_k V_c.

  Call arguments:
    own: States of domain A, `[L, B, X]`, the newest step first.
    other: States of domain B aligned with the steps of A, `[L, B, Y]`; zeros where B has none yet.
    mask: Mask of the steps, bool `[L, B]`; False steps are skipped.

  Returns:
    State g after each step, float32 `[L, B, H]` under every dtype policy.

  Raises:
    ValueError: `units` or `members` is not positive.

  Reference: Ma et al., "pi-Net: A Parallel Information-sharing Network for Shared-account Cross-domain Sequential
    Recommendations", SIGIR 2019, https://doi.org/10.1145/3331184.3331200.
  """

  def __init__(self, units: int, members: int = 4, official_bug: bool = False, **kwargs: Any):
    super().__init__(**kwargs)
    for name, value in (("units", units), ("members", members)):
      if value < 1:
        raise ValueError(f"{name}: expected a positive number, found {value}")
    self.units = units
    self.members = members
    self.official_bug = official_bug

  def build(self, own_shape: tf.TensorShape) -> None:
    units = self.units
    self.own_kernel = self.add_weight("own", [own_shape[-1], 2 * units], initializer="glorot_uniform")
    self.recurrent = self.add_weight(
      "recurrent", [units, 2 * units], initializer="orthogonal", experimental_autocast=False
    )
    self.bias = self.add_weight("bias", [2 * units], initializer="ones")
    self.other = keras.layers.Dense(units, use_bias=False, name="other", dtype=self.dtype_policy)
    self.member_vectors = self.add_weight("members", [self.members, units], initializer="glorot_uniform")
    self.member_gate = self.add_weight("member_gate", [units, units], initializer="glorot_uniform")
    if not self.official_bug:
      self.member_new = self.add_weight("member_new", [units, units], initializer="glorot_uniform")
    super().build(own_shape)

  def call(self, own: tf.Tensor, other: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    own, other = tf.cast(own, self.compute_dtype), tf.cast(other, self.compute_dtype)
    inputs = tf.cast(tf.nn.bias_add(project(own, self.own_kernel), self.bias), tf.float32)
    gate, new = tf.split(inputs, 2, axis=-1)
    gate += tf.cast(self.other(other), tf.float32)
    skipped = 1.0 - tf.cast(mask, tf.float32)[..., tf.newaxis]
    by_gate = tf.matmul(self.member_vectors, self.member_gate)
    by_new = by_gate if self.official_bug else tf.matmul(self.member_vectors, self.member_new)
    members = tf.cast(tf.concat([by_gate, by_new], axis=-1), tf.float32)
    return _states(tf.concat([gate, new], axis=-1), skipped, tf.convert_to_tensor(self.recurrent), members)

  def get_config(self) -> dict[str, Any]:
    config = {"units": self.units, "members": self.members, "official_bug": self.official_bug}
    return {**super().get_config(), **config}


def _gates(
  inputs: tf.Tensor, skipped: tf.Tensor, product: tf.Tensor, members: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """f and c of each member at one step, `[K, B, H]`, from the shared terms `[B, 2 H]` and the members' `[K, 2 H]`."""
  gate, new = tf.split(inputs + product, 2, axis=-1)
  by_gate, by_new = tf.split(members[:, tf.newaxis], 2, axis=-1)
  # f = 1 at a masked step makes g_i equal to g_{i-1} to the last bit
  return tf.maximum(tf.sigmoid(gate + by_gate), skipped), tf.tanh(new + by_new)


@tf.custom_gradient
def _states(inputs: tf.Tensor, skipped: tf.Tensor, recurrent: tf.Tensor, members: tf.Tensor) -> tuple[tf.Tensor, Any]:
  """All states `[L, B, H]`.

  Args:
    inputs: The terms of f and c that do not depend on g, side by side, `[L, B, 2 H]`.
    skipped: 1 for each masked step, else 0, `[L, B, 1]`.
    recurrent: Matrices of g_{i-1} in f and c, side by side, `[H, 2 H]`.
    members: The terms u_k V_f and u_k V_c of each member, side by side, `[K, 2 H]`.
  """
  units, count = recurrent.shape[0], members.shape[0]

  def step(state: tf.Tensor, now: tf.Tensor, skip: tf.Tensor) -> tf.Tensor:
    f, c = _gates(now, skip, tf.matmul(state, recurrent), members)
    return tf.reduce_mean(f, axis=0) * state + tf.reduce_mean((1 - f) * c, axis=0)

  states = states_oldest_first(step, [inputs, skipped], units)

  def step_back(total: tf.Tensor, state: tf.Tensor, now: tf.Tensor, skip: tf.Tensor, product: tf.Tensor) -> Any:
    f, c = _gates(now, skip, product, members)
    share = total / count
    by_f = share * (state - c) * f * (1 - f)
    by_c = share * (1 - f) * (1 - c * c)
    by_step, by_member = (tf.concat([tf.reduce_sum(by_f, axis), tf.reduce_sum(by_c, axis)], -1) for axis in (0, 1))
    return total * tf.reduce_mean(f, axis=0), [by_step], [by_member]

  def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, None, tf.Tensor, tf.Tensor]:
    begun = states[1:]
    read = [begun, inputs, skipped, project(begun, recurrent)]
    (by_step,), (by_member,) = back_through_time(
      step_back, upstream, read, recurrent, [2 * units], [tf.zeros_like(members)]
    )
    return by_step, None, products_over_steps(begun, by_step), by_member

  return states[:-1], backward


def align(times: tf.Tensor, other_times: tf.Tensor, other_mask: tf.Tensor) -> tf.Tensor:
  """For each step of domain A, the newest step of domain B that is not younger.

  Args:
    times: Times of the steps of A, seconds, `[B, L_A]` int64.
    other_times: Times of the steps of B, newest first, seconds, `[B, L_B]` int64.
    other_mask: Mask of the steps of B, bool `[B, L_B]`.

  Returns:
    Steps of B for `states_at`, `[L_A, B]` int64; L_B where all steps of B are younger.
  """
  past = other_times[:, tf.newaxis] <= times[:, :, tf.newaxis]
  return tf.transpose(newest(past & other_mask[:, tf.newaxis]))
