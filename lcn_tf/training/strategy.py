"""The devices of a job."""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from lcn_tf.config import Train
from lcn_tf.errors import LostWorkerError, UserError, one_line
from lcn_tf.training.cluster import LOST, tasks, wait_for, with_servers
from lcn_tf.training.servers import parameter_server


def make_strategy(config: Train) -> tf.distribute.Strategy:
  """The strategy that `config.strategy` names.

  `mirrored` is one process with `config.replicas` GPUs (all visible ones if 0), or logical CPU devices (one if 0).
  `multi_worker` is the same job in every process that TF_CONFIG names. Each has all GPUs that it sees, or one CPU
  device. `parameter_server` is the job of the chief that TF_CONFIG names, with workers and servers.

  Raises:
    UserError: There are fewer GPUs than replicas. Or TensorFlow has started with fewer CPU devices, or before the
      workers could be connected. Or several CPU devices are to use XLA. Or TF_CONFIG has several tasks for a `mirrored`
      job, or no tasks, or tasks that are no workers, for a `multi_worker` one, or no chief, workers or servers for a
      `parameter_server` one.
  """
  if config.strategy == "parameter_server":
    found = with_servers()
    if found.kind != "chief":
      raise UserError(f"TF_CONFIG: this is {found.name}, and the chief trains; pipelines.train serves it")
    return parameter_server(config, found)
  workers, _ = tasks()
  if config.strategy == "multi_worker":
    return _multi_worker(config, workers)
  if len(workers) > 1:
    raise UserError(
      f"TF_CONFIG names {len(workers)} tasks, but a mirrored job runs on one machine; they share one job with "
      "train.strategy: multi_worker"
    )
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


def input_options(strategy: tf.distribute.Strategy) -> tf.distribute.InputOptions | None:
  """Options of the way that batches reach the replicas; None = TensorFlow's way, with a buffer on each device.

  A single CPU replica reads the stream itself, as nothing has to be copied to it. TensorFlow's iterator of a device
  would now and then wait at its end for its tuner, which sleeps up to a minute and takes no options.
  """
  one_process = isinstance(strategy, tf.distribute.MirroredStrategy)  # a cluster's strategy takes no such options
  if not one_process or strategy.num_replicas_in_sync > 1 or "CPU" not in strategy.extended.worker_devices[0]:
    return None
  return tf.distribute.InputOptions(
    experimental_fetch_to_device=False,
    experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA,
  )


def device_names(strategy: tf.distribute.Strategy) -> str:
  """The devices of the replicas: `GPU:0, GPU:1`; or the workers and servers."""
  if isinstance(strategy, tf.distribute.ParameterServerStrategy):
    cluster = with_servers()
    return f"workers {len(cluster.workers)}, servers {len(cluster.servers)}"
  return ", ".join(device.partition("device:")[2] or device for device in strategy.extended.worker_devices)


def _multi_worker(config: Train, workers: list[str]) -> tf.distribute.Strategy:
  if not workers:
    raise UserError("train.strategy is multi_worker, but TF_CONFIG names no workers")
  gpus = len(tf.config.list_physical_devices("GPU"))
  here = gpus or 1
  if config.replicas not in (0, here):
    raise UserError(
      f"train.replicas is {config.replicas}, but a worker has as many as it sees GPUs, here {here}: leave it at 0"
    )
  if config.jit_compile and not gpus:
    raise UserError("train.jit_compile: XLA runs on one CPU device, and train.strategy is multi_worker")
  if tasks()[1]:
    wait_for(workers[0], "the first worker")
  try:
    with _ended_at_once():
      return tf.distribute.MultiWorkerMirroredStrategy()
  except LOST as error:
    raise LostWorkerError(
      f"worker {tasks()[1]} of {len(workers)} has not found the others, or has lost one: {one_line(error)}. Start all "
      "of them again."
    ) from None
  except (RuntimeError, tf.errors.OpError) as error:
    raise UserError(f"train.strategy: the workers of TF_CONFIG cannot be connected: {one_line(error)}") from None


@contextlib.contextmanager
def _ended_at_once() -> Iterator[None]:
  """SIGTERM and Ctrl-C end the process at once: TensorFlow waits for other workers where Python sees no signal."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def cpu_devices(count: int) -> list[str]:
  """Names of `count` logical CPU devices, made if TensorFlow has not started yet.

  Raises:
    UserError: TensorFlow has started with fewer devices.
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
