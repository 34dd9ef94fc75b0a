"""Writing records: what every record is made of, who writes it, and into which shard."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
import uuid
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tqdm

from lcn_tf.data.build.arrays import Mapped, slices
from lcn_tf.data.build.engines import Engine, Processes, Shared, Value
from lcn_tf.data.build.requests import CandidateColumns, EventColumns, make_request
from lcn_tf.data.record_set import Part, Shard, SplitName, ends
from lcn_tf.data.records import encode, layout
from lcn_tf.formats import sha256
from lcn_tf.schema import DOMAINS, DomainName, Schema

_RELEASE = 100  # records, after which pages of mapped arrays are given back: a record touches a MB at most, mostly
PARALLEL_FROM = 60_000  # records; below, starting processes takes longer than it saves


@dataclasses.dataclass(frozen=True)
class UserLog:
  """All users' behaviours, ordered by user, then time, and candidates, ordered by user, split and time.

  Attributes:
    fields: Vocabulary indices of the user fields `[users, P]`; row = index of the user.
    values: Float values of the users' fields and vectors `[users, V]` float32.
    behaviours: Per domain.
    behaviour_offsets: Per domain: user u owns positions `offsets[u] .. offsets[u + 1] - 1`.
    candidates: Per domain of the candidates.
    candidate_offsets: Offsets of the candidates, as `behaviour_offsets`.
    cross_sources, context_sources: Per domain, `field_sources` of the cross fields of behaviours and of the context
      fields of candidates, for statistics; records do not tell a missing value from an unknown one.
    behaviour_splits: Per domain, split that each behaviour is counted in (position in `SPLITS`, or beyond), for
      statistics.
    mapped: Files that the arrays are mapped from; None = they are in memory.
  """

  fields: np.ndarray
  values: np.ndarray
  behaviours: dict[DomainName, EventColumns]
  behaviour_offsets: dict[DomainName, np.ndarray]
  candidates: dict[DomainName, CandidateColumns]
  candidate_offsets: dict[DomainName, np.ndarray]
  cross_sources: dict[DomainName, list[np.ndarray]] = dataclasses.field(default_factory=dict)
  context_sources: dict[DomainName, list[np.ndarray]] = dataclasses.field(default_factory=dict)
  behaviour_splits: dict[DomainName, np.ndarray] = dataclasses.field(default_factory=dict)
  mapped: Mapped | None = None

  def release(self) -> None:
    """Gives the memory back that looking at mapped arrays took."""
    if self.mapped:
      self.mapped.release()

  def of_user(self, user: int) -> dict[DomainName, EventColumns]:
    """The user's behaviours (views)."""
    return {
      d: behaviours[self.behaviour_offsets[d][user] : self.behaviour_offsets[d][user + 1]]
      for d, behaviours in self.behaviours.items()
    }


@dataclasses.dataclass(frozen=True)
class Plan:
  """The records of one split and candidate domain.

  Attributes:
    spans: `[records, 3]` int64: user, first candidate, end of the candidates (positions in `candidates`).
  """

  split: SplitName
  domain: DomainName
  spans: np.ndarray


@dataclasses.dataclass(frozen=True)
class ShardTask:
  """A shard, see `write_shard`.

  Attributes:
    folder: Folder in which the record set is being built.
    aside: Folder in which the shard is until it is whole; None = in its place.
    log: Behaviours and candidates of all users.
    schema: Schema of the records.
    compression: `gzip` or `none`.
    split, domain: Those of the records.
    file: Name in the record set.
    spans: Records as in `Plan.spans`.
  """

  folder: pathlib.Path
  aside: pathlib.Path | None
  log: Shared[UserLog]
  schema: Schema
  compression: str
  split: SplitName
  domain: DomainName
  file: str
  spans: np.ndarray


def write_parts(
  folder: pathlib.Path,
  log: UserLog,
  plans: list[Plan],
  schema: Schema,
  shards: int,
  compression: str,
  rng: np.random.Generator,
  engine: Engine | None = None,
  workers: int | None = None,
) -> dict[SplitName, dict[DomainName, Part]]:
  """Writes all records, in random order over and within the shards (at most `shards` per plan, none empty).

  Args:
    folder: Folder in which the record set is being built.
    log: Behaviours and candidates of all users.
    plans: None of them without records.
    schema: Schema of the records.
    shards: Files per split and domain.
    compression: `gzip` or `none`.
    rng: Decides the order; the bytes depend on nothing else.
    engine: Engine that writes the shards; None = `Processes`.
    workers: Processes that write; None: as many as there are processors, if there is enough to write.
  """
  engine = engine or Processes()
  total = sum(len(plan.spans) for plan in plans)
  if workers is None:
    files = sum(min(shards, len(plan.spans)) for plan in plans)
    workers = min(len(os.sched_getaffinity(0)), files) if total >= PARALLEL_FROM else 1
  with contextlib.ExitStack() as stack:
    progress = stack.enter_context(tqdm.tqdm(total=total, unit=" records", desc="writing", disable=None))
    shared, aside = stack.enter_context(_shared(log, folder, alone=workers <= 1 and not engine.apart))
    jobs = [
      ShardTask(folder, aside, shared, schema, compression, plan.split, plan.domain, name, spans)
      for plan in plans
      for name, spans in _cut(plan, shards, compression, rng)
    ]
    for job in jobs:
      (folder / job.file).parent.mkdir(parents=True, exist_ok=True)
    written = []
    running = stack.enter_context(contextlib.closing(engine.map(write_shard, jobs, workers)))
    for job, shard in zip(jobs, running, strict=True):
      progress.update(len(job.spans))
      written.append(shard)
  parts: dict[SplitName, dict[DomainName, Part]] = {}
  for plan in plans:
    own = [
      shard for job, shard in zip(jobs, written, strict=True) if (job.split, job.domain) == (plan.split, plan.domain)
    ]
    parts.setdefault(plan.split, {})[plan.domain] = _part(plan, log.candidates[plan.domain], own)
  return parts


def _cut(plan: Plan, shards: int, compression: str, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
  """Names and records of the shards of a plan."""
  order = rng.permutation(len(plan.spans))
  pieces = np.array_split(plan.spans[order], min(shards, len(order)))
  suffix = "tfrecord.gz" if compression == "gzip" else "tfrecord"
  return [
    (f"{plan.split}/{plan.domain}/part-{i:05d}-of-{len(pieces):05d}.{suffix}", piece) for i, piece in enumerate(pieces)
  ]


def _part(plan: Plan, candidates: CandidateColumns, shards: list[Shard]) -> Part:
  starts, stops = plan.spans[:, 1], plan.spans[:, 2]
  positives = _sums_before(np.zeros(1, np.int64), candidates.labels, lambda part: part > 0.5, starts, stops)
  weights = _sums_before(np.zeros(1, np.float64), candidates.weights, lambda part: part, starts, stops)
  return Part(
    shards=tuple(shards),
    records=len(plan.spans),
    candidates=int((stops - starts).sum()),
    positives=int((positives[1] - positives[0]).sum()),
    users=len(np.unique(plan.spans[:, 0])),
    first_time=int(candidates.times[starts].min()),
    last_time=int(candidates.times[stops - 1].max()),
    weight=float((weights[1] - weights[0]).sum()),
  )


def _sums_before(
  zero: np.ndarray, values: np.ndarray, of: Callable[[np.ndarray], np.ndarray], *places: np.ndarray
) -> list[np.ndarray]:
  """The sums of all `of(values)` before each of the rising `places`, for several arrays of these; `zero` has the type.

  One running sum over all values, whose rounding does not depend on how many are looked at together.
  """
  found = [np.zeros(len(one), zero.dtype) for one in places]
  for part in slices(len(values)):
    sums = np.cumsum(np.concatenate([zero, of(values[part])], dtype=zero.dtype))
    for sum_at, one in zip(found, places, strict=True):
      own = slice(*np.searchsorted(one, (part.start, part.stop + 1)))
      sum_at[own] = sums[one[own] - part.start]
    zero = sums[-1:]
  return found


def write_shard(task: ShardTask) -> Shard:
  """Writes a shard."""
  # Level 1: six times as fast as zlib's default for files that are a few per cent larger.
  options = tf.io.TFRecordOptions("GZIP", compression_level=1) if task.compression == "gzip" else None
  log, schema, stored = task.log.get(), task.schema, layout(task.schema)
  candidates = log.candidates[task.domain]
  path = task.folder / task.file
  # twice the same task at a time, as engines may have it, writes twice the same file
  aside = task.aside / f"{uuid.uuid4().hex}.tfrecord" if task.aside else path
  with tf.io.TFRecordWriter(str(aside), options) as writer:
    for number, (user, start, stop) in enumerate(task.spans.tolist()):
      if number % _RELEASE == 0:
        log.release()
      own = candidates[start:stop]
      request = make_request(user, log.fields[user], log.of_user(user), own, schema, log.values[user])
      writer.write(encode(request, schema, stored))
  os.replace(aside, path)
  counted = int((task.spans[:, 2] - task.spans[:, 1]).sum())
  return describe(path, task.file, len(task.spans), counted)


def describe(path: pathlib.Path, file: str, records: int, candidates: int) -> Shard:
  """What `dataset.json` says of a shard that was written to `path`."""
  size = path.stat().st_size
  return Shard(file=file, records=records, candidates=candidates, sha256=sha256(path), size=size, ends=ends(path))


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A log whose arrays are in a folder."""

  folder: pathlib.Path

  def get(self) -> UserLog:
    return _loaded(self.folder)


@functools.lru_cache(1)
def _loaded(folder: pathlib.Path) -> UserLog:
  return load(folder)


@contextlib.contextmanager
def _shared(log: UserLog, folder: pathlib.Path, alone: bool) -> Iterator[tuple[Shared[UserLog], pathlib.Path | None]]:
  """The log for tasks, and a folder for what is not whole yet.

  The log is as it is if this process is `alone`, else mapped from files, once for all processes.
  """
  if alone:
    yield Value(log), None
  elif log.mapped:
    yield Arrays(log.mapped.folder), log.mapped.folder
  else:
    with tempfile.TemporaryDirectory(dir=folder, prefix="arrays-") as arrays:
      _save(pathlib.Path(arrays), log)
      yield Arrays(pathlib.Path(arrays)), pathlib.Path(arrays)


def _save(folder: pathlib.Path, log: UserLog) -> None:
  np.save(folder / "fields.npy", log.fields)
  np.save(folder / "values.npy", log.values)
  for d in DOMAINS:
    np.save(folder / f"{d}.behaviours.npy", log.behaviour_offsets[d])
    np.save(folder / f"{d}.candidates.npy", log.candidate_offsets[d])
    for kind, rows in (("behaviours", log.behaviours[d]), ("candidates", log.candidates[d])):
      for name, array in vars(rows).items():
        np.save(folder / f"{d}.{kind}.{name}.npy", array)


def load(folder: pathlib.Path) -> UserLog:
  """What records need of a log whose arrays are in a folder."""
  mapped = Mapped(folder)

  def fields(kind: type, prefix: str) -> list[np.ndarray]:
    return [mapped(f"{prefix}.{field.name}") for field in dataclasses.fields(kind)]

  return UserLog(
    mapped("fields"),
    mapped("values"),
    {d: EventColumns(*fields(EventColumns, f"{d}.behaviours")) for d in DOMAINS},
    {d: mapped(f"{d}.behaviours") for d in DOMAINS},
    {d: CandidateColumns(*fields(CandidateColumns, f"{d}.candidates")) for d in DOMAINS},
    {d: mapped(f"{d}.candidates") for d in DOMAINS},
    mapped=mapped,
  )
