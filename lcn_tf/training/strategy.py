"""Where a job runs."""

import json
import os
import pathlib

import tensorflow as tf
from absl import logging

from lcn_tf.config import Train
from lcn_tf.errors import UserError


def make_strategy(config: Train) -> tf.distribute.Strategy:
  """`MirroredStrategy` over `config.replicas` GPUs (all visible ones if 0), or logical CPU devices (one if 0).

  Raises:
    UserError: More replicas than GPUs are visible, TensorFlow has started with fewer CPU devices, XLA is asked for on
      several of these, or TF_CONFIG names several machines.
  """
  _check_alone()
  gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
  if gpus:
    wanted = config.replicas or len(gpus)
    if wanted > len(gpus):
      raise UserError(f"train.replicas is {wanted}, but {len(gpus)} GPUs are visible")
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(wanted)])
  if pathlib.Path("/dev/nvidia0").exists():
    logging.warning(
      "TensorFlow sees no GPU, though this machine has one: CUDA's libraries come with pip install '.[gpu]'"
    )
  if config.jit_compile and config.replicas > 1:
    raise UserError(f"train.jit_compile: XLA runs on one CPU device, and train.replicas is {config.replicas}")
  return tf.distribute.MirroredStrategy(cpu_devices(max(config.replicas, 1)))


def device_names(strategy: tf.distribute.Strategy) -> str:
  """The devices of the replicas: `GPU:0, GPU:1`."""
  return ", ".join(device.partition("device:")[2] or device for device in strategy.extended.worker_devices)


def _check_alone() -> None:
  """Several workers, each on its own, would train as many models, all on all records."""
  try:
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    tasks = [address for addresses in cluster.values() for address in addresses]
  except (ValueError, AttributeError, TypeError):
    raise UserError(f"TF_CONFIG is not what TensorFlow describes a cluster by: {os.environ['TF_CONFIG']}") from None
  if len(tasks) > 1:
    raise UserError(f"TF_CONFIG names {len(tasks)} tasks, but a job runs on one machine (train.strategy: mirrored)")


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
