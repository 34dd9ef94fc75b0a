"""MiNet: both attentions, both tasks."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.errors import UserError
from lcn_tf.layers.masked import masked_mean
from lcn_tf.models.minet import InterestGates, ItemAttention
from tests.reference import minet as twin
from tests.support.layers import check_extractor, check_glorot, check_layer, random_inputs, tensors
from tests.support.networks import batches, check_network, gradients_of, network_model

SMALL = {"attention_units": 6, "transfer_rank": 3}
PROFILE = 5


@pytest.fixture(autouse=True)
def _seed():
  tf.keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def model():
  """Not to be changed."""
  return network_model("minet", {**SMALL, "recent": 7, "gamma": 0.3})


def _inputs(seed, **shape):
  """The candidates' frozen vectors, which MiNet does not read, carry the profile: the same for all of a request."""
  candidates, behaviours = random_inputs(seed, P=PROFILE, **shape)
  vectors = np.broadcast_to(candidates.vectors[:, :1], candidates.vectors.shape)
  return candidates._replace(vectors=vectors.copy()), behaviours


class _Attention(tf.Module):
  """`ItemAttention` as `check_extractor` calls it."""

  def __init__(self, **options):
    super().__init__()
    self.layer = ItemAttention(**{"attention_units": 6, **options})

  def __call__(self, candidates, behaviours):
    return self.layer(candidates, behaviours, profile=candidates.vectors[:, 0])

  @property
  def trainable_variables(self):
    return self.layer.trainable_variables


def _attention_weights(layer):
  weights = {"V": layer.hidden.numpy(), "h": layer.score.numpy()[:, 0]}
  return weights | ({"M": layer.transfer_in.numpy() @ layer.transfer_out.numpy()} if layer.transfer_rank else {})


def _attention_twin(module, candidates, behaviours):
  layer = module.layer
  return twin.item_attention(candidates, behaviours, candidates.vectors[:, 0], _attention_weights(layer), layer.recent)


def _attend(layer, seed=0, **shape):
  candidates, behaviours = _inputs(seed, **shape)
  profile = candidates.vectors[:, 0]
  return (
    candidates,
    behaviours,
    profile,
    layer(*tensors((candidates, behaviours)), profile=tf.constant(profile)).numpy(),
  )


def _gate_weights(layer):
  hidden = layer.hidden.numpy()
  return {"W": hidden.reshape(len(hidden), 3, -1), "g": layer.score.numpy(), "b": layer.bias.numpy()}


def _mlp_weights(mlp, logit):
  return {"mlp": [w.numpy() for w in mlp.weights], "logit": [w.numpy() for w in logit.weights]}


def _numpy(embedded):
  return tf.nest.map_structure(lambda x: x.numpy(), embedded)


def test_item_attention_survives_every_use_that_keras_makes_of_a_layer():
  candidates, behaviours = _inputs(0)
  options = {"recent": 4, "attention_units": 6, "transfer_rank": 3}
  bad = {"recent": 0, "attention_units": -1, "transfer_rank": -2}
  call = {"profile": tf.constant(candidates.vectors[:, 0])}
  check_layer(ItemAttention, options, (candidates, behaviours), bad=bad, call=call)


@pytest.mark.parametrize("transfer_rank", [0, 3])
def test_item_attention_shares_the_properties_of_all_extractors_and_equals_its_twin(transfer_rank):
  check_extractor(lambda: _Attention(transfer_rank=transfer_rank), _attention_twin, inputs=_inputs)


@pytest.mark.parametrize("recent", [1, 3])
def test_only_the_newest_visible_clicks_are_read(recent):
  module = _Attention(recent=recent, transfer_rank=3)
  candidates, behaviours = _inputs(3, L=20)
  inputs = tensors((candidates, behaviours))
  with tf.GradientTape() as tape:
    tape.watch(inputs[1].embedding)
    output = module(*inputs)
  np.testing.assert_allclose(output, _attention_twin(module, candidates, behaviours), rtol=2e-4, atol=2e-5)
  learns = (tape.gradient(output, inputs[1].embedding).numpy() != 0).any(axis=-1)
  newest = behaviours.visible & (np.cumsum(behaviours.visible, axis=-1) <= recent)
  np.testing.assert_array_equal(learns, newest.any(axis=1))


def test_clicks_may_be_visible_in_any_pattern():
  candidates, behaviours = _inputs(4, L=20)
  behaviours = behaviours._replace(visible=behaviours.visible & (np.arange(20) % 3 != 1))
  module = _Attention(recent=4)
  actual = module(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(actual, _attention_twin(module, candidates, behaviours), rtol=2e-4, atol=2e-5)


def test_with_zero_weights_the_interest_is_the_plain_mean_of_the_visible_clicks():
  layer = ItemAttention(attention_units=6, transfer_rank=3)
  _attend(layer, R=0)
  layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
  _, behaviours, _, interest = _attend(layer, R=0)
  rows = np.concatenate([behaviours.embedding, behaviours.side], axis=-1)
  np.testing.assert_allclose(interest, masked_mean(tf.constant(rows), behaviours.visible), rtol=1e-5, atol=1e-6)


def test_padding_has_no_weight_beside_a_single_click():
  # a softmax over one click with logit 1 and three pads with 0 would leave it .4754
  candidates, behaviours = _inputs(5, L=4)
  behaviours = behaviours._replace(visible=np.zeros_like(behaviours.visible))
  behaviours.visible[:, :, 0] = True
  interest = _Attention()(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(interest[:, 1, : behaviours.embedding.shape[-1]], behaviours.embedding[:, 0], rtol=1e-6)


def test_transfer_decides_weights_only_and_the_interest_stays_in_the_space_of_the_source():
  candidates, behaviours = _inputs(6)
  alone = behaviours._replace(visible=behaviours.visible & (np.cumsum(behaviours.visible, axis=-1) == 2))
  module, other = _Attention(transfer_rank=3), _Attention(transfer_rank=3)
  first, _ = (m(*tensors((candidates, behaviours))).numpy() for m in (module, other))
  other.layer.set_weights(module.layer.get_weights())
  other.layer.transfer_in.assign(3 * other.layer.transfer_in)
  second = other(*tensors((candidates, behaviours))).numpy()
  assert np.abs(first - second).max() > 1e-3
  np.testing.assert_allclose(module(*tensors((candidates, alone))), other(*tensors((candidates, alone))), rtol=1e-6)


def test_without_transfer_weights_the_comparison_of_click_and_candidate_is_out_of_the_score():
  layer = ItemAttention(attention_units=6, transfer_rank=3)
  *_, before = _attend(layer)
  layer.transfer_in.assign(tf.zeros_like(layer.transfer_in))
  *_, without = _attend(layer)
  assert np.abs(before - without).max() > 1e-3
  product = layer.hidden.shape[0] - 6
  layer.hidden.assign(tf.concat([layer.hidden[:product], 10 + layer.hidden[product:]], axis=0))
  *_, again = _attend(layer)
  np.testing.assert_array_equal(again, without)


def test_gates_survive_every_use_that_keras_makes_of_a_layer():
  inputs = np.random.default_rng(0).normal(size=(3, 4, 7)).astype(np.float32)
  check_layer(InterestGates, {"attention_units": 6, "limit": 2.0}, (inputs,), bad={"attention_units": 0, "limit": -1.0})


def test_gates_equal_their_twin():
  z = np.random.default_rng(1).normal(size=(3, 4, 7)).astype(np.float32)
  layer = InterestGates(6, limit=1.5)
  layer(z)
  layer.hidden.assign(3 * layer.hidden)
  gates = layer(z).numpy()
  for b, n in np.ndindex(3, 4):
    np.testing.assert_allclose(gates[b, n], twin.interest_gates(z[b, n], _gate_weights(layer), 1.5), rtol=1e-5)
  assert np.ptp(gates) > 1


def test_gates_begin_at_e_1_1_where_nothing_is_known():
  layer = InterestGates(64)
  np.testing.assert_allclose(layer(np.zeros([1, 1, 9], np.float32))[0, 0], [2.7183, 1, 1], atol=5e-5)


def test_each_gate_begins_glorot_uniform_as_if_alone():
  layer = InterestGates(64)
  layer(np.zeros([1, 1, 40], np.float32))
  check_glorot(layer.hidden, 40, 64)


def test_gates_are_independent_and_never_overflow():
  layer = InterestGates(6)
  z = tf.ones([1, 1, 4])
  before = layer(z).numpy()[0, 0]
  layer.bias.assign([1000.0, 0.0, -1000.0])
  after = layer(z).numpy()[0, 0]
  np.testing.assert_allclose(after, [np.exp(5), before[1], np.exp(-5)], rtol=1e-6)


def test_both_tasks_equal_their_twins(model):
  embedded = model._embed(batches(4))
  weights = {d: _attention_weights(model.attentions[d]) for d in ("target", "source")}
  weights |= {"gates": _gate_weights(model.gates), **_mlp_weights(model.mlp, model.logit)}
  arrays = {d: _numpy(e) for d, e in embedded.items()}
  expected = twin.minet(arrays["target"], weights, 7, model.gates.limit)
  np.testing.assert_allclose(model.score(embedded["target"], False), expected, rtol=1e-4, atol=1e-5)
  expected = twin.source_task(arrays["source"], _mlp_weights(model.source_mlp, model.source_logit))
  np.testing.assert_allclose(model.score_source(embedded["source"], False), expected, rtol=1e-4, atol=1e-5)
  assert np.ptp(expected) > 0.01


@pytest.mark.job
def test_it_shares_the_properties_of_all_networks(tmp_path):
  check_network("minet", SMALL, tmp_path, training_only=("source_mlp", "source_logit"))


def test_source_task_is_about_its_candidate_and_user_alone(model):
  gradients = gradients_of(model, batches(), "source_loss")
  learns = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
  shared = {"source_item/table:0", "author/table:0", "user_id/table:0", "hobbies/table:0"}
  assert shared <= learns
  foreign = ("target_item", "target_action", "dwell", "recency", "attention", "gates", "minet/mlp", "minet/logit")
  assert not [name for name in learns if any(part in name for part in foreign)]


def test_without_gamma_the_source_task_learns_nothing_and_source_items_still_do():
  gradients = gradients_of(network_model("minet", {**SMALL, "gamma": 0.0}), batches())
  source_task = [name for name in gradients if "source_mlp" in name or "source_logit" in name]
  assert len(source_task) == 6
  for name in source_task:
    assert not gradients[name].any()
  assert gradients["source_item/table:0"].any()


def test_the_loss_weighs_the_source_task_by_gamma(model):
  losses = model.compute_loss(batches())
  np.testing.assert_allclose(losses["loss"], losses["ctr_loss"] + 0.3 * losses["source_loss"], rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"gama": 1}, r"model\.options of 'minet': unknown option 'gama'\. Did you mean 'gamma'\?"),
    ({"gamma": -0.5}, r"model\.options of 'minet': gamma must not be negative; found -0\.5"),
    ({"transfer_rank": 0}, r"transfer_rank must be positive; found 0"),
    ({"recent": 0}, r"recent must be positive; found 0"),
    ({"attention_units": 0}, r"attention_units must be positive; found 0"),
  ],
)
def test_a_wrong_option_is_named(options, message):
  with pytest.raises(UserError, match=message):
    network_model("minet", options)


def test_a_user_without_fields_and_behaviours_without_side_information_are_allowed():
  candidates, behaviours = _inputs(7, S=0, R=0)
  layer = ItemAttention(attention_units=6)
  nobody = np.zeros([3, 0], np.float32)
  actual = layer(*tensors((candidates, behaviours)), profile=tf.constant(nobody))
  expected = twin.item_attention(candidates, behaviours, nobody, _attention_weights(layer), 100)
  np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5)
