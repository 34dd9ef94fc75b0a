"""A job that begins with the weights of an earlier run: which run may be, and what is carried from its checkpoint."""

import dataclasses
import functools
import pathlib
from collections.abc import Hashable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf.config import Experiment, difference
from lcn_tf.data.id_mapping import NULL
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.layers.parts import put, reference
from lcn_tf.layers.replicas import gather_rows
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, item_tables, needs_pretrained
from lcn_tf.models.embedder import RequestEmbedding
from lcn_tf.pretraining.run import content_vectors
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.remote import mirror
from lcn_tf.schema import DOMAINS, Schema, with_sizes
from lcn_tf.training.averages import SLOT, averages
from lcn_tf.training.checkpoint_contents import CheckpointContents
from lcn_tf.training.growth import Growth
from lcn_tf.training.projections import refresh
from lcn_tf.training.run_folder import Run, read_run

_Slope = tuple[str, tf.Variable | None]  # vocabulary of numbers, and the slope of its table; None = it is the slope


@dataclasses.dataclass(frozen=True)
class WarmStart:
  """What a job begins with.

  Attributes:
    run: Earlier run.
    checkpoint: Path of its checkpoint, whole.
    growth: Rows of the job's id mapping by those of the run's.
    slots: True if the state of the optimizers is carried, too.
    averaged: True for the averages of dense weights in the place of the weights, where the run keeps averages.
  """

  run: Run
  checkpoint: str
  growth: Growth
  slots: bool = True
  averaged: bool = False

  def carry(self, model: RequestModel) -> None:
    """Gives a model its first weights, and its optimizer, if it has one, its first state.

    Of the checkpoint one tensor at a time is in memory, and what it becomes for the job's records.

    Raises:
      DamagedError: The checkpoint lacks a weight, or holds one of another shape.
    """
    contents, tables = CheckpointContents(self.checkpoint, model), model.vocabularies()
    standardised = _standardised(model)
    trained = getattr(model, "optimizer", None)
    optimizers = trained.optimizers if trained and self.slots else []
    carried = False
    for variable in model.warm_variables():
      vocabulary = tables.get(reference(variable), "")
      of_numbers = None if self.growth.same else standardised.get(reference(variable))
      weights = self._weights(variable, vocabulary, contents)
      put(variable, self._rescaled(weights, *of_numbers, contents) if of_numbers else weights)
      del weights  # before the next tensor is read
      for number, optimizer in enumerate(optimizers):
        for name in optimizer.get_slot_names():
          slot, value = _slot(optimizer, variable, name), contents.slot(number, variable, name)
          if slot is not None and value is not None:
            if name == SLOT and of_numbers:
              value = self._rescaled(value, *of_numbers, contents)
            put(slot, self.growth.slots(vocabulary, value, functools.partial(_rows, slot)) if vocabulary else value)
            carried = True
          del value
    for number, optimizer in enumerate(optimizers if carried else []):
      # bias corrections belong to the moments
      optimizer.iterations.assign(contents.iterations(number))
    for variable, average in averages(trained) if trained else ():
      if not self.slots or contents.slot(0, variable, SLOT) is None:
        average.assign(variable.numpy())
    state = ""
    if trained:
      steps = contents.iterations(0) if carried else 0
      state = f", and with the optimizers' state after {steps} steps" if carried else ", and with new optimizers"
    new = {name: self.growth.new_rows(name) for name in sorted(set(tables.values()))}
    told = ", ".join(f"{count} of {name}" for name, count in new.items() if count)
    logging.info("begins with the weights of %s%s%s", self.checkpoint, state, f"; new values: {told}" if told else "")

  def _weights(self, variable: tf.Variable, vocabulary: str, contents: CheckpointContents) -> np.ndarray:
    value, expected = contents.weight(variable), list(variable.shape)
    if self.averaged and not vocabulary:
      average = contents.slot(0, variable, SLOT)
      value = value if average is None else average
    if vocabulary:
      expected[0] = self.growth.earlier_size(vocabulary)
    if value is None or list(value.shape) != expected:
      raise DamagedError(
        f"{self.checkpoint}: {variable.name} is {'missing' if value is None else list(value.shape)}, and {expected} is "
        "needed: it is of another model, or of another version of it. Train the run again."
      )
    return self.growth.weights(vocabulary, value) if vocabulary else value

  def _rescaled(
    self, value: np.ndarray, vocabulary: str, slope: tf.Variable | None, contents: CheckpointContents
  ) -> np.ndarray:
    """A slope, or the table that is added to, for another mean and deviation: numbers keep their embeddings.

    Args:
      value: Earlier slope, or carried table.
      vocabulary: Vocabulary of both.
      slope: Slope of the table; None = `value` is a slope.
      contents: Checkpoint.
    """
    factor, shift = self.growth.rescaling(vocabulary)
    if slope is None:
      return value * np.float32(factor)
    moved = value.copy()
    moved[NULL + 1 :] += np.float32(shift) * self._weights(slope, "", contents)
    return moved

  def hand_on_vectors(self, experiment: Experiment, folder: pathlib.Path) -> None:
    """Writes the run's frozen item vectors to the job's folder, for records of another id mapping.

    Nothing is done where the job's model searches with none, the experiment names a folder or a vector of the items, or
    the run's vectors are of other settings. The job makes or copies vectors then.
    """
    if found := self._vectors(experiment):
      found.save(folder)
      bare = {d: np.count_nonzero(~np.any(vectors[2:] != 0, axis=1)) for d, vectors in found.vectors.items()}
      told = ", ".join(f"{count} of {len(found.vectors[d]) - 2} {d} items" for d, count in bare.items())
      logging.info("the item vectors are those of %s; without one are %s", self.run.path, told)

  def _vectors(self, experiment: Experiment) -> Pretrained | None:
    config, kinds = experiment.model.pretraining, needs_pretrained(experiment.model, restored=True)
    source = self.run.path / "pretrained"
    if self.growth.same or not kinds or config.path or config.item_vector or not Pretrained.there(source):
      return None
    found = Pretrained.open(source, self.run.record_set.fingerprint)
    fits = found.holds(kinds) and found.made_with(config.settings("clusters" in kinds))
    return self.growth.pretrained(found) if fits else None


def earlier_run(experiment: Experiment, record_set: RecordSet) -> WarmStart:
  """The run of `train.warm_start`, whose weights fit the job.

  Raises:
    UserError: It holds no checkpoint, another model, one of another schema, or one that knows validation clicks.
    DamagedError: No checkpoint of it can be read.
  """
  run = read_run(mirror.copied(experiment.train.warm_start))
  where = f"train.warm_start: {run.path}"
  run.checkpoints()
  _check_schema(run, record_set, where)
  if experiment.train.validates:
    _check_validation(run, record_set, where)
  asked, there = _learned(experiment, run.experiment)
  found = difference(asked, there, "model", "run")
  if found:
    raise UserError(f"{where} holds another model: {found}")
  wanted, preset, before = experiment.train.warm_start_slots, experiment.train.preset, run.experiment.train.preset
  if wanted and preset != before:
    logging.warning("%s has the optimizers of preset %s: those of preset %s begin anew", where, before, preset)
  return WarmStart(run, run.whole_checkpoint(), Growth(run.record_set, record_set), wanted and preset == before)


def grown_model(run: Run, record_set: RecordSet) -> RequestModel:
  """The model of a run for records of another id mapping, without training: its best weights, carried by value.

  Of averaged weights it has the averages.

  Raises:
    UserError: It holds no checkpoint, or the schemas differ in more than sizes.
    DamagedError: No checkpoint of it can be read.
  """
  keras.mixed_precision.set_global_policy("float32")
  _check_schema(run, record_set, str(run.path))
  warm = WarmStart(run, run.whole_checkpoint(), Growth(run.record_set, record_set), slots=False, averaged=True)
  config = run.experiment.model.model_copy(update={"crp": None})
  pretrained, kinds = None, needs_pretrained(config, restored=True)
  if kinds and config.pretraining.item_vector:
    pretrained = content_vectors(config.pretraining, record_set, kinds)
  elif kinds:
    pretrained = warm.growth.pretrained(Pretrained.open(run.path / "pretrained"))
  model = build_model(
    record_set.record_schema,
    config,
    **item_tables(record_set),
    pretrained=pretrained,
    restored=True,
  )
  warm.carry(model)
  refresh(model)
  return model


def _check_schema(run: Run, record_set: RecordSet, where: str) -> None:
  """Checks that the schemas differ in sizes alone."""
  asked, there = (_unsized(one.record_schema) for one in (record_set, run.record_set))
  found = difference(asked, there, "schema", "run")
  if found:
    raise UserError(
      f"{where} was trained with the schema and vocabularies {run.record_set.fingerprint!r}, but {record_set.path} has "
      f"{record_set.fingerprint!r}, and another schema: {found.replace('in the config', 'in the records')}"
    )


def _unsized(schema: Schema) -> dict[str, Any]:
  empty = with_sizes(schema, dict.fromkeys(schema.vocabularies, 0), dict.fromkeys(DOMAINS, 0))
  return empty.model_dump(mode="json")


def _check_validation(run: Run, record_set: RecordSet, where: str) -> None:
  """Checks that the weights do not know clicks that they will be validated with.

  The splits of one record set have no candidate in common. Of two record sets only times tell.
  """
  if run.record_set.splits == record_set.splits:
    return
  newest = max(part.last_time for part in run.record_set.splits.get("train", {}).values())
  first = record_set.part("validation").first_time
  if newest < first:
    return
  kind = ((record_set.records or {}).get("split") or {}).get("kind", "time")
  cause = (
    ""
    if kind == "time"
    else (
      f". Times overlap where records.split.kind is {kind}: train on the records of the run, or without validation "
      "(train.validate: false)"
    )
  )
  raise UserError(
    f"{where} has learned from clicks up to {newest}, but the validation split of {record_set.path} begins at {first}: "
    f"its scores would be of clicks that the weights know{cause}"
  )


def _learned(job: Experiment, run: Experiment) -> tuple[dict[str, Any], dict[str, Any]]:
  """The model sections of the job and of the run, without what has no weights, or may be left behind."""
  asked, there = (experiment.model.model_dump(mode="json") for experiment in (job, run))
  for tree in (asked, there):
    del tree["mlp"]["dropout"], tree["projection_refresh"], tree["pretraining"]
    for name in ("init", "init_scale", "init_from"):
      del tree["embedding"][name]
    tree["auxiliary_seed"] = tree["auxiliary_seed"] is not None
    tree["crp"] = tree["crp"] and {"units": tree["crp"]["units"]}
  if asked["crp"] is None:
    there["crp"] = None
  return asked, there


def _standardised(model: RequestModel) -> dict[Hashable, _Slope]:
  """The vocabulary of each slope by its reference; by that of the table that it is of, the vocabulary and the slope."""
  found: dict[Hashable, _Slope] = {}
  for part in model.submodules:
    for name, slope in part.slopes.items() if isinstance(part, RequestEmbedding) else ():
      vocabulary = part.tables.vocabularies[name]
      table = part.tables.tables[name]
      found |= {reference(slope): (vocabulary, None), reference(table): (vocabulary, slope)}
  return found


def _rows(slot: tf.Variable, rows: np.ndarray) -> np.ndarray:
  return gather_rows(slot, tf.constant(rows)).numpy()  # type: ignore[no-any-return]


def _slot(optimizer: Any, variable: tf.Variable, name: str) -> tf.Variable | None:
  """A slot of a variable, if the optimizer trains it."""
  try:
    return optimizer.get_slot(variable, name)
  except KeyError:
    return None
