import numpy as np

from lcn_tf.layers.mlp import MLP
from tests.reference.mlp import mlp
from tests.support.layers import check_layer


def _inputs(seed=0):
  return np.random.default_rng(seed).normal(size=(3, 4, 6)).astype(np.float32)


def test_survives_every_use_that_keras_makes_of_a_layer():
  bad = {"units": [(8, 0), (-2,)], "dropout": [1.0, -0.1], "activation": "reluu"}
  check_layer(MLP, {"units": (8, 5), "activation": "tanh", "dropout": 0.25}, (_inputs(),), bad=bad)


def test_equals_its_twin():
  layer = MLP((8, 5))
  actual = layer(_inputs()).numpy()
  weights = [weight.numpy() + 0.1 for weight in layer.weights]
  layer.set_weights(weights)
  actual = layer(_inputs()).numpy()
  for b, n in np.ndindex(3, 4):
    np.testing.assert_allclose(actual[b, n], mlp(_inputs()[b, n], weights), rtol=1e-5, atol=1e-6)


def test_without_units_is_the_identity():
  np.testing.assert_array_equal(MLP(())(_inputs()), _inputs())


def test_starts_with_zero_biases():
  layer = MLP((8, 5))
  layer(_inputs())
  assert [float(np.abs(bias).max()) for bias in layer.get_weights()[1::2]] == [0.0, 0.0]


def test_dropout_acts_in_training_only():
  layer = MLP((64,), dropout=0.5)
  evaluated, trained = layer(_inputs(), training=False).numpy(), layer(_inputs(), training=True).numpy()
  np.testing.assert_array_equal(layer(_inputs()), evaluated)
  dropped = (trained == 0) & (evaluated != 0)
  assert 0.3 < dropped.sum() / (evaluated != 0).sum() < 0.7
  np.testing.assert_allclose(trained[~dropped], 2 * evaluated[~dropped], rtol=1e-5)
