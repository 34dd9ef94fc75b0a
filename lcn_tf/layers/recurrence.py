"""Recurrences over histories that are stored newest first: the loops hold only the sequential work.

All tensors are time-major, `[L, B, ...]`, with the newest step in row 0. They are float32 under every dtype policy: a
state that changes by a little at each of a hundred steps does not survive 8 bits of mantissa.

A recurrence reads its past through one product h_{i-1} U. Its gradient is written by hand. All states are known by
then, so one product recomputes h_{i-1} U for all steps, and one product after the loop gives the gradient of U. Each
step back through time is left with one small product, like each step forward.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

Step = Callable[..., tf.Tensor]
StepBack = Callable[..., tuple[tf.Tensor, Sequence[tf.Tensor], Sequence[tf.Tensor]]]


def states_oldest_first(step: Step, inputs: Sequence[tf.Tensor], units: int) -> tf.Tensor:
  """Runs `state = step(state, *inputs of this step)` from the oldest step to the newest, starting from zeros.

  Args:
    step: Function of the state `[B, H]` and of one step of each input; it returns the next state.
    inputs: Inputs of the steps, `[L, B, ...]` each.
    units: Width H of the state.

  Returns:
    State after each step and, in row L, the initial zeros: `[L + 1, B, H]` float32.
  """
  length, requests = tf.unstack(tf.shape(inputs[0])[:2])
  first = tf.zeros(tf.stack([requests, units]))

  def body(left: tf.Tensor, state: tf.Tensor, states: tf.TensorArray) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
    index = left - 1
    state = step(state, *(part[index] for part in inputs))
    return index, state, states.write(index, state)

  states = tf.TensorArray(tf.float32, size=length + 1, element_shape=first.shape).write(length, first)
  steps, loop = inputs[0].shape[0], (length, first, states)
  found = tf.while_loop(lambda left, *_: left > 0, body, loop, maximum_iterations=steps)[2].stack()
  found.set_shape([None if steps is None else steps + 1, inputs[0].shape[1], units])
  return found


def back_through_time(
  step_back: StepBack,
  upstream: tf.Tensor,
  inputs: Sequence[tf.Tensor],
  recurrent: tf.Tensor,
  widths: Sequence[int],
  sums: Sequence[tf.Tensor] = (),
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
  """Chain rule from the newest step to the oldest.

  Args:
    step_back: Function of `(dL/dh_i, *inputs of this step)`. It returns three results: the derivative that reaches
      h_{i-1} by other ways than U, `[B, H]`; the derivatives that are kept for every step, `[B, W]`, the one by
      h_{i-1} U first; the derivatives that are summed over the steps.
    upstream: Derivative of the loss by each state through its readers outside of the recurrence, `[L, B, H]`.
    inputs: Inputs of `step_back`, `[L, B, ...]` each.
    recurrent: Matrix U.
    widths: Width W of each second result.
    sums: Zeros with the shapes of the third results.

  Returns:
    The second results of all steps, `[L, B, W]` each, and the sums of the third results.
  """
  length = tf.shape(upstream)[0]
  shape = upstream.shape[1:2]
  arrays = [tf.TensorArray(tf.float32, size=length, element_shape=shape.concatenate([w])) for w in widths]

  def body(
    index: tf.Tensor, carried: tf.Tensor, sums: list[tf.Tensor], arrays: list[tf.TensorArray]
  ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], list[tf.TensorArray]]:
    kept, found, added = step_back(upstream[index] + carried, *(part[index] for part in inputs))
    carried = kept + tf.matmul(found[0], recurrent, transpose_b=True)
    sums = [total + one for total, one in zip(sums, added, strict=True)]
    return index + 1, carried, sums, [array.write(index, one) for array, one in zip(arrays, found, strict=True)]

  start = (tf.constant(0), tf.zeros(tf.shape(upstream)[1:]), list(sums), arrays)
  _, _, sums, arrays = tf.while_loop(lambda index, *_: index < length, body, start)
  return [array.stack() for array in arrays], list(sums)


def project(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
  """Product of rows `[L, B, X]` and a matrix `[X, W]`, `[L, B, W]`, as one product of two matrices."""
  product = tf.matmul(tf.reshape(rows, [-1, matrix.shape[0]]), matrix)
  return tf.reshape(product, tf.concat([tf.shape(rows)[:2], [matrix.shape[1]]], axis=0))


def products_over_steps(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
  """Sum over steps and requests of the outer products of `[L, B, H]` and `[L, B, W]`: `[H, W]`."""
  flat = [tf.reshape(part, [-1, part.shape[-1]]) for part in (left, right)]
  return tf.matmul(*flat, transpose_a=True)


def newest(mask: tf.Tensor) -> tf.Tensor:
  """Position of the first true entry of the last axis, int64 `[...]` for `[..., L]`; L if no entry is true."""
  # float32: TensorFlow reduces int32 on the host
  length = tf.shape(mask, out_type=tf.int64)[-1]
  positions = tf.cast(tf.range(length), tf.float32)
  end = tf.cast(length, tf.float32)
  return tf.cast(tf.minimum(tf.reduce_min(tf.where(mask, positions, end), axis=-1), end), tf.int64)


def states_at(states: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
  """States of each request at some of its steps.

  Args:
    states: States, `[L, B, H]`.
    steps: Steps to read, `[M, B]` int64 in [0, L]. L is the time before the first step, where the state is zeros.

  Returns:
    States, `[M, B, H]`.
  """
  requests = tf.shape(states, out_type=tf.int64)[1]
  rows = tf.reshape(tf.pad(states, [[0, 1], [0, 0], [0, 0]]), [-1, states.shape[-1]])
  return tf.gather(rows, steps * requests + tf.range(requests))
