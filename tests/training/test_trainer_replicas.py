"""The trainer with several replicas."""

import numpy as np
import pytest

from lcn_tf.training.trainer import train
from tests.support.callbacks import Losses
from tests.support.experiments import tiny_experiment


# four replicas of every shipped config: tests/shipped/test_devices.py
@pytest.mark.parametrize(
  ("extractor", "crp", "counts"), [("lap", True, (1, 2)), ("average_pooling", False, (1, 4))], ids=["lap", "average"]
)
def test_one_two_and_four_replicas_give_the_same_losses(tiny_set, tmp_path, extractor, crp, counts):
  curves = {}
  for replicas in counts:
    losses = Losses()
    experiment = tiny_experiment(extractor, crp=crp, replicas=replicas, learning_rate=0.01)
    train(experiment, tiny_set, tmp_path / str(replicas), (losses,))
    curves[replicas] = losses.values
  assert len(curves[1]) == 8
  assert curves[1][-1] < curves[1][0]
  np.testing.assert_allclose(curves[counts[1]], curves[1], rtol=1e-4)
