"""Global batches of the records of several shares, and the rows of them that a worker reads.

A global batch of R rows has R / S rows of each of S shares, in the order of the shares. W workers have R / W rows each,
in their order. So the global batches depend on the number of shares, and not on the number of workers.
"""

from collections.abc import Sequence

import tensorflow as tf


def parts(worker: int, rows: int, size: int) -> list[tuple[int, slice]]:
  """Where the rows of a worker come from.

  Args:
    worker: Index of the worker.
    rows: Rows of a global batch that a worker has.
    size: Rows of a global batch that a share gives.

  Returns:
    Shares, and the part of the `size` rows of each.
  """
  begin, end = worker * rows, (worker + 1) * rows
  shares = range(begin // size, -(-end // size))
  return [(share, slice(max(begin - share * size, 0), min(end - share * size, size))) for share in shares]


def joined(streams: Sequence[tuple[tf.data.Dataset, slice]], size: int) -> tf.data.Dataset:
  """One batch of parts of the batches `[size]` of several streams."""
  (first, part), *others = streams
  if not others and part == slice(0, size):
    return first
  zipped = tf.data.Dataset.zip(tuple(stream for stream, _ in streams))
  return zipped.map(lambda *batches: tf.concat([b[part] for b, (_, part) in zip(batches, streams, strict=True)], 0))
