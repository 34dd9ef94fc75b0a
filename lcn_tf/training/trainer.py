"""One training job, top to bottom."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import config as config_lib
from lcn_tf import files
from lcn_tf.config import Experiment
from lcn_tf.data.dataset import (
  check_fingerprint,
  check_schema,
  evaluation_batches,
  steps_per_epoch,
  training_batches,
)
from lcn_tf.data.diagnosis import guard
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.models.build import build_model, check_model, needs_pretrained
from lcn_tf.schema import DOMAINS
from lcn_tf.training.callbacks import Checkpoints, Progress, StopOnNaN, Validation
from lcn_tf.training.cost import Cost, parameters
from lcn_tf.training.export_run import Run, read_run
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.pretraining import item_vectors
from lcn_tf.training.projections import RefreshProjections
from lcn_tf.training.strategy import make_strategy


@dataclasses.dataclass(frozen=True)
class Job:
  """What a finished job leaves in memory; its files are in the run folder.

  Attributes:
    steps, seconds, candidates_per_second: Of this call; padding counts as candidates.
    cost: Of the job over all the calls that it took; see `lcn_tf.training.cost.Cost`.
  """

  model: keras.Model
  steps: int
  seconds: float
  candidates_per_second: float
  cost: dict[str, Any]


def train(
  experiment: Experiment,
  record_set: RecordSet,
  run_dir: str | pathlib.Path,
  callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> Job:
  """Trains `experiment` on the `train` split; calling it again with the same arguments takes up where it stopped.

  Args:
    callbacks: The caller's own, run after the job's.

  Raises:
    UserError: The records have another schema, the folder holds another experiment or another job is at work there, a
      broken record, a loss that is not finite.
  """
  check_schema(experiment.record_schema, record_set)
  warn_of_other_records(experiment, record_set)
  check_model(record_set.record_schema, experiment.model)
  warm = _earlier_run(experiment, record_set) if experiment.train.warm_start else None
  with files.exclusive(run_dir, "another training job"):
    return _train(experiment, record_set, run_dir, callbacks, warm)


def _train(
  experiment: Experiment,
  record_set: RecordSet,
  run_dir: str | pathlib.Path,
  callbacks: tuple[keras.callbacks.Callback, ...],
  warm: Run | None,
) -> Job:
  config, schema = experiment.train, record_set.record_schema
  begun = tf.train.latest_checkpoint(str(pathlib.Path(run_dir) / "checkpoints" / "last"))
  # the checkpoint's own model is gone before this job's is made
  weights = warm.weights(warm.checkpoint()) if warm and not begun else {}
  keras.mixed_precision.set_global_policy("mixed_bfloat16" if config.mixed_precision else "float32")
  strategy = make_strategy(config)
  requests = config.global_batch_size // schema.candidates
  if requests % strategy.num_replicas_in_sync:
    raise UserError(
      f"train.global_batch_size {config.global_batch_size} is {requests} requests of {schema.candidates} candidates, "
      f"which {strategy.num_replicas_in_sync} replicas cannot share equally"
    )
  # what is wrong with the experiment is told before the folder holds it
  run = open_run(experiment, record_set, run_dir)
  pretrained = item_vectors(experiment, record_set, run / "pretrained") if needs_pretrained(experiment.model) else None
  steps = config.steps_per_epoch or steps_per_epoch(record_set, requests)
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
    "%s: %d replicas, %d requests x %d candidates a step, %d weights in tables, %d elsewhere",
    experiment.name,
    strategy.num_replicas_in_sync,
    requests,
    schema.candidates,
    *parameters(model).values(),
  )

  progress = Progress()
  checkpoints = Checkpoints(
    run / "checkpoints",
    progress,
    config.checkpoint_every,
    config.early_stopping,
    config.keep_checkpoints,
    config.checkpoint_minutes,
  )
  checkpoints.set_model(model)
  resumed = checkpoints.restore()
  for variable in model.trainable_variables if weights else []:
    variable.assign(weights[variable.name].pop(0))
  part = record_set.part("train")
  cost = Cost(run, progress, requests * part.candidates / max(part.records, 1), resumed)
  cost.set_model(model)

  def stream(context: tf.distribute.InputContext) -> tf.data.Dataset:
    return training_batches(
      record_set,
      domains=model.domains,
      requests=requests,
      second_requests=second,
      replicas=strategy.num_replicas_in_sync // context.num_input_pipelines,
      seed=config.seed,
      skip=int(progress.epoch) * steps + int(progress.step),
      length_buckets=config.length_buckets,
      shuffle_buffer=config.shuffle_buffer,
      on_corrupt=config.on_corrupt,
      workers=context.num_input_pipelines,
      worker=context.input_pipeline_id,
    )

  def validation() -> Iterator[dict[str, tf.Tensor]]:
    with guard(record_set, "validation"):
      yield from evaluation_batches(record_set, "validation", requests=max(requests, 64), on_corrupt=config.on_corrupt)

  began, before = time.monotonic(), int(model.optimizer.iterations.numpy())
  with guard(record_set, "train", model.domains):
    while int(progress.epoch) < config.epochs and not checkpoints.stopped_early:
      epoch, within = int(progress.epoch), int(progress.step)
      model.fit(
        strategy.distribute_datasets_from_function(stream),
        initial_epoch=epoch,
        # what an interrupted job left of an epoch is a fit of its own: Keras knows one length of epochs
        epochs=epoch + 1 if within else config.epochs,
        steps_per_epoch=steps - within,
        verbose=1 if sys.stderr.isatty() else 2,
        callbacks=[
          StopOnNaN(),
          RefreshProjections(experiment.model.projection_refresh),
          Validation(validation),
          keras.callbacks.CSVLogger(str(run / "history.csv"), append=epoch > 0),
          keras.callbacks.TensorBoard(str(run / "tensorboard"), write_graph=False, write_steps_per_second=True),
          checkpoints,
          cost,
          *callbacks,
        ],
      )
  done = int(model.optimizer.iterations.numpy()) - before
  seconds = time.monotonic() - began
  rate = done * requests * schema.candidates / max(seconds, 1e-9)
  logging.info("%d steps in %.1f s, validation included: %.0f candidate slots/s", done, seconds, rate)
  return Job(model, done, seconds, rate, cost.finish())


def _earlier_run(experiment: Experiment, record_set: RecordSet) -> Run:
  """The run whose weights the job begins with.

  Raises:
    UserError: It holds no checkpoint, another model, or one of other vocabularies.
  """
  run = read_run(experiment.train.warm_start)
  check_fingerprint(record_set, run.record_set.fingerprint, f"train.warm_start: {run.path}")
  run.checkpoint()
  asked, there = (e.model.model_dump(mode="json") for e in (experiment, run.experiment))
  # what has no weights may differ, and CRP's may be left behind
  for tree in (asked, there):
    tree["mlp"].pop("dropout")
    tree.pop("projection_refresh")
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


def open_run(experiment: Experiment, record_set: RecordSet, run_dir: str | pathlib.Path) -> pathlib.Path:
  """Makes the run folder, with the effective experiment, the facts of the records and their numbering in it.

  Raises:
    UserError: It holds another experiment, was begun with other records, or cannot be made.
  """
  run = pathlib.Path(run_dir)
  file = run / "experiment.yaml"  # written last: a folder with it is whole
  if file.is_file():
    there = config_lib.load(str(file))
    difference = config_lib.differs(experiment, there)
    if difference:
      raise UserError(f"{run} holds another experiment: {difference}. Use another --run_dir.")
    before = RecordSet.open(run)
    if before.fingerprint != record_set.fingerprint:
      raise UserError(
        f"{run} was begun with other records: fingerprint {before.fingerprint}, {record_set.path} has "
        f"{record_set.fingerprint}. Use another --run_dir."
      )
    if before.splits != record_set.splits:
      raise UserError(
        f"{run} was begun with other records: {record_set.path} has the same schema and vocabularies, but other "
        "shards. Use another --run_dir."
      )
    return run
  record_set.save_numbering(run)
  record_set.save(run)
  with files.replacing(file) as aside:
    aside.write_text(config_lib.dump(experiment))
  return run
