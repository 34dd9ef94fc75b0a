"""One training job, top to bottom."""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging
from tensorflow import keras

from lcn_tf import files, places
from lcn_tf.config import Experiment
from lcn_tf.data.read.diagnosis import guard
from lcn_tf.data.record_set import RecordSet, check_schema, warn_of_other_settings
from lcn_tf.errors import UserError
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, check_model, item_tables, needs_pretrained
from lcn_tf.pretraining.run import item_vectors
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.serving.blocks import at_once_here
from lcn_tf.training import servers
from lcn_tf.training.callbacks import LearningRate, Profile, ProgressLog, StopOnNaN, Validation
from lcn_tf.training.checkpoint_store import begun
from lcn_tf.training.checkpoints import Checkpoints
from lcn_tf.training.cost import CostRecord, parameters
from lcn_tf.training.flops import Widths, of_step
from lcn_tf.training.history import Curves, History
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.preemption import LeaveOnSigterm, at_sigterm
from lcn_tf.training.progress import Progress
from lcn_tf.training.projections import RefreshProjections
from lcn_tf.training.putting_back import PutBack
from lcn_tf.training.run_folder import open_run, shares
from lcn_tf.training.schedules import count_from
from lcn_tf.training.step_log import StepLog
from lcn_tf.training.strategy import device_names, make_strategy
from lcn_tf.training.streams import StepSize, training_stream, validation_stream, worker_streams
from lcn_tf.training.warm_start import WarmStart, earlier_run
from lcn_tf.training.workers import Workers


@dataclasses.dataclass(frozen=True)
class Job:
  """A finished job in memory; its files are in the run folder.

  Attributes:
    model: The trained model.
    steps: Steps of this call.
    seconds: Seconds of this call.
    candidates_per_second: Candidates per second of this call, padding included.
    cost: Cost of the job over all calls that it took; see `lcn_tf.training.cost.CostRecord`.
    workers: Processes that trained it together.
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
  """Trains `experiment` on the `train` split. The same call again takes up where the last one stopped.

  With `train.strategy: multi_worker` every process that TF_CONFIG names calls it. The chief alone writes `run_dir`,
  and all of them read an interrupted job's files from there. With `parameter_server` the chief alone calls it, and the
  others `lcn_tf.training.servers.serve`.

  Args:
    experiment: The effective experiment.
    record_set: Records with the experiment's schema.
    run_dir: Run folder, made if it is missing.
    callbacks: Callbacks of the caller, run after the job's own. One that sets `model.stop_training` stops the job; the
      next call goes on from there.
    then: Work to do while the folder is still held, before another job can begin there.

  Raises:
    UserError: The records have another schema, or no candidates to train on or to validate with; the folder holds
      another experiment, or another job is at work there; a broken record; a loss that is not finite.
  """
  check_schema(experiment.record_schema, record_set)
  warn_of_other_settings(experiment.records, record_set)
  check_model(record_set.record_schema, experiment.model, experiment.train.jit_compile)
  record_set.part("train")
  if not experiment.train.validates:
    logging.info("train.validate is false: training does not stop early, and its last epoch is the one that counts")
  elif reason := record_set.part("validation").undefined():
    logging.warning("the validation split of %s: %s", record_set.path, reason)
  # the checkpoints of a job that was begun hold all that it goes on with
  warm = earlier_run(experiment, record_set) if experiment.train.warm_start and not begun(run_dir) else None
  run = files.local(run_dir)
  if experiment.train.strategy != "mirrored" and places.stands_for(run):
    raise UserError(f"{run}: several machines share a run folder on a mount that all see; --records may be a URL")
  if experiment.train.strategy == "parameter_server":
    _check_servers(record_set, run)
  workers = Workers(make_strategy(experiment.train))
  with workers.together(), _held(run, workers) as own:
    servers.begins(own)
    job = _train(experiment, record_set, workers, run, own, callbacks, warm)
    if then:
      then(job)
    if experiment.train.strategy == "parameter_server":
      servers.ends(own)
    return job


def _check_servers(record_set: RecordSet, run: pathlib.Path) -> None:
  """Checks that other machines can read and write what the chief names to their TensorFlow."""
  if places.stands_for(record_set.path) or record_set.source:
    raise UserError(f"{record_set.path}: workers of parameter_server read records on a mount that all see, not a URL")
  if files.plain(run) != str(run.absolute()):
    raise UserError(f"{run}: servers write checkpoints there, whose TensorFlow reads *, ?, [, ] and \\ as a pattern")


@contextlib.contextmanager
def _held(run: pathlib.Path, workers: Workers) -> Iterator[pathlib.Path]:
  """Holds the run folder; yields the folder that this process writes: the chief's is the run folder."""
  if workers.chief:
    with files.exclusive(run, "another training job"):
      yield run
  else:
    with tempfile.TemporaryDirectory(prefix="lcn_tf-") as own:
      yield pathlib.Path(own)


def _train(
  experiment: Experiment,
  record_set: RecordSet,
  workers: Workers,
  run: pathlib.Path,
  own: pathlib.Path,
  callbacks: tuple[keras.callbacks.Callback, ...],
  warm: WarmStart | None,
) -> Job:
  config, strategy = experiment.train, workers.strategy
  keras.mixed_precision.set_global_policy("mixed_bfloat16" if config.mixed_precision else "float32")
  size = StepSize.of(config, record_set, workers.replicas, shares(run, workers.readers))
  restored = warm is not None or begun(run)
  pretrained = _begin(experiment, record_set, workers, run, restored, warm)
  with strategy.scope():
    model = _compiled(experiment, record_set, pretrained, restored)
  _log_job(experiment, size, model, workers)

  progress = Progress()
  checkpoints = Checkpoints(
    run,
    own,
    progress,
    workers,
    every=config.checkpoint_every,
    minutes=config.checkpoint_minutes,
    patience=config.early_stopping,
    after=config.early_stopping_after,
    keep=config.keep_checkpoints,
  )
  checkpoints.set_model(model)
  resumed = checkpoints.restore()
  if warm and not resumed:
    warm.carry(model)
  first = int(model.optimizer.iterations.numpy()) - int(progress.epoch) * size.steps - int(progress.step)
  count_from(model.optimizer, first)
  part = record_set.part("train")
  cost = CostRecord(own, progress, size.requests * part.candidates / max(part.records, 1), resumed, first)
  cost.set_model(model)
  if not _ended(experiment, run, progress, checkpoints) and workers.chief:
    (run / "metrics.json").unlink(missing_ok=True)  # of weights that will no longer be the last

  history = History(own, progress)
  own_callbacks = (
    StopOnNaN(),
    RefreshProjections(experiment.model.projection_refresh, first),
    *_asked(experiment, record_set, size, model, workers, run, first),
    history,
    checkpoints,
    Curves(own / "tensorboard", history, progress),
    cost,
    PutBack(own, progress),
  )
  began, before = time.monotonic(), int(model.optimizer.iterations.numpy())
  with at_sigterm(checkpoints.ask):
    while int(progress.epoch) < config.epochs and not checkpoints.stopped_early and not model.stop_training:
      told = ProgressLog(size.steps, int(progress.step), size.candidates)
      everything = [*own_callbacks, told, *callbacks, LeaveOnSigterm(checkpoints)]
      _fit(experiment, record_set, size, model, workers, progress, everything)
  done, seconds = int(model.optimizer.iterations.numpy()) - before, time.monotonic() - began
  rate = done * size.candidates / max(seconds, 1e-9)
  logging.info("%d steps in %.1f s, validation included: %.0f candidates/s, padding included", done, seconds, rate)
  over = checkpoints.stopped_early or int(progress.epoch) >= config.epochs
  return Job(model, done, seconds, rate, cost.finish(over), workers)


def _asked(
  experiment: Experiment,
  record_set: RecordSet,
  size: StepSize,
  model: RequestModel,
  workers: Workers,
  run: pathlib.Path,
  first: int,
) -> Iterator[keras.callbacks.Callback]:
  """The callbacks that the experiment may do without."""
  config, strategy = experiment.train, workers.strategy
  if config.validates:
    # rows of servers come over the network: in few, large batches
    at_once = 0 if workers.led else at_once_here()
    stream = validation_stream(record_set, config, size, strategy.num_replicas_in_sync, at_once)
    yield Validation(stream, workers, fresh=not experiment.model.projection_refresh)
  if config.changing_rate:
    yield LearningRate()
  if config.profile and workers.chief:
    yield Profile(run / "tensorboard", config.profile, first)
  if gauges := model.optimizer.gauges:
    (gauges.prepare if workers.led else gauges.watch)(model, strategy)
    if workers.chief:
      replicas = workers.replicas
      counts = zip(model.domains, (size.requests, size.second_requests), strict=False)
      rows = {d: count // replicas for d, count in counts}

      def flops(widths: Widths) -> float:
        return of_step(model, rows, widths, replicas)

      labels = {"experiment": experiment.name, "run": run.name}
      yield StepLog(run, gauges, config.log_every, size.candidates, first, flops, labels)


def _begin(
  experiment: Experiment,
  record_set: RecordSet,
  workers: Workers,
  run: pathlib.Path,
  restored: bool,
  warm: WarmStart | None,
) -> Pretrained | None:
  """Opens the run folder; returns the item vectors, if the model searches or begins with them."""
  with workers.chief_first():
    # a wrong experiment is refused before the folder holds it
    if workers.chief:
      open_run(experiment, record_set, run, workers.readers)
      if warm:
        warm.hand_on_vectors(experiment, run / "pretrained")
    if kinds := needs_pretrained(experiment.model, restored):
      return item_vectors(experiment, record_set, run / "pretrained", kinds)
  return None


def _compiled(
  experiment: Experiment, record_set: RecordSet, pretrained: Pretrained | None, restored: bool
) -> RequestModel:
  """The model with its optimizer, ready for `fit`; called in the scope of the strategy."""
  config = experiment.train
  model = build_model(
    record_set.record_schema,
    experiment.model,
    seed=config.seed,
    deduplicate=not config.jit_compile,
    **item_tables(record_set),
    pretrained=pretrained,
    restored=restored,
  )
  model.micro_batches = config.micro_batches
  model.compile(
    optimizer=make_optimizer(model, config),
    steps_per_execution=config.steps_per_execution,
    jit_compile=config.jit_compile,
  )
  return model


def _log_job(experiment: Experiment, size: StepSize, model: RequestModel, workers: Workers) -> None:
  logging.info(
    "%s: %s%s, %d requests x %d candidates a step, %d weights in tables, %d elsewhere",
    experiment.name,
    f"worker {workers.index} of {workers.count}, " if workers.count > 1 else "",
    device_names(workers.strategy),
    size.requests,
    size.candidates // size.requests,
    *parameters(model).values(),
  )


def _ended(experiment: Experiment, run: pathlib.Path, progress: Progress, checkpoints: Checkpoints) -> bool:
  """Whether there is nothing left to train."""
  if int(progress.epoch) >= experiment.train.epochs:
    return True
  if checkpoints.stopped_early:
    logging.warning(
      "%s stopped early, after epoch %d: nothing is trained. --set train.early_stopping=0 goes on",
      run,
      int(progress.epoch),
    )
  return checkpoints.stopped_early


def _fit(
  experiment: Experiment,
  record_set: RecordSet,
  size: StepSize,
  model: RequestModel,
  workers: Workers,
  progress: Progress,
  callbacks: list[keras.callbacks.Callback],
) -> None:
  """Trains to the end of the job, or of the epoch that an interrupted job has begun.

  The rest of an epoch is a `fit` of its own: Keras knows one length of epochs.
  """
  config, epoch, within = experiment.train, int(progress.epoch), int(progress.step)
  epochs, steps = epoch + 1 if within else config.epochs, size.steps - within
  if config.strategy == "parameter_server":
    with workers.together(), guard(record_set, "train", model.domains):
      streams = worker_streams(record_set, config, size, model, workers.readers, progress)
      servers.Steps(model, workers.readers, streams).fit(epoch, epochs, steps, callbacks)
    return
  with guard(record_set, "train", model.domains):
    model.fit(
      training_stream(record_set, config, size, model, workers.strategy, progress),
      initial_epoch=epoch,
      epochs=epochs,
      steps_per_epoch=steps,
      verbose=1 if sys.stderr.isatty() else 2,
      callbacks=callbacks,
    )
