"""Trains one experiment, exports its best epoch and scores the test split with the export.

The command reads --config and the three splits of --records. The same command again resumes an interrupted job.
--noevaluate leaves the test split alone: the job ends with the best epoch by validation AUC in its checkpoints, and the
same command without --noevaluate goes on from there.

It leaves in --run_dir:

    experiment.yaml                           the effective experiment, --set included
    dataset.json, vocabularies/, catalogue/,  the id mapping of the records
    items/
    pretrained/                               frozen item vectors, if the model needs them
    checkpoints/last/, checkpoints/best/      the newest checkpoints; the weights of the best epoch
    history.csv, tensorboard/                 losses and validation metrics by epoch, and by step
    metrics.prom                              the newest numbers of the job, for a monitor
    training.json                             cost: seconds, steps, speed, memory, number of weights
    export/<version>/                         the SavedModel of the best epoch
    metrics.json, predictions.parquet,        the test split: metrics, one row per candidate, the same for people
    report/index.html

Example:

    python -m pipelines.train --config configs/amazon/lcn.yaml --records my_records --run_dir my_run

Several machines share a job with --set train.strategy=multi_worker. Run the same command on each, with the TF_CONFIG
that describes the cluster to TensorFlow and a --run_dir that all machines see. With train.strategy=parameter_server
some of the processes are servers, which hold the tables in parts.
"""

from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import config, entry

_FLAGS = flags.FlagValues()
_CONFIG = entry.define_config(_FLAGS)
_RECORDS = entry.define_records(_FLAGS)
_RUN_DIR = entry.define_run_dir(
  _FLAGS, "Run folder for checkpoints, export, metrics and report. It is made if it does not exist.", writes=True
)
_SET = entry.define_set(_FLAGS)
_BOOTSTRAP = entry.define_bootstrap(_FLAGS)
_EVALUATE = flags.DEFINE_bool(
  "evaluate",
  True,
  "Export the best epoch and score the test split. --noevaluate ends the job after training.",
  flag_values=_FLAGS,
)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config.load(_CONFIG.value, _SET.value)
  with entry.loading():
    from lcn_tf.data.record_set import RecordSet
    from lcn_tf.training.cluster import with_servers
    from lcn_tf.training.job import run_job
    from lcn_tf.training.servers import serve
    from lcn_tf.training.trainer import train

  if experiment.train.strategy == "parameter_server" and (cluster := with_servers()).kind != "chief":
    serve(cluster, _RUN_DIR.value)
    return

  if not _EVALUATE.value:
    train(experiment, RecordSet.open(_RECORDS.value), _RUN_DIR.value)
    return
  metrics = run_job(experiment, RecordSet.open(_RECORDS.value), _RUN_DIR.value, bootstrap=_BOOTSTRAP.value)
  if metrics:
    logging.info("test: auc %.4f, gauc %.4f, logloss %.4f", metrics["auc"], metrics["gauc"], metrics["logloss"])


if __name__ == "__main__":
  entry.run(main)
