"""A job that begins with the weights of an earlier run."""

from lcn_tf.config import Experiment, difference
from lcn_tf.data.record_set import RecordSet, check_fingerprint
from lcn_tf.errors import UserError
from lcn_tf.training.run_folder import Run, read_run


def earlier_run(experiment: Experiment, record_set: RecordSet) -> Run:
  """The run of `train.warm_start`, whose weights fit the job.

  Raises:
    UserError: It holds no checkpoint, another model, one of other vocabularies, or one that knows validation clicks.
  """
  run = read_run(experiment.train.warm_start)
  check_fingerprint(record_set, run.record_set.fingerprint, f"train.warm_start: {run.path}")
  run.checkpoints()
  newest = max(part.last_time for part in run.record_set.splits.get("train", {}).values())
  first = record_set.part("validation").first_time
  if newest >= first:
    raise UserError(
      f"train.warm_start: {run.path} has learned from clicks up to {newest}, but the validation split of "
      f"{record_set.path} begins at {first}: its scores would be of clicks that the weights know"
    )
  asked, there = (e.model.model_dump(mode="json") for e in (experiment, run.experiment))
  # settings without weights may differ, and CRP's weights may be left behind
  for tree in (asked, there):
    del tree["mlp"]["dropout"], tree["projection_refresh"], tree["pretraining"]
    for name in ("init", "init_scale", "init_from"):
      del tree["embedding"][name]
    tree["auxiliary_seed"] = tree["auxiliary_seed"] is not None
    tree["crp"] = tree["crp"] and {"units": tree["crp"]["units"]}
  if asked["crp"] is None:
    there["crp"] = None
  found = difference(asked, there, "model", "run")
  if found:
    raise UserError(f"train.warm_start: {run.path} holds another model: {found}")
  return run
