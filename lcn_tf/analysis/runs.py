"""Run folders that an analysis reads."""

import pathlib
from collections.abc import Sequence

from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.training.run_folder import Run, labels, read_run


def labelled(run_dirs: Sequence[str | pathlib.Path], record_set: RecordSet) -> list[tuple[str, Run]]:
  """The runs in these folders, each with its label. Runs that differ only in their seed have the same label.

  Raises:
    UserError: A folder holds no run, or a run was trained with other records.
  """
  runs = [read_run(run_dir) for run_dir in run_dirs]
  for run in runs:
    if run.record_set.fingerprint != record_set.fingerprint:
      raise UserError(
        f"{run.path}: trained with other records: fingerprint {run.record_set.fingerprint}, {record_set.path} has "
        f"{record_set.fingerprint}"
      )
  return list(zip(labels(runs), runs, strict=True))
