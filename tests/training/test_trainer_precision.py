"""The trainer with mixed precision and with XLA."""

import numpy as np
import pytest

from lcn_tf.training.trainer import train
from tests.support.callbacks import Losses, Stop
from tests.support.experiments import small_experiment


def curve_of(experiment, record_set, folder, *, whole):
  """The losses of the four steps of its only epoch, and what follows them if the job is to be `whole`."""
  losses = Losses()
  if whole:
    train(experiment, record_set, folder, (losses,))
  else:
    with pytest.raises(KeyboardInterrupt):
      train(experiment, record_set, folder, (losses, Stop(4)))
  assert len(losses.values) == 4
  return losses.values


def test_mixed_precision_trains_close_to_float32(record_set, tmp_path):
  curves = {}
  for mixed in (False, True):
    experiment = small_experiment(crp=True, epochs=1, mixed_precision=mixed)
    curves[mixed] = curve_of(experiment, record_set, tmp_path / str(mixed), whole=mixed)
  assert curves[True] != curves[False]
  np.testing.assert_allclose(curves[True], curves[False], rtol=0.03)


def test_xla_trains_as_without(record_set, tmp_path):
  curves = {}
  for compiled in (False, True):
    experiment = small_experiment(epochs=1, jit_compile=compiled)
    curves[compiled] = curve_of(experiment, record_set, tmp_path / str(compiled), whole=compiled)
  np.testing.assert_allclose(curves[True], curves[False], rtol=1e-3)
