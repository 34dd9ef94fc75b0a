"""Training with parameter servers: the servers hold the tables in parts, the workers share each step.

TF_CONFIG names one `chief`, `worker`s, and servers, which TensorFlow calls `ps`. The chief has the job: it runs the
steps, validates and saves. Workers and servers do what the chief's TensorFlow asks of theirs.

Steps are synchronous, unlike those of TensorFlow's coordinator: with gradients that are one step old LCN learns nothing
of clicks on the synthetic log, at the learning rate at which it does otherwise.
"""

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import files, processes
from lcn_tf.config import Train
from lcn_tf.errors import LostWorkerError, UserError, one_line
from lcn_tf.layers.dropout import Dropout
from lcn_tf.layers.lockstep import in_lockstep
from lcn_tf.layers.parts import may_be_in_parts
from lcn_tf.models.base import RequestModel
from lcn_tf.models.micro_batches import joined
from lcn_tf.storage import readable
from lcn_tf.training.cluster import LOST, PATIENCE, Cluster, listens, wait_for
from lcn_tf.training.cost import peak_memory_bytes
from lcn_tf.training.gauges import timed_next
from lcn_tf.training.preemption import at_sigterm

_LOOK = 0.5  # seconds between two looks for the chief
_GONE = 10  # looks in a row that do not find it
_BRANCHES = ("If", "StatelessIf", "While", "StatelessWhile")
_GOODBYE = "ended.json"  # in the run folder, written when a job has ended well


def parameter_server(config: Train, cluster: Cluster) -> tf.distribute.Strategy:
  """The strategy of the chief, once all workers and servers are there.

  Raises:
    UserError: The workers have several GPUs each, or the cluster cannot be connected.
    LostWorkerError: A worker or a server was lost meanwhile.
  """
  for what, addresses in (("server", cluster.servers), ("worker", cluster.workers)):
    for index, address in enumerate(addresses):
      wait_for(address, f"{what} {index}")
  resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")
  parts = partitioner(len(cluster.servers), config.table_part_bytes)
  try:
    strategy = tf.distribute.ParameterServerStrategy(resolver, parts)
  except LOST as error:
    raise LostWorkerError(
      f"a worker or a server was lost at the start: {one_line(error)}. Start all of them again."
    ) from None
  except (RuntimeError, ValueError, tf.errors.OpError) as error:
    raise UserError(f"train.strategy: the cluster of TF_CONFIG cannot be connected: {one_line(error)}") from None
  if strategy.num_replicas_in_sync > 1:
    raise UserError(
      f"train.strategy parameter_server: a worker has {strategy.num_replicas_in_sync} GPUs. Expected one worker per "
      "GPU, with CUDA_VISIBLE_DEVICES"
    )
  return strategy


def partitioner(servers: int, part_bytes: int) -> Callable[..., list[int]]:
  """A function that says in how many parts of rows the servers hold a variable that may be in parts.

  Args:
    servers: Number of servers.
    part_bytes: Smallest size of a part.
  """

  def parts(shape: tf.TensorShape, dtype: tf.DType, **_: Any) -> list[int]:
    if shape.rank != 2 or not may_be_in_parts():
      return [1] * shape.rank
    return [part_count(shape[0], math.prod(shape) * dtype.size, servers, part_bytes), 1]

  return parts


def part_count(rows: int, size: int, servers: int, part_bytes: int) -> int:
  """Number of parts of a variable with so many rows and bytes; `servers` and `part_bytes` as of `partitioner`."""
  return max(1, min(servers, rows, size // part_bytes))


def serve(cluster: Cluster, run_dir: str | pathlib.Path) -> None:
  """Works for the chief, as a worker or a server, until the chief's process has ended.

  At SIGTERM it goes on, and ends with the exit code of the signal when the chief has; a second one ends it at once.

  Args:
    cluster: Processes of the job.
    run_dir: Run folder of the job.

  Raises:
    UserError: The address of this process cannot be taken.
    LostWorkerError: The chief was not there within an hour, or its job has not ended well.
  """
  if cluster.kind == "ps":
    tf.config.set_visible_devices([], "GPU")
  own, chief = cluster.addresses(cluster.kind)[cluster.index], cluster.addresses("chief")[0]
  try:
    server = tf.distribute.Server(
      tf.train.ClusterSpec(cluster.described), job_name=cluster.kind, task_index=cluster.index, protocol="grpc"
    )
  except tf.errors.OpError as error:
    raise UserError(f"TF_CONFIG: {own}, the address of this process, cannot be taken: {one_line(error)}") from None
  logging.info("%s is at work for %s, at %s", cluster.name, chief, server.target)
  asked: list[bool] = []
  # whoever ends all processes ends this one, too, while the chief still saves
  with at_sigterm(lambda: asked.append(True)):
    _until_gone(chief, cluster.name, asked)
  if asked:
    sys.exit(processes.TERMINATED)
  if not (files.local(run_dir) / _GOODBYE).exists():
    raise LostWorkerError(f"{cluster.name}: the chief has ended before its job had, and its log says why.")
  logging.info("%s: the job has ended; peak of memory %s", cluster.name, readable(peak_memory_bytes()))


def begins(run: pathlib.Path) -> None:
  """Says that a job has not ended, for those who serve it; by the chief."""
  (run / _GOODBYE).unlink(missing_ok=True)


def ends(run: pathlib.Path) -> None:
  """Says that a job has ended well, for those who serve it; by the chief."""
  (run / _GOODBYE).write_text("{}\n")


def _until_gone(chief: str, name: str, asked: Sequence[bool]) -> None:
  """Waits until the chief was there and is no more, or `asked` has something and it was not there yet."""
  began, missed = time.monotonic(), -1  # -1: it has not been seen
  while missed < _GONE:
    time.sleep(_LOOK)
    if listens(chief):
      missed = 0
    elif missed >= 0:
      missed += 1
    elif asked:
      return
    elif time.monotonic() - began > PATIENCE:
      raise LostWorkerError(f"{name}: the chief, {chief}, was not there within an hour. Start all again.")


class Steps:
  """The training steps of a model, each of which all workers share.

  A step is one graph over all processes. Each worker reads its part of the batch, looks the rows up that it needs, and
  has the gradients of its part; the servers add them up and apply them. Workers exchange what replicas of the other
  strategies do, so losses are those of the whole batch (`lcn_tf.layers.lockstep`). Each part is traced by itself.

  Args:
    model: Compiled model.
    workers: Number of workers.
    share: Function that returns the endless batches of a worker by its index.
  """

  def __init__(self, model: RequestModel, workers: int, share: Callable[[int], tf.data.Dataset]):
    self._model = model
    self._devices = [f"/job:worker/replica:0/task:{index}" for index in range(workers)]
    self._dropouts = [layer for layer in model.submodules if isinstance(layer, Dropout) and layer.rate]
    self._batches = [self._on_worker(index, share) for index in range(workers)]
    self._step = tf.function(self._of_all, autograph=False, reduce_retracing=True)

  def _on_worker(self, index: int, share: Callable[[int], tf.data.Dataset]) -> Iterator[Any]:
    made = tf.function(lambda: share(index), autograph=False).get_concrete_function()
    with tf.device(self._devices[index]):
      return iter(made())

  def _of_all(self, iterators: Sequence[Iterator[Any]]) -> dict[str, tf.Tensor]:
    model, variables = self._model, self._model.trainable_variables
    seeds = [layer.generator.make_seeds(len(self._devices)) for layer in self._dropouts]
    gauges = model.optimizer.gauges
    given: dict[int, Any] = {}

    def of_part(index: int) -> tuple[dict[str, tf.Tensor], list[Any]]:
      with tf.device(self._devices[index]):
        if gauges:
          inputs, *given[index] = timed_next(iterators[index], model.distribute_strategy)
        else:
          inputs = next(iterators[index])
      for layer, seed in zip(self._dropouts, seeds, strict=True):
        layer.give(seed[:, index])
      with _but_resources_on(self._devices[index]):
        return model.losses_and_gradients(inputs, variables)

    found = in_lockstep(of_part, len(self._devices))
    of_parts = zip(variables, *(gradients for _, gradients in found), strict=True)
    summed = [(_sum(parts, v), v) for v, *parts in of_parts if parts[0] is not None]
    model.optimizer.apply_gradients(summed)
    if gauges:
      batches, _ = given[0]  # one worker stands for all, as one replica does
      gauges.note(batches, tf.reduce_max([seconds for _, seconds in given.values()]))
    for name, tracker in model.trackers.items():
      tracker.update_state(tf.add_n([losses[name] for losses, _ in found]))
    return {name: tracker.result() for name, tracker in model.trackers.items()}

  def fit(self, first: int, epochs: int, steps: int, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Trains as `keras.Model.fit` does.

    Args:
      first: Index of the first epoch.
      epochs: Index behind the last epoch.
      steps: Steps of each epoch.
      callbacks: Callbacks.
    """
    model = self._model
    listening = keras.callbacks.CallbackList(
      list(callbacks), add_progbar=True, model=model, epochs=epochs, steps=steps, verbose=2
    )
    model.stop_training = False
    listening.on_train_begin()
    for epoch in range(first, epochs):
      model.reset_metrics()
      listening.on_epoch_begin(epoch)
      logs: dict[str, Any] = {}
      for step in range(steps):
        listening.on_train_batch_begin(step)
        logs = {name: float(value) for name, value in self._step(self._batches).items()}
        listening.on_train_batch_end(step, logs)
        if model.stop_training:
          break
      listening.on_epoch_end(epoch, logs)
      if model.stop_training:
        break
    listening.on_train_end()


def _but_resources_on(device: str) -> contextlib.AbstractContextManager[None]:
  """Places what is traced within on a device, but for what reads variables: that is done where they are.

  Branches and loops have their results on the device, whatever they read.
  """

  def of(op: tf.Operation) -> str:
    reads = any(tensor.dtype == tf.resource for tensor in op.inputs) and op.type not in _BRANCHES
    return op.device or ("" if reads or op.type == "Placeholder" else device)

  return tf.compat.v1.device(of)


def _sum(parts: Sequence[Any], variable: tf.Variable) -> Any:
  """The sum of the gradients of parts of a batch, where the variable is."""
  with tf.device(variable.device):
    if isinstance(parts[0], tf.IndexedSlices):
      return joined(parts)
    return tf.add_n(list(parts))
