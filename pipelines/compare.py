"""Trains, tests and compares many models with several seeds on one record set.

The command reads --config, the experiments that it names, and --records. lcn_tf/comparison/config.py describes the keys
of the config. Each model is trained with each seed, as a run of its own, and the test split is scored once per run. The
command prints table.md at the end.

It leaves in --output:

    table.md, report/index.html       means, standard deviations and paired intervals, for people
    results.parquet                   a row per model and seed
    paired.json                       every model against the reference
    comparison.yaml, experiments/     the effective comparison and its experiments
    cells/<model>/seed_<n>/           the run folders; cells/<model>/<values>/seed_<n>/ with tuning
    baselines/, pretrained/           the trivial baselines; item vectors that several runs read
    bootstrap/                        intermediate results of the intervals

Example:

    python -m pipelines.compare --config configs/compare/amazon.yaml --records my_records --output compared --jobs 2

The same command again goes on where it stopped. Finished runs are not run again. --seeds and --keep_models may differ
from call to call: the tables have the seeds of the last call. Runs of other seeds, and models that were kept, stay.
With more epochs in --config, runs whose models were kept go on from their checkpoints.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.comparison import config

_FLAGS = flags.FlagValues()
_CONFIG = entry.define_config(_FLAGS, "Comparison, a YAML file. The folder configs/compare/ has examples.", alone=False)
_RECORDS = entry.define_records(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS, "Folder for the runs and the tables. It is made if it does not exist.")
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Runs at the same time. They share the cores and the GPUs.", lower_bound=1, flag_values=_FLAGS
)
_ONLY = flags.DEFINE_list("only", [], "Labels of the models to run. Without --only all are run.", flag_values=_FLAGS)
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds of the runs. Without --seeds they are the config's.", flag_values=_FLAGS)
_KEEP_MODELS = flags.DEFINE_bool(
  "keep_models",
  None,
  "Keep checkpoints and exports of the runs that this call finishes. Without the flag the config decides.",
  flag_values=_FLAGS,
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the runs and the state of each.", flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  loaded = config.load(_CONFIG.value).changed(_SEEDS.value, _KEEP_MODELS.value)
  # matplotlib and polars take a second to load: not for --help, a wrong flag or a wrong config
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
