"""The trainer with several replicas."""

import numpy as np
import pytest

from lcn_tf.training.trainer import train
from tests.support.callbacks import Losses
from tests.support.experiments import small_experiment


@pytest.mark.parametrize(("extractor", "crp"), [("lap", True), ("average_pooling", False)])
def test_one_two_and_four_replicas_give_the_same_losses(record_set, tmp_path, extractor, crp):
  curves = {}
  for replicas in (1, 2, 4):
    losses = Losses()
    experiment = small_experiment(extractor, crp=crp, replicas=replicas, learning_rate=0.01)
    train(experiment, record_set, tmp_path / str(replicas), (losses,))
    curves[replicas] = losses.values
  assert len(curves[1]) == 8
  assert curves[1][-1] < curves[1][0]
  np.testing.assert_allclose(curves[2], curves[1], rtol=1e-4)
  np.testing.assert_allclose(curves[4], curves[1], rtol=1e-4)
