"""One training job, top to bottom."""

import contextlib
import dataclasses
import functools
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import config as config_lib
from lcn_tf import files
from lcn_tf.config import Experiment
from lcn_tf.data.read.dataset import evaluation_batches, powers_of_two, steps_per_epoch, training_batches
from lcn_tf.data.read.diagnosis import guard
from lcn_tf.data.record_set import RecordSet, check_fingerprint, check_schema
from lcn_tf.errors import SettingsError, UserError
from lcn_tf.models.build import build_model, check_model, needs_pretrained
from lcn_tf.pretraining.run import item_vectors
from lcn_tf.schema import DOMAINS
from lcn_tf.training.callbacks import Pace, StopOnNaN, Validation
from lcn_tf.training.checkpoints import Checkpoints, Leave, Progress, at_sigterm, begun
from lcn_tf.training.cost import Cost, parameters
from lcn_tf.training.history import Curves, History
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.projections import RefreshProjections
from lcn_tf.training.run_folder import Run, open_run, read_run
from lcn_tf.training.strategy import device_names, input_options, make_strategy
from lcn_tf.training.workers import Workers


@dataclasses.dataclass(frozen=True)
class Job:
  """What a finished job leaves in memory; its files are in the run folder.

  Attributes:
    steps, seconds, candidates_per_second: Of this call; padding counts as candidates.
    cost: Of the job over all the calls that it took; see `lcn_tf.training.cost.Cost`.
    workers: Who trained it together.
  """

  model: keras.Model
  steps: int
  seconds: float
  candidates_per_second: float
  cost: dict[str, Any]
  workers: Workers


def train(
  experiment: Experiment,
  record_set: RecordSet,
  run_dir: str | pathlib.Path,
  callbacks: tuple[keras.callbacks.Callback, ...] = (),
  then: Callable[[Job], None] | None = None,
) -> Job:
  """Trains `experiment` on the `train` split; calling it again with the same arguments takes up where it stopped.

  With `train.strategy: multi_worker` every process that TF_CONFIG names calls it; the chief alone writes `run_dir`,
  from which all of them read what an interrupted job left.

  Args:
    callbacks: The caller's own, run after the job's. One that sets `model.stop_training` stops the job where it is; the
      next call goes on from there.
    then: What is to be done while the folder is still held: no other job begins there before that.

  Raises:
    UserError: The records have another schema, or no candidates to train on or to validate with; the folder holds
      another experiment, or another job is at work there; a broken record; a loss that is not finite.
  """
  check_schema(experiment.record_schema, record_set)
  warn_of_other_records(experiment, record_set)
  check_model(record_set.record_schema, experiment.model, experiment.train.jit_compile)
  record_set.part("train")
  if reason := record_set.part("validation").undefined():
    logging.warning("the validation split of %s: %s", record_set.path, reason)
  # its own checkpoints say what a job that was begun goes on with
  warm = _earlier_run(experiment, record_set) if experiment.train.warm_start and not begun(run_dir) else None
  run = own = files.local(run_dir)
  workers = Workers(make_strategy(experiment.train))
  with contextlib.ExitStack() as stack:
    if workers.chief:
      stack.enter_context(files.exclusive(run, "another training job"))
    else:
      own = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lcn_tf-")))
    job = _train(experiment, record_set, workers, run, own, callbacks, warm)
    if then:
      then(job)
    return job


def _train(
  experiment: Experiment,
  record_set: RecordSet,
  workers: Workers,
  run: pathlib.Path,
  own: pathlib.Path,
  callbacks: tuple[keras.callbacks.Callback, ...],
  warm: Run | None,
) -> Job:
  """`own`: Where this process writes: the chief's is the run folder."""
  config, schema, strategy = experiment.train, record_set.record_schema, workers.strategy
  # the checkpoint's own model is gone before this job's is made
  weights = warm.weights() if warm else {}
  keras.mixed_precision.set_global_policy("mixed_bfloat16" if config.mixed_precision else "float32")
  requests = config.global_batch_size // schema.candidates
  if requests % strategy.num_replicas_in_sync:
    raise SettingsError(
      f"train.global_batch_size {config.global_batch_size} is {requests} requests of {schema.candidates} candidates, "
      f"which {strategy.num_replicas_in_sync} replicas cannot share equally"
    )
  steps = config.steps_per_epoch or steps_per_epoch(record_set, requests)
  pretrained = None
  with workers.chief_first():
    # what is wrong with the experiment is told before the folder holds it
    if workers.chief:
      open_run(experiment, record_set, run)
    if needs_pretrained(experiment.model):
      pretrained = item_vectors(experiment, record_set, run / "pretrained")
  # a whole share for each replica
  each = strategy.num_replicas_in_sync
  second = max(1, round(requests * config.source_ratio / each)) * each
  with strategy.scope():
    model = build_model(
      schema,
      experiment.model,
      seed=config.seed,
      deduplicate=not config.jit_compile,
      catalogues={d: record_set.catalogue(d) for d in DOMAINS},
      pretrained=pretrained,
    )
    model.compile(
      optimizer=make_optimizer(model, config),
      steps_per_execution=config.steps_per_execution,
      jit_compile=config.jit_compile,
    )
  logging.info(
    "%s: %s%s, %d requests x %d candidates a step, %d weights in tables, %d elsewhere",
    experiment.name,
    f"worker {workers.index} of {workers.count}, " if workers.count > 1 else "",
    device_names(strategy),
    requests,
    schema.candidates,
    *parameters(model).values(),
  )

  progress = Progress()
  checkpoints = Checkpoints(
    run,
    own,
    progress,
    workers,
    config.checkpoint_every,
    config.early_stopping,
    config.keep_checkpoints,
    config.checkpoint_minutes,
  )
  checkpoints.set_model(model)
  resumed = checkpoints.restore()
  for variable in model.trainable_variables if weights and not resumed else []:
    variable.assign(weights[variable.name].pop(0))
  part = record_set.part("train")
  cost = Cost(own, progress, requests * part.candidates / max(part.records, 1), resumed)
  cost.set_model(model)

  widths = config.length_buckets
  if config.jit_compile and not widths:
    widths = powers_of_two(max(schema.capacity(d) for d in DOMAINS))

  def stream(context: tf.distribute.InputContext) -> tf.data.Dataset:
    return training_batches(
      record_set,
      domains=model.domains,
      requests=requests,
      second_requests=second,
      replicas=strategy.num_replicas_in_sync // context.num_input_pipelines,
      seed=config.seed,
      skip=int(progress.epoch) * steps + int(progress.step),
      length_buckets=widths,
      shuffle_buffer=config.shuffle_buffer,
      on_corrupt=config.on_corrupt,
      workers=context.num_input_pipelines,
      worker=context.input_pipeline_id,
    )

  @functools.cache
  def validation_batches() -> tf.data.Dataset:
    share = max(requests // each, 64)  # one replica's: one device scores
    return evaluation_batches(record_set, "validation", requests=share, on_corrupt=config.on_corrupt, grouped=True)

  def validation() -> Iterator[dict[str, tf.Tensor]]:
    with guard(record_set, "validation"):
      yield from validation_batches()

  history = History(own, progress)
  curves = Curves(own / "tensorboard", history, progress)
  if checkpoints.stopped_early and int(progress.epoch) < config.epochs:
    logging.warning(
      "%s stopped early, after epoch %d: nothing is trained. --set train.early_stopping=0 goes on",
      run,
      int(progress.epoch),
    )
  if workers.chief and int(progress.epoch) < config.epochs and not checkpoints.stopped_early:
    (run / "metrics.json").unlink(missing_ok=True)  # it will be of weights that are no longer the last
  began, before = time.monotonic(), int(model.optimizer.iterations.numpy())
  with workers.together(), guard(record_set, "train", model.domains), at_sigterm(checkpoints.ask):
    while int(progress.epoch) < config.epochs and not checkpoints.stopped_early:
      epoch, within = int(progress.epoch), int(progress.step)
      model.fit(
        strategy.distribute_datasets_from_function(stream, input_options(strategy)),
        initial_epoch=epoch,
        # what an interrupted job left of an epoch is a fit of its own: Keras knows one length of epochs
        epochs=epoch + 1 if within else config.epochs,
        steps_per_epoch=steps - within,
        verbose=1 if sys.stderr.isatty() else 2,
        callbacks=[
          StopOnNaN(),
          RefreshProjections(experiment.model.projection_refresh),
          Validation(validation, workers),
          history,
          checkpoints,
          curves,
          cost,
          Pace(steps, within, requests * schema.candidates),
          *callbacks,
          Leave(checkpoints),
        ],
      )
      if model.stop_training:
        break
  done = int(model.optimizer.iterations.numpy()) - before
  seconds = time.monotonic() - began
  rate = done * requests * schema.candidates / max(seconds, 1e-9)
  logging.info("%d steps in %.1f s, validation included: %.0f candidate slots/s", done, seconds, rate)
  over = checkpoints.stopped_early or int(progress.epoch) >= config.epochs
  return Job(model, done, seconds, rate, cost.finish(over), workers)


def _earlier_run(experiment: Experiment, record_set: RecordSet) -> Run:
  """The run whose weights the job begins with.

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
  # what has no weights may differ, and CRP's may be left behind
  for tree in (asked, there):
    del tree["mlp"]["dropout"], tree["projection_refresh"], tree["pretraining"]
    tree["auxiliary_seed"] = tree["auxiliary_seed"] is not None
    tree["crp"] = tree["crp"] and {"units": tree["crp"]["units"]}
  if asked["crp"] is None:
    there["crp"] = None
  found = config_lib.difference(asked, there, "model", "run")
  if found:
    raise UserError(f"train.warm_start: {run.path} holds another model: {found}")
  return run


def warn_of_other_records(experiment: Experiment, record_set: RecordSet) -> None:
  """Warns if the records were built by another `records` section, which is part of what results are compared by."""
  asked, there = experiment.records.model_dump(mode="json"), record_set.records
  if there is None:
    return
  for name in ("raw", "shards", "compression"):  # the same records, elsewhere
    asked.pop(name)
    there = {key: value for key, value in there.items() if key != name}
  difference = config_lib.difference(asked, there, "records", "record set")
  if difference:
    logging.warning("%s was built by other settings: %s", record_set.path, difference)
