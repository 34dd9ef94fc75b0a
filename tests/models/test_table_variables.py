"""What is looked up by row is a table: trained by the tables' optimizer, and counted as one, whoever made it."""

import pytest
import tensorflow as tf

from lcn_tf.interest import EXTRACTORS
from lcn_tf.interest.average_pooling import AveragePooling
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models import ctr
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.models.networks import NETWORKS
from lcn_tf.training.optimizers import make_optimizer
from tests.models.test_embedder import pretrained
from tests.support.batches import SCHEMA
from tests.support.experiments import small_experiment
from tests.support.networks import batches, network_experiment


def model_of(system):
  experiment = network_experiment(system) if system in NETWORKS else small_experiment(system, crp=True)
  vectors = pretrained() if needs_pretrained(experiment.model) else None
  model = build_model(SCHEMA, experiment.model, pretrained=vectors)
  model.compile(optimizer=make_optimizer(model, experiment.train))
  return model


def looked_up(model):
  """The variables whose gradient is of rows."""
  with tf.GradientTape() as tape:
    loss = model.compute_loss(batches(), training=True)["loss"]
  variables = model.trainable_variables
  gradients = tape.gradient(loss, variables)
  return {v.ref() for v, gradient in zip(variables, gradients, strict=True) if isinstance(gradient, tf.IndexedSlices)}


@pytest.mark.parametrize("system", [*EXTRACTORS, *(name for name in NETWORKS if name != "ctr")])
def test_every_variable_that_is_looked_up_is_a_table(system):
  model = model_of(system)
  # ages are few rows, which every step reads
  known = {v.ref() for v in [*model.table_variables(), *model.age_variables()]}
  found = looked_up(model)
  assert found
  assert found <= known, [ref.deref().name for ref in found - known]


class WithTable(AveragePooling):
  """An extractor that adds a vector of the category, from a table of its own."""

  def make_weights(self, item_width, row_width):
    self.own = EmbeddingTables({"category": 50}, {"category": 1}, {"category": 4}, "glorot", name="own")

  def call(self, candidates, behaviours):
    (rows,) = self.own([("category", candidates.fields[..., 1] % 50)])
    return tf.concat([super().call(candidates, behaviours) + tf.zeros_like(rows[..., :1]), rows], axis=-1)


def test_the_table_of_an_extractor_is_trained_by_rows(monkeypatch):
  monkeypatch.setitem(ctr.EXTRACTORS, "with_table", WithTable)
  model = model_of("with_table")
  own = [v for v in model.table_variables() if v.shape == (50, 4)]
  assert len(own) == 2  # of either history's extractor
  dense, tables = model.optimizer.optimizers
  assert all(tables.get_slot(v, "m") is not None for v in own)
  assert not {v.ref() for v in own} & {v.ref() for v in model.dense_variables()}
