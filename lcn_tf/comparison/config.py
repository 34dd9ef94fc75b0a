"""The comparison: one YAML file, read into one typed object and its experiments. No TensorFlow here."""

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
# a row has its label for a name, and all rows share the records
_FIXED = ("name", "schema", "records")


class Entry(Strict):
  """One row of the table.

  Attributes:
    config: File of the experiment, relative to the comparison's.
    set: Settings `key.path: value` that replace those of the experiment and of `common`.
  """

  config: str
  set: dict[str, Any] = {}


class Comparison(Strict):
  """Models x seeds on one record set, with equal budgets.

  Attributes:
    name: Heading of the table.
    models: Models by the label of their rows, in the order of the rows.
    seeds: Values of `train.seed`, one per run of a model.
    reference: Label of the model that all others are compared with.
    common: Settings `key.path: value` of all experiments: the budget, and the `--set` of `pipelines.build_records`.
    tuning: Grid `key.path: [values]`. Every combination is trained for every model with the first seed. The combination
      whose best epoch has the best validation AUC goes on to the other seeds and to the test split. No other
      combination meets the test split.
    baselines: True if the table has rows of the trivial baselines, see lcn_tf/evaluation/baselines.py.
    replicates: Bootstrap samples of the users for the paired intervals.
    cell_replicates: Bootstrap samples of the users for the intervals in the report of each run.
    keep_models: True if checkpoints, exports and item vectors of finished runs stay.
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
    """The combinations of the tuning, each `key.path: value`; one empty combination without tuning."""
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
    """The comparison with the values of `--seeds` and `--keep_models`; an empty list and None change nothing.

    Raises:
      UserError: A seed is negative, no whole number, or listed twice.
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
    UserError: A file is missing or no YAML, or a run has an unknown key or a value that is not allowed.
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
  """Writes `comparison.yaml` and the files `experiments/<model>.yaml` that it refers to.

  Together they are the whole comparison: the files that it was read from are not needed any more.
  """
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
