"""pi-Net: against its twin, and what it may and may not know of time."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.errors import UserError
from lcn_tf.models.base import Blueprint
from lcn_tf.models.pi_net import PiNet
from tests.reference.pi_net import interests, logits
from tests.support.batches import SCHEMA, batch_of
from tests.support.networks import DOMAINS, batches, check_network, gradients_of, network_experiment, network_model

OPTIONS = {"units": 5, "members": 3, "max_steps": 14}  # more than the 12 of SCHEMA that candidates may not see


def model_of(**options):
  return network_model("pi_net", OPTIONS | options)


@pytest.fixture(scope="module", name="model")
def _model():
  return model_of()


@pytest.mark.job
def test_shares_the_properties_of_all_networks(tmp_path):
  only = ("filter/source", "transfer/source", "mlp/source", "logit/source")
  check_network("pi_net", OPTIONS, tmp_path, training_only=only, order_free=False)


@pytest.mark.parametrize("options", [{}, {"official_bug": True, "max_steps": 100}])
def test_equals_its_twin(options, model):
  model = model_of(**options) if options else model
  for domain, score in (("target", model.score), ("source", model.score_source)):
    embedded = model.embedder([(domain, batch_of(3, domain=domain))])[0]
    expected = logits(model, domain, embedded)
    np.testing.assert_allclose(score(embedded, False), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 1e-3


def test_candidates_of_different_moments_pick_states_of_their_own(model):
  embedded = model.embedder([("target", batch_of(4, seed=2, candidates=4))])[0]
  last, handed = model.interests("target", embedded)
  moments = embedded.histories["source"].visible.numpy().argmax(axis=-1)
  assert any(len(set(row)) > 1 for row in moments)
  for b, n in np.ndindex(moments.shape):
    expected = interests(model, "target", embedded, b, n)
    np.testing.assert_allclose(last[b, n], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(handed[b, n], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_logit_learns_from_every_visible_step_and_from_nothing_else(model, domain):
  batch = batch_of(5, seed=3, domain=domain, candidates=3)
  embedded = model.embedder([(domain, batch)])[0]
  rows = [embedded.histories[d].embedding for d in DOMAINS]
  score = model.score if domain == "target" else model.score_source
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(rows)
    each = tf.unstack(tf.reduce_sum(score(embedded, False), axis=0))
  unseen = 0
  for n, logit in enumerate(each):
    for d, gradient in zip(DOMAINS, tape.gradient(logit, rows), strict=True):
      seen = embedded.histories[d].visible.numpy()[:, n].copy()
      unseen += seen.size - seen.sum()
      seen[:, model.steps[d] :] = False
      np.testing.assert_array_equal((gradient.numpy() != 0).any(axis=-1), seen)
  assert unseen > 20


def test_what_happens_after_a_candidate_never_moves_its_logit(model):
  """Newer behaviours of any item, at any later moment."""
  batch = batch_of(5, seed=3, candidates=4)
  expected, changes = model(batch).numpy(), 0
  for n in range(4):
    changed = dict(batch)
    for d in DOMAINS:
      newer = np.arange(batch[f"{d}_items"].shape[1]) < batch[f"{d}_first_visible"].numpy()[:, n : n + 1]
      later = batch["candidate_times"].numpy()[:, n : n + 1] + np.arange(newer.shape[1])[::-1] * 100
      changed[f"{d}_items"] = tf.where(newer, 7, batch[f"{d}_items"])
      changed[f"{d}_times"] = tf.where(newer, later, batch[f"{d}_times"])
    actual = model(changed).numpy()
    np.testing.assert_allclose(actual[:, n], expected[:, n], rtol=1e-5, atol=1e-6)
    changes += (np.abs(actual - expected) > 1e-4).sum()
  assert changes > 3


def test_the_flow_follows_the_clocks_of_both_domains(model):
  batch = batch_of(5, seed=4, candidates=2)
  embedded = model.embedder([("target", batch)])[0]
  last, handed = model.interests("target", embedded)
  first = embedded._replace(histories=dict(embedded.histories))
  for shift, all_known in ((-5_000, True), (5_000, False)):
    target = embedded.histories["target"]
    first.histories["target"] = target._replace(times=target.times + shift)
    again, other = model.interests("target", first)
    np.testing.assert_array_equal(again, last)
    assert np.abs(other - handed).max() > 1e-4
    # before the other domain has anything, nothing of it matters
    first.histories["target"] = target._replace(times=target.times + shift, embedding=-target.embedding)
    moved = np.abs(model.interests("target", first)[1] - other).max()
    assert (moved > 1e-4) == all_known


def test_the_source_domain_reaches_a_target_logit_through_the_filter_alone(model):
  shut = model.filters["target"]
  shut.bias.assign(tf.concat([tf.fill([5], 1e4), tf.ones([5])], axis=0))
  batch = batch_of(4, seed=5)
  other = batch | {"source_items": tf.where(batch["source_items"] > 0, 3, 0)}
  np.testing.assert_allclose(model(other), model(batch), rtol=1e-6)
  shut.bias.assign(tf.ones([10]))
  assert np.abs(model(other) - model(batch)).max() > 1e-4


def test_shuffled_requests_get_their_own_logits(model):
  batch = batch_of(6, seed=6)
  order = [4, 2, 0, 5, 1, 3]
  shuffled = {name: tf.gather(tensor, order) for name, tensor in batch.items()}
  np.testing.assert_allclose(model(shuffled), model(batch).numpy()[order], rtol=1e-5, atol=1e-6)


def test_behaviours_beyond_the_newest_steps_are_not_read(model):
  batch = batch_of(5, seed=7)
  for d in DOMAINS:
    kept = np.arange(batch[f"{d}_items"].shape[1]) < 14
    assert not kept.all()
    other = batch | {f"{d}_items": tf.where(kept, batch[f"{d}_items"], 7)}
    # other distinct items are looked up, in another order: rounding may differ
    np.testing.assert_allclose(model(other), model(batch), rtol=1e-6, atol=1e-7)
    earlier = batch | {f"{d}_items": tf.where(np.arange(len(kept)) != 13, batch[f"{d}_items"], 7)}
    assert np.abs(model(earlier) - model(batch)).max() > 1e-5


def test_each_task_trains_its_own_flow_and_both_encoders(model):
  gradients = {loss: gradients_of(model, batches(), loss) for loss in ("ctr_loss", "source_loss")}
  for name in gradients["ctr_loss"]:
    reached = {loss for loss, found in gradients.items() if found[name] is not None}
    if any(f"{part}/target" in name for part in ("filter", "transfer", "mlp", "logit")):
      assert reached == {"ctr_loss"}, name
    elif any(f"{part}/source" in name for part in ("filter", "transfer", "mlp", "logit")):
      assert reached == {"source_loss"}, name
    elif "encoder/" in name:
      assert reached == {"ctr_loss", "source_loss"}, name


def test_the_loss_is_the_weighted_sum_of_both_tasks(model, monkeypatch):
  assert PiNet(Blueprint(SCHEMA, network_experiment("pi_net", {"source_weight": 0.25}).model)).source_weight == 0.25
  assert model.source_weight == 1
  monkeypatch.setattr(model, "source_weight", 0.25)
  losses = model.compute_loss(batches())
  np.testing.assert_allclose(losses["loss"], losses["ctr_loss"] + 0.25 * losses["source_loss"], rtol=1e-6)


def test_age_is_no_feature_and_has_no_weights(model):
  assert model.config.embedding.recency_buckets == 0
  assert not [variable.name for variable in model.variables if "recency" in variable.name]


def test_xla_compiles_loss_and_gradients(model):
  embedded = model.embedder([("target", batch_of(3))])[0]
  rows = embedded.histories["source"].embedding

  def gradient(rows):
    with tf.GradientTape() as tape:
      tape.watch(rows)
      histories = embedded.histories | {"source": embedded.histories["source"]._replace(embedding=rows)}
      loss = tf.reduce_sum(tf.square(model.score(embedded._replace(histories=histories), False)))
    return tape.gradient(loss, rows)

  compiled = tf.function(gradient, autograph=False, jit_compile=True)
  np.testing.assert_allclose(compiled(rows), gradient(rows), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"member": 3}, r"unknown option 'member'\. Did you mean 'members'\?"),
    ({"units": 0}, r"pi_net.*units: expected a positive width, found 0"),
    ({"members": 0}, r"pi_net.*members: expected a positive number, found 0"),
    ({"max_steps": 12}, r"max_steps 12: expected it.* to be more than 12, .*source history"),
  ],
)
def test_wrong_options_are_named(options, message):
  with pytest.raises(UserError, match=message):
    model_of(**options)
