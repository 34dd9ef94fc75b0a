"""From a run folder to a SavedModel."""

import pathlib
import shutil
from typing import Any

from absl import logging

from lcn_tf import formats
from lcn_tf.errors import DamagedError
from lcn_tf.serving.export import DESCRIPTION, describe, digest, newest_version, save, versions
from lcn_tf.serving.samples import kept
from lcn_tf.training.projections import refresh
from lcn_tf.training.run_folder import read_run


def export_run(
  run_dir: str | pathlib.Path, output: str | pathlib.Path, *, tried: bool = False, keep: int = 0
) -> pathlib.Path:
  """Exports the best checkpoint of a run as `output/<version>`.

  Args:
    run_dir: Run folder.
    output: Folder of versions, made if missing.
    tried: True if a process with TensorFlow alone has to answer as the model does before the version appears.
    keep: Number of versions that stay, the newest ones; 0 = all.

  Returns:
    The version folder.

  Raises:
    UserError: The folder holds no run, or the run has no checkpoint yet.
    DamagedError: A file of the run cannot be read.
    StorageError: There is no space for the export.
  """
  run = read_run(run_dir)
  model, checkpoint = run.best()
  refresh(model)
  samples = kept(run.path)
  version = save(
    model,
    run.experiment,
    run.record_set,
    output,
    checkpoint,
    samples=samples,
    tried=tried,
    metrics=_metrics(run.path, digest(checkpoint)),
  )
  if keep:
    for old in versions(pathlib.Path(output))[:-keep]:
      shutil.rmtree(old)
      logging.info("%s: removed; the newest %d stay", old, keep)
  return version


def _metrics(run: pathlib.Path, weights: str) -> dict[str, Any] | None:
  """The run's `metrics.json` if its own export has these weights; None if it has others, or none."""
  if (
    not (run / "metrics.json").is_file()
    or _newest_of(weights, run / "export", "The model card has no metrics.") is None
  ):
    return None
  try:
    found: dict[str, Any] = formats.read_json(run / "metrics.json")
  except DamagedError as error:
    logging.warning("%s The model card has no metrics.", error)
    return None
  return found


def exported(run_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path | None:
  """The newest version in `output` if it is of the run's best checkpoint, which needs no other export; else None."""
  if newest_version(pathlib.Path(output)) is None:
    return None
  return _newest_of(digest(read_run(run_dir).checkpoints()[0]), pathlib.Path(output), "It is exported again.")


def _newest_of(weights: str, output: pathlib.Path, consequence: str) -> pathlib.Path | None:
  """The newest version in `output` if it has these weights, and is whole; else None.

  Args:
    weights: Digest of the weights.
    output: Folder of versions.
    consequence: Consequence of a damaged version, for the log.
  """
  newest = newest_version(output)
  if newest is None or not (newest / DESCRIPTION).is_file():
    return None
  try:
    described = describe(newest)
  except DamagedError as error:
    logging.warning("%s %s", error, consequence)
    return None
  return newest if described.get("weights") == weights else None
