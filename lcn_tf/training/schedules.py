"""Learning rates that change from step to step."""

import math
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import Train


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
  """The learning rate of a step by `Train.warmup_steps`, `schedule`, `decay_steps` and `decay_factor`.

  It is a function of the number of the step alone, so a job that was interrupted goes on with the same rates.

      warm-up   rate * (t + 1) / W                                 t < W
      linear    rate * (1 - (1 - f) p)                             p = min((t - W) / D, 1)
      cosine    rate * (f + (1 - f) (1 + cos(pi p)) / 2)
      step      rate * f ^ floor((t - W) / D)

  t is the step of the job from 0, W the steps of the warm-up, D `decay_steps` and f `decay_factor`.

  Args:
    rate: Highest learning rate.
    config: Settings of the job.

  Attributes:
    first: Number of steps that the optimizer had done before the first one of the job, as after a warm start. It is
      read when the step is traced.
  """

  def __init__(self, rate: float, config: Train):
    super().__init__()
    self._rate = rate
    self._config = config
    self.first = 0

  def __call__(self, step: tf.Tensor) -> tf.Tensor:
    config = self._config
    done = tf.cast(step, tf.float32) - self.first
    decaying = tf.maximum(done - config.warmup_steps, 0.0) / max(config.decay_steps, 1)
    return self._rate * _warmed(done, config.warmup_steps) * _decayed(config.schedule, decaying, config.decay_factor)

  def get_config(self) -> dict[str, Any]:
    return {"rate": self._rate, "config": self._config.model_dump()}


def _warmed(done: tf.Tensor, steps: int) -> tf.Tensor:
  return tf.minimum((done + 1) / steps, 1.0) if steps else tf.ones_like(done)


def _decayed(kind: str, periods: tf.Tensor, factor: float) -> tf.Tensor:
  """The share of the rate that is left after a number of `decay_steps`."""
  if kind == "step":
    return tf.pow(tf.constant(factor, tf.float32), tf.floor(periods))
  part = tf.minimum(periods, 1.0)
  if kind == "linear":
    return 1 - (1 - factor) * part
  if kind == "cosine":
    return factor + (1 - factor) * (1 + tf.cos(math.pi * part)) / 2
  return tf.ones_like(periods)


def learning_rate(rate: float, config: Train) -> "float | Schedule":
  """The rate of an optimizer: a number, or a schedule if the rate changes."""
  return Schedule(rate, config) if config.changing_rate else rate


def count_from(optimizer: Any, first: int) -> None:
  """Lets the schedules of a composite optimizer begin behind its first steps.

  Args:
    optimizer: Composite optimizer.
    first: Number of steps that it had done before the job.
  """
  for one in optimizer.optimizers:
    if isinstance(schedule := one._hyper["learning_rate"], Schedule):
      schedule.first = first


def rates_at(optimizer: Any, step: Any) -> list[float]:
  """The learning rates of a composite optimizer, that of the dense weights first.

  Args:
    optimizer: Composite optimizer.
    step: Number of steps that it has done before.
  """
  rates = [one._hyper["learning_rate"] for one in optimizer.optimizers]
  return [float(rate(step) if isinstance(rate, Schedule) else tf.convert_to_tensor(rate)) for rate in rates]


def rate_now(optimizer: Any) -> float:
  """The learning rate of the dense weights at the next step."""
  return rates_at(optimizer, optimizer.iterations)[0]
