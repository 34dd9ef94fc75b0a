"""One experiment, whole, and how two of them differ."""

import typing
from typing import Any

import pydantic
import yaml

from lcn_tf.config.model import Model
from lcn_tf.config.reading import difference, override, read_tree, validated
from lcn_tf.config.records import NOT_CONTENTS, Records
from lcn_tf.config.train import Train
from lcn_tf.config.walk import Walk
from lcn_tf.errors import nearest
from lcn_tf.schema import DOMAINS, Schema, Strict


class Experiment(Strict):
  """One experiment, whole: no inheritance between files, `diff` two to compare."""

  name: str
  """Name, for logs, reports and comparisons."""
  record_schema: Schema = pydantic.Field(alias="schema")
  """Fields of users, items, behaviours and context, without the sizes that the builder finds."""
  records: Records = Records()
  """From interactions to records."""
  model: Model = Model()
  """Architecture."""
  train: Train = Train()
  """Training job."""
  walk: Walk = Walk()
  """Training along a log, for `pipelines.walk`."""

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Experiment":
    schema = self.record_schema
    tables = {*schema.vocabularies, *(v.name for v in schema.user_vectors)}
    tables |= {v.name for d in DOMAINS for v in schema.domain(d).item_vectors}
    for name in self.model.embedding.dims:
      if name not in tables:
        known = ", ".join(sorted(tables))
        raise ValueError(
          f"model.embedding.dims: the schema has no vocabulary {name!r}.{nearest(name, tables)} It has: {known}"
        )
    reader = "model.crp" if self.model.crp else f"model.network {self.model.network!r}"
    if (self.model.crp or self.model.network != "ctr") and not self.records.source_records:
      raise ValueError(f"{reader} reads source-domain records, but records.source_records is false")
    if self.model.auxiliary_seed == self.train.seed:
      raise ValueError(f"model.auxiliary_seed and train.seed are both {self.train.seed}: both models would begin alike")
    if self.train.global_batch_size % self.record_schema.candidates:
      raise ValueError(
        f"train.global_batch_size {self.train.global_batch_size} is not a multiple of "
        f"schema.candidates {self.record_schema.candidates}"
      )
    return self


def load(path: str, overrides: typing.Sequence[str] = ()) -> Experiment:
  """Reads an experiment.

  Args:
    path: A YAML file.
    overrides: `key.path=value` each, the value in YAML.

  Raises:
    UserError: No such file, not YAML, or not a valid experiment.
  """
  tree = read_tree(path, Experiment)
  for setting in overrides:
    override(tree, setting)
  return from_tree(tree, path)


def from_tree(tree: dict[str, Any], where: str) -> Experiment:
  """The experiment that a mapping describes; `where` heads the messages of its errors."""
  return validated(Experiment, tree, where)


def dump(experiment: Experiment) -> str:
  """The YAML that `load` reads back into an equal experiment."""
  return yaml.safe_dump(experiment.model_dump(mode="json", by_alias=True), sort_keys=False)


# of `train`: settings that say how long a job goes on
LENGTHS = ("epochs", "early_stopping", "early_stopping_after")
# of `train`: settings that change no weight and no choice
NOT_RESULTS = ("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "on_corrupt", "log_every", "profile")


def with_asked(experiment: Experiment, asked: Experiment, names: typing.Sequence[str]) -> Experiment:
  """`experiment`, with these fields of `train`, and the places of log and shards, as `asked` has them."""
  train = experiment.train.model_copy(update={name: getattr(asked.train, name) for name in names})
  records = experiment.records.model_copy(update={name: getattr(asked.records, name) for name in NOT_CONTENTS})
  return experiment.model_copy(update={"train": train, "records": records})


def goes_on(asked: Experiment, there: Experiment) -> bool:
  """Whether a job as long as `asked` ends where one as long as `there` has ended, or later."""
  one, other = asked.train, there.train
  patience = not one.early_stopping or one.early_stopping >= other.early_stopping > 0
  return one.epochs >= other.epochs and patience and one.early_stopping_after >= other.early_stopping_after


def differs(asked: Experiment, there: Experiment) -> str:
  """Where an experiment differs first from the one that a folder holds, in words; empty if it does not."""
  one, other = (experiment.model_dump(mode="json", by_alias=True) for experiment in (asked, there))
  return difference(one, other, "experiment", "folder")
