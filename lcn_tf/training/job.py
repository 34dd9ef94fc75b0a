"""A whole job: train, export the best epoch, evaluate the export."""

import pathlib
from typing import Any

from lcn_tf.config import Experiment
from lcn_tf.data.record_set import RecordSet
from lcn_tf.evaluation import evaluate
from lcn_tf.training.export_run import export_run, exported
from lcn_tf.training.trainer import Job, train


def run_job(
  experiment: Experiment, record_set: RecordSet, run_dir: str | pathlib.Path, bootstrap: int = 200
) -> dict[str, Any]:
  """Trains (or resumes), exports to `run_dir/export/<version>` and scores the test split with that SavedModel.

  Of several workers the chief exports and scores; the others end when it has.

  Returns:
    Contents of `run_dir/metrics.json`; {} for workers that are not the chief.

  Raises:
    UserError: The records have no test split; or as `train`.
  """
  record_set.part("test")  # before hours of training
  run = pathlib.Path(run_dir)
  metrics: dict[str, Any] = {}

  def publish(job: Job) -> None:
    if job.workers.chief:
      version = exported(run, run / "export") or export_run(run, run / "export")
      metrics.update(
        evaluate(
          version,
          record_set,
          "test",
          run,
          history_csv=run / "history.csv",
          config_yaml=run / "experiment.yaml",
          bootstrap=bootstrap,
          training=job.cost,
          on_corrupt=experiment.train.on_corrupt,
        )
      )
    job.workers.wait()

  train(experiment, record_set, run, then=publish)
  return metrics
