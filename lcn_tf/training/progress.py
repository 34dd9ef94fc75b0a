"""The position of a job: part of its checkpoints, read by its callbacks."""

import math
from typing import Any

import tensorflow as tf

Logs = dict[str, Any]


class Progress(tf.Module):
  """Where a job is; part of its checkpoints.

  Attributes:
    epoch: Number of finished epochs.
    step: Number of finished steps of the next epoch.
    best: Best score so far, that of `best_epoch`. The score is the validation AUC. With labels of one class it is minus
      the validation logloss. With weights that are all 0 there is no score, and no epoch is the best.
  """

  def __init__(self) -> None:
    super().__init__()
    self.epoch = tf.Variable(0, dtype=tf.int64)
    self.step = tf.Variable(0, dtype=tf.int64)
    self.best = tf.Variable(-math.inf, dtype=tf.float64)
    self.best_epoch = tf.Variable(-1, dtype=tf.int64)
