"""Exchange between the replicas of a strategy, or between the parts of one graph that are traced in lockstep."""

from typing import Any

import tensorflow as tf

from lcn_tf.layers.lockstep import current_part
from lcn_tf.layers.parts import is_in_parts, parts_of


def replicas() -> tuple[int, int | tf.Tensor]:
  """(number of replicas, index of this replica)."""
  if (part := current_part()) is not None:
    return part.count, part.index
  context = tf.distribute.get_replica_context()
  if context is None or context.num_replicas_in_sync == 1:
    return 1, 0
  return context.num_replicas_in_sync, context.replica_id_in_sync_group


def on_replica(variable: tf.Variable) -> tf.Variable:
  """The copy of a variable on this replica; the variable itself if it has no copies.

  Look-ups must use it. `tf.gather` on a variable of a strategy first reads the whole variable, and after a scatter
  update that copies the whole table at every step.
  """
  if not isinstance(variable, tf.distribute.DistributedValues):
    return variable
  copies = variable.values
  try:
    handle = variable.handle
  except ValueError:  # outside of a replica and of an optimizer's update, all copies are equal
    return copies[0]
  return next(copy for copy in copies if copy.handle is handle)


def gather_rows(variable: Any, indices: tf.Tensor) -> tf.Tensor:
  """Rows of a variable, `[..., width]`: of this replica's copy, or of the servers that hold its parts.

  Args:
    variable: Variable, or one in parts that `ParameterServerStrategy` has made.
    indices: Rows, `[...]` int64.
  """
  if is_in_parts(variable):
    rows = tf.nn.embedding_lookup(parts_of(variable), tf.reshape(indices, [-1]))
    return tf.reshape(rows, tf.concat([tf.shape(indices), variable.shape[1:]], axis=0))
  rows = tf.gather(on_replica(variable), indices)
  # a function that is called, and not copied, does not know the shapes of the variables that it is given
  return tf.ensure_shape(rows, rows.shape)


def global_rows(rows: tf.Tensor) -> tf.Tensor:
  """The rows of all replicas in replica order, `[replicas * B, ...]`. A gradient returns to the replica of its row."""
  if replicas()[0] == 1:
    return rows
  if (part := current_part()) is not None:
    return part.concat(rows)
  return tf.distribute.get_replica_context().all_gather(rows, axis=0)


def global_sum(value: tf.Tensor) -> tf.Tensor:
  """The sum over all replicas."""
  if replicas()[0] == 1:
    return value
  if (part := current_part()) is not None:
    return part.sum(value)
  return tf.distribute.get_replica_context().all_reduce("SUM", value)


def own_rows(rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
  """The `count` rows of the global batch that belong to this replica."""
  _, replica = replicas()
  start = tf.cast(replica, count.dtype) * count
  return rows[start : start + count]
