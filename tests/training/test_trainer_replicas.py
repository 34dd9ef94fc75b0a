"""The trainer with several replicas."""

import numpy as np
import polars as pl
import pytest

from lcn_tf.training.trainer import train
from tests.support.callbacks import Losses, Stop
from tests.support.experiments import tiny_experiment


@pytest.mark.job
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


@pytest.mark.job
def test_a_job_that_goes_on_with_other_replicas_has_the_mean_losses_of_an_unbroken_one(tiny_set, tmp_path):
  options = {"learning_rate": 0.01, "epochs": 1}
  whole = train(tiny_experiment("average_pooling", **options), tiny_set, tmp_path / "whole")
  two = tiny_experiment("average_pooling", replicas=2, checkpoint_every=2, **options)
  with pytest.raises(KeyboardInterrupt):
    train(two, tiny_set, tmp_path / "broken", (Stop(2),))
  rest = train(tiny_experiment("average_pooling", **options), tiny_set, tmp_path / "broken")
  assert (whole.steps, rest.steps) == (4, 2)
  one, other = (pl.read_csv(tmp_path / run / "history.csv").to_numpy() for run in ("whole", "broken"))
  np.testing.assert_allclose(other, one, rtol=1e-4)
