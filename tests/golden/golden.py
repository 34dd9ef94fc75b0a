"""Ten losses and the test predictions of every synthetic experiment: numbers that a refactoring leaves as they are.

    python -m tests.golden.golden                   # on the same machine, before and after: digests are equal
    python -m tests.golden.golden --renew           # after a change of method: writes golden.json

`golden.json` is compared with a tolerance, since processors add up in different orders.
"""

import argparse
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from tensorflow import keras

from lcn_tf import config
from lcn_tf.config import Experiment
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.sources import synthetic
from lcn_tf.evaluation import evaluate
from lcn_tf.training.export_run import export_run
from lcn_tf.training.trainer import train
from pipelines import build_records
from tests.support.callbacks import Losses

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs" / "synthetic").glob("*.yaml"))
FILE = pathlib.Path(__file__).with_name("golden.json")
STEPS = 10
LOG = {"users": 160, "target_items": 200, "source_items": 200, "topics": 8, "interests": 3, "source_only": 1}
LOG |= {"target_only": 1, "target_length": 40, "source_length": 60}
RECORDS = [f"records.synthetic.{name}={value}" for name, value in LOG.items()]
KILLED = 3  # the step whose checkpoint a killed job goes on from
TRAIN = [f"train.steps_per_epoch={STEPS}", "train.epochs=1", "train.global_batch_size=128", "train.learning_rate=0.02"]
TRAIN += [f"train.checkpoint_every={KILLED}"]


def build(folder: pathlib.Path) -> RecordSet:
  """Builds the records that every synthetic experiment reads.

  Nobody meets an item twice: processors differ in the order of the occurrences, whose scores differ by rounding.
  """
  options = config.load(str(CONFIGS[0]), RECORDS).records
  assert options.synthetic
  log = synthetic.generate(options.synthetic, seed=options.seed)
  once = log.interactions.unique(["user_id", "item_id", "domain"], keep="first", maintain_order=True)
  files = []
  for name, table in (("interactions", once), ("items", log.items), ("users", log.users)):
    path = folder.with_name(f"{name}.parquet")
    table.write_parquet(path)
    files.append(f"--{name}={path}")
  sets = [f"--set={setting}" for setting in RECORDS]
  build_records.main(["build_records", f"--config={CONFIGS[0]}", f"--output={folder}", *files, *sets])
  return RecordSet.open(folder)


def experiment(file: pathlib.Path) -> Experiment:
  """A synthetic experiment on the records of `build`, ten steps long."""
  return config.load(str(file), [*RECORDS, *TRAIN])


def numbers(
  file: pathlib.Path, records: RecordSet, run: pathlib.Path, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> dict[str, Any]:
  """Trains an experiment for ten steps and scores the test split with its export.

  Args:
    file: Config of the experiment.
    records: Record set of `build`.
    run: Run folder.
    callbacks: Callbacks that watch the training.

  Returns:
    `losses`, `predictions` (number, mean, deviation and a sum with unequal weights of the probabilities), and `digest`
    of all of these to the last bit.
  """
  losses = Losses()
  train(experiment(file), records, run, (losses, *callbacks))
  evaluate(export_run(run, run / "export"), records, "test", run / "test", bootstrap=0)
  scored = pl.read_parquet(run / "test" / "predictions.parquet")
  probability = scored["probability"].to_numpy().astype(np.float64)
  weights = np.cos(np.arange(len(probability)))
  steps = np.asarray(losses.values, np.float64)
  digest = hashlib.sha256(steps.tobytes() + probability.tobytes()).hexdigest()
  sums = [len(probability), probability.mean(), probability.std(), (probability * weights).sum()]
  return {"losses": steps.tolist(), "predictions": [float(value) for value in sums], "digest": digest}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--renew", action="store_true", help="write golden.json")
  arguments = parser.parse_args()
  found = {}
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    records = build(folder / "records")
    for file in CONFIGS:
      found[file.stem] = numbers(file, records, folder / file.stem)
      print(f"{file.stem:20} {found[file.stem].pop('digest')}", flush=True)
  if arguments.renew:
    lines = [f'  "{name}": {json.dumps(entry)}' for name, entry in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
  main()
