"""Vectors scaled to length 1."""

import tensorflow as tf


def l2_normalize(vectors: tf.Tensor) -> tf.Tensor:
  """The vectors scaled to length 1 along the last axis, float32.

  A vector shorter than 1e-6 becomes zero and gets no gradient. It has no direction, and the gradient of a direction
  grows without bound towards zero. Out-of-vocabulary rows start as zero vectors.
  """
  vectors = tf.cast(vectors, tf.float32)
  return vectors * inverse_length(vectors)


def inverse_length(vectors: tf.Tensor) -> tf.Tensor:
  """Factor that scales a vector to length 1, `[..., 1]`; 0 for a vector that `l2_normalize` makes zero.

  Args:
    vectors: Vectors, float32 `[..., X]`.
  """
  squared = tf.reduce_sum(vectors * vectors, axis=-1, keepdims=True)
  there = squared > 1e-12
  return tf.where(there, tf.math.rsqrt(tf.where(there, squared, 1.0)), 0.0)
