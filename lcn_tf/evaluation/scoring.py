"""Scores the records of a split with an exported SavedModel, the one to be served."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from lcn_tf import files, storage
from lcn_tf.data.read import dataset, diagnosis
from lcn_tf.data.record_set import RecordSet, check_fingerprint
from lcn_tf.errors import DamagedError, UserError, nearest, one_line
from lcn_tf.evaluation import predictions
from lcn_tf.formats import sha256
from lcn_tf.schema import DomainName
from lcn_tf.serving.export import DESCRIPTION, REMEDY, describe
from lcn_tf.serving.versions import newest_version

SIGNATURE = "rank"
NOT_REQUESTED = ("label", "weight", "candidate_mask", "user", "record")  # in a batch of records, but in no request
_LOG_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Ranker:
  """A loaded SavedModel.

  Attributes:
    path: Version folder.
    info: Description that the export wrote: `name`, `fingerprint`, `seed`, `schema`, `domain`.
    function: Signature `rank`.
    inputs: Names of the tensors that the signature takes.
  """

  path: pathlib.Path
  info: dict[str, Any]
  function: Any
  inputs: tuple[str, ...]

  @property
  def domain(self) -> DomainName:
    """Domain of the candidates that the model ranks."""
    return self.info.get("domain", "target")


def version_folder(model: str | pathlib.Path) -> pathlib.Path:
  """The version folder of a model: `model` itself, or the newest of its numeric versions.

  Raises:
    UserError: The folder is missing, or holds no SavedModel.
  """
  folder = files.local(model)
  if (folder / "saved_model.pb").is_file():
    return folder
  if not folder.is_dir():
    siblings = [str(path) for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    raise UserError(f"{model}: no such model folder.{nearest(str(model), siblings)}")
  newest = newest_version(folder)
  if newest:
    return newest
  hint = f" Did you mean {folder / 'export'}?" if (folder / "export").is_dir() else ""
  raise UserError(f"{model}: no SavedModel here (neither saved_model.pb nor a numbered version that holds one).{hint}")


def load(model: str | pathlib.Path) -> Ranker:
  """Loads an export.

  Args:
    model: Version folder, or export folder that holds the versions.

  Raises:
    UserError: The folder holds no SavedModel of `pipelines.export`: the signature or the description is missing.
  """
  path = version_folder(model)
  info = description(path)
  try:
    loaded = tf.saved_model.load(files.plain(path))
  except FileNotFoundError as error:
    raise UserError(f"{path}: not a complete export: {error.filename or error} is missing") from None
  except Exception as error:  # whatever TensorFlow and protobuf raise for damaged bytes
    if storage.failure(error):
      raise
    raise DamagedError(f"{path}: this model cannot be read: {one_line(error)}. {REMEDY}") from None
  if SIGNATURE not in loaded.signatures:
    raise UserError(f"{path}: no signature {SIGNATURE!r}; it has: {', '.join(loaded.signatures) or 'none'}")
  function = loaded.signatures[SIGNATURE]
  if "probability" not in function.structured_outputs:
    raise UserError(f"{path}: {SIGNATURE!r} returns no 'probability', but {', '.join(function.structured_outputs)}")
  # The signature is callable only as long as the object that it belongs to lives.
  function.owner = loaded
  return Ranker(path, info, function, tuple(function.structured_input_signature[1]))


def description(version: pathlib.Path) -> dict[str, Any]:
  """What the export wrote of a version: `name`, `fingerprint`, `seed`, `schema`, `domain`.

  Raises:
    UserError: There is no such description.
  """
  try:
    info = describe(version)
  except FileNotFoundError as error:
    raise UserError(f"{version}: not a complete export: {error.filename or error} is missing") from None
  if "fingerprint" not in info:
    raise UserError(f"{version / DESCRIPTION}: expected an object with the key 'fingerprint'")
  return info


def digest(version: pathlib.Path) -> str:
  """Digest of a version: of its graph, its description, and the index that has a checksum of every variable."""
  names = ("saved_model.pb", DESCRIPTION, "variables/variables.index")
  return " ".join(sha256(version / name) if (version / name).is_file() else "" for name in names)


def score(
  ranker: Ranker,
  record_set: RecordSet,
  split: str,
  *,
  requests: int = 64,
  on_corrupt: dataset.OnCorrupt = "error",
  fields: Sequence[str] = (),
) -> Iterator[dict[str, np.ndarray]]:
  """Scores a split, some batches at a time, in the order of the records.

  Records of similar size are scored together, which pads less, and put in order again.

  Args:
    ranker: Model.
    record_set: Records with the schema and vocabularies of the model.
    split: Split to score.
    requests: Rows per call.
    on_corrupt: Treatment of a broken record: an error, or logged and left out (`skip`).
    fields: Names of user and context fields to add, as in `predictions.columns`.

  Yields:
    The columns of `predictions.COLUMNS`, and those of `fields`, for the candidates of some batches.

  Raises:
    UserError: The split is missing, the fingerprints differ, a record is broken, the model asks for a tensor that
      records do not hold, or the model returns a number that is no probability.
  """
  check_fingerprint(record_set, ranker.info["fingerprint"], str(ranker.path))
  total = record_set.part(split, ranker.domain).candidates
  done, start, logged = 0, time.monotonic(), time.monotonic()
  batches = dataset.evaluation_batches(
    record_set, split, domain=ranker.domain, requests=requests, on_corrupt=on_corrupt, grouped=True
  )
  offered = set(batches.element_spec) - set(NOT_REQUESTED)
  unknown = [name for name in ranker.inputs if name not in offered]
  if unknown:
    raise UserError(
      f"{ranker.path}: {SIGNATURE!r} asks for {', '.join(unknown)}, which records do not hold. "
      f"They hold: {', '.join(sorted(offered))}"
    )
  held: list[dict[str, np.ndarray]] = []
  records = end = 0
  with diagnosis.guard(record_set, split, (ranker.domain,)):
    for batch in batches:
      probability = ranker.function(**{name: batch[name] for name in ranker.inputs})["probability"].numpy()
      mask = batch["candidate_mask"].numpy()
      if probability.shape != mask.shape:
        raise UserError(f"{ranker.path}: returned probabilities {probability.shape} for candidates {mask.shape}")
      chunk = predictions.columns({name: tensor.numpy() for name, tensor in batch.items()}, record_set, fields)
      chunk["probability"] = probability[mask]
      done += len(chunk["user"])
      record = batch["record"].numpy()
      held.append(chunk | {"record": np.repeat(record, mask.sum(axis=1))})
      records, end = records + len(record), max(end, int(record.max()) + 1)
      if records == end:  # nothing is missing before the last one
        ordered, held = _in_order(held), []
        _check(ordered, ranker)
        yield ordered
      if time.monotonic() - logged > _LOG_SECONDS:
        logged = time.monotonic()
        rate = done / (logged - start)
        logging.info("%s: %d of %d candidates scored, %.0f per second", split, done, total, rate)
  seconds = max(time.monotonic() - start, 1e-9)
  logging.info("%s: %d candidates scored in %.1f s, %.0f per second", split, done, seconds, done / seconds)


def _in_order(chunks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The rows of all chunks by rising `record`, a column that the result does not have."""
  joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
  order = np.argsort(joined.pop("record"), kind="stable")
  return {name: column[order] for name, column in joined.items()}


def _check(chunk: dict[str, np.ndarray], ranker: Ranker) -> None:
  probability = chunk["probability"]
  wrong = np.flatnonzero(~((probability >= 0) & (probability <= 1)))
  if len(wrong):
    first = wrong[0]
    raise UserError(
      f"{ranker.path}: {len(wrong)} of {len(probability)} scores are no probabilities; the first: "
      f"{probability[first]} for user {chunk['user'][first]}, item {chunk['item'][first]} at "
      f"{chunk['timestamp'][first]}"
    )
