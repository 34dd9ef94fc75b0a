"""Learning rates that change, clipped gradients and recorded steps."""

import csv
import math

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.config import Train
from lcn_tf.training.optimizers import CompositeOptimizer, make_optimizer
from lcn_tf.training.schedules import Schedule, count_from
from lcn_tf.training.trainer import train
from tests.support.batches import model_of
from tests.support.callbacks import Copy
from tests.support.experiments import tiny_experiment
from tests.support.replicas import mirrored

RATE = 0.2
TWINS = {
  "constant": lambda p: 1.0,
  "linear": lambda p: 1 - 0.75 * min(p, 1),
  "cosine": lambda p: 0.25 + 0.75 * (1 + math.cos(math.pi * min(p, 1))) / 2,
  "step": lambda p: 0.25 ** math.floor(p),
}


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("kind", TWINS)
def test_a_rate_follows_its_schedule(kind, warmup):
  config = Train(schedule=kind, warmup_steps=warmup, decay_steps=0 if kind == "constant" else 4, decay_factor=0.25)
  schedule = Schedule(RATE, config)
  schedule.first = 100
  found = [float(schedule(tf.constant(100 + step, tf.int64))) for step in range(warmup + 10)]
  rising = [RATE * (step + 1) / warmup for step in range(warmup)]
  assert found == pytest.approx(rising + [RATE * TWINS[kind](step / 4) for step in range(10)], rel=1e-6)


@pytest.mark.parametrize("preset", ["lcn", "twin"])
def test_both_optimizers_follow_it_from_the_first_step_of_the_job(preset):
  optimizer = make_optimizer(model_of(), Train(preset=preset, warmup_steps=10, table_learning_rate=0.5))
  count_from(optimizer, 7)
  optimizer.iterations.assign(9)
  rates = [float(one._decayed_lr(tf.float32)) for one in optimizer.optimizers]
  assert float(optimizer.optimizers[0].iterations) == 9
  assert rates[0] == pytest.approx(1e-3 * 3 / 10)
  optimizer.optimizers[1].iterations.assign(9)
  assert float(optimizer.optimizers[1]._decayed_lr(tf.float32)) == pytest.approx(0.5 * 3 / 10)


@pytest.mark.job
def test_a_job_that_was_killed_goes_on_with_the_same_rates(tiny_set, tmp_path):
  course = {"schedule": "cosine", "warmup_steps": 2, "decay_steps": 5, "clip_norm": 0.05}
  experiment = tiny_experiment("average_pooling", checkpoint_every=1, learning_rate=0.05, **course)
  kill = Copy(3, tmp_path / "unbroken", tmp_path / "broken")
  unbroken = train(experiment, tiny_set, tmp_path / "unbroken", (kill,)).model
  window = tiny_experiment("average_pooling", checkpoint_every=1, learning_rate=0.05, **course, profile=[5, 6])
  job = train(window, tiny_set, tmp_path / "broken")
  assert job.steps == 8 - 3
  for one, other in zip(unbroken.trainable_variables, job.model.trainable_variables, strict=True):
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7, err_msg=one.name)
  with (tmp_path / "broken" / "history.csv").open() as file:
    rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
  assert rates == pytest.approx([0.05 * (0.1 + 0.9 * (1 + math.cos(math.pi * p)) / 2) for p in (2 / 5, 1)], rel=1e-5)
  assert list((tmp_path / "broken" / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb"))
  assert not (tmp_path / "unbroken" / "tensorboard" / "plugins").exists()


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_gradients_of_dense_weights_are_shortened_together(replicas):
  """SGD shows what it is given; the share of each replica alone is within the limit."""
  strategy = mirrored(replicas)
  with strategy.scope():
    dense = [tf.Variable([1.0, 1.0]), tf.Variable([[1.0]])]
    table = tf.Variable(np.ones((3, 1), np.float32))
    each = [tf.keras.optimizers.legacy.SGD(1.0) for _ in range(2)]
    optimizer = CompositeOptimizer([(each[0], lambda: dense), (each[1], lambda: [table])], clip_norm=6.0)
  gradients = [tf.constant([6.0, 3.0]), tf.constant([[6.0]])]  # a norm of 9

  @tf.function(autograph=False)
  def step():
    share = [gradient / replicas for gradient in gradients]
    rows = tf.IndexedSlices(tf.constant([[60.0 / replicas]]), tf.constant([1]), tf.constant([3, 1]))
    optimizer.apply_gradients([*zip(share, dense, strict=True), (rows, table)])

  strategy.run(step)
  np.testing.assert_allclose(dense[0].numpy(), [1 - 4.0, 1 - 2.0], rtol=1e-6)
  np.testing.assert_allclose(dense[1].numpy(), [[1 - 4.0]], rtol=1e-6)
  np.testing.assert_allclose(table.numpy(), [[1.0], [-59.0], [1.0]])


def test_short_gradients_stay():
  variable = tf.Variable([0.0])
  optimizer = CompositeOptimizer([(tf.keras.optimizers.legacy.SGD(1.0), lambda: [variable])], clip_norm=6.0)
  optimizer.apply_gradients([(tf.constant([5.0]), variable)])
  assert variable.numpy() == [-5.0]


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"schedule": "cosine"}, r"decay_steps 0 with schedule 'cosine'; expected a number of steps for 'linear', "),
    ({"decay_steps": 5}, r"decay_steps 5 with schedule 'constant'"),
    ({"decay_factor": 1.5}, r"decay_factor"),
    ({"clip_norm": -1.0}, r"clip_norm"),
    ({"profile": [3, 2]}, r"the first step is above the last one: \[3, 2\]"),
  ],
)
def test_wrong_settings_are_told(settings, message):
  with pytest.raises(ValueError, match=message):
    Train(**settings)
