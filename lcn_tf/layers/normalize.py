"""Vectors at length 1."""

import tensorflow as tf


def l2_normalize(vectors: tf.Tensor) -> tf.Tensor:
  """At length 1 along the last axis, float32.

  A zero vector, as out-of-vocabulary rows begin, and any shorter than 1e-6 becomes zero and gets no gradient: it has no
  direction, and the gradient of a vector's direction grows without bound towards zero.
  """
  vectors = tf.cast(vectors, tf.float32)
  return vectors * inverse_length(vectors)


def inverse_length(vectors: tf.Tensor) -> tf.Tensor:
  """What brings vectors to length 1, `[..., 1]`; 0 for those that `l2_normalize` makes zero.

  Args:
    vectors: `[..., X]` float32.
  """
  squared = tf.reduce_sum(vectors * vectors, axis=-1, keepdims=True)
  there = squared > 1e-12
  return tf.where(there, tf.math.rsqrt(tf.where(there, squared, 1.0)), 0.0)
