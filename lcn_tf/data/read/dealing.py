"""Global batches of the records of several shares, and the rows of them that a worker reads.

A global batch of R rows has R / S rows of each of S shares, in the order of the shares. W workers have R / W rows each,
in their order. So the global batches depend on the number of shares, and not on the number of workers.
"""

from collections.abc import Sequence

import tensorflow as tf


def parts(worker: int, rows: int, size: int) -> dict[int, slice]:
  """Where the rows of a worker come from.

  Args:
    worker: Index of the worker.
    rows: Rows of a global batch that a worker has.
    size: Rows of a global batch that a share gives.

  Returns:
    The part of the `size` rows of each of these shares.
  """
  begin, end = worker * rows, (worker + 1) * rows
  shares = range(begin // size, -(-end // size))
  return {share: slice(max(begin - share * size, 0), min(end - share * size, size)) for share in shares}


def grouped(serialized: tf.data.Dataset, rows: int, key: tf.Tensor, window: int) -> tf.data.Dataset:
  """Batches `[rows]` of records of similar size, sorted out among `window` batches; the batches are not in order."""

  @tf.autograph.experimental.do_not_convert
  def regroup(index: tf.Tensor, some: tf.Tensor) -> tf.Tensor:
    by_size = tf.argsort(tf.strings.length(some), stable=True)
    batches = tf.reshape(tf.gather(some, by_size), [-1, rows])
    noise = tf.random.stateless_uniform([tf.shape(batches)[0]], tf.random.fold_in(key, -1 - index))
    return tf.gather(batches, tf.argsort(noise))

  return serialized.batch(window * rows).enumerate().map(regroup).unbatch()


def joined(streams: Sequence[tf.data.Dataset], parts: Sequence[slice], size: int) -> tf.data.Dataset:
  """One batch of the parts of the batches `[size]` of several streams."""
  if list(parts) == [slice(0, size)]:
    return streams[0]
  zipped = tf.data.Dataset.zip(tuple(streams))
  return zipped.map(lambda *batches: tf.concat([batch[part] for batch, part in zip(batches, parts, strict=True)], 0))
