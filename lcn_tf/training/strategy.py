"""Where a job runs."""

import tensorflow as tf

from lcn_tf.config import Train
from lcn_tf.errors import UserError


def make_strategy(config: Train) -> tf.distribute.Strategy:
  """`MirroredStrategy` over `config.replicas` GPUs (all visible ones if 0), or logical CPU devices (one if 0).

  Raises:
    UserError: More replicas than GPUs are visible, or TensorFlow has started with fewer CPU devices.
  """
  gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
  if gpus:
    wanted = config.replicas or len(gpus)
    if wanted > len(gpus):
      raise UserError(f"train.replicas is {wanted}, but {len(gpus)} GPUs are visible")
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(wanted)])
  return tf.distribute.MirroredStrategy(cpu_devices(max(config.replicas, 1)))


def cpu_devices(count: int) -> list[str]:
  """Names of `count` logical CPU devices, made if TensorFlow has not started yet.

  Raises:
    UserError: TensorFlow has started with fewer.
  """
  cpu = tf.config.list_physical_devices("CPU")[0]
  made = tf.config.get_logical_device_configuration(cpu)
  if count > 1 and len(made or [None]) < count:
    try:
      tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:
      raise UserError(
        f"train.replicas is {count}, but TensorFlow has started with {len(made or [None])} device"
      ) from None
  return [f"CPU:{i}" for i in range(count)]
