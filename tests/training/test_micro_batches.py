"""A step that reads its batch in parts is the step of the whole batch."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.config import Train
from lcn_tf.training.optimizers import make_optimizer
from tests.support.batches import batch_of, model_of


def weighted(count, seed=0, domain="target"):
  """Requests of which each has another weight."""
  batch = batch_of(count, seed, domain)
  rng = np.random.default_rng(seed)
  return batch | {"weight": tf.constant(rng.uniform(0.1, 2, batch["weight"].shape).astype(np.float32))}


def stepped(parts, preset, steps=2, extractor="average_pooling"):
  """The losses of each step, and the weights after the last."""
  model = model_of(extractor)
  model.micro_batches = parts
  model.compile(optimizer=make_optimizer(model, Train(preset=preset, micro_batches=parts, learning_rate=0.01)))
  found = [model.train_step({"target": weighted(6, seed)}) for seed in range(steps)]
  losses = [{name: float(value) for name, value in one.items()} for one in found]
  return losses, {v.name: v.numpy() for v in model.trainable_variables}


@pytest.mark.parametrize("preset", ["lcn", "twin"])
def test_parts_of_a_batch_are_one_step_with_the_batch(preset):
  whole, expected = stepped(1, preset)
  losses, weights = stepped(3, preset)
  for one, other in zip(losses, whole, strict=True):
    assert one == pytest.approx(other, rel=1e-5)
  for name, value in weights.items():
    # Adam divides what rounding leaves of a gradient of 0 by its own size
    np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=2e-5, err_msg=name)
