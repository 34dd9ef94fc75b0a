"""From a run folder to a SavedModel."""

import pathlib
from typing import Any

from absl import logging

from lcn_tf import formats, metrics
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import served_spec
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.evaluation import predictions, scoring
from lcn_tf.layers.narrow import Dtype
from lcn_tf.models.base import RequestModel
from lcn_tf.models.projections import Source, search_with
from lcn_tf.serving.export import DESCRIPTION, describe, digest, save
from lcn_tf.serving.samples import kept
from lcn_tf.serving.signatures import rank_function
from lcn_tf.serving.versions import keep_newest, newest_version, weights_of
from lcn_tf.training.projections import refresh
from lcn_tf.training.run_folder import Run, read_run


def export_run(
  run_dir: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  tried: bool = False,
  keep: int = 0,
  dtype: Dtype = "float32",
  records: RecordSet | None = None,
  projections: Source | None = None,
  encoded_user: bool = False,
  raw: bool = False,
  at_once: int | None = None,
) -> pathlib.Path:
  """Exports the best checkpoint of a run as `output/<version>`.

  Args:
    run_dir: Run folder.
    output: Folder of versions, made if missing.
    tried: True if a process with TensorFlow alone has to answer as the model does before the version appears.
    keep: Number of versions that stay, the newest ones; 0 = all.
    dtype: Type of the stored embedding tables; all else is float32.
    records: Records whose validation split says what a narrow `dtype` costs; None = it is not measured.
    projections: Place where the search reads projections of items; None = as in training.
    encoded_user: True for the signatures `encode_user` and `rank_encoded`.
    raw: True for the weights themselves in the place of their averages, where the run keeps averages.
    at_once: Most candidates that the export scores at once; 0 = all of a call. None = what suits the devices here.

  Returns:
    The version folder.

  Raises:
    UserError: The folder holds no run, or the run has no checkpoint yet. A table has a number that is not finite, and
      `dtype` is int8. The records are others than the run's, or have no validation split. `projections` is given for a
      model whose search reads no projections of items, or `encoded_user` for a model that embeds a request twice. `raw`
      is given for a run that keeps no averages.
    DamagedError: A file of the run cannot be read.
    StorageError: There is no space for the export.
  """
  run = read_run(run_dir)
  if raw and not run.averages:
    raise UserError(f"{run.path} keeps no averages of its weights (train.ema_decay: 0): its weights are the raw ones")
  model, checkpoint = run.best(raw)
  if projections is not None:
    search_with(model, projections)
  before = None
  if records is not None and dtype != "float32":
    refresh(model)
    before = _auc(model, run, records)
  _make_narrow(model, run, dtype)
  refresh(model)  # now, so that projections are of items as requests read them
  cost = None
  if records is not None and before is not None:
    after = _auc(model, run, records)
    cost = {"float32": before[0], dtype: after[0], "difference": after[0] - before[0], "candidates": after[1]}
  samples = kept(run.path)
  version = save(
    model,
    run.experiment,
    run.record_set,
    output,
    checkpoint,
    samples=samples,
    tried=tried,
    metrics=None if raw else _metrics(run.path, digest(checkpoint)),
    cost=cost,
    encoded_user=encoded_user,
    raw=raw,
    at_once=at_once,
  )
  if cost:
    said = "AUC of the validation split: %.6f with float32 tables, %.6f with %s tables, difference %+.6f; %d candidates"
    logging.info(said, cost["float32"], cost[dtype], dtype, cost["difference"], cost["candidates"])
  keep_newest(pathlib.Path(output), keep)
  return version


def _make_narrow(model: RequestModel, run: Run, dtype: Dtype) -> None:
  try:
    model.make_narrow(dtype)
  except ValueError as error:
    raise UserError(f"{run.path}: the table of {error}, which {dtype} does not have. Use --dtype float32") from None


def _auc(model: RequestModel, run: Run, records: RecordSet) -> tuple[float, int]:
  """AUC of the validation split as an export of the model would score it, and the number of candidates."""
  info = {"fingerprint": run.record_set.fingerprint, "name": run.experiment.name}
  schema = run.record_set.record_schema
  ranker = scoring.Ranker(run.path, info, rank_function(model, schema), tuple(served_spec(schema)))
  scored = predictions.scored(predictions.collect(scoring.score(ranker, records, "validation")))
  return metrics.auc(scored.scores, scored.labels, scored.weights), len(scored.scores)


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
  """The newest version in `output` if it has these weights, in float32, and is whole; else None.

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
  return newest if weights_of(described) == weights else None
