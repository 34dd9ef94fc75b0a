"""Moving averages of the dense weights: part of their optimizer, and the weights that are validated and exported."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from lcn_tf.models.base import RequestModel
from lcn_tf.training.checkpoint_contents import CheckpointContents

SLOT = "average"


def decay_of(step: tf.Tensor, decay: float) -> tf.Tensor:
  """The decay of a step, min(decay, (1 + t) / (10 + t)): early averages follow the weights closely.

  Args:
    step: Number t of steps that the optimizer has done before.
    decay: Largest decay.
  """
  done = tf.cast(step, tf.float32)
  return tf.minimum(decay, (1 + done) / (10 + done))


def averages(optimizer: Any) -> list[tuple[tf.Variable, tf.Variable]]:
  """Pairs of a dense weight and its average; none if the optimizer keeps no averages.

  Args:
    optimizer: Composite optimizer of `lcn_tf.training.optimizers.make_optimizer`.
  """
  dense, variables = optimizer._optimizers_and_vars[0]
  if SLOT not in dense.get_slot_names():
    return []
  return [(variable, dense.get_slot(variable, SLOT)) for variable in variables()]


@contextlib.contextmanager
def averaged(model: RequestModel) -> Iterator[bool]:
  """Puts the averages in the place of the dense weights within the block; yields whether there are any."""
  pairs = averages(model.optimizer)
  kept = [variable.numpy() for variable, _ in pairs]
  try:
    for variable, average in pairs:
      variable.assign(average.numpy())
    yield bool(pairs)
  finally:
    for (variable, _), value in zip(pairs, kept, strict=True):
      variable.assign(value)


def take_averages(model: RequestModel, checkpoint: str) -> bool:
  """Gives the dense weights of a model the averages of a checkpoint; returns whether it has any.

  Args:
    model: Model without an optimizer.
    checkpoint: Path of the checkpoint that the weights come from.
  """
  contents = CheckpointContents(checkpoint, model)
  found = [(variable, contents.slot(0, variable, SLOT)) for variable in model.trainable_variables]
  taken = [(variable, value) for variable, value in found if value is not None]
  for variable, value in taken:
    variable.assign(value)
  return bool(taken)
