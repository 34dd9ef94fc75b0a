"""The comparison: one YAML file, read into one typed object and the experiments it asks for. No TensorFlow here."""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
import yaml

from lcn_tf import config, files
from lcn_tf.config import Count, Experiment, Positive
from lcn_tf.errors import UserError, unknown
from lcn_tf.schema import Strict

_SEED = "train.seed"
# the label of a row, and what decides which records there are, which a comparison takes as given
_FIXED = ("name", "schema", "records")


class Entry(Strict):
  """One row of the table.

  Attributes:
    config: The experiment's file, relative to the comparison's.
    set: `key.path: value`, instead of what the experiment and `common` say.
  """

  config: str
  set: dict[str, Any] = {}


class Comparison(Strict):
  """Models x seeds on one record set, with equal budgets.

  Attributes:
    name: Heads the table.
    models: Models by the label of their rows, in the order of the rows.
    seeds: `train.seed` of each run of a model.
    reference: The label that all others are compared with.
    common: `key.path: value` in all experiments: the budget, and what `--set` of `pipelines.build_records` said.
    tuning: `key.path: [values]`. Every combination is trained for every model with the first seed; the one with the
      best validation AUC (of its best epoch) goes on to the other seeds and to the test split, which the others never
      meet.
    baselines: Rows of the trivial baselines, too; see lcn_tf/evaluation/baselines.py.
    replicates: Bootstrap samples of the users, of the paired intervals.
    cell_replicates: Those of the intervals in each run's own report.
    keep_models: Keep checkpoints, exports and item vectors of the runs that a call finishes.
  """

  name: str
  models: dict[str, Entry] = pydantic.Field(min_length=1)
  reference: str
  seeds: tuple[Count, ...] = pydantic.Field((0, 1, 2), min_length=1)
  common: dict[str, Any] = {}
  tuning: dict[str, tuple[Any, ...]] = {}
  baselines: bool = False
  replicates: Positive = 1000
  cell_replicates: Count = 100
  keep_models: bool = False

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Comparison":
    if self.reference not in self.models:
      raise ValueError(str(unknown("reference", "model", self.reference, self.models)))
    if len(set(self.seeds)) < len(self.seeds):
      raise ValueError(f"seeds {list(self.seeds)} hold one twice")
    folders: dict[str, str] = {}
    for label in self.models:
      if "," in label or not slug(label):
        raise ValueError(f"models: {label!r} is no label: it needs a letter or a digit, and no comma")
      if slug(label) in folders:
        raise ValueError(f"models: {label!r} and {folders[slug(label)]!r} would share the folder {slug(label)!r}")
      folders[slug(label)] = label
    settings = {"common": self.common, "tuning": self.tuning}
    settings |= {f"models.{label}.set": entry.set for label, entry in self.models.items()}
    for where, keys in settings.items():
      for key in keys:
        if key == _SEED:
          raise ValueError(f"{where}: {key} comes from seeds")
        if key.split(".")[0] in _FIXED and not (where == "common" and key.startswith("records.")):
          raise ValueError(f"{where}: {key} cannot be set: models share the records, and are named by their labels")
    for key, values in self.tuning.items():
      if not values:
        raise ValueError(f"tuning: {key} has no values")
      if key in self.common:
        raise ValueError(f"common: {key} is tuned")
      for label, entry in self.models.items():
        if key in entry.set:
          raise ValueError(f"models.{label}.set: {key} is tuned")
    return self

  def combinations(self) -> list[dict[str, Any]]:
    """What tuning tries, `key.path: value` each; one empty combination without tuning."""
    return [dict(zip(self.tuning, values, strict=True)) for values in itertools.product(*self.tuning.values())]


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A comparison and the experiments of its models, valid, before seeds and tuned values."""

  comparison: Comparison
  experiments: dict[str, Experiment]
  where: str

  def experiment(self, label: str, tuned: Mapping[str, Any], seed: int) -> Experiment:
    """The experiment of one run."""
    tree = self.experiments[label].model_dump(mode="json", by_alias=True)
    where = f"{self.where}: models.{label}"
    for key, value in {**tuned, _SEED: seed}.items():
      config.assign(tree, key, value, f"{where}: {key}")
    return config.from_tree(tree, where)

  def changed(self, seeds: Sequence[str] = (), keep_models: bool | None = None) -> "Loaded":
    """The comparison with what `--seeds` and `--keep_models` say; nothing and None leave what is there.

    Raises:
      UserError: A seed is no whole number, negative, or there twice.
    """
    numbers = tuple(int(seed) for seed in seeds if seed.isdecimal())
    if len(set(numbers)) < len(seeds):
      raise UserError(f"--seeds {','.join(seeds)}: expected whole numbers from 0 on, none of them twice: --seeds 0,1")
    changes: dict[str, Any] = {"seeds": numbers or self.comparison.seeds}
    if keep_models is not None:
      changes["keep_models"] = keep_models
    return dataclasses.replace(self, comparison=self.comparison.model_copy(update=changes))


def load(path: str | pathlib.Path) -> Loaded:
  """Reads a comparison and its experiments.

  Raises:
    UserError: A file is missing or no YAML, a key is unknown, a value is not allowed, for any of the runs.
  """
  where = str(path)
  comparison = config.validated(Comparison, config.read_tree(where, Comparison), where)
  experiments = {}
  for label, entry in comparison.models.items():
    # normpath: messages name configs/movielens/lcn.yaml, not configs/compare/../movielens/lcn.yaml
    file = os.path.normpath(pathlib.Path(where).parent / entry.config)
    at = f"{where}: models.{label} ({file})"
    try:
      tree = config.read_tree(file, Experiment)
    except UserError as error:
      raise UserError(f"{where}: models.{label}: {error}") from None
    for key, value in {**comparison.common, **entry.set}.items():
      config.assign(tree, key, value, f"{at}: {key}")
    tree["name"] = label
    experiments[label] = config.from_tree(tree, at)
  loaded = Loaded(comparison, experiments, where)
  for label in comparison.models:
    for tuned in comparison.combinations():
      loaded.experiment(label, tuned, comparison.seeds[0])
  return loaded


def dump(loaded: Loaded, folder: pathlib.Path) -> None:
  """Writes `comparison.yaml`, and `experiments/<model>.yaml`, which it refers to: the whole comparison, without what it
  was read from."""
  (folder / "experiments").mkdir(parents=True, exist_ok=True)
  tree = loaded.comparison.model_dump(mode="json")
  for label, experiment in loaded.experiments.items():
    tree["models"][label]["config"] = f"experiments/{slug(label)}.yaml"
    with files.replacing(folder / "experiments" / f"{slug(label)}.yaml") as aside:
      aside.write_text(config.dump(experiment))
  with files.replacing(folder / "comparison.yaml") as aside:
    aside.write_text(yaml.safe_dump(tree, sort_keys=False))


def slug(text: str) -> str:
  """A folder name for a label: "LCN w/o CRP" -> "lcn_w_o_crp", "SIM Cluster+" -> "sim_cluster_plus"."""
  return re.sub(r"[^a-z0-9.=-]+", "_", text.lower().replace("+", " plus ")).strip("_.")
