"""A SavedModel that is published whole or not at all."""

import hashlib
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from lcn_tf import files, formats, storage
from lcn_tf.config import Experiment
from lcn_tf.data.id_mapping import IdMapping, items_of, vocabularies_of
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import DamagedError
from lcn_tf.formats import sha256
from lcn_tf.models.base import RequestModel
from lcn_tf.models.projections import source
from lcn_tf.serving import server_config, trial
from lcn_tf.serving.card import FILE, card
from lcn_tf.serving.signatures import Signatures
from lcn_tf.serving.versions import appear
from lcn_tf.serving.versions import newest_version as newest_version

DESCRIPTION = "assets.extra/lcn_tf.json"
REMEDY = "Export the run again."


def digest(checkpoint: str) -> str:
  """Digest of a checkpoint: of its index, which holds a checksum of every tensor."""
  return hashlib.sha256(pathlib.Path(f"{checkpoint}.index").read_bytes()).hexdigest()[:16]


def save(
  model: RequestModel,
  experiment: Experiment,
  record_set: RecordSet,
  output: str | pathlib.Path,
  checkpoint: str = "",
  samples: Sequence[bytes] = (),
  tried: bool = False,
  metrics: Mapping[str, Any] | None = None,
  cost: Mapping[str, float] | None = None,
  encoded_user: bool = False,
  raw: bool = False,
  at_once: int | None = None,
) -> pathlib.Path:
  """Writes the SavedModel aside, then renames it to `output/<POSIX time>`, as TensorFlow Serving wants it.

  Its signatures are those of `lcn_tf.serving.signatures`.

  The folder `assets.extra` holds `lcn_tf.json`, with name, seed, checkpoint, tables, fingerprint, schema and the source
  of the search's projections. It also holds templates of server configurations, and a record set without records.
  `RequestEncoder` numbers requests with it, and `pipelines.build_records --like` other records.

  Args:
    checkpoint: Path of the checkpoint that the weights come from; empty if there is none.
    samples: Serialized records that requests with answers are made of (`lcn_tf.serving.trial`).
    tried: True if the export has to answer them in another process before it appears.
    metrics: Contents of the `metrics.json` of the checkpoint, for the model card; None if there are none.
    cost: Measured cost of narrow tables, for the description and the model card; None if it was not measured.
    encoded_user: True for the signatures of `lcn_tf.serving.encoded`.
    raw: True if the weights are the raw ones of a checkpoint whose averages are served otherwise.
    at_once: Most candidates that are scored at once; 0 = all of a call. None = what suits the devices of this process.

  Raises:
    UserError: It answers otherwise there, or has no `encoded_user`.
  """
  output = files.make(output)
  # the id mapping, and ids and values once more for look-ups
  needs = (
    sum(v.shape.num_elements() * v.dtype.size for v in model.served_variables()) + 2 * record_set.id_mapping_bytes()
  )
  with (
    files.folder_aside(output / "version") as aside,
    storage.storing("a version", output, needs=needs, intact="The versions that are there are intact."),
  ):
    (tables := aside / "tables").mkdir()
    # ids and values alone: catalogues and vectors, which may be large, are in the model
    schema, mapping = record_set.record_schema, IdMapping(items_of(record_set), {}, vocabularies_of(record_set))
    signatures = Signatures(model, schema, mapping, tables, encoded_user, at_once)
    tf.saved_model.save(signatures, files.plain(aside), signatures=signatures.functions)
    shutil.rmtree(tables)
    extra = (aside / DESCRIPTION).parent
    extra.mkdir(exist_ok=True)
    record_set.save_id_mapping(extra)
    stored = {"dtype": model.table_dtype, **({"auc": dict(cost)} if cost else {})}
    facts = pathlib.Path(checkpoint).name, source(model), metrics, stored
    (aside / FILE).write_text(card(experiment, record_set, signatures, *facts))
    server_config.write(aside)
    if samples:
      trial.write(aside, signatures, samples, schema, mapping)
    description = {
      "name": experiment.name,
      "seed": experiment.train.seed,
      "checkpoint": pathlib.Path(checkpoint).name,
      "weights": f"{digest(checkpoint)}{' raw' if raw else ''}" if checkpoint else "",
      "domain": "target",
      "tables": stored,
      "fingerprint": record_set.fingerprint,
      "projections": source(model),
      "at_once": signatures.at_once,
      "schema": schema.model_dump(mode="json"),
      "files": {file.relative_to(aside).as_posix(): _described(file) for file in _model_files(aside)},
    }
    formats.write_sealed(aside / DESCRIPTION, description)
    if samples and tried:
      trial.check(aside)
    written = appear(aside, output, int(time.time()))
  _warn_of_pattern(written)
  return written


def _warn_of_pattern(version: pathlib.Path) -> None:
  if files.plain(version) != str(version.absolute()):
    logging.warning(
      "%s: TensorFlow reads such a path as a pattern: saved_model.load and servers need a copy, or a link, without "
      "*, ?, [, ] and \\ in its path",
      version,
    )


def describe(version: pathlib.Path) -> dict[str, Any]:
  """The description of an export, whose files are checked except for the variables.

  TensorFlow checks the variables when it reads them.

  Raises:
    DamagedError: The description or another file was changed since it was written.
  """
  described = formats.read_sealed(version / DESCRIPTION, REMEDY)
  for name, fact in described.get("files", {}).items():
    file = version / name
    if not file.is_file():
      raise DamagedError(f"{file}: missing: not a complete export. {REMEDY}")
    if file.stat().st_size != fact["size"] or (".data-" not in name and sha256(file) != fact["sha256"]):
      raise DamagedError(f"{file}: damaged: not the file that {version / DESCRIPTION} describes. {REMEDY}")
  return described


def _model_files(version: pathlib.Path) -> list[pathlib.Path]:
  """The files of the SavedModel without `assets.extra`, whose files have checksums of their own."""
  return sorted(file for file in version.glob("**/*") if file.is_file() and "assets.extra" not in file.parts)


def _described(file: pathlib.Path) -> dict[str, Any]:
  return {"size": file.stat().st_size, "sha256": sha256(file)}
