"""Dropout of `model.mlp`, in every network: it acts in training and never at inference."""

import numpy as np
import pytest

from lcn_tf.models.build import build_model
from lcn_tf.training.optimizers import make_optimizer
from tests.support.batches import SCHEMA, batch_of, catalogue
from tests.support.experiments import small_experiment
from tests.support.networks import batches, network_experiment

EXPERIMENTS = {
  "ctr": lambda: small_experiment("lap"),
  "minet": lambda: network_experiment("minet", {"attention_units": 6, "transfer_rank": 3}),
  "conet": lambda: network_experiment("conet", units=(12, 8, 6, 4)),
  "pi_net": lambda: network_experiment("pi_net", {"units": 5, "members": 3, "max_steps": 14}),
}


def _model(experiment, dropout):
  mlp = experiment.model.mlp.model_copy(update={"dropout": dropout})
  model = build_model(SCHEMA, experiment.model.model_copy(update={"mlp": mlp}), catalogues=catalogue())
  model.compile(optimizer=make_optimizer(model, experiment.train))
  return model


@pytest.mark.job
@pytest.mark.parametrize("network", EXPERIMENTS)
def test_dropout_acts_in_training_and_never_at_inference(network):
  experiment = EXPERIMENTS[network]()
  plain, dropping = (_model(experiment, dropout) for dropout in (0.0, 0.5))
  for variable, other in zip(plain.trainable_variables, dropping.trainable_variables, strict=True):
    assert variable.name == other.name
    variable.assign(other)
  batch, inputs = batch_of(), batches()
  expected = plain(batch).numpy()
  assert np.ptp(expected) > 1e-3
  for _ in range(2):
    np.testing.assert_array_equal(dropping(batch), expected)
  losses = plain.compute_loss(inputs, training=True)
  for name, loss in dropping.compute_loss(inputs).items():
    np.testing.assert_array_equal(loss, losses[name], name)
  dropped = dropping.compute_loss(inputs, training=True)
  for name in {"ctr_loss", "source_loss"} & set(losses):
    assert abs(dropped[name] - losses[name]) > 1e-4, name
