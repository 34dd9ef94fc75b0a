"""Offline evaluation: a SavedModel over a split -> predictions, metrics, report."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from absl import logging

from lcn_tf import files, formats, metrics
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import predictions, report
from lcn_tf.evaluation.slices import slices


def evaluate(
  model_dir: str | pathlib.Path,
  record_set: RecordSet,
  split: str,
  output: str | pathlib.Path,
  *,
  history_csv: str | pathlib.Path | None = None,
  config_yaml: str | pathlib.Path | None = None,
  requests: int = 64,
  bootstrap: int = 200,
  seed: int = 0,
  training: Mapping[str, Any] | None = None,
  on_corrupt: Literal["error", "skip"] = "error",
) -> dict[str, Any]:
  """Scores a split with an export and leaves `metrics.json`, `predictions.parquet` and `report/index.html` in `output`.

  Args:
    model_dir: Version folder of a SavedModel, or export folder, whose newest version is read.
    record_set: Records to read.
    split: Split to score.
    output: Folder of the results, made if missing. Each file is written aside and renamed.
    history_csv: Training log (columns `epoch`, `loss`, `val_auc`, ...) for the report; None = `history.csv` of the run
      that `model_dir` lies in, if there is one.
    config_yaml: Effective config for the report; None = `experiment.yaml` of that run.
    requests: Rows per call of the model.
    bootstrap: Replicates of the confidence intervals.
    seed: Seed of the bootstrap.
    training: Cost of the training, kept in `metrics.json`.
    on_corrupt: Treatment of a broken record: an error, or logged and left out (`skip`).

  Returns:
    Contents of `metrics.json`; NaN where a metric is undefined (null in the file).

  Raises:
    UserError: The model or the split is missing, the fingerprints differ, or records or scores are broken.
  """
  from lcn_tf.evaluation import scoring  # TensorFlow takes seconds to load, and tools.paired needs none of it.

  _check_counts(requests, bootstrap)
  record_set.part(split)
  output = files.make(output)
  ranker = scoring.load(model_dir)
  chunks = scoring.score(ranker, record_set, split, requests=requests, on_corrupt=on_corrupt)
  frame = predictions.collect(chunks, record_set, ranker.domain)
  scored = predictions.scored(frame)
  found: dict[str, Any] = metrics.summary(scored, replicates=bootstrap, seed=seed)
  found["confidence"]["seed"] = seed
  info, path = ranker.info, ranker.path
  found |= {
    "seed": info.get("seed"),
    "split": split,
    "fingerprint": record_set.fingerprint,
    "model": {"name": info.get("name", ""), "version": path.resolve().name, "path": str(path)},
    "records": predictions.records_read(record_set, split, ranker.domain, found["candidates"]),
  }
  if training is not None:
    found["training"] = dict(training)
  item_counts = predictions.item_counts(record_set, ranker.domain)
  found["slices"] = slices(frame, item_counts, replicates=min(bootstrap, 100), seed=seed)
  run = ranker.path.resolve().parent.parent
  page = report.render(
    found,
    scored,
    record_set,
    history=report.read_history(_first(history_csv, run / "history.csv")),
    config=_text(_first(config_yaml, run / "experiment.yaml")),
  )
  contents: Mapping[str, str | Callable[[pathlib.Path], object]] = {
    "predictions.parquet": frame.write_parquet,
    "report/index.html": page,
    "metrics.json": formats.to_json(found),
  }
  files.publish(output, "the results", contents, needs=int(frame.estimated_size()) + len(page))
  logging.info(
    "%s: AUC %.4f, GAUC %.4f, logloss %.4f on %d candidates of %d users -> %s",
    split,
    *(found[name] for name in ("auc", "gauc", "logloss", "candidates", "users")),
    output / "metrics.json",
  )
  return found


def _check_counts(requests: int, bootstrap: int) -> None:
  if requests < 1 or bootstrap < 0:
    raise UserError(f"expected requests >= 1 and bootstrap >= 0, found {requests} and {bootstrap}")


def _first(given: str | pathlib.Path | None, default: pathlib.Path) -> pathlib.Path | None:
  if given is not None:
    return pathlib.Path(given)
  return default if default.is_file() else None


def _text(file: pathlib.Path | None) -> str:
  return file.read_text() if file is not None and file.is_file() else ""
