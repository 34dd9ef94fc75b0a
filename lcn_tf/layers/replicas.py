"""What one replica must know of the others."""

import tensorflow as tf


def replicas() -> tuple[int, int | tf.Tensor]:
  """(number of replicas, which of them this is)."""
  context = tf.distribute.get_replica_context()
  if context is None or context.num_replicas_in_sync == 1:
    return 1, 0
  return context.num_replicas_in_sync, context.replica_id_in_sync_group


def on_replica(variable: tf.Variable) -> tf.Variable:
  """The copy of a variable that this replica holds; the variable itself where there is but one.

  Look-ups go through it: `tf.gather` on a variable of a strategy reads the whole of it first, which after a scatter
  update means a copy of the whole table, at every step.
  """
  if not isinstance(variable, tf.distribute.DistributedValues):
    return variable
  copies = variable.values
  try:
    handle = variable.handle
  except ValueError:  # neither on a replica nor in an optimizer's update of one: all copies are alike
    return copies[0]
  return next(copy for copy in copies if copy.handle is handle)


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
