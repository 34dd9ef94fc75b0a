"""The trainer with mixed precision and with XLA."""

import numpy as np
import pytest

from lcn_tf.training.trainer import train
from tests.support.callbacks import Losses
from tests.support.experiments import tiny_experiment


@pytest.mark.job
def test_mixed_precision_trains_close_to_float32(tiny_set, tmp_path):
  curves = {}
  for mixed in (False, True):
    losses = Losses()
    train(tiny_experiment("lap", crp=True, epochs=1, mixed_precision=mixed), tiny_set, tmp_path / str(mixed), (losses,))
    curves[mixed] = losses.values
  assert len(curves[True]) == 4
  assert curves[True] != curves[False]
  np.testing.assert_allclose(curves[True], curves[False], rtol=0.03)


@pytest.mark.job
def test_xla_trains_as_without(tiny_set, tmp_path):
  curves = {}
  for compiled in (False, True):
    losses = Losses()
    job = train(tiny_experiment("lap", epochs=1, jit_compile=compiled), tiny_set, tmp_path / str(compiled), (losses,))
    # XLA may well compute the same bits
    assert job.model.jit_compile == compiled
    curves[compiled] = losses.values
  assert len(curves[True]) == 4
  np.testing.assert_allclose(curves[True], curves[False], rtol=1e-3)
