"""Evaluates an exported SavedModel on one split of the records, or candidates that were scored elsewhere.

The command scores every candidate of the split with the signature `rank` of the SavedModel, as a server does. The
records need the model's fingerprint: the records that it was trained with, or records that were built --like them.
The predictions of each shard are kept in --output until the results are there: the same command goes on after a kill.

It leaves in --output:

    metrics.json          metrics with confidence intervals, also of slices of the candidates
    predictions.parquet   one row per candidate: score, label, weight, user, item, time
    report/index.html     the same for people, with plots
    gate.json             verdicts, with --gate

Example:

    python -m pipelines.evaluate --model my_run/export --records my_records --split test --output my_run/test
    python -m pipelines.evaluate --predictions my_run/predictions.parquet --output my_run/again
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from lcn_tf import entry, evaluation
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError

_FLAGS = flags.FlagValues()
_MODEL = entry.define_model(_FLAGS, required=False)
_RECORDS = entry.define_records(_FLAGS, required=False)
_SPLIT = entry.define_split(_FLAGS)
_PREDICTIONS = entry.define_path(
  _FLAGS,
  "predictions",
  "Parquet file of scored candidates, in the place of --model and --records. It has the columns user, label and "
  "probability.",
  "input",
)
_OUTPUT = entry.define_output(_FLAGS)
_REQUESTS = flags.DEFINE_integer("requests", 64, "Requests per call of the model.", lower_bound=1, flag_values=_FLAGS)
_WORKERS = entry.define_workers(_FLAGS)
_BOOTSTRAP, _SEED, _ON_CORRUPT = entry.define_scoring(_FLAGS)
_SLICES, _SLICE_MINIMUM = entry.define_slices(_FLAGS)
_BASELINE = entry.define_path(
  _FLAGS,
  "baseline",
  "Model or predictions file to compare with, of the same candidates. Without the flag there is no comparison.",
  "model",
)
_GATE = entry.define_path(
  _FLAGS,
  "gate",
  "Rules that the model has to pass, a YAML file; configs/gates has an example. The command ends with exit code 3 if "
  "one fails. Without the flag there are none.",
  "input",
)
_SCORE_ONLY = flags.DEFINE_bool(
  "score_only", False, "Leave the predictions alone: no metrics and no report.", flag_values=_FLAGS
)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  _check_flags()
  settings = evaluation.Settings(
    _BOOTSTRAP.value,
    _SEED.value,
    evaluation.parse_slices(_SLICES.value) if _SLICES.value else None,
    _SLICE_MINIMUM.value,
  )
  gate = evaluation.read_gate(_GATE.value) if _GATE.value else None
  if _PREDICTIONS.value:
    evaluation.evaluate_predictions(
      _PREDICTIONS.value, _OUTPUT.value, settings=settings, baseline=_BASELINE.value, gate=gate
    )
    return
  asked: Any = (_MODEL.value, RecordSet.open(str(_RECORDS.value)), _SPLIT.value, _OUTPUT.value)
  options: Any = {"requests": _REQUESTS.value, "on_corrupt": _ON_CORRUPT.value, "workers": _WORKERS.value}
  if _SCORE_ONLY.value:
    evaluation.score(*asked, **options)
  else:
    evaluation.evaluate(*asked, settings=settings, baseline=_BASELINE.value, gate=gate, **options)


def _check_flags() -> None:
  """Checks which flags are given together.

  Raises:
    UserError: Neither a model with records nor predictions are given, or both are.
  """
  given = [name for name in ("model", "records", "score_only") if _FLAGS[name].value]
  if _SCORE_ONLY.value and (_GATE.value or _BASELINE.value or _SLICES.value):
    raise UserError("--score_only leaves no metrics: --gate, --baseline and --slices need some")
  if _PREDICTIONS.value and given:
    raise UserError(f"--predictions stands in the place of {', '.join('--' + name for name in given)}")
  for name in ("model", "records"):
    if not _PREDICTIONS.value and not _FLAGS[name].value:
      raise UserError(f"--{name} is missing: {_FLAGS[name].help} Or give --predictions")


if __name__ == "__main__":
  entry.run(main)
