"""Trains along a log: scores each period with the model of the periods before it, then trains on it.

The command reads --config, whose section `walk` says how the log is cut, and a log as pipelines.build_records reads it:
the files --interactions, --items and --users, or the public or synthetic log that the config names. It trains on the
base, the interactions before the first period, as pipelines.train does. For each period it extends the records, grows
the model by the new ids, scores the period's candidates, and only then trains on them.

It leaves in --run_dir:

    days.parquet, report/index.html   AUC, GAUC, logloss and calibration of every period; the same for people
    predictions/<period>/             walked.parquet and frozen.parquet, the scores of its candidates
    records/00000, run/00000          records and run of the base
    records/<period>, run/<period>    records and run of a period; the newest ones stay, see walk.keep
    run/<period>/export/<version>/    the SavedModel after the period, with --export
    walk.yaml, walk.json              the effective experiment; where the log is cut

Example:

    python -m pipelines.walk --config configs/movielens/lcn.yaml --run_dir runs/walk --set walk.periods=5

The same command again goes on where it stopped. More periods, and a log that is longer by then, go on behind the last
finished one.
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import config, entry, places
from lcn_tf.data.sources import log

_FLAGS = flags.FlagValues()
_CONFIG = entry.define_config(_FLAGS)
_INTERACTIONS, _ITEMS, _USERS = entry.define_log(_FLAGS)
_RUN_DIR = entry.define_run_dir(
  _FLAGS, "Folder for the records, runs and results of the walk. It is made if it does not exist.", writes=True
)
_EXPORT = flags.DEFINE_bool(
  "export",
  False,
  "Export the model after every period. Without the flag the base's model alone is exported.",
  flag_values=_FLAGS,
)
_BOOTSTRAP = entry.define_bootstrap(_FLAGS)
_SET = entry.define_set(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config.load(_CONFIG.value, _SET.value)
  tables = log.read(experiment.records, _INTERACTIONS.value, _ITEMS.value, _USERS.value)
  with entry.loading():
    from lcn_tf.walk.walk import walk

  print(places.shown(walk(experiment, tables, _RUN_DIR.value, _EXPORT.value, _BOOTSTRAP.value)))


if __name__ == "__main__":
  entry.run(main)
