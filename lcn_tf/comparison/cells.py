"""The cells of a comparison: one model, one seed, one training job in a folder of its own."""

import dataclasses
import math
import pathlib
import shutil
from typing import Any

from lcn_tf import config, formats
from lcn_tf.comparison.config import Loaded, slug
from lcn_tf.config import Experiment
from lcn_tf.errors import UserError
from lcn_tf.evaluation import report

# the last three: the id mapping, which only a model needs
_HEAVY = ("checkpoints", "export", "pretrained", "tensorboard", "vocabularies", "catalogue", "items")
_REMOVED = """\
pipelines.compare removed the models of this run after it had finished. It keeps them with --keep_models, or with
keep_models: true in the comparison's YAML: remove the folder of this run, and compare again with that.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """One training job.

  Attributes:
    label: Label of the model.
    seed: Seed of the training.
    tuned: Values of this combination of the tuning, by key path.
    experiment: Experiment of the job.
    folder: Run folder.
  """

  label: str
  seed: int
  tuned: dict[str, Any]
  experiment: Experiment
  folder: pathlib.Path

  @property
  def name(self) -> str:
    values = "".join(f", {key} {value}" for key, value in self.tuned.items())
    return f"{self.label}, seed {self.seed}{values}"

  @property
  def predictions(self) -> pathlib.Path:
    return self.folder / "predictions.parquet"

  @property
  def log(self) -> pathlib.Path:
    return self.folder / "log.txt"

  @property
  def removed(self) -> pathlib.Path:
    """The note that `prune` leaves."""
    return self.folder / "checkpoints" / "removed.txt"

  @property
  def passing(self) -> pathlib.Path:
    """A note in the folder until its models are removed, which they are once nothing needs them."""
    return self.folder / ".models_go"

  def finished(self) -> bool:
    """Whether it is trained for all of its epochs, and tested."""
    return (self.folder / "metrics.json").is_file() and not self.goes_on()

  def trained(self) -> bool:
    """Whether it is trained for all of its epochs; the test may be missing."""
    if (self.folder / "metrics.json").is_file() or _read(self.folder / "training.json").get("finished"):
      return not self.goes_on()
    return False

  def goes_on(self) -> bool:
    """Whether epochs are left to train: fewer were trained than its experiment has, and none stopped it early."""
    train, epochs = self.experiment.train, self._epochs()
    if epochs is None or epochs >= train.epochs:
      return False
    best = self._kept_epoch(epochs)
    return not config.patience_is_over(epochs, best, train.early_stopping, train.early_stopping_after)

  def _epochs(self) -> int | None:
    """Number of epochs that were trained; None without the record of a training."""
    return _read(self.folder / "training.json").get("epochs")

  def _kept_epoch(self, epochs: int) -> int:
    """The epoch (from 1) that training keeps among the first `epochs`, as `Progress` has it; 0 if none is the best."""
    history = self.history()
    unknown = [math.nan] * epochs
    aucs, losses = (history.get(name, unknown)[:epochs] for name in ("val_auc", "val_logloss"))
    scores = [-loss if math.isnan(auc) else auc for auc, loss in zip(aucs, losses, strict=True)]
    known = [(score, -epoch) for epoch, score in enumerate(scores, 1) if not math.isnan(score)]
    return -max(known)[1] if known else 0

  def check_models(self) -> None:
    """Checks that a job that was over and goes on has its checkpoints still.

    Raises:
      UserError: They were removed.
    """
    if self.goes_on() and self.removed.is_file():
      raise UserError(
        f"{self.folder} was trained for {self._epochs()} epochs, train.epochs is {self.experiment.train.epochs}, and "
        "its checkpoints were removed when it had finished: only runs of --keep_models go on. Use another --output, or "
        "remove this folder to train the run from the start."
      )

  def metrics(self) -> dict[str, Any]:
    """Contents of `metrics.json`; {} before the test."""
    return _read(self.folder / "metrics.json")

  def history(self) -> dict[str, list[float]]:
    """The training log by column; {} before the first epoch has ended."""
    return report.read_history(self.folder / "history.csv")

  def best_epoch(self) -> tuple[int, float]:
    """The epoch (from 1) with the best validation AUC, which is exported, and that AUC; (0, -1.0) without any."""
    values = [(value, -epoch) for epoch, value in enumerate(self.history().get("val_auc", ()), 1) if value == value]
    value, epoch = max(values, default=(-1.0, 0))
    return -epoch, value

  def check(self) -> None:
    """Checks that its folder, if there is one, holds this experiment.

    Raises:
      UserError: The folder holds another experiment.
    """
    file = self.folder / "experiment.yaml"
    if file.is_file():
      there = config.load(str(file))
      # the choice of a tuning holds for the number of epochs that it was made with
      longer = not self.tuned and config.goes_on(self.experiment, there)
      may_differ = (*config.NOT_RESULTS, *(config.LENGTHS if longer else ()))
      there = config.with_asked(there, self.experiment, may_differ)
      difference = config.differs(self.experiment, there)
      if difference:
        raise UserError(f"{self.folder} holds another comparison: {difference}. Use another --output.")

  def prune(self) -> None:
    """Removes the models and the id mapping, which take most of the space; the note `removed` says so."""
    # a note is there though the checkpoints are gone: a call was killed in the middle of this
    had_models = self.removed.parent.is_dir() or self.passing.exists()
    for name in _HEAVY:
      shutil.rmtree(self.folder / name, ignore_errors=True)
    if had_models:
      self.removed.parent.mkdir(exist_ok=True)
      self.removed.write_text(_REMOVED)
    self.passing.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """A model of the comparison.

  Attributes:
    label: Name of the model in the table.
    folder: Folder of the cells.
    combinations: Cells by seed, for each combination of the tuning; one combination without tuning.
  """

  label: str
  folder: pathlib.Path
  combinations: list[list[Cell]]

  def chosen(self) -> int | None:
    """Index of the combination that goes to the test; None while the choice is open."""
    if len(self.combinations) == 1:
      return 0
    return self.tuning().get("chosen")

  def tuning(self) -> dict[str, Any]:
    """Contents of `tuning.json`; {} while the choice is open."""
    return _read(self.folder / "tuning.json")

  def cells(self) -> list[Cell]:
    """The cells to test; none while the choice is open."""
    chosen = self.chosen()
    return [] if chosen is None else self.combinations[chosen]

  def finished(self) -> list[Cell]:
    return [cell for cell in self.cells() if cell.finished()]


def rows_of(loaded: Loaded, output: pathlib.Path) -> list[Row]:
  """All models with all their cells, in the order of the table."""
  comparison, rows = loaded.comparison, []
  tried = comparison.combinations()
  for label in comparison.models:
    folder = output / "cells" / slug(label)
    combinations = []
    for number, tuned in enumerate(tried):
      values = slug(",".join(f"{key.split('.')[-1]}={value}" for key, value in tuned.items()))[:60]
      below = folder / f"{number}_{values}" if tuned else folder
      combinations.append(
        [
          Cell(label, seed, tuned, loaded.experiment(label, tuned, seed), below / f"seed_{seed}")
          for seed in comparison.seeds
        ]
      )
    rows.append(Row(label, folder, combinations))
  return rows


def _read(file: pathlib.Path) -> dict[str, Any]:
  return formats.read_sealed(file) if file.is_file() else {}
