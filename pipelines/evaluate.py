"""Evaluates an exported SavedModel on a split: metrics.json, predictions.parquet and report/index.html.

python -m pipelines.evaluate --model runs/lcn/export --records records/movielens --split test --output runs/lcn/test
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry, evaluation
from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string(
  "model",
  None,
  "SavedModel: a version folder, or the export folder (the newest version)",
  required=True,
  flag_values=_FLAGS,
)
_RECORDS = flags.DEFINE_string(
  "records", None, "record set, as pipelines.build_records leaves it", required=True, flag_values=_FLAGS
)
_SPLIT = flags.DEFINE_string("split", "test", "train, validation or test", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "folder for the results", required=True, flag_values=_FLAGS)
_REQUESTS = flags.DEFINE_integer("requests", 64, "records per call of the model", lower_bound=1, flag_values=_FLAGS)
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
