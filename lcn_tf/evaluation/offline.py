"""Offline evaluation: a SavedModel over a split, or a file of scores -> predictions, metrics, report."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from absl import logging

from lcn_tf import files, formats
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import measuring, predictions, report
from lcn_tf.evaluation.candidates import Candidates
from lcn_tf.evaluation.fields import Fields, FileFields, RecordFields
from lcn_tf.evaluation.gate import Gate, Judged, as_json, check, judge
from lcn_tf.evaluation.measuring import Result, Settings

if TYPE_CHECKING:
  from lcn_tf.evaluation import parts

PREDICTIONS, PAGE, METRICS = "predictions.parquet", "report/index.html", "metrics.json"
VERDICTS = "gate.json"


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
  workers: int = 1,
  settings: Settings | None = None,
  baseline: str | pathlib.Path | None = None,
  gate: Gate | None = None,
) -> dict[str, Any]:
  """Scores a split with an export and leaves `metrics.json`, `predictions.parquet` and `report/index.html` in `output`.

  The predictions of each shard are kept in `output/scored` until the results are there. An evaluation that was killed
  goes on with them.

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
    workers: Processes that score.
    settings: Bootstrap and slices; None = `bootstrap` and `seed`, and the default slices.
    baseline: Model or predictions file that this one is compared with; None = there is none.
    gate: Rules, whose verdicts are left in `gate.json`; None = there are none.

  Returns:
    Contents of `metrics.json`; NaN where a metric is undefined (null in the file).

  Raises:
    UserError: The model or the split is missing, the fingerprints differ, or records or scores are broken.
    RefusedError: A rule of the gate has failed; the results are there.
  """
  from lcn_tf.evaluation import parts, scoring  # TensorFlow takes seconds to load, and tools.paired needs none of it.

  settings = settings or Settings(bootstrap, seed)
  _check(gate, baseline, requests, workers)
  record_set.part(split)
  output = files.make(output)
  version = scoring.version_folder(model_dir)
  info = scoring.description(version)
  domain = info.get("domain", "target")
  fields = RecordFields(record_set, domain)
  wanted = fields.stored(measuring.sliced(fields, settings, tuple(gate.sliced()) if gate else ()))
  with parts.workplace(output) as work:
    task = parts.Task(version, record_set, split, work, requests, on_corrupt, wanted)
    pieces = parts.score(task, workers)
    candidates = Candidates(pieces, name=str(version))
    other, described = _baseline(baseline, task, workers)
    result, found, judged = _measured(candidates, fields.of(candidates), settings, other, described, gate)
    found |= _facts(task, info, found["candidates"])
    if training is not None:
      found["training"] = dict(training)
    run = version.resolve().parent.parent
    history = report.read_history(_first(history_csv, run / "history.csv"))
    config = _text(_first(config_yaml, run / "experiment.yaml"))
    page = report.render(found, result.scored, record_set, history=history, config=config, judged=judged)
    _publish(output, _predictions(candidates), _texts(page, found, gate, judged), pieces)
  _say(split, found, output)
  if gate:
    check(judged, gate, str(output / VERDICTS))
  return found


def score(
  model_dir: str | pathlib.Path,
  record_set: RecordSet,
  split: str,
  output: str | pathlib.Path,
  *,
  requests: int = 64,
  on_corrupt: Literal["error", "skip"] = "error",
  workers: int = 1,
) -> None:
  """Scores a split with an export and leaves `predictions.parquet` alone in `output`.

  Metrics, verdicts and report of an earlier evaluation are removed from there: they are of other predictions.

  The arguments and the errors are those of `evaluate`.
  """
  from lcn_tf.evaluation import parts, scoring

  _check(None, None, requests, workers)
  record_set.part(split)
  output = files.make(output)
  version = scoring.version_folder(model_dir)
  with parts.workplace(output) as work:
    pieces = parts.score(parts.Task(version, record_set, split, work, requests, on_corrupt), workers)
    candidates = Candidates(pieces, name=str(version))
    _publish(output, _predictions(candidates), {}, pieces)
    logging.info("%s: %d candidates -> %s", split, len(candidates), output / PREDICTIONS)


def _facts(task: "parts.Task", info: Mapping[str, Any], candidates: int) -> dict[str, Any]:
  """What `metrics.json` says of model and records."""
  record_set = task.record_set
  return {
    "seed": info.get("seed"),
    "split": task.split,
    "fingerprint": record_set.fingerprint,
    "model": {"name": info.get("name", ""), "version": task.model.resolve().name, "path": str(task.model)},
    "records": predictions.records_read(record_set, task.split, info.get("domain", "target"), candidates),
  }


def _measured(
  candidates: Candidates,
  fields: Fields,
  settings: Settings,
  baseline: Candidates | None,
  described: Mapping[str, Any],
  gate: Gate | None,
) -> tuple[Result, dict[str, Any], list[Judged]]:
  """Metrics, as they are and as `metrics.json` has them, and verdicts."""
  if baseline is not None:
    measuring.check_same(baseline, candidates)
  also = gate.sliced() if gate else {}
  result = measuring.measure(candidates, fields, settings, baseline=baseline, also=also)
  found = result.as_json()
  if baseline is not None:
    found["baseline"] = {**described, **found["baseline"]}
  return result, found, judge(gate, result) if gate else []


def _baseline(
  baseline: str | pathlib.Path | None, task: "parts.Task", workers: int
) -> tuple[Candidates | None, dict[str, Any]]:
  """The candidates as a baseline scores them, and what `metrics.json` says of it."""
  from lcn_tf.evaluation import parts, scoring

  if baseline is None:
    return None, {}
  if pathlib.Path(baseline).is_file():
    return Candidates([pathlib.Path(baseline)]), {"path": str(baseline)}
  version = scoring.version_folder(baseline)
  again = dataclasses.replace(task, model=version, folder=task.folder / "baseline", fields=())
  described = {"name": scoring.description(version).get("name", ""), "version": version.name, "path": str(version)}
  return Candidates(parts.score(again, workers), name=str(version)), described


def evaluate_predictions(
  file: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  settings: Settings,
  baseline: str | pathlib.Path | None = None,
  gate: Gate | None = None,
) -> dict[str, Any]:
  """Leaves `metrics.json` and `report/index.html` of candidates that were scored elsewhere.

  Args:
    file: Parquet file with the columns `user` (integers or texts), `label` and `probability`, and any others. Of these
      `weight` weighs the candidates, `timestamp`, or `request`, groups them to requests.
    output: Folder of the results, made if missing.
    settings: Bootstrap and slices.
    baseline: Another file of the same candidates; None = there is none.
    gate: As in `evaluate`.

  Returns:
    Contents of `metrics.json`.

  Raises:
    UserError: A file or a column is missing, or holds what no metric is defined for.
    RefusedError: A rule of the gate has failed; the results are there.
  """
  _check(gate, baseline)
  candidates = Candidates([files.local(file)])
  other = None if baseline is None else Candidates([files.local(baseline)])
  fields, described = FileFields(candidates), {"path": str(baseline)}
  result, found, judged = _measured(candidates, fields, settings, other, described, gate)
  found |= {
    "predictions": str(file),
    "model": {"name": pathlib.Path(file).stem, "version": "", "path": str(file)},
  }
  page = report.render(found, result.scored, None, history={}, judged=judged)
  output = files.make(output)
  _publish(output, None, _texts(page, found, gate, judged))
  _say(str(file), found, output)
  if gate:
    check(judged, gate, str(output / VERDICTS))
  return found


def _predictions(candidates: Candidates) -> Callable[[pathlib.Path], object]:
  """What writes the predictions file: the columns of the parts but those of fields, a piece at a time."""
  names = [name for name in candidates.columns if "#" not in name]
  return lambda path: candidates.scan().select(names).sink_parquet(path)


def _texts(page: str, found: Mapping[str, Any], gate: Gate | None, judged: list[Judged]) -> dict[str, str]:
  """The results that are texts, by name; who finds the last one finds all."""
  verdicts = {VERDICTS: formats.to_json(as_json(gate, judged))} if gate else {}
  return {PAGE: page, **verdicts, METRICS: formats.to_json(found)}


def _check(gate: Gate | None, baseline: object, requests: int = 1, workers: int = 1) -> None:
  """Checks arguments of an evaluation.

  Raises:
    UserError: There is no baseline, and a gate asks for one; or a count is not positive.
  """
  if requests < 1 or workers < 1:
    raise UserError(f"expected requests >= 1 and workers >= 1, found {requests} and {workers}")
  if gate and gate.differs() and baseline is None:
    raise UserError(f"{gate.path}: its rules on differences need a baseline; give --baseline")


def _publish(
  output: pathlib.Path,
  write: Callable[[pathlib.Path], object] | None,
  texts: Mapping[str, str],
  pieces: list[pathlib.Path] | None = None,
) -> None:
  """Puts the results in the place of older ones. Metrics and a page of other predictions are removed."""
  contents: dict[str, str | Callable[[pathlib.Path], object]] = dict(texts)
  if write is not None:
    contents = {PREDICTIONS: write, **contents}
  needs = sum(piece.stat().st_size for piece in pieces or []) + sum(map(len, texts.values()))
  if VERDICTS not in texts:
    (output / VERDICTS).unlink(missing_ok=True)
  if METRICS not in texts:
    (output / METRICS).unlink(missing_ok=True)
    shutil.rmtree(output / "report", ignore_errors=True)
  files.publish(output, "the results", contents, needs=needs)


def _say(what: str, found: Mapping[str, Any], output: pathlib.Path) -> None:
  logging.info(
    "%s: AUC %.4f, GAUC %.4f, logloss %.4f on %d candidates of %d users -> %s",
    what,
    *(found[name] for name in ("auc", "gauc", "logloss", "candidates", "users")),
    output / METRICS,
  )


def _first(given: str | pathlib.Path | None, default: pathlib.Path) -> pathlib.Path | None:
  if given is not None:
    return pathlib.Path(given)
  return default if default.is_file() else None


def _text(file: pathlib.Path | None) -> str:
  return file.read_text() if file is not None and file.is_file() else ""
