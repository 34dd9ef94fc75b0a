"""Files -> batches.

Training: shards -> shares -> each shuffled and grouped by size -> global batches of serialized records, an equal part
of each share -> this worker's rows of them -> parsed at once, as wide as the longest history needs -> one slice per
replica. The order is a function of seed, number of shares, epoch and position only. So a job that starts again at
(epoch, skip) sees the batches of an unbroken one, also with another number of workers.

Iteration raises TensorFlow's own errors for broken records; `lcn_tf.data.read.diagnosis.guard` names the record.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.data.read import dealing, diagnosis, validity
from lcn_tf.data.read.widths import buckets
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, DomainName, Schema

Batch = dict[str, tf.Tensor]
OnCorrupt = Literal["error", "skip"]

_FOREVER = np.iinfo(np.int64).max
_GROUPED = 32  # batches among which records of similar size are grouped
_GROUPED_RECORDS = 2048  # and records, if the batches of an evaluation are small
_GROUPED_BEHAVIOURS = 2**23  # behaviours of an evaluation that are sorted at a time, in memory
_OPEN_SHARDS = 8  # read in turns
_PARSERS = max(2, min(16, os.cpu_count() or 2))  # batches at a time


def training_batches(
  record_set: RecordSet,
  *,
  domains: Sequence[DomainName] = ("target",),
  requests: int,
  second_requests: int | None = None,
  replicas: int = 1,
  seed: int,
  epoch: int = 0,
  skip: int = 0,
  length_buckets: Sequence[int] = (),
  shuffle_buffer: int = 8192,
  on_corrupt: OnCorrupt = "error",
  workers: int = 1,
  worker: int = 0,
  shares: int | None = None,
  repeat: bool = True,
) -> tf.data.Dataset:
  """The training stream of one worker.

  An epoch is one pass over the records of the first domain, in whole global batches. The remainder is left out, which
  differs between epochs. The records of the second domain accompany those of the first. They are shuffled afresh
  whenever they run out, and at the start of each epoch.

  Args:
    record_set: Record set whose `train` split is read.
    domains: Domains of the candidates; the first one decides the length of an epoch.
    requests: Records of the first domain in a global batch, summed over workers and replicas.
    second_requests: Records of the second domain in a global batch; None = as many as `requests`.
    replicas: Replicas of this worker.
    seed: Seed of the order.
    epoch: Epoch to start with.
    skip: Global batches of that epoch to leave out. Skipped records are not parsed.
    length_buckets: Widths that a history may get, see `buckets`.
    shuffle_buffer: Records per domain that are shuffled at a time, after the shards. They are held in memory.
    on_corrupt: Treatment of broken records. `error`: iteration fails. `skip`: they are looked for first, logged and
      left out. Some other records are then seen twice, so that an epoch keeps its number of steps.
    workers: Workers that share the records; each record is parsed by one of them.
    worker: Index of this worker.
    shares: Shares that the records are dealt in; None = one per worker. They alone decide the global batches.
    repeat: True if the stream goes on with the next epochs without an end.

  Returns:
    Elements `{domain: batch}`, a batch as `records.parse` returns it, with requests // workers // replicas rows.
    `replicas` consecutive elements are one step of this worker and equally wide.

  Raises:
    UserError: `requests` cannot be divided, a file is missing, or the records are fewer than one batch.
  """
  shares = shares or workers
  wanted = {d: requests if d == domains[0] else second_requests or requests for d in domains}
  rows = {d: _rows(count, d, workers, replicas) for d, count in wanted.items()}
  dealt = {d: _rows(count, d, shares, 1, "shares") for d, count in wanted.items()}
  steps = steps_per_epoch(record_set, requests, domains[0])
  epoch, skip = (epoch + skip // steps, skip % steps) if repeat else (epoch, skip)
  files = {d: _training_files(record_set, d, on_corrupt, max(workers, shares)) for d in domains}

  @tf.autograph.experimental.do_not_convert
  def one_epoch(number: tf.Tensor) -> tf.data.Dataset:
    streams = {}
    for domain in domains:
      key = tf.random.fold_in(tf.constant([seed, DOMAINS.index(domain)], tf.int64), number)
      once, size, parts = domain == domains[0], dealt[domain], dealing.parts(worker, rows[domain], dealt[domain])
      mine = [_share(files[domain], shares, share, steps * size if once else 1) for share in parts]
      given = [_batches(share, key, shuffle_buffer, steps, size, once) for share in mine]
      streams[domain] = dealing.joined(given, list(parts.values()), size)
    return tf.data.Dataset.zip(streams)

  @tf.autograph.experimental.do_not_convert
  def parse(serialized: dict[DomainName, tf.Tensor]) -> dict[DomainName, Batch]:
    whole = {d: tf.ensure_shape(one, [rows[d]]) for d, one in serialized.items()}
    batches = {d: _parse(one, record_set.record_schema, d, length_buckets) for d, one in whole.items()}
    return batches if replicas == 1 else tf.nest.map_structure(lambda one: _per_replica(one, replicas), batches)

  batches = tf.data.Dataset.range(epoch, _FOREVER if repeat else epoch + 1).flat_map(one_epoch).skip(skip)
  batches = batches.map(parse, num_parallel_calls=_PARSERS)
  if replicas > 1:
    # not unbatch(): TensorFlow 2.16 crashes in it on tensors with an axis of width 0, an empty group of fields
    batches = batches.flat_map(tf.data.Dataset.from_tensor_slices)
  return _deterministic(batches.prefetch(2 * replicas))


def _training_files(record_set: RecordSet, domain: DomainName, on_corrupt: OnCorrupt, least: int) -> "_Files":
  """Files of the train split with the numbers of records in `dataset.json`, broken ones included."""
  nominal = record_set.part("train", domain).records
  if nominal < least:
    raise UserError(f"{record_set.path}: the train split has too few {domain}-domain records: {nominal}")
  return dataclasses.replace(_readable(record_set, "train", domain, on_corrupt), total=nominal)


def _rows(wanted: int, domain: DomainName, workers: int, replicas: int, of: str = "replicas") -> int:
  """Requests of a global batch of `wanted` that one worker, or one share, has."""
  share, remainder = divmod(wanted, workers * replicas)
  if remainder or share < 1:
    raise UserError(
      f"a global batch of {wanted} {domain}-domain requests cannot be shared by {workers} x {replicas} {of} equally"
    )
  return share * replicas


def _per_replica(tensor: tf.Tensor, replicas: int) -> tf.Tensor:
  """`[replicas, rows / replicas, ...]` of `[rows, ...]`."""
  share = tensor.shape[0] // replicas
  sliced = tf.reshape(tensor, tf.concat([[replicas, share], tf.shape(tensor)[1:]], 0))
  return tf.ensure_shape(sliced, [replicas, share, *tensor.shape[1:]])


def evaluation_batches(
  record_set: RecordSet,
  split: str,
  *,
  domain: DomainName = "target",
  requests: int,
  length_buckets: Sequence[int] = (),
  on_corrupt: OnCorrupt = "error",
  grouped: bool = False,
) -> tf.data.Dataset:
  """Every record of a split once, in the order of the files, as batches of `requests`; the last one may be smaller.

  The arguments are those of `training_batches`, except for:

  Args:
    grouped: True if records of similar size are batched together, sorted among some batches. There is less padding.

  Returns:
    Elements as `records.parse` returns them, and `record` `[B]` int64: the number of each record in the split, without
    counting those that are left out.

  Raises:
    UserError: The split, the domain or a file is missing.
  """
  files = _readable(record_set, split, domain, on_corrupt)
  serialized = tf.data.TFRecordDataset(files.paths, compression_type=files.compression, buffer_size=files.buffer)
  serialized = serialized.apply(tf.data.experimental.assert_cardinality(files.total))
  schema = record_set.record_schema
  numbered = serialized.enumerate()
  if grouped:
    behaviours = requests * sum(schema.capacity(d) for d in DOMAINS)
    window = min(max(_GROUPED, _GROUPED_RECORDS // requests), _GROUPED_BEHAVIOURS // behaviours)
    numbered = _by_size(numbered, requests, max(1, window))
  else:
    numbered = numbered.batch(requests)

  @tf.autograph.experimental.do_not_convert
  def parse(numbers: tf.Tensor, some: tf.Tensor) -> Batch:
    return _parse(some, schema, domain, length_buckets) | {"record": numbers}

  batches = numbered.map(parse, num_parallel_calls=_PARSERS)
  return _deterministic(batches.prefetch(2))


def steps_per_epoch(record_set: RecordSet, requests: int, domain: DomainName = "target") -> int:
  """Global batches of `requests` records in one pass over the train split.

  Raises:
    UserError: The split holds fewer records than one batch.
  """
  count = record_set.part("train", domain).records
  if count < requests:
    raise UserError(
      f"{record_set.path}: the train split holds {count} {domain}-domain records, fewer than the {requests} of one "
      f"global batch; lower train.global_batch_size to at most {count * record_set.record_schema.candidates}"
    )
  return count // requests


@dataclasses.dataclass(frozen=True)
class _Files:
  """Shards to read: paths, numbers of records, and the records that a pass takes, some of them twice if need be."""

  paths: list[str]
  counts: list[int]
  total: int
  compression: str
  buffer: int | None = None  # bytes that are read at a time; None = TensorFlow's own number
  by_record: tuple[int, int] = (1, 0)  # (step, first) of the records that are taken


def check_shards(record_set: RecordSet, split: str, domain: DomainName, on_corrupt: OnCorrupt = "error") -> None:
  """Checks that the shards of a split are there and, unless broken ones are left out, those of `dataset.json`.

  Raises:
    UserError: Names the first that is not.
  """
  for shard in record_set.part(split, domain).shards:
    if record_set.shard_size(shard) is None:
      path = record_set.path / shard.file
      raise UserError(f"{path}: this shard is missing; {record_set.path}/dataset.json lists it")
    if on_corrupt == "error" and not diagnosis.is_described(record_set, shard):
      raise diagnosis.not_described(record_set, shard, domain)


def _readable(record_set: RecordSet, split: str, domain: DomainName, on_corrupt: OnCorrupt) -> _Files:
  check_shards(record_set, split, domain, on_corrupt)
  part = record_set.part(split, domain)
  paths = [record_set.shard_path(shard) for shard in part.shards]
  counts = [shard.records for shard in part.shards]
  compression = "GZIP" if record_set.compression == "gzip" else ""
  files = _Files(paths, counts, sum(counts), compression, record_set.shard_buffer)
  if on_corrupt == "error":
    return files
  repaired = diagnosis.repair(record_set, split, domain)
  return dataclasses.replace(files, paths=repaired.paths, counts=repaired.counts, total=sum(repaired.counts))


def _share(files: _Files, shares: int, share: int, needed: int) -> _Files:
  """Whole files if every share gets the records that it needs from them, else one record in `shares`."""
  if shares == 1:
    return files
  by_file = [sum(files.counts[i::shares]) for i in range(shares)]
  if len(files.paths) % shares == 0 and min(by_file) >= needed:
    mine = slice(share, None, shares)
    return dataclasses.replace(files, paths=files.paths[mine], counts=files.counts[mine], total=by_file[share])
  return dataclasses.replace(files, by_record=(shares, share))


def _one_pass(files: _Files, key: tf.Tensor, shuffle_buffer: int) -> tf.data.Dataset:
  """Serialized records, each once, in an order that `key` [2] alone decides."""
  order = tf.argsort(tf.random.stateless_uniform([len(files.paths)], key))
  shards = tf.data.Dataset.from_tensor_slices((tf.gather(files.paths, order), tf.gather(files.counts, order)))

  def read(path: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    serialized = tf.data.TFRecordDataset(path, compression_type=files.compression, buffer_size=files.buffer)
    return serialized.apply(tf.data.experimental.assert_cardinality(tf.cast(count, tf.int64)))

  turns = min(_OPEN_SHARDS, len(files.paths))
  serialized = shards.interleave(read, turns, block_length=8, num_parallel_calls=min(2, turns), deterministic=True)
  if sum(files.counts) < files.total:
    serialized = serialized.repeat().take(files.total)
  serialized = serialized.shard(*files.by_record)
  # Dataset.shuffle would mix the program's global seed into the order.
  shuffled = tf.raw_ops.ShuffleDataset(
    input_dataset=tf.data.experimental.to_variant(serialized),
    buffer_size=shuffle_buffer,
    seed=key[0],
    seed2=key[1] + 1,
    output_types=[tf.string],
    output_shapes=[[]],
    reshuffle_each_iteration=False,
  )
  return tf.data.experimental.from_variant(shuffled, serialized.element_spec)


def _batches(files: _Files, key: tf.Tensor, shuffle_buffer: int, steps: int, size: int, once: bool) -> tf.data.Dataset:
  """Batches `[size]` of an epoch of `steps`: each record once, or pass after pass."""
  passes = _one_pass if once else _endless_passes
  order = passes(files, key, shuffle_buffer).take(steps * size)
  return dealing.grouped(order, size, key, max(1, min(_GROUPED, shuffle_buffer // size)))


def _endless_passes(files: _Files, key: tf.Tensor, shuffle_buffer: int) -> tf.data.Dataset:
  """Serialized records, pass after pass, each in an order of its own."""
  passes = tf.data.Dataset.range(_FOREVER)
  return passes.flat_map(lambda number: _one_pass(files, tf.random.fold_in(key, number), shuffle_buffer))


def _by_size(numbered: tf.data.Dataset, rows: int, window: int) -> tf.data.Dataset:
  """Batches `[rows]` of numbered records of similar size, sorted out among `window`; the last may be smaller."""

  @tf.autograph.experimental.do_not_convert
  def regroup(numbers: tf.Tensor, some: tf.Tensor) -> tf.data.Dataset:
    by_size = tf.argsort(tf.strings.length(some), stable=True)
    return tf.data.Dataset.from_tensor_slices((tf.gather(numbers, by_size), tf.gather(some, by_size))).batch(rows)

  return numbered.batch(window * rows).flat_map(regroup)


def _parse(serialized: tf.Tensor, schema: Schema, domain: DomainName, length_buckets: Sequence[int]) -> Batch:
  """The batch, checked, with the narrowest histories that hold it."""
  batch = _parser(schema.model_dump_json(), domain, tuple(length_buckets))(serialized)
  return {name: tf.ensure_shape(tensor, [serialized.shape[0], *tensor.shape[1:]]) for name, tensor in batch.items()}


@functools.lru_cache(maxsize=16)
def _parser(schema_json: str, domain: DomainName, length_buckets: tuple[int, ...]) -> Callable[[tf.Tensor], Batch]:
  """Serialized records `[B]` to their batch: hundreds of operations, traced once for all streams of a process."""
  schema = Schema.model_validate_json(schema_json)

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
  def parse(serialized: tf.Tensor) -> Batch:
    data = records.features(serialized, schema)
    lengths: dict[DomainName, Any] = {}
    for d in DOMAINS:
      widths = tf.constant(buckets(schema.capacity(d), length_buckets))
      longest = tf.minimum(tf.reduce_max(records.values(data[f"{d}_items"], "int32")), widths[-1])
      lengths[d] = widths[tf.searchsorted(widths, longest[tf.newaxis])[0]]
    batch = records.tensors(data, schema, lengths)
    validity.assert_valid(data, batch, schema, domain)
    return batch

  return parse


def _deterministic(dataset: tf.data.Dataset) -> tf.data.Dataset:
  options = tf.data.Options()
  options.deterministic = True
  # its thread sleeps for up to a minute, and an iterator ends only when it wakes
  options.autotune.enabled = False
  options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
  # rewrites the graph of each iterator, for nothing that these streams hold
  options.experimental_optimization.apply_default_optimizations = False
  return dataset.with_options(options)
