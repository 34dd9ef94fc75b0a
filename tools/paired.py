"""Compares two models by their predictions of the same candidates.

The command reads predictions.parquet files, as pipelines.train, pipelines.evaluate and pipelines.baselines leave them.
Both models need the same candidates in the same order: the same records and the same split. Repeat --a and --b for
models with several training seeds, one file per seed and as many of one as of the other.

It leaves no files. It prints one JSON with AUC, GAUC and logloss of both models, the differences a - b, and the
intervals of the differences by a paired bootstrap over users.

Example:

    python -m tools.paired --a my_run/predictions.parquet --b my_baselines/item_mean.parquet
"""

import json
from collections.abc import Sequence

from absl import flags

from lcn_tf import entry, formats
from lcn_tf.evaluation import paired

_FLAGS = flags.FlagValues()
_A = entry.define_path(
  _FLAGS,
  "a",
  "Predictions of the first model, a predictions.parquet. May be repeated, one file per training seed.",
  "input",
  required=True,
  multiple=True,
)
_B = entry.define_path(
  _FLAGS,
  "b",
  "Predictions of the second model, a predictions.parquet. May be repeated, one file per training seed.",
  "input",
  required=True,
  multiple=True,
)
_BOOTSTRAP = entry.define_bootstrap(_FLAGS, default=1000, lower_bound=1)
_LEVEL = flags.DEFINE_float("level", 0.95, "Level of the confidence intervals.", flag_values=_FLAGS)
_SEED = entry.define_seed(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  found = paired.compare(_A.value, _B.value, replicates=_BOOTSTRAP.value, level=_LEVEL.value, seed=_SEED.value)
  print(json.dumps(formats.jsonable(found), indent=1, allow_nan=False))


if __name__ == "__main__":
  entry.run(main)
