"""The position of a job: part of its checkpoints, read by its callbacks."""

import math
from typing import Any

import tensorflow as tf

Logs = dict[str, Any]


class Progress(tf.Module):
  """Where a job is; part of its checkpoints.

  Attributes:
    epoch: Epochs that are finished.
    step: Steps of the next epoch that are done.
    best: The best score so far, in `best_epoch`: the validation AUC, or where it is not defined (labels of one class)
      minus the logloss. Without either (weights that are all 0) no epoch is the best.
  """

  def __init__(self) -> None:
    super().__init__()
    self.epoch = tf.Variable(0, dtype=tf.int64)
    self.step = tf.Variable(0, dtype=tf.int64)
    self.best = tf.Variable(-math.inf, dtype=tf.float64)
    self.best_epoch = tf.Variable(-1, dtype=tf.int64)
