"""The batches that a job reads: its share of the training records, and the validation split."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import tensorflow as tf

from lcn_tf.config import Train
from lcn_tf.data.read.dataset import evaluation_batches, steps_per_epoch, training_batches
from lcn_tf.data.read.diagnosis import guard
from lcn_tf.data.read.widths import powers_of_two
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import SettingsError
from lcn_tf.models.base import RequestModel
from lcn_tf.schema import DOMAINS
from lcn_tf.training.progress import Progress
from lcn_tf.training.strategy import input_options


@dataclasses.dataclass(frozen=True)
class StepSize:
  """The size of a step, summed over replicas.

  Attributes:
    requests: Number of target-domain requests.
    second_requests: Number of source-domain requests, for models that read them; a multiple of replicas x
      micro-batches, and of shares.
    candidates: Number of candidates of the target-domain requests, padding included.
    steps: Number of steps of an epoch.
    shares: Number of shares that the records are dealt in; see `training_batches`.
  """

  requests: int
  second_requests: int
  candidates: int
  steps: int
  shares: int = 1

  @classmethod
  def of(cls, config: Train, record_set: RecordSet, replicas: int, shares: int = 1) -> "StepSize":
    """The size of a step by the config.

    Raises:
      SettingsError: The replicas cannot share the step equally, or their shares cannot be cut in micro-batches, or
        several steps per call are asked of them.
      UserError: The training split holds fewer records than a step.
    """
    each = record_set.record_schema.candidates
    requests = config.global_batch_size // each
    if requests % replicas:
      raise SettingsError(
        f"train.global_batch_size {config.global_batch_size} is {requests} requests of {each} candidates, "
        f"which {replicas} replicas cannot share equally"
      )
    parts = config.micro_batches
    if requests // replicas % parts:
      raise SettingsError(
        f"train.micro_batches {parts} of {requests // replicas} requests: those of a replica in a step (train."
        f"global_batch_size {config.global_batch_size} / schema.candidates {each} / {replicas} replicas) must be a "
        "multiple of it"
      )
    if config.steps_per_execution > 1 and replicas > 1:
      # a collective has one shape in a call, and the number of rows that replicas exchange differs from step to step
      raise SettingsError(
        f"train.steps_per_execution {config.steps_per_execution} needs one replica, and there are {replicas}: they "
        "exchange other rows of the tables in every step. Expected 1"
      )
    unit = math.lcm(replicas * parts, shares)
    second = max(1, round(requests * config.source_ratio / unit)) * unit
    steps = config.steps_per_epoch or steps_per_epoch(record_set, requests)
    return cls(requests, second, requests * each, steps, shares)


def training_stream(
  record_set: RecordSet,
  config: Train,
  size: StepSize,
  model: RequestModel,
  strategy: tf.distribute.Strategy,
  progress: Progress,
) -> tf.distribute.DistributedDataset:
  """Endless training batches from the position of the job on, dealt to the replicas."""

  def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
    replicas = strategy.num_replicas_in_sync // context.num_input_pipelines
    shares = worker_streams(record_set, config, size, model, context.num_input_pipelines, progress, replicas)
    return shares(context.input_pipeline_id)

  return strategy.distribute_datasets_from_function(share, input_options(strategy))


def worker_streams(
  record_set: RecordSet,
  config: Train,
  size: StepSize,
  model: RequestModel,
  workers: int,
  progress: Progress,
  replicas: int = 1,
) -> Callable[[int], tf.data.Dataset]:
  """A function that returns a worker's part of the endless training batches from the position of the job on.

  Args:
    record_set: Records.
    config: Section `train`.
    size: Size of a step.
    model: Model that is trained.
    workers: Number of workers.
    progress: Position of the job.
    replicas: Replicas of each worker.
  """
  widths = config.length_buckets
  if config.jit_compile and not widths:
    schema = record_set.record_schema
    widths = powers_of_two(max(schema.capacity(d) for d in DOMAINS))
  skip = int(progress.epoch) * size.steps + int(progress.step)

  def share(worker: int) -> tf.data.Dataset:
    return training_batches(
      record_set,
      domains=model.domains,
      requests=size.requests,
      second_requests=size.second_requests,
      replicas=replicas,
      seed=config.seed,
      skip=skip,
      length_buckets=widths,
      shuffle_buffer=config.shuffle_buffer,
      on_corrupt=config.on_corrupt,
      workers=workers,
      worker=worker,
      shares=size.shares,
    )

  return share


def validation_stream(
  record_set: RecordSet, config: Train, size: StepSize, replicas: int, at_once: int
) -> Callable[[], Iterator[dict[str, tf.Tensor]]]:
  """A function that reads the validation split from its start; broken records are looked for once.

  Args:
    record_set: Record set with the split.
    config: Settings of the job.
    size: Size of a step.
    replicas: Number of replicas.
    at_once: Most candidates of a batch (`lcn_tf.serving.blocks`), though it has a request at least; 0 = a batch has the
      requests of a replica in a step, and 64 at least.
  """

  @functools.cache
  def batches() -> tf.data.Dataset:
    if at_once:
      share = max(at_once // record_set.record_schema.candidates, 1)
    else:
      share = max(size.requests // replicas, 64)
    return evaluation_batches(record_set, "validation", requests=share, on_corrupt=config.on_corrupt, grouped=True)

  def read() -> Iterator[dict[str, tf.Tensor]]:
    with guard(record_set, "validation"):
      yield from batches()

  return read
