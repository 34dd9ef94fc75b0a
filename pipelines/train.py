"""Trains one experiment, exports its best epoch and evaluates what was exported.

    python -m pipelines.train --config C --records DIR --run_dir RUN [--set key.path=value ...]

The same command again resumes. With --noevaluate the test split is not touched: the best epoch by validation AUC is
left in the checkpoints, and the command without it goes on from there.

Several machines share a job with --set train.strategy=multi_worker: the same command on each, with the TF_CONFIG that
TensorFlow describes a cluster by, and one RUN that all of them see.
"""

from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import config, entry

_FLAGS = flags.FlagValues()
_CONFIG = flags.DEFINE_string("config", None, "The experiment, a YAML file.", required=True, flag_values=_FLAGS)
_RECORDS = flags.DEFINE_string(
  "records", None, "The record set that pipelines.build_records made.", required=True, flag_values=_FLAGS
)
_RUN_DIR = flags.DEFINE_string(
  "run_dir", None, "Where checkpoints, model and report go.", required=True, flag_values=_FLAGS
)
_SET = flags.DEFINE_multi_string(
  "set", [], "key.path=value, instead of what the config says. May be repeated.", flag_values=_FLAGS
)
_BOOTSTRAP = flags.DEFINE_integer(
  "bootstrap", 200, "Bootstrap replicates of the confidence intervals.", lower_bound=0, flag_values=_FLAGS
)
_EVALUATE = flags.DEFINE_bool("evaluate", True, "Export and score the test split, too.", flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config.load(_CONFIG.value, _SET.value)
  # TensorFlow only now: a wrong config is told at once
  from lcn_tf.data.record_set import RecordSet
  from lcn_tf.training.job import run_job
  from lcn_tf.training.trainer import train

  if not _EVALUATE.value:
    train(experiment, RecordSet.open(_RECORDS.value), _RUN_DIR.value)
    return
  metrics = run_job(experiment, RecordSet.open(_RECORDS.value), _RUN_DIR.value, bootstrap=_BOOTSTRAP.value)
  if metrics:
    logging.info("test: auc %.4f, gauc %.4f, logloss %.4f", metrics["auc"], metrics["gauc"], metrics["logloss"])


if __name__ == "__main__":
  entry.run(main)
