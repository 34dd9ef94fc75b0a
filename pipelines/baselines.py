"""Scores a split with the trivial baselines: baselines.json, and the predictions of each.

python -m pipelines.baselines --records records/movielens --output runs/baselines
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.data.record_set import RecordSet
from lcn_tf.evaluation import baselines

_FLAGS = flags.FlagValues()
_RECORDS = flags.DEFINE_string(
  "records", None, "record set, as pipelines.build_records leaves it", required=True, flag_values=_FLAGS
)
_OUTPUT = flags.DEFINE_string("output", None, "folder for the results", required=True, flag_values=_FLAGS)
_SPLIT = flags.DEFINE_string("split", "test", "the split that is scored", flag_values=_FLAGS)
_BOOTSTRAP, _SEED, _ON_CORRUPT = entry.define_scoring(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  baselines.run(
    RecordSet.open(_RECORDS.value),
    _OUTPUT.value,
    split=_SPLIT.value,
    bootstrap=_BOOTSTRAP.value,
    seed=_SEED.value,
    on_corrupt=_ON_CORRUPT.value,  # type: ignore[arg-type]
  )


if __name__ == "__main__":
  entry.run(main)
