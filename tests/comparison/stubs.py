"""A comparison of stubs: cells that are written in milliseconds instead of trained."""

import functools
import json
import pathlib
from typing import Any

import numpy as np
import yaml

from lcn_tf import config, metrics
from lcn_tf.comparison import config as comparison_config
from lcn_tf.comparison.cells import Cell
from lcn_tf.errors import UserError
from lcn_tf.evaluation import predictions
from tests.support.experiments import small_experiment

USERS, EACH = 60, 6
# how far a model's scores are from the truth
NOISE = {"Good": 0.2, "Fair": 0.5, "Bad": 2.0}


@functools.cache
def experiment_text(extractor: str) -> str:
  return config.dump(small_experiment(extractor, epochs=1, shuffle_buffer=8))


def write_comparison(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
  """`compare.yaml` of the models of `NOISE`, and the experiments beside it."""
  folder.mkdir(parents=True, exist_ok=True)
  for name in ("average_pooling", "lap"):
    (folder / f"{name}.yaml").write_text(experiment_text(name))
  tree = {
    "name": "stubs",
    "models": {
      "Bad": {"config": "average_pooling.yaml"},
      "Good": {"config": "lap.yaml"},
      "Fair": {"config": "lap.yaml", "set": {"model.options.levels": ["csa"]}},
    },
    "seeds": [0, 1],
    "reference": "Good",
    "common": {"train.epochs": 3},
    "replicates": 40,
  }
  file = folder / "compare.yaml"
  file.write_text(yaml.safe_dump(tree | changes, sort_keys=False))
  return file


def load(folder: pathlib.Path, **changes: Any) -> comparison_config.Loaded:
  return comparison_config.load(write_comparison(folder, **changes))


class Stub:
  """Writes what a training job leaves; remembers what it was asked for.

  Attributes:
    calls: (label, seed, tuned values, evaluate) of each cell.
    vectors: Folders that item vectors were asked for.
    failing: Labels whose cells fail.
    error: Kind of error with which they fail.
  """

  def __init__(self, failing: tuple[str, ...] = ()):
    self.calls: list[tuple[str, int, dict[str, Any], bool]] = []
    self.vectors: list[pathlib.Path] = []
    self.failing = failing
    self.error: type[UserError] = UserError
    self.interrupt_after: int | None = None
    self.stopped = False

  def train(self, cell: Cell, evaluate: bool) -> None:
    if self.interrupt_after is not None and len(self.calls) >= self.interrupt_after:
      raise KeyboardInterrupt
    self.calls.append((cell.label, cell.seed, cell.tuned, evaluate))
    (cell.folder / "experiment.yaml").write_text(config.dump(cell.experiment))
    cell.log.write_text("epoch 1\nout of memory\n")
    if cell.label in self.failing:
      raise self.error(f"exit code 3; {cell.log} ends with\n    out of memory")
    rate = cell.experiment.train.learning_rate
    best = 0.7 - abs(rate - 0.01) - 0.01 * cell.seed
    rows = [(0, 0.6, best - 0.1), (1, 0.5, best), (2, 0.4, best - 0.05)]
    lines = ["epoch,loss,val_auc", *(f"{epoch},{loss},{value}" for epoch, loss, value in rows)]
    (cell.folder / "history.csv").write_text("\n".join(lines) + "\n")
    (cell.folder / "checkpoints" / "best").mkdir(parents=True, exist_ok=True)
    cost = {
      "seconds": 10.0 + cell.seed,
      "steps": 30,
      "epochs": cell.experiment.train.epochs,
      "candidates_per_second": 1000.0,
      "parameters": {"tables": 400, "dense": 50},
      "peak_memory_bytes": (100 + cell.seed) * 2**20,
      "starts": 1,
      "finished": True,
    }
    (cell.folder / "training.json").write_text(json.dumps(cost))
    if evaluate:
      write_predictions(cell.predictions, NOISE[cell.label], cell.seed)
      bucket = {"bucket": "1-9", "low": 1, "candidates": USERS * EACH, "auc": 0.7 + 0.01 * cell.seed}
      found = summary(cell.predictions) | {"training": cost, "slices": {"history_target": [bucket]}}
      (cell.folder / "metrics.json").write_text(json.dumps(found))

  def pretrain(self, config: pathlib.Path, folder: pathlib.Path) -> None:
    self.vectors.append(folder)

  def stop(self) -> None:
    self.stopped = True


def write_predictions(file: pathlib.Path, noise: float, seed: int) -> None:
  rng = np.random.default_rng(0)
  truth = rng.normal(size=USERS * EACH)
  label = rng.random(USERS * EACH) < 1 / (1 + np.exp(-3 * truth))
  scores = truth + noise * np.random.default_rng([seed, int(10 * noise)]).normal(size=len(truth))
  chunk = {
    "user": np.repeat(np.arange(USERS), EACH),
    "item": np.arange(USERS * EACH),
    "timestamp": np.arange(USERS * EACH),
    "label": label,
    "weight": np.ones(USERS * EACH),
    "probability": 1 / (1 + np.exp(-scores)),
    "history_target": np.ones(USERS * EACH),
    "history_source": np.ones(USERS * EACH),
  }
  predictions.write(file, [chunk])


def summary(file: pathlib.Path) -> dict[str, Any]:
  found = metrics.summary(predictions.scored(predictions.read(file)), replicates=0)
  return {name: found[name] for name in ("auc", "gauc", "logloss", "calibration", "candidates")}
