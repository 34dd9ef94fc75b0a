"""Recurrences over histories that are stored newest first: loops with nothing in them but what has to be sequential.

Everything is time-major, `[L, B, ...]`, row 0 the newest step, and float32 whatever the policy: a state that changes by
a little at each of a hundred steps does not survive 8 bits of mantissa.

A recurrence here reads its past through one product h_{i-1} U. Its gradient is written by hand: all states being known,
these products are made again for all steps at once, and the gradient of U is one product behind the loop, so that each
step back through time is left with one small product, as each step forward is.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

Step = Callable[..., tf.Tensor]
StepBack = Callable[..., tuple[tf.Tensor, Sequence[tf.Tensor], Sequence[tf.Tensor]]]


def states_oldest_first(step: Step, inputs: Sequence[tf.Tensor], units: int) -> tf.Tensor:
  """Runs `state = step(state, *inputs of this step)` from the oldest step to the newest, from a state of zeros.

  Args:
    inputs: `[L, B, ...]` each.
    units: H.

  Returns:
    The state after each step and, as row L, the zeros before the first: `[L + 1, B, H]` float32.
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
  """The chain rule from the newest step to the oldest.

  Args:
    step_back: `(dL/dh_i, *inputs of this step)` to what reaches h_{i-1} by other ways than U `[B, H]`; derivatives by
      what each step reads `[B, W]`, that by h_{i-1} U first; derivatives that are sums over the steps.
    upstream: Derivative of the loss by each state as others read it, `[L, B, H]`.
    inputs: `[L, B, ...]` each.
    recurrent: U.
    widths: W of each of the second results.
    sums: Zeros, shaped as the third results.

  Returns:
    The second results of all steps, `[L, B, W]` each, and the third ones added up.
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
  """`[L, B, W]` of rows `[L, B, X]` and a matrix `[X, W]`, as one product of two matrices."""
  product = tf.matmul(tf.reshape(rows, [-1, matrix.shape[0]]), matrix)
  return tf.reshape(product, tf.concat([tf.shape(rows)[:2], [matrix.shape[1]]], axis=0))


def products_over_steps(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
  """Sum over steps and requests of the outer products of `[L, B, H]` and `[L, B, W]`: `[H, W]`."""
  flat = [tf.reshape(part, [-1, part.shape[-1]]) for part in (left, right)]
  return tf.matmul(*flat, transpose_a=True)


def newest(mask: tf.Tensor) -> tf.Tensor:
  """Where the first true entry of the last axis is, `[...]` int64 of `[..., L]`; L if there is none."""
  # float32: TensorFlow reduces int32 on the host
  length = tf.shape(mask, out_type=tf.int64)[-1]
  positions = tf.cast(tf.range(length), tf.float32)
  end = tf.cast(length, tf.float32)
  return tf.cast(tf.minimum(tf.reduce_min(tf.where(mask, positions, end), axis=-1), end), tf.int64)


def states_at(states: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
  """The states of each request at some of its steps.

  Args:
    states: `[L, B, H]`.
    steps: `[M, B]` int64 in [0, L]; L is before the first step, where a state is zeros.

  Returns:
    `[M, B, H]`.
  """
  requests = tf.shape(states, out_type=tf.int64)[1]
  rows = tf.reshape(tf.pad(states, [[0, 1], [0, 0], [0, 0]]), [-1, states.shape[-1]])
  return tf.gather(rows, steps * requests + tf.range(requests))
