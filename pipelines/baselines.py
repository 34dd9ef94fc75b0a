"""Scores a split with three baselines that read no history with a network.

The baselines are the popularity of the item, the mean label of the item, and a logistic regression on the user's mean
and the item's mean. The command reads the train split of --records for the means, the validation split for the
regression, and the split that it scores. The train split itself cannot be scored.

It leaves in --output:

    baselines.json                metrics of each baseline, with confidence intervals
    item_popularity.parquet       predictions, one row per candidate
    item_mean.parquet             the same
    user_mean_item_mean.parquet   the same; left out if all labels that the regression would learn from are alike

Example:

    python -m pipelines.baselines --records my_records --output my_baselines
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_RECORDS = entry.define_records(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS)
_SPLIT = entry.define_split(_FLAGS)
_BOOTSTRAP, _SEED, _ON_CORRUPT = entry.define_scoring(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  record_set = RecordSet.open(_RECORDS.value)
  with entry.loading():
    from lcn_tf.evaluation import baselines

  baselines.run(
    record_set,
    _OUTPUT.value,
    split=_SPLIT.value,
    bootstrap=_BOOTSTRAP.value,
    seed=_SEED.value,
    on_corrupt=_ON_CORRUPT.value,  # type: ignore[arg-type]
  )


if __name__ == "__main__":
  entry.run(main)
