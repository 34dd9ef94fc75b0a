"""Scoring in parts: the predictions of each shard are kept aside until the results are published.

    scored/part-00003.json           sealed: the key of the part and its files, written when all of them are whole
    scored/part-00003-00000.parquet  predictions, about `ROWS` rows a file, in the order of the records

The key is made of all that the predictions depend on: the model's files, `dataset.json`, the shard, the columns. A part
with another key, or whose files have other checksums, is scored again. An evaluation that was killed goes on with the
parts that are there.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from lcn_tf import files, formats, processes
from lcn_tf.data.read import dataset, diagnosis
from lcn_tf.data.record_set import RecordSet, Shard, check_fingerprint
from lcn_tf.errors import DamagedError, UserError, one_line
from lcn_tf.evaluation import predictions, scoring
from lcn_tf.formats import sha256
from lcn_tf.schema import DomainName

FOLDER = "scored"  # in the folder of the results
ROWS = 2**18  # of a file
_FORMAT = 1  # of parts: others are scored again


@dataclasses.dataclass(frozen=True)
class Task:
  """What is scored, with what, and where to.

  Attributes:
    model: Version folder of a SavedModel.
    record_set: Records.
    split: Split of them.
    folder: Folder of the parts.
    requests: Rows per call of the model.
    on_corrupt: Treatment of a broken record: an error, or logged and left out (`skip`).
    fields: Names of user and context fields to add (`predictions.columns`).
  """

  model: pathlib.Path
  record_set: RecordSet
  split: str
  folder: pathlib.Path
  requests: int = 64
  on_corrupt: dataset.OnCorrupt = "error"
  fields: tuple[str, ...] = ()


class Scorer:
  """Scores parts of a task, in one process.

  Raises:
    UserError: The model, or a table of the records, cannot be read.
  """

  def __init__(self, task: Task):
    self._task = task
    self._ranker = scoring.load(task.model)
    check_fingerprint(task.record_set, self._ranker.info["fingerprint"], str(self._ranker.path))
    self._ids = predictions.ids_of(task.record_set, self._ranker.domain)

  def part(self, index: int, key: str) -> int:
    """Scores a shard and writes its part; returns its number of candidates."""
    task, ranker = self._task, self._ranker
    alone = _one_shard(task.record_set, task.split, ranker.domain, index)
    chunks = scoring.score(
      ranker, alone, task.split, requests=task.requests, on_corrupt=task.on_corrupt, fields=task.fields
    )
    written: list[dict[str, Any]] = []
    with contextlib.suppress(diagnosis.NothingLeft):  # it is logged; the other shards may be whole
      for frame in _pieces(chunks):
        file = task.folder / f"part-{index:05d}-{len(written):05d}.parquet"
        rows = predictions.as_frame(frame, self._ids)
        with files.replacing(file) as aside:
          rows.write_parquet(aside)
        written.append({"file": file.name, "rows": len(rows), "sha256": sha256(file)})
    formats.write_sealed(task.folder / f"part-{index:05d}.json", {"key": key, "files": written})
    return sum(piece["rows"] for piece in written)


@contextlib.contextmanager
def workplace(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """The folder of parts in `output`, held until the block ends; removed when it ends well, or before a part is whole.

  Raises:
    UserError: Another evaluation is at work there.
  """
  folder = output / FOLDER
  with files.exclusive(folder, "another evaluation"):
    try:
      yield folder
    except BaseException:
      if not any(folder.rglob("part-*.json")):
        shutil.rmtree(folder, ignore_errors=True)
      raise
    shutil.rmtree(folder, ignore_errors=True)


def score(task: Task, workers: int = 1) -> list[pathlib.Path]:
  """Scores what is not there yet.

  Args:
    task: Task.
    workers: Processes; each loads the model and scores shards. With one, this process does.

  Returns:
    The files with the predictions, in the order of the records.

  Raises:
    UserError: As `scoring.score`; or a process ended before its work was done.
  """
  files.make(task.folder)
  domain = domain_of(task)
  shards = task.record_set.part(task.split, domain).shards
  shared = _shared_facts(task, domain)
  keys = [_key(shared, task, domain, shard) for shard in shards]
  there = {i: found for i, key in enumerate(keys) if (found := _whole(task.folder, i, key)) is not None}
  if there:
    logging.info("%s: %d of %d parts are there already", task.folder, len(there), len(shards))
  missing = [i for i in range(len(shards)) if i not in there]
  if workers > 1 and len(missing) > 1:
    _in_processes(task, {i: keys[i] for i in missing}, min(workers, len(missing)))
  elif missing:
    scorer = Scorer(task)
    for i in missing:
      scorer.part(i, keys[i])
  there |= {i: _whole(task.folder, i, keys[i]) or [] for i in missing}
  found = [file for i in range(len(shards)) for file in there[i]]
  if not found and task.record_set.part(task.split, domain).candidates:
    raise UserError(f"{task.record_set.path}/{task.split}: none of the {domain}-domain records can be read")
  return found


def domain_of(task: Task) -> DomainName:
  """Domain of the candidates that the model of a task ranks, after the checks that need neither it nor a record.

  Raises:
    UserError: The model is none, was trained with other vocabularies, or a shard is missing or is another.
  """
  info = scoring.description(task.model)
  check_fingerprint(task.record_set, info["fingerprint"], str(task.model))
  domain: DomainName = info.get("domain", "target")
  dataset.check_shards(task.record_set, task.split, domain, task.on_corrupt)
  return domain


def _pieces(chunks: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
  """The chunks, joined to pieces of at least `ROWS` rows; the last one is smaller."""
  held: list[dict[str, np.ndarray]] = []
  for chunk in chunks:
    held.append(chunk)
    if sum(len(each["user"]) for each in held) >= ROWS:
      yield _joined(held)
      held = []
  if held:
    yield _joined(held)


def _joined(chunks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _one_shard(record_set: RecordSet, split: str, domain: DomainName, index: int) -> RecordSet:
  """The record set as if it had that one shard."""
  part = record_set.part(split, domain)
  shard = part.shards[index]
  alone = part.model_copy(update={"shards": (shard,), "records": shard.records, "candidates": shard.candidates})
  return record_set.model_copy(update={"splits": {split: {domain: alone}}})


def _shared_facts(task: Task, domain: DomainName) -> list[Any]:
  """What the predictions of all shards depend on."""
  names = ("users.parquet", f"items/{domain}.parquet")
  return [
    _FORMAT,
    scoring.digest(task.model),
    sha256(task.record_set.path / "dataset.json"),
    [name for name in names if task.record_set.has(name)],
    [task.on_corrupt, *task.fields],
  ]


def _key(shared: Sequence[Any], task: Task, domain: DomainName, shard: Shard) -> str:
  """Digest of all that the predictions of a shard depend on."""
  there = task.record_set.shard_size(shard), task.record_set.shard_ends(shard)
  facts = [*shared, [task.split, domain, shard.file, shard.sha256, *there]]
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _whole(folder: pathlib.Path, index: int, key: str) -> list[pathlib.Path] | None:
  """The files of a part with that key; None if they are not all there as they were written."""
  description = folder / f"part-{index:05d}.json"
  if not description.is_file():
    return None
  try:
    found = formats.read_sealed(description)
  except DamagedError:
    return None
  pieces = [(folder / piece["file"], piece["sha256"]) for piece in found.get("files", [])]
  if found.get("key") != key or not all(file.is_file() and sha256(file) == digest for file, digest in pieces):
    return None
  return [file for file, _ in pieces]


def _in_processes(task: Task, keys: Mapping[int, str], workers: int) -> None:
  """Scores the parts with these numbers."""
  threads = max(1, len(os.sched_getaffinity(0)) // workers)
  try:
    with processes.pool(workers, _start_worker, task, threads) as pool:
      running = {pool.submit(_work, i, key): i for i, key in keys.items()}
      for count, done in enumerate(concurrent.futures.as_completed(running), 1):
        rows = done.result()
        logging.info("part %d: %d candidates scored; %d of %d parts", running[done], rows, count, len(keys))
  except BrokenProcessPool:
    raise UserError(
      f"{task.folder}: a scoring process was ended from outside, as a system out of memory does. The parts that are "
      "whole stay: the same command goes on with them. Fewer --workers need less memory."
    ) from None


_task: Task
_scorer: Scorer | None = None


def _start_worker(task: Task, threads: int) -> None:
  global _task
  tf.config.threading.set_intra_op_parallelism_threads(threads)
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  _task = task


def _work(index: int, key: str) -> int:
  global _scorer
  try:
    # here, and not at the start: what a start raises, the parent does not see
    _scorer = _scorer or Scorer(_task)
    return _scorer.part(index, key)
  except UserError:
    raise
  except Exception as error:  # TensorFlow's errors do not get from process to process
    traceback.print_exc()
    raise RuntimeError(one_line(error)) from None
