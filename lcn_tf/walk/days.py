"""What a walk says of a period: the scores of its candidates before the model has trained on them, and metrics."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lcn_tf import files, formats, metrics
from lcn_tf.data.id_mapping import vocabularies_of
from lcn_tf.data.read.dataset import OnCorrupt
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import served_spec
from lcn_tf.evaluation import predictions, scoring
from lcn_tf.schema import item_vocabulary
from lcn_tf.serving.signatures import rank_function
from lcn_tf.training.run_folder import Run
from lcn_tf.training.warm_start import grown_model

COLUMNS = {
  "period": pl.Int64,
  "model": pl.String,
  "first_time": pl.Int64,
  "last_time": pl.Int64,
  "candidates": pl.Int64,
  "positives": pl.Int64,
  "users": pl.Int64,
  **dict.fromkeys(("auc", "gauc", "logloss", "calibration"), pl.Float64),
  **dict.fromkeys(("new_share", "new_auc", "later_share", "later_auc"), pl.Float64),
}


def score(run: Run, record_set: RecordSet, file: pathlib.Path, on_corrupt: OnCorrupt) -> None:
  """Scores the target-domain candidates of a part with the model of a run, and writes the predictions file.

  The model grows by the ids that are new to it, and is not trained on the part. It scores as its export would.

  Args:
    run: Run whose best weights score.
    record_set: Records of the part, all of whose candidates are of the `train` split.
    file: Predictions file; see `lcn_tf.evaluation.predictions`.
    on_corrupt: Treatment of a broken record.
  """
  model = grown_model(run, record_set)
  schema = record_set.record_schema
  info = {"fingerprint": record_set.fingerprint, "name": run.experiment.name}
  ranker = scoring.Ranker(run.path, info, rank_function(model, schema), tuple(served_spec(schema)))
  files.make(file.parent)
  predictions.write(file, scoring.score(ranker, record_set, "train", on_corrupt=on_corrupt), record_set)


def day(
  number: int, name: str, file: pathlib.Path, record_set: RecordSet, before: RecordSet, base: RecordSet
) -> dict[str, Any]:
  """One row of `days.parquet`, without the moments at which the period begins and ends.

  Args:
    number: Number of the period.
    name: Name of the model.
    file: Predictions file.
    record_set: Records of the period.
    before, base: Records of the period before it, and of the base, of which vocabularies are read.
  """
  frame = predictions.read(file)
  found = metrics.summary(predictions.scored(frame), replicates=0)
  row = {"period": number, "model": name}
  row |= {key: found[key] for key in ("candidates", "positives", "users", "auc", "gauc", "logloss", "calibration")}
  for what, known in (("new", before), ("later", base)):
    strange = frame.filter(pl.Series(_strange_items(record_set, known)[frame["item"].to_numpy()]))
    row[f"{what}_share"] = len(strange) / len(frame) if len(frame) else math.nan
    scored = predictions.scored(strange)
    row[f"{what}_auc"] = metrics.auc(scored.scores, scored.labels, scored.weights)
  return row


def _strange_items(record_set: RecordSet, known: RecordSet) -> np.ndarray:
  """Which rows of the target domain's catalogue are of an id that `known` has no row for, bool `[items]`."""
  name = item_vocabulary("target")
  rows = vocabularies_of(known)[name].rows_of(vocabularies_of(record_set)[name])
  ids = record_set.catalogue("target")[:, 0]
  return (rows[ids] < 0) | (ids <= record_set.record_schema.vocabularies[name].oov)


def table(rows: list[Mapping[str, Any]]) -> pl.DataFrame:
  """`days.parquet`: the rows of all periods; null where a metric is not defined."""
  frame = pl.DataFrame([formats.jsonable(row) for row in rows], schema=COLUMNS)
  return frame.sort("period", "model", descending=[False, True])
