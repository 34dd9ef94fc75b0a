"""Measures what a job costs besides its steps: the curves by step, and a checkpoint each minute.

The command trains the first steps of an experiment several times, with and without train.log_every, and writes
checkpoints of the trained job. Each step counts with the least processor time that it took in any round, so that other
work on the machine counts little. Validation is left out. The jobs lie in a temporary folder, which goes.

It leaves no files. It prints one JSON line:

    steps, rounds                 as asked for
    step_cpu_seconds              processor time of a step without curves
    curves_share                  share by which steps with curves take more
    first_point_cpu_seconds       what the first point of a job takes besides, once: TensorFlow traces what writes it
    checkpoint_cpu_seconds        processor time of a checkpoint
    checkpoint_bytes              its size
    checkpoint_share              share of a checkpoint in a minute of one core

Example:

    python -m tools.benchmark_job --config configs/synthetic/lcn.yaml --records runs/records/synthetic
"""

import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from lcn_tf import config as config_lib
from lcn_tf import entry
from lcn_tf.errors import UserError

_FLAGS = flags.FlagValues()
_CONFIG = entry.define_config(_FLAGS)
_RECORDS = entry.define_records(_FLAGS)
_SET = entry.define_set(_FLAGS)
_STEPS = flags.DEFINE_integer("steps", 320, "Steps of each job.", lower_bound=2, flag_values=_FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Jobs of each kind.", lower_bound=1, flag_values=_FLAGS)
_CHECKPOINTS = 5


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config_lib.load(_CONFIG.value, _SET.value)
  every = experiment.train.log_every
  if not 1 < every < _STEPS.value:
    raise UserError(f"train.log_every is {every}: the first point would not be measured. Expected 2 to --steps - 1")
  changes = {"steps_per_epoch": _STEPS.value, "epochs": 1, "validates": False, "checkpoint_minutes": 0.0}
  with entry.loading():
    from tensorflow import keras

    from lcn_tf.data.record_set import RecordSet
    from lcn_tf.training.trainer import train

  class Clock(keras.callbacks.Callback):
    """Notes the processor time after each step."""

    def on_train_begin(self, logs: Any = None) -> None:
      self.times = [time.process_time()]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
      self.times.append(time.process_time())

  records = RecordSet.open(_RECORDS.value)
  found: dict[int, list[np.ndarray]] = {0: [], every: []}
  with tempfile.TemporaryDirectory(prefix="lcn_tf-benchmark-") as folder:
    for number in range(_ROUNDS.value):
      for log_every, times in found.items():
        settings = experiment.train.model_copy(update={**changes, "log_every": log_every})
        clock, run = Clock(), pathlib.Path(folder) / f"{log_every}-{number}"
        job = train(experiment.model_copy(update={"train": settings}), records, run, (clock,))
        times.append(np.diff(clock.times)[1:])  # not the first step, which traces the graph
    result = compared(np.min(found[0], axis=0), np.min(found[every], axis=0), every)
    result |= checkpoints(job.model, pathlib.Path(folder))
  json.dump({"steps": _STEPS.value, "rounds": _ROUNDS.value, **result}, sys.stdout)
  print()


def compared(plain: np.ndarray, curves: np.ndarray, every: int) -> dict[str, float]:
  """What curves cost.

  Args:
    plain: Processor seconds of each step from the second on, without curves.
    curves: The same of a job with a point every `every` steps.
    every: Steps between two points.
  """
  others = np.arange(len(plain)) != every - 2  # all but the first point
  once = float(curves[every - 2] - plain[every - 2])
  return {
    "step_cpu_seconds": round(float(plain.mean()), 5),
    "curves_share": round(float(curves[others].sum() / plain[others].sum() - 1), 5),
    "first_point_cpu_seconds": round(once, 3),
  }


def checkpoints(model: Any, folder: pathlib.Path) -> dict[str, float]:
  """What a checkpoint of a trained model costs."""
  import tensorflow as tf

  from lcn_tf.training.checkpoint_store import Store

  store, seconds = Store(folder / "checkpoints", "last"), []
  checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
  for number in range(1, _CHECKPOINTS + 2):
    began = time.process_time()
    store.save(checkpoint, number, keep=1)
    seconds.append(time.process_time() - began)
  cost = statistics.median(seconds[1:])  # the first one makes the list of what is saved
  return {
    "checkpoint_cpu_seconds": round(cost, 4),
    "checkpoint_bytes": sum(file.stat().st_size for file in store.folder.iterdir()),
    "checkpoint_share": round(cost / 60, 5),
  }


if __name__ == "__main__":
  entry.run(main)
