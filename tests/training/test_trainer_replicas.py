"""The trainer with several replicas."""

import numpy as np

from lcn_tf.training.trainer import train
from tests.support.callbacks import Losses
from tests.support.experiments import tiny_experiment


def test_two_and_four_replicas_give_the_losses_of_one(tiny_set, tmp_path):
  """Of every shipped config: tests/shipped/test_devices.py."""
  curves = {}
  for replicas in (1, 2, 4):
    losses = Losses()
    experiment = tiny_experiment("average_pooling", replicas=replicas, learning_rate=0.01)
    train(experiment, tiny_set, tmp_path / str(replicas), (losses,))
    curves[replicas] = losses.values
  assert len(curves[1]) == 8
  assert curves[1][-1] < curves[1][0]
  for replicas in (2, 4):
    np.testing.assert_allclose(curves[replicas], curves[1], rtol=1e-4)
