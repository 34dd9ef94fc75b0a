"""What is looked up by row is a table: trained by the tables' optimizer, and counted as one, whoever made it."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.config import from_tree
from lcn_tf.interest import EXTRACTORS
from lcn_tf.interest.average_pooling import AveragePooling
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models import ctr
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.models.networks import NETWORKS
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS, with_sizes
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


def sized():
  """The schema with sizes that nothing else in a model has, and what has them."""
  names = sorted(SCHEMA.vocabularies)
  rows = dict(zip(names, (101, 103, 107, 109, 113, 127, 131, 137, 139, 149), strict=False))
  items = {"target": 211, "source": 223}
  assert set(rows) == set(names)
  return with_sizes(SCHEMA, rows, items), {size: name for name, size in rows.items()}, set(items.values())


SYSTEMS = [*EXTRACTORS, *(name for name in NETWORKS if name != "ctr")]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_variable_with_a_row_per_value_says_of_which_vocabulary(system):
  """A warm start on other records carries these by value, and makes what has a row per item anew."""
  schema, vocabularies, items = sized()
  # CRP's heads are the same whatever they are beside
  experiment = network_experiment(system) if system in NETWORKS else small_experiment(system, crp=system == "lap")
  if system == "twin":
    tree = experiment.model_dump(mode="json", by_alias=True)
    tree["model"]["options"] = {"projections": "cached"}
    experiment = from_tree(tree, "cached")
  vectors = {d: np.ones((schema.domain(d).items, 2), np.float32) for d in DOMAINS}
  made = Pretrained(vectors, {d: np.ones(v.shape, np.int64) for d, v in vectors.items()}, {}, "")
  model = build_model(schema, experiment.model, pretrained=made)
  told, warm = model.vocabularies(), {v.ref() for v in model.warm_variables()}
  seen = set()
  for variable in model.variables:
    found = {vocabularies[size] for size in variable.shape if size in vocabularies}
    assert found == ({told[variable.ref()]} if variable.ref() in told else set()), variable.name
    assert not found or variable.shape[0] in vocabularies, variable.name
    assert not (items & set(variable.shape) and variable.ref() in warm), variable.name
    seen |= found
  assert seen == set(vocabularies.values())


def looked_up(model):
  """The variables whose gradient is of rows."""
  with tf.GradientTape() as tape:
    loss = model.compute_loss(batches(), training=True)["loss"]
  variables = model.trainable_variables
  gradients = tape.gradient(loss, variables)
  return {v.ref() for v, gradient in zip(variables, gradients, strict=True) if isinstance(gradient, tf.IndexedSlices)}


@pytest.mark.parametrize("system", SYSTEMS)
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
