"""CoNet: the cross connections, both tasks, what is served."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.errors import UserError
from lcn_tf.models.conet import CrossTowers
from tests.reference import conet as twin
from tests.support.batches import batch_of
from tests.support.layers import check_layer
from tests.support.networks import batches, check_network, gradients_of, network_model

UNITS = (12, 8, 6, 4)
DOMAINS = ("target", "source")


def _model(options=None, **settings):
  return network_model("conet", options, units=UNITS, **settings)


@pytest.fixture(autouse=True)
def _seed():
  tf.keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def model():
  """Not to be changed."""
  return _model({"lasso": 0.25})


def _towers(*inputs, **options):
  """A layer that has made all weights, biases drawn."""
  layer = CrossTowers(**options)
  for domain in DOMAINS:
    layer(*inputs, domain=domain)
  random = np.random.default_rng(0)
  for dense in (*layer.towers["target"], *layer.towers["source"]):
    if dense.built:
      dense.bias.assign(random.normal(size=dense.bias.shape))
  return layer


def _tower_weights(layer, domain):
  return [[w.numpy() for w in dense.weights] for dense in layer.towers[domain]]


def _weights(model):
  return {
    "user": {d: [w.numpy() for w in model.user_inputs[d].weights] for d in DOMAINS},
    "candidate": {d: model.candidate_inputs[d].kernel.numpy() for d in DOMAINS},
    "towers": {d: _tower_weights(model.towers, d) for d in DOMAINS},
    "cross": [h.numpy() for h in model.towers.cross_weights()],
    "logit": {d: [w.numpy() for w in model.logits[d].weights] for d in DOMAINS},
  }


def _inputs(seed=0, width=7):
  random = np.random.default_rng(seed)
  return [random.normal(size=(3, 4, width)).astype(np.float32) for _ in range(2)]


def test_towers_survive_every_use_that_keras_makes_of_a_layer():
  options = {"units": (6, 5), "cross_layers": 2, "activation": "gelu", "dropout": 0.1, "init": "glorot"}
  bad = {"units": [(6, 0), (-1,)], "cross_layers": [-1, 3], "dropout": [1.0, -0.1], "init": "zeros"}
  check_layer(CrossTowers, options, tuple(_inputs()), bad=bad, call={"domain": "source"})


@pytest.mark.parametrize("cross_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("domain", DOMAINS)
def test_towers_equal_their_twin(cross_layers, domain):
  own, other = _inputs()
  layer = _towers(own, other, units=(6, 5, 4), cross_layers=cross_layers)
  actual = layer(own, other, domain=domain).numpy()
  sides = domain, "source" if domain == "target" else "target"
  towers = [_tower_weights(layer, d) for d in sides]
  cross = [h.numpy() for h in layer.cross_weights()]
  for b, n in np.ndindex(3, 4):
    expected, _ = twin.cross_towers(own[b, n], other[b, n], *towers, cross)
    np.testing.assert_allclose(actual[b, n], expected, rtol=1e-4, atol=1e-5)
  assert actual.any()


def test_both_towers_move_at_once():
  def layer_of(levels):
    layer = CrossTowers((2,) * levels, levels)
    for domain in DOMAINS:
      layer(np.ones([1, 2], np.float32), np.ones([1, 2], np.float32), domain=domain)
    for dense in (*layer.towers["target"], *layer.towers["source"]):
      dense.set_weights([np.eye(2), np.zeros(2)])
    for cross in layer.cross_weights():
      cross.assign(0.5 * np.eye(2))
    return layer

  target, source = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
  layer = layer_of(1)
  np.testing.assert_array_equal(layer(target, source, domain="target"), [[1, 0.5]])
  # after the target tower has moved it would be (.5, 1.25)
  np.testing.assert_array_equal(layer(source, target, domain="source"), [[0.5, 1]])
  # (1, .5) + .5 (.5, 1)
  np.testing.assert_array_equal(layer_of(2)(target, source, domain="target"), [[1.25, 1]])


def test_identical_towers_with_identical_inputs_give_identical_outputs():
  own, _ = _inputs()
  layer = _towers(own, own, units=(6, 5), cross_layers=2)
  for target, source in zip(layer.towers["target"], layer.towers["source"], strict=True):
    source.set_weights(target.get_weights())
  np.testing.assert_array_equal(layer(own, own, domain="target"), layer(own, own, domain="source"))


def test_without_cross_weights_each_tower_is_alone():
  own, other = _inputs()
  layer = _towers(own, other, units=(6, 5), cross_layers=2)
  assert np.abs(layer(own, other) - layer(own, 3 * other)).max() > 0.1
  for cross in layer.cross_weights():
    cross.assign(tf.zeros_like(cross))
  np.testing.assert_array_equal(layer(own, other), layer(own, 3 * other))


@pytest.mark.parametrize("domain", DOMAINS)
def test_both_tasks_equal_their_twin(model, domain):
  embedded = model._embed(batches(4))
  score = model.score if domain == "target" else model.score_source
  arrays = tf.nest.map_structure(lambda x: x.numpy(), embedded[domain])
  expected = twin.conet(arrays, domain, _weights(model))
  np.testing.assert_allclose(score(embedded[domain], False), expected, rtol=1e-4, atol=1e-5)
  assert np.ptp(expected) > 0.01


@pytest.mark.job
def test_it_shares_the_properties_of_all_networks(tmp_path):
  training_only = ("candidate_source", "logit_source", "towers/source_1", "towers/source_2")
  check_network("conet", {"lasso": 0.01}, tmp_path, training_only=training_only, units=UNITS)


@pytest.mark.parametrize("cross_layers", [0, 1, 2])
def test_source_items_learn_from_target_clicks_through_cross_connections_alone(cross_layers):
  model = _model({"cross_layers": cross_layers})
  assert set(model.compute_loss(batches())) == {"loss", "ctr_loss", "source_loss"}
  gradients = gradients_of(model, batches(), "ctr_loss")
  table = gradients["source_item/table:0"]
  assert (table is not None and table.any()) == (cross_layers > 0)
  assert gradients["user_id/table:0"].any()
  assert gradients["target_item/table:0"].any()


def test_both_tasks_share_the_cross_weights_and_nothing_else_of_the_last_layers(model):
  found = {loss: gradients_of(model, batches(), loss) for loss in ("ctr_loss", "source_loss")}
  for name in found["ctr_loss"]:
    used = [loss for loss, gradients in found.items() if gradients[name] is not None and gradients[name].any()]
    if "/cross_" in name:
      assert used == ["ctr_loss", "source_loss"]
    if "towers/target_2" in name or "logit_target" in name or "candidate_target" in name:
      assert used == ["ctr_loss"]
    if "towers/source_2" in name or "logit_source" in name or "candidate_source" in name:
      assert used == ["source_loss"]
  assert sum("/cross_" in name for name in found["ctr_loss"]) == 2


def test_cross_connections_act_in_serving():
  model, batch = _model(training=False), batch_of()
  served = model(batch).numpy()
  for cross in model.towers.cross_weights():
    cross.assign(tf.zeros_like(cross))
  alone = model(batch).numpy()
  assert np.abs(served - alone).max() > 0.01
  without_source = batch | {"source_length": tf.zeros_like(batch["source_length"])}
  np.testing.assert_array_equal(model(without_source), alone)


def test_lasso_is_the_sum_of_magnitudes_and_its_gradient_shrinks(model):
  cross = model.towers.cross_weights()
  inputs = batches()
  losses = model.compute_loss(inputs)
  np.testing.assert_allclose(losses["lasso"], sum(np.abs(h.numpy()).sum() for h in cross), rtol=1e-5)
  total = losses["ctr_loss"] + losses["source_loss"] + 0.25 * losses["lasso"]
  np.testing.assert_allclose(losses["loss"], total, rtol=1e-6)
  gradients = gradients_of(model, inputs, "lasso")
  for h in cross:
    np.testing.assert_array_equal(gradients[h.name], np.sign(h.numpy()))


def _kernels(model):
  own = [v for v in model.trainable_variables if "kernel" in v.name and "/item/" not in v.name]
  own = [v for v in own if not v.name.startswith("item/")]
  assert len(own) == 2 + 2 + 2 * 3 + 2 + 2
  return own


def test_weights_begin_normal_as_in_the_paper_if_asked():
  kernels = _kernels(network_model("conet", {"init": "paper"}, units=(64, 32, 16, 8)))
  values = np.concatenate([kernel.numpy().ravel() for kernel in kernels])
  assert values.std() == pytest.approx(0.01, rel=0.05)
  assert np.abs(values).max() > 0.03
  for kernel in kernels:
    assert np.abs(kernel.numpy()).max() < 0.06, kernel.name


def test_weights_begin_glorot_uniform_each_layer_with_its_own(model):
  kernels = _kernels(model)
  for i, kernel in enumerate(kernels):
    values = kernel.numpy() / np.sqrt(6 / sum(kernel.shape))
    assert np.abs(values).max() <= 1, kernel.name
    assert values.size < 40 or values.std() == pytest.approx(3**-0.5, rel=0.2), kernel.name
    for other in kernels[:i]:
      assert other.shape != kernel.shape or np.abs(other.numpy() - kernel.numpy()).max() > 0.1, kernel.name


@pytest.mark.parametrize(("units", "crossed"), [((8,), 0), ((16, 8), 1), ((16, 8, 4), 2), ((16, 8, 4, 2), 2)])
def test_two_layers_are_crossed_or_as_many_as_there_are_unless_the_options_say(units, crossed):
  assert network_model("conet", units=units).towers.cross_layers == crossed


@pytest.mark.parametrize(
  ("options", "units", "message"),
  [
    ({"laso": 1}, UNITS, r"model\.options of 'conet': unknown option 'laso'\. Did you mean 'lasso'\?"),
    ({"lasso": -0.5}, UNITS, r"model\.options of 'conet': lasso must not be negative; found -0\.5"),
    ({"init": "zeros"}, UNITS, r"init must be one of \['glorot', 'paper'\]; found 'zeros'"),
    ({"cross_layers": 4}, UNITS, r"cross_layers: expected 0 to 3, the number of hidden layers, found 4"),
    ({}, (), r"model\.mlp\.units must not be empty"),
  ],
)
def test_a_wrong_option_is_named(options, units, message):
  with pytest.raises(UserError, match=message):
    network_model("conet", options, units=units)
