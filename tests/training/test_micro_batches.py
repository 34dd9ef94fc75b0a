"""A step that reads its batch in parts is the step of the whole batch."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.config import Train
from lcn_tf.errors import SettingsError
from lcn_tf.models.micro_batches import split
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.streams import StepSize
from tests.support.batches import batch_of, model_of
from tests.support.layers import ops_without_gpu_kernel
from tests.support.replicas import mirrored


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


@pytest.mark.parametrize("preset", ["lcn", "twin"])
def test_every_op_of_a_step_with_all_that_large_jobs_need_has_a_gpu_kernel(preset):
  course = {"schedule": "cosine", "warmup_steps": 1, "decay_steps": 5, "clip_norm": 1.0, "ema_decay": 0.9}
  model, config = model_of("average_pooling"), Train(preset=preset, micro_batches=2, log_every=2, **course)
  model.micro_batches = config.micro_batches
  model.compile(optimizer=make_optimizer(model, config))
  assert model.optimizer.gauges
  step = tf.function(lambda batch: model.train_step({"target": batch}), autograph=False)
  assert ops_without_gpu_kernel(step.get_concrete_function(batch_of(6))) == set()


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_parts_of_a_batch_are_the_same_on_every_number_of_replicas(replicas):
  whole, strategy = weighted(8), mirrored(replicas)

  def share(context):
    start = 8 // replicas * context.replica_id_in_sync_group
    return {name: tensor[start : start + 8 // replicas] for name, tensor in whole.items()}

  def replica(batch):
    parts = split({"target": batch}, 2)
    return [(inputs["target"], part.shares["target"], part.draw(tf.constant(5))) for inputs, part in parts]

  batch = strategy.experimental_distribute_values_from_function(share)
  for number, part in enumerate(strategy.run(tf.function(replica, autograph=False), (batch,))):
    results = [strategy.experimental_local_results(one) for one in part[1:]]
    weights = (whole["weight"] * tf.cast(whole["candidate_mask"], tf.float32)).numpy()
    np.testing.assert_allclose(results[0], [weights[number::2].sum() / weights.sum()] * replicas, rtol=1e-5)
    np.testing.assert_array_equal(results[1], [5 * 2 + number] * replicas)
    for name, tensor in part[0].items():
      rows = np.concatenate([one.numpy() for one in strategy.experimental_local_results(tensor)])
      np.testing.assert_array_equal(rows, whole[name].numpy()[number::2], err_msg=name)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_replicas_requests_are_cut_in_equal_parts(replicas, tiny_set):
  config = Train(global_batch_size=64, micro_batches=4, source_ratio=0.4)
  size = StepSize.of(config, tiny_set, replicas)
  assert (size.requests, size.second_requests) == (16, 8)
  with pytest.raises(SettingsError, match=rf"train.micro_batches 3 of {16 // replicas} requests: those of a replica"):
    StepSize.of(config.model_copy(update={"micro_batches": 3}), tiny_set, replicas)
