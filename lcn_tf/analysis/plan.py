"""What a job takes, before it runs: memory of a device, bytes between devices, bytes of a record."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lcn_tf.analysis.live_memory import LiveMemory, live_memory
from lcn_tf.analysis.synthetic import random_vectors
from lcn_tf.config import Experiment
from lcn_tf.data import records
from lcn_tf.data.request_spec import batch_spec
from lcn_tf.errors import UserError
from lcn_tf.layers.lockstep import one_of
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models import mult_adds
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.models.embedder import RequestEmbedding
from lcn_tf.schema import DOMAINS, DomainName, Schema, with_sizes
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.servers import part_count

_LEAST = 5000  # stand-ins of table sizes are larger, and primes: no width of a layer is one
_ROW_NUMBER = 8  # bytes of a row's number in a gradient
_FEATURE = 20  # bytes of a feature beside its name and its data
_LIBRARIES = {"cpu": 580_000_000}  # bytes that TensorFlow takes beside tensors
_GPU_LIBRARIES = 1_500_000_000  # with CUDA, cuDNN and room between tensors


@dataclasses.dataclass(frozen=True)
class Share:
  """What the share of one device in a step takes.

  Attributes:
    activations: Most bytes that the tensors of the step take at a time.
    rows: Bytes of the gradients of table rows, at most: a row for every distinct id that the share may hold.
    mult_adds: Mult-adds of the matrix products, forward and backward.
    read: Bytes of the rows of tables, catalogues and frozen vectors that the step looks up, at most.
  """

  activations: int
  rows: int
  mult_adds: int
  read: int


class Stored(NamedTuple):
  """A variable.

  Attributes:
    rows: Number of rows that servers may cut, 1 = none.
    size: Bytes.
    slots: Bytes of its slots, which are where it is.
  """

  rows: int
  size: int
  slots: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a job takes. Without servers every device has a copy of all variables; sizes are bytes of one device.

  Attributes:
    tables: Embedding tables.
    largest_table: Largest of the embedding tables.
    dense: All other trainable weights.
    slots: State of the optimizers.
    frozen: Item catalogues, frozen vectors and cached projections.
    shares: Share of a device in a step, by the number of devices.
    record: Serialized record, uncompressed, with histories of the expected length.
    stored: All variables of the model, each with its slots.
  """

  tables: int
  largest_table: int
  dense: int
  slots: int
  frozen: int
  shares: Mapping[int, Share]
  record: int
  stored: Sequence[Stored]

  @property
  def variables(self) -> int:
    """Bytes that do not depend on the batch."""
    return self.tables + self.dense + self.slots + self.frozen

  def memory(self, devices: int) -> int:
    """Most bytes of one of so many devices: in a step, or when the largest table gets its initial values."""
    share = self.shares[devices]
    gathered = share.rows * (devices if devices > 1 else 0)
    return self.variables + max(self.dense + share.activations + gathered, 2 * self.largest_table)

  def server_memory(self, servers: int, workers: int, part_bytes: int) -> int:
    """Bytes of the fullest of so many servers, about: in a step, or when its largest part gets its initial values.

    Args:
      servers: Number of servers.
      workers: Number of workers.
      part_bytes: Smallest size of a part, `train.table_part_bytes`.
    """
    held, beginning, largest, turn = [0] * servers, [0] * servers, 0, 0
    for variable in self.stored:
      parts = part_count(variable.rows, variable.size, servers, part_bytes)
      largest = max(largest, variable.size // parts)
      for _ in range(parts):
        # slots are beside the part that they belong to
        held[turn % servers] += (variable.size + variable.slots) // parts
        beginning[turn % servers] += variable.size // parts
        turn += 1
    # gradients of rows: as they come, joined, and summed by row
    step = 3 * workers * self.shares[workers].rows // servers
    return max(max(held) + step, max(beginning) + 2 * largest)

  def worker_memory(self, workers: int) -> int:
    """Bytes of one of so many workers of servers, about: dense weights, their gradients, and the tensors of a step."""
    return 2 * self.dense + self.shares[workers].activations

  def worker_sent(self, workers: int) -> int:
    """Bytes of gradients that a worker sends to servers in a step, at most."""
    return self.dense + self.shares[workers].rows

  def worker_read(self, workers: int) -> int:
    """Bytes that a worker gets from servers in a step, at most: rows that it looks up, and each dense weight once."""
    return self.dense + self.shares[workers].read

  def sent(self, devices: int) -> int:
    """Bytes that a device sends in a step: dense gradients around a ring, and its rows to all others."""
    return 2 * self.dense * (devices - 1) // devices + (devices - 1) * self.shares[devices].rows


def libraries(device: str) -> int:
  """Bytes that the libraries take of a device, `cpu` or a kind of GPU."""
  return _LIBRARIES.get(device, _GPU_LIBRARIES)


def plan(
  experiment: Experiment, schema: Schema, devices: Sequence[int], lengths: Mapping[DomainName, float] | None = None
) -> Plan:
  """Plans a job. The model is built with small tables, and its training step is traced, not run.

  Args:
    experiment: Experiment.
    schema: Its schema, with the sizes that the job will have.
    devices: Numbers of devices, each of which may share the batch.
    lengths: Expected behaviours of a history, by domain; None = full histories.

  Raises:
    UserError: `build_model` refuses the model, or a number of devices does not divide the requests of a step.
  """
  requests = experiment.train.global_batch_size // schema.candidates
  for count in devices:
    if requests % (count * experiment.train.micro_batches):
      parts = f" in {experiment.train.micro_batches} micro-batches" if experiment.train.micro_batches > 1 else ""
      raise UserError(
        f"--devices {count}: the {requests} requests of a step cannot be shared by {count} devices{parts} equally"
      )
  small, actual = _stand_ins(schema)
  model = _compiled(experiment, small)
  tables = {v.ref() for v in model.table_variables()}
  trained = {v.ref() for v in model.trainable_variables} - tables
  sizes = {v.ref(): _bytes(v, actual) for v in model.variables}
  return Plan(
    tables=sum(sizes[v] for v in tables),
    largest_table=max(sizes[v] for v in tables),
    dense=sum(sizes[v] for v in trained),
    slots=sum(_bytes(v, actual) for optimizer in model.optimizer.optimizers for v in optimizer.variables()),
    frozen=sum(size for v, size in sizes.items() if v not in trained | tables),
    shares={count: _share(experiment, model, actual, requests // count, count) for count in devices},
    record=_record(schema, lengths or {d: schema.capacity(d) for d in DOMAINS}),
    stored=[_stored(v, model, actual) for v in model.variables],
  )


def _stored(variable: tf.Variable, model: RequestModel, actual: Mapping[int, int]) -> Stored:
  """A variable as servers hold it: what has a row for each value of a vocabulary, or for each item, is cut."""
  rows = actual.get(variable.shape[0], 1) if variable.shape.rank == 2 else 1
  slots = 0
  for optimizer in model.optimizer.optimizers:
    with contextlib.suppress(KeyError):  # another optimizer has the variable, or none
      slots += sum(_bytes(optimizer.get_slot(variable, name), actual) for name in optimizer.get_slot_names())
  return Stored(rows, _bytes(variable, actual), slots)


def _stand_ins(schema: Schema) -> tuple[Schema, dict[int, int]]:
  """The schema with small tables, each of another size, and the actual size for each of these."""
  primes = _primes(len(schema.vocabularies) + len(DOMAINS))
  of_vocabulary = {name: next(primes) for name in schema.vocabularies}
  of_items = {d: next(primes) for d in DOMAINS}
  actual = {of_vocabulary[name]: vocabulary.size for name, vocabulary in schema.vocabularies.items()}
  actual |= {of_items[d]: schema.domain(d).items for d in DOMAINS}
  return with_sizes(schema, of_vocabulary, of_items), actual


def _primes(count: int) -> Iterator[int]:
  found = (n for n in itertools.count(_LEAST) if all(n % d for d in range(2, math.isqrt(n) + 1)))
  return itertools.islice(found, count)


def _compiled(experiment: Experiment, schema: Schema) -> RequestModel:
  config = experiment.model
  if config.embedding.init_from == "pretrained":  # trained tables either way
    config = config.model_copy(update={"embedding": config.embedding.model_copy(update={"init_from": "none"})})
  frozen = None
  if needs_pretrained(config):
    rows = max(schema.domain(d).items for d in DOMAINS)
    frozen = random_vectors(rows, config.pretraining.dim, 2, np.random.default_rng(0))
    frozen = dataclasses.replace(
      frozen,
      vectors={d: v[: schema.domain(d).items] for d, v in frozen.vectors.items()},
      clusters={d: v[: schema.domain(d).items] for d, v in frozen.clusters.items()},
    )
  model = build_model(schema, config, deduplicate=not experiment.train.jit_compile, pretrained=frozen)
  model.compile(optimizer=make_optimizer(model, experiment.train))
  model.metrics  # noqa: B018 (makes the trackers)
  return model


def _share(
  experiment: Experiment, model: RequestModel, actual: Mapping[int, int], requests: int, devices: int
) -> Share:
  """Share of one of so many devices, each of which gets so many requests of the target domain.

  Of micro-batches one is traced: one is alive at a time, with the gradients of those before it.
  """
  schema, parts = model.schema, experiment.train.micro_batches
  requests //= parts
  widths = {d: schema.capacity(d) for d in DOMAINS}
  ratio = {d: 1.0 if d == "target" else experiment.train.source_ratio for d in model.domains}
  given = {d: batch_spec(schema, max(round(requests * ratio[d]), 1), widths) for d in model.domains}
  with one_of(devices):
    step = tf.function(model.train_step, autograph=False).get_concrete_function(given)
  live = live_memory(step)
  inner = {id(outside): inside.ref() for outside, inside in step.graph.captures}
  rows = 0
  for table in model.table_variables():
    size, width = actual.get(table.shape[0], table.shape[0]), table.shape[1]
    written = parts * live.rows.get(inner.get(id(table.handle)), 0)
    rows += min(written, size) * (width * table.dtype.size + _ROW_NUMBER)
  kept = rows + sum(v.shape.num_elements() * v.dtype.size for v in model.dense_variables()) if parts > 1 else 0
  return Share(
    live.peak + kept, rows, parts * mult_adds.count(step).total, _looked_up(model, actual, parts, inner, live)
  )


def _looked_up(
  model: RequestModel, actual: Mapping[int, int], parts: int, inner: Mapping[int, Any], live: LiveMemory
) -> int:
  """Bytes of rows that a step of so many micro-batches looks up. `inner` has the handles of variables in the graph."""
  layers = [part for part in model.submodules if isinstance(part, EmbeddingTables | RequestEmbedding)]
  # each row of these once
  distinct = {v.ref() for layer in layers for v in layer.variables} if model.embedder.deduplicate else set()
  distinct -= {v.ref() for layer in layers for v in getattr(layer, "vectors", {}).values()}
  found = live.read.get(None, 0)
  for variable in model.variables:
    if id(variable.handle) in inner:
      read = live.read.get(inner[id(variable.handle)], 0)
      found += min(read, _bytes(variable, actual)) if variable.ref() in distinct else read
  return parts * found


def _bytes(variable: tf.Variable, actual: Mapping[int, int]) -> int:
  """Bytes of a variable whose axes have their actual sizes."""
  return math.prod(actual.get(axis, axis) for axis in variable.shape) * variable.dtype.size


def _record(schema: Schema, lengths: Mapping[DomainName, float]) -> int:
  """Bytes of a full record with histories of these lengths."""
  sizes = {"": 1.0, "N": schema.candidates} | dict(lengths)
  total = 0.0
  for name, (dtype, axis, width) in records.layout(schema).items():
    total += len(name) + _FEATURE + sizes[axis] * abs(width) * np.dtype(dtype).itemsize
  return round(total)
