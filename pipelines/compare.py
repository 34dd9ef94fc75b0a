"""Trains, tests and compares many models with several seeds on one record set.

    python -m pipelines.compare --config configs/compare/movielens.yaml --records DIR --output DIR

The same command again goes on where it stopped; finished cells are not run again. --seeds and --keep_models may differ
from call to call: the tables are of the last call's seeds, cells of other seeds and models that were kept stay. See
lcn_tf/comparison/config.py for what the YAML may say, lcn_tf/comparison/compare.py for what it leaves.
"""

import sys
from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.comparison import config

_FLAGS = flags.FlagValues()
_CONFIG = flags.DEFINE_string("config", None, "The comparison, a YAML file.", required=True, flag_values=_FLAGS)
_RECORDS = flags.DEFINE_string(
  "records", None, "The record set that pipelines.build_records made.", required=True, flag_values=_FLAGS
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the cells and the tables.", required=True, flag_values=_FLAGS)
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Cells at the same time; they share the cores and the GPUs.", 1, flag_values=_FLAGS
)
_ONLY = flags.DEFINE_list("only", [], "Labels of the models to run, separated by commas.", flag_values=_FLAGS)
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds, separated by commas, instead of the config's.", flag_values=_FLAGS)
_KEEP_MODELS = flags.DEFINE_bool(
  "keep_models", None, "Keep checkpoints and exports of the cells that this call finishes.", flag_values=_FLAGS
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the cells, and what is done of them.", flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  loaded = config.load(_CONFIG.value).changed(_SEEDS.value, _KEEP_MODELS.value)
  # matplotlib and polars only now: a wrong config is told at once
  import pathlib

  from lcn_tf.comparison.cells import rows_of
  from lcn_tf.comparison.compare import compare, select
  from lcn_tf.comparison.grid import describe
  from lcn_tf.data.record_set import RecordSet

  record_set = RecordSet.open(_RECORDS.value)
  if _DRY_RUN.value:
    print(describe(select(rows_of(loaded, pathlib.Path(_OUTPUT.value)), _ONLY.value)))
    return
  try:
    compare(loaded, record_set, _OUTPUT.value, jobs=_JOBS.value, only=_ONLY.value)
    print((pathlib.Path(_OUTPUT.value) / "table.md").read_text())
  except (KeyboardInterrupt, SystemExit):
    print("the same command goes on from here", file=sys.stderr)
    raise


if __name__ == "__main__":
  entry.run(main)
