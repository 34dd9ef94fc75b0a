"""Results of the finished cells: one row per model, paired with the reference."""

import dataclasses
import hashlib
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from absl import logging

from lcn_tf import files, metrics
from lcn_tf.comparison.cells import Cell, Row
from lcn_tf.comparison.config import Comparison
from lcn_tf.errors import one_line
from lcn_tf.evaluation import paired, predictions

METRICS = ("auc", "gauc", "logloss")
LEVEL = 0.95
SEED = 0  # of the bootstrap, as tools.paired has it


@dataclasses.dataclass(frozen=True)
class Result:
  """A row of the table.

  Attributes:
    label: Label of the model or baseline.
    runs: Numbers of each finished run, by column of `results.parquet`. A baseline has one run without a seed.
    files: Predictions file of each run.
    asked: Number of runs that the comparison asks for.
    slices: Slices of each run by name, see lcn_tf/evaluation/slices.py; {} for baselines.
    history: Training log of each run.
    paired: Comparison with the reference, over the seeds that both have, as of `lcn_tf.evaluation.paired.compare`. None
      for the reference itself, and without a seed that both have.
  """

  label: str
  runs: list[dict[str, Any]]
  files: list[pathlib.Path]
  asked: int
  slices: list[dict[str, Any]]
  history: list[dict[str, list[float]]]
  paired: dict[str, Any] | None = None

  def values(self, column: str) -> list[float]:
    """A column of the runs, without the missing values."""
    return [run[column] for run in self.runs if run[column] is not None and not math.isnan(run[column])]

  def mean(self, column: str) -> float:
    values = self.values(column)
    return float(np.mean(values)) if values else math.nan

  def std(self, column: str) -> float:
    """The sample standard deviation over runs; NaN for fewer than two."""
    values = self.values(column)
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def collect(
  comparison: Comparison, rows: Sequence[Row], output: pathlib.Path, baselines: Mapping[str, Mapping[str, Any]]
) -> list[Result]:
  """The results in the order of the table, baselines first.

  Args:
    comparison: Comparison.
    rows: Rows of all models.
    output: Folder of the comparison.
    baselines: Metrics by name of the baseline, whose predictions are in `output/baselines`.

  Raises:
    UserError: Predictions are not of the same candidates.
  """
  results = [
    Result(name.replace("_", " "), [_summary(name, found)], [output / "baselines" / f"{name}.parquet"], 1, [], [])
    for name, found in baselines.items()
  ]
  for row in rows:
    cells = row.finished()
    results.append(
      Result(
        label=row.label,
        runs=[_run(cell, output) for cell in cells],
        files=[cell.predictions for cell in cells],
        asked=len(comparison.seeds),
        slices=[cell.metrics().get("slices", {}) for cell in cells],
        history=[cell.history() for cell in cells],
      )
    )
  return _paired(results, comparison, output)


def frame(results: Sequence[Result]) -> pl.DataFrame:
  """`results.parquet`: a row per model and seed, and per baseline."""
  return pl.DataFrame([run for result in results for run in result.runs], schema=_COLUMNS)


_COLUMNS: dict[str, Any] = {
  "model": pl.String,
  "seed": pl.Int64,
  **dict.fromkeys(("auc", "gauc", "logloss", "calibration", "val_auc"), pl.Float64),
  **dict.fromkeys(("best_epoch", "epochs", "steps"), pl.Int64),
  **dict.fromkeys(("seconds", "candidates_per_second"), pl.Float64),
  **dict.fromkeys(
    ("cores", "peak_memory_bytes", "parameters", "parameters_tables", "parameters_dense", "starts"), pl.Int64
  ),
  "tuned": pl.String,  # JSON
  "path": pl.String,
}


def _summary(label: str, found: Mapping[str, Any]) -> dict[str, Any]:
  measured = {name: found.get(name) for name in (*METRICS, "calibration")}
  return dict.fromkeys(_COLUMNS) | {"model": label.replace("_", " "), **measured}


def _run(cell: Cell, output: pathlib.Path) -> dict[str, Any]:
  found = cell.metrics()
  cost = found.get("training", {})
  epoch, value = cell.best_epoch()
  weights = cost.get("parameters", {})
  return _summary(cell.label, found) | {
    "model": cell.label,
    "seed": cell.seed,
    "val_auc": value if epoch else None,
    "best_epoch": epoch or None,
    **{
      name: cost.get(name)
      for name in ("epochs", "steps", "seconds", "candidates_per_second", "cores", "peak_memory_bytes", "starts")
    },
    "parameters": sum(weights.values()) if weights else None,
    "parameters_tables": weights.get("tables"),
    "parameters_dense": weights.get("dense"),
    "tuned": json.dumps(cell.tuned),
    "path": str(cell.folder.relative_to(output)),
  }


def _paired(results: list[Result], comparison: Comparison, output: pathlib.Path) -> list[Result]:
  reference = next(result for result in results if result.label == comparison.reference)
  if not reference.files:
    return results
  first = predictions.read(reference.files[0])
  of: dict[pathlib.Path, metrics.Replicates] = {}
  for result in results:
    for file in result.files:
      found = predictions.read(file)
      paired.check_same(found, file, first, reference.files[0])
      of[file] = _replicates(found, file, comparison.replicates, output)
  compared = []
  for result in results:
    is_model = any(run["seed"] is not None for run in result.runs)
    shared = {run["seed"] for run in reference.runs} & {run["seed"] for run in result.runs}

    def chosen(side: Result, shared: set[Any] = shared, by_seed: bool = is_model) -> list[pathlib.Path]:
      return [file for run, file in zip(side.runs, side.files, strict=True) if not by_seed or run["seed"] in shared]

    a, b = chosen(result), chosen(reference)
    if result is reference or not a or not b:
      compared.append(result)
      continue
    difference = metrics.paired_replicates([of[file] for file in a], [of[file] for file in b], level=LEVEL)
    notes = {
      "a": [str(file.relative_to(output)) for file in a],
      "b": [str(file.relative_to(output)) for file in b],
      "candidates": len(first),
      "users": first["user"].n_unique(),
      "level": LEVEL,
      "replicates": comparison.replicates,
      "seed": SEED,
    }
    compared.append(dataclasses.replace(result, paired={**difference, **notes}))
  return compared


def _replicates(found: pl.DataFrame, file: pathlib.Path, count: int, output: pathlib.Path) -> metrics.Replicates:
  """The bootstrap of one predictions file.

  It takes seconds, and each call of the comparison needs it again. So it is kept in `output/bootstrap`.
  """
  digest = hashlib.sha256(file.read_bytes()).hexdigest()[:24]
  cache = output / "bootstrap" / f"{digest}-{count}-{SEED}-{len(metrics.NAMES)}.npz"
  if cache.is_file():
    try:
      with np.load(cache) as arrays:
        return metrics.Replicates(arrays["point"], arrays["values"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
      logging.warning("%s: damaged (%s); made again", cache, one_line(error))
  made = metrics.replicates_of(predictions.scored(found), replicates=count, seed=SEED)
  with files.replacing(cache) as aside, aside.open("wb") as opened:
    np.savez(opened, **made._asdict())
  return made
