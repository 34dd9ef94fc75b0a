"""Evaluates an exported SavedModel on one split of the records.

The command scores every candidate of the split with the signature `rank` of the SavedModel, as a server does. The
records need the model's fingerprint: the records that it was trained with, or records that were built --like them.

It leaves in --output:

    metrics.json          metrics with confidence intervals, also of slices of the candidates
    predictions.parquet   one row per candidate: score, label, weight, user, item, time
    report/index.html     the same for people, with plots

Example:

    python -m pipelines.evaluate --model my_run/export --records my_records --split test --output my_run/test
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry, evaluation
from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string(
  "model",
  None,
  "SavedModel, a version folder or the export folder above it. Of an export folder the newest version counts.",
  required=True,
  flag_values=_FLAGS,
)
_RECORDS = entry.define_records(_FLAGS)
_SPLIT = entry.define_split(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS)
_REQUESTS = flags.DEFINE_integer("requests", 64, "Requests per call of the model.", lower_bound=1, flag_values=_FLAGS)
_BOOTSTRAP, _SEED, _ON_CORRUPT = entry.define_scoring(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  evaluation.evaluate(
    _MODEL.value,
    RecordSet.open(_RECORDS.value),
    _SPLIT.value,
    _OUTPUT.value,
    requests=_REQUESTS.value,
    bootstrap=_BOOTSTRAP.value,
    seed=_SEED.value,
    on_corrupt=_ON_CORRUPT.value,  # type: ignore[arg-type]
  )


if __name__ == "__main__":
  entry.run(main)
