"""What networks of two tasks share."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf.errors import UserError
from lcn_tf.models.build import build_model
from lcn_tf.models.networks import NETWORKS
from lcn_tf.models.two_domain import TwoDomain
from tests.support.batches import SCHEMA
from tests.support.networks import batches, network_experiment, network_model


class Popularity(TwoDomain):
  """The least network: a logit from the candidate's item."""

  def make_layers(self, weight: float = 1.0, limit: int = 3) -> None:
    if limit < 1:
      raise ValueError(f"limit must be positive; found {limit}")
    self.source_weight = weight
    self.logits = {d: keras.layers.Dense(1, name=f"logit_{d}") for d in ("target", "source")}

  def score(self, embedded, training):
    return self.logits["target"](embedded.candidates.embedding)[..., 0]

  def score_source(self, embedded, training):
    return self.logits["source"](embedded.candidates.embedding)[..., 0]


@pytest.fixture(autouse=True)
def _named(monkeypatch):
  monkeypatch.setitem(NETWORKS, "popularity", Popularity)


def test_the_loss_is_the_weighted_sum_of_both_tasks_losses():
  model, inputs = network_model("popularity", {"weight": 0.3}), batches()
  inputs["source"]["weight"] *= tf.random.stateless_uniform(inputs["source"]["weight"].shape, [1, 2])
  losses = model.compute_loss(inputs)
  batch, embedded = inputs["source"], model._embed(inputs)["source"]
  logits = model.score_source(embedded, training=False).numpy()
  total = weights = 0.0
  for b, n in np.ndindex(*logits.shape):
    if batch["candidate_mask"][b, n]:
      z, y, w = logits[b, n], float(batch["label"][b, n]), float(batch["weight"][b, n])
      total += w * (np.log1p(np.exp(z)) - y * z)
      weights += w
  np.testing.assert_allclose(losses["source_loss"], total / weights, rtol=1e-5)
  np.testing.assert_allclose(losses["loss"], losses["ctr_loss"] + 0.3 * losses["source_loss"], rtol=1e-6)


def test_it_reads_records_of_both_domains():
  assert network_model("popularity").domains == ("target", "source")


def test_only_the_target_task_is_made_to_serve():
  names = {v.name for v in network_model("popularity", training=False).variables}
  assert any("logit_target" in name for name in names)
  assert not any("logit_source" in name for name in names)


def test_options_are_the_arguments_of_make_layers():
  assert list(Popularity.options()) == ["weight", "limit"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"limt": 3},
      r"model\.options of 'popularity': unknown option 'limt'\. Did you mean 'limit'\? Known: limit, weight",
    ),
    ({"limit": 0}, r"model\.options of 'popularity': limit must be positive; found 0"),
    ({"limit": "many"}, r"model\.options of 'popularity': "),
    ({"self": 3}, r"model\.options of 'popularity': unknown option 'self'"),
  ],
)
def test_a_wrong_option_is_named(options, message):
  with pytest.raises(UserError, match=message):
    network_model("popularity", options)


@pytest.mark.parametrize("histories", [("target",), ("source",), ()])
def test_both_histories_are_needed(histories):
  config = network_experiment("popularity").model.model_copy(update={"histories": histories})
  with pytest.raises(UserError, match=r"model\.network 'popularity' reads both histories, but model\.histories is \["):
    build_model(SCHEMA, config)
