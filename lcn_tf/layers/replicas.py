"""What one replica must know of the others."""

import tensorflow as tf


def replicas() -> tuple[int, int | tf.Tensor]:
  """(number of replicas, which of them this is)."""
  context = tf.distribute.get_replica_context()
  if context is None or context.num_replicas_in_sync == 1:
    return 1, 0
  return context.num_replicas_in_sync, context.replica_id_in_sync_group


def global_rows(rows: tf.Tensor) -> tf.Tensor:
  """The rows of all replicas, in order, `[replicas * B, ...]`; gradients return to the replica that holds the row."""
  count, _ = replicas()
  return rows if count == 1 else tf.distribute.get_replica_context().all_gather(rows, axis=0)


def global_sum(value: tf.Tensor) -> tf.Tensor:
  """The sum over all replicas."""
  count, _ = replicas()
  return value if count == 1 else tf.distribute.get_replica_context().all_reduce("SUM", value)


def own_rows(rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
  """This replica's `count` rows of the global batch's."""
  _, replica = replicas()
  start = tf.cast(replica, count.dtype) * count
  return rows[start : start + count]
