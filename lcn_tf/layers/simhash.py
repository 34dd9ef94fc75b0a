"""SimHash: fixed random hyperplanes, so that vectors at a small angle get similar codes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from lcn_tf.errors import positive


@keras.saving.register_keras_serializable("lcn_tf")
class SimHash(keras.layers.Layer):
  """The side of each random hyperplane through the origin on which a vector lies, as bits.

      bit_b(x) = [(x R)_b >= 0],   R [D, bits] ~ N(0, 1)
      P(bit_b(x) != bit_b(y)) = theta(x, y) / pi

  R depends only on `seed` and its shape, not on the global seed. It is a weight that never learns. The model stores it,
  so serving hashes as training did. A code depends on the direction of a vector, never on its norm. An all-zero vector,
  as in padding, gets all ones: mask after hashing.

  Projections are float32 under every dtype policy. No gradient passes.

  Args:
    bits: Number m of hyperplanes.
    seed: Seed of R.

  Call arguments:
    vectors: Vectors to hash, `[B, L, D]` float.

  Returns:
    Bits `[B, L, bits]`, float32 0 and 1.

  Raises:
    ValueError: `bits` is not positive.

  Reference: Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002.
  """

  def __init__(self, bits: int, seed: int = 0, **kwargs: Any):
    super().__init__(**kwargs)
    positive(bits=bits)
    self.bits = bits
    self.seed = seed

  def build(self, input_shape: tf.TensorShape) -> None:
    def draw(shape: tf.TensorShape, dtype: tf.DType) -> tf.Tensor:
      # one algorithm on every device
      return tf.random.stateless_normal(shape, [self.seed, 0], dtype=dtype, alg="philox")

    self.hyperplanes = self.add_weight(
      "hyperplanes",
      [input_shape[-1], self.bits],
      dtype=tf.float32,
      initializer=draw,
      trainable=False,
      experimental_autocast=False,
    )
    super().build(input_shape)

  def call(self, vectors: tf.Tensor) -> tf.Tensor:
    shape, width = tf.shape(vectors), vectors.shape[-1]
    # as one matrix: half the time of a batch of matrices
    flat = tf.reshape(tf.cast(tf.stop_gradient(vectors), tf.float32), [-1, width])
    bits = tf.cast(tf.matmul(flat, self.hyperplanes) >= 0.0, tf.float32)
    return tf.reshape(bits, [shape[0], shape[1], self.bits])

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"bits": self.bits, "seed": self.seed}


def signs(bits: tf.Tensor) -> tf.Tensor:
  """Bits as -1 and 1: two codes of m bits at Hamming distance h have the inner product m - 2 h, exactly."""
  return 2.0 * bits - 1.0


def signatures(bits: tf.Tensor, width: int) -> tf.Tensor:
  """Numbers in [0, 2 ** width), each of which packs `width` bits, the lowest bit first.

  Args:
    bits: Bits, float32 `[B, L, count * width]`, 0 and 1.
    width: Bits of a signature, at most 24, so that float32 holds it exactly.

  Returns:
    Signatures, int64 `[B, L, count]`.
  """
  shape = tf.shape(bits)
  powers = tf.constant([[2.0**bit] for bit in range(width)])
  # a product with the powers of two takes half the time of shifts
  packed = tf.matmul(tf.reshape(bits, [-1, width]), powers)
  return tf.reshape(tf.cast(packed, tf.int64), [shape[0], shape[1], bits.shape[-1] // width])


def bucket_sums(bits: tf.Tensor, width: int, rows: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
  """Weighted sum of the rows that share a signature, for every signature of every round.

      sums[r, s] = sum_{j: sig_r(j) = s} weight_j row_j

  Rows are first added up by the joint signature of several rounds, up to 6 bits together. These sums are then added up
  to the sums of each round. With 3 bits this halves the additions, and it takes a third of the time of a product with
  one-hot signatures. A bucket without a row is exactly 0. A row gets a gradient of exactly 0 if none of its buckets is
  used.

  Args:
    bits: Bits, float32 `[B, L, count * width]`, 0 and 1.
    width: Bits of a signature.
    rows: Rows, float32 `[B, L, X]`.
    weights: Weights of the rows, float32 `[B, L]`. They get no gradient.

  Returns:
    Sums, float32 `[B, count, 2 ** width, X]`.
  """
  count, size = bits.shape[-1] // width, 2**width
  together = max(rounds for rounds in range(1, max(6 // width, 1) + 1) if count % rounds == 0)
  groups, joint = count // together, size**together
  # a sparse product keeps one core busy, and two run at the same time
  parts = 2 if groups % 2 == 0 else 1
  each = groups // parts
  shape = tf.shape(rows, out_type=tf.int64)
  users, every = shape[0], shape[0] * shape[1]
  first_bucket = tf.reshape(tf.range(users) * (each * joint), [-1, 1, 1]) + tf.range(each, dtype=tf.int64) * joint
  # one int64 per entry (bucket, row), later read as two int32: no stacking, no transposing
  place = first_bucket + tf.reshape(tf.range(every) * 2**32, [users, shape[1], 1])
  signature, flat = signatures(bits, width * together), tf.reshape(rows, [every, rows.shape[-1]])
  values = tf.reshape(tf.repeat(weights[..., tf.newaxis], each, axis=-1), [-1])
  sizes = tf.stack([users * (each * joint), every])
  found = []
  for first in range(0, groups, each):
    entries = tf.bitcast(tf.reshape(signature[..., first : first + each] + place, [-1]), tf.int32)
    sums = _sparse_product(entries, values, sizes, flat)
    if together > 1:
      sums = tf.reshape(sums, [users * each, joint, rows.shape[-1]])
      sums = tf.matmul(tf.constant(_digits(size, together)), sums)
    found.append(tf.reshape(sums, [users, each * together, size, rows.shape[-1]]))
  return tf.concat(found, axis=1)


def _digits(size: int, together: int) -> np.ndarray:
  """Incidence of digits and joint signatures: 0 or 1, `[together * size, size ** together]`."""
  joint = np.arange(size**together)
  digits = [joint // size**place % size for place in range(together)]
  return np.concatenate([np.arange(size)[:, np.newaxis] == digit for digit in digits]).astype(np.float32)


def _sparse_product(entries: tf.Tensor, values: tf.Tensor, shape: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
  """Product of a sparse matrix and `rows`. Its gradient is the transposed product and nothing else."""

  def product(dense: tf.Tensor, transposed: bool) -> tf.Tensor:
    return tf.raw_ops.SparseTensorDenseMatMul(
      a_indices=entries, a_values=values, a_shape=shape, b=dense, adjoint_a=transposed
    )

  @tf.custom_gradient
  def multiply(rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    return product(rows, False), lambda upstream: product(upstream, True)

  return multiply(rows)
