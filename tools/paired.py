"""Compares two models by their predictions, paired; prints one JSON.

python -m tools.paired --a runs/lcn/predictions.parquet --b runs/twin/predictions.parquet

Several training seeds: repeat --a and --b as often.
"""

import json
from collections.abc import Sequence

from absl import flags

from lcn_tf import entry, formats
from lcn_tf.evaluation import paired

_FLAGS = flags.FlagValues()
_A = flags.DEFINE_multi_string(
  "a", None, "predictions.parquet of the first model; one per training seed", required=True, flag_values=_FLAGS
)
_B = flags.DEFINE_multi_string(
  "b", None, "predictions.parquet of the second model; one per training seed", required=True, flag_values=_FLAGS
)
_BOOTSTRAP = flags.DEFINE_integer(
  "bootstrap", 1000, "bootstrap samples of the users", lower_bound=1, flag_values=_FLAGS
)
_LEVEL = flags.DEFINE_float("level", 0.95, "of the intervals", flag_values=_FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "of the bootstrap", lower_bound=0, flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  found = paired.compare(_A.value, _B.value, replicates=_BOOTSTRAP.value, level=_LEVEL.value, seed=_SEED.value)
  print(json.dumps(formats.jsonable(found), indent=1, allow_nan=False))


if __name__ == "__main__":
  entry.run(main)
