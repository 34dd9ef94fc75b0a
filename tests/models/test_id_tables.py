"""Tables of item ids that begin with item vectors: whose rows they are, how long they are, and who trains them."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf import config
from lcn_tf.config import Embedding, Model
from lcn_tf.errors import UserError
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS
from lcn_tf.training.cost import parameters
from lcn_tf.training.optimizers import make_optimizer
from tests.models.test_embedder import batch_of
from tests.support.experiments import small_experiment
from tests.support.networks import network_experiment
from tests.support.record_sets import small_schema

SCHEMA = small_schema()
WIDTH = 8
RARE = (6, 10)  # catalogue rows of ids that share the out-of-vocabulary row


def catalogues():
  """Ids stand in another order than the rows of the catalogue."""
  found = {}
  for d in DOMAINS:
    items, rng = SCHEMA.domain(d).items, np.random.default_rng(3)
    fields = sum(feature.max_values for feature in SCHEMA.catalogue_features(d))
    table = rng.integers(1, 12, (items, fields), dtype=np.int32)
    table[:, 0] = [0, 1, *(2 + rng.permutation(items - 2))]
    table[list(RARE), 0] = 1
    table[0] = 0
    found[d] = table
  return found


def vectors_of(width=11, seed=0):
  rng, vectors = np.random.default_rng(seed), {}
  for d in DOMAINS:
    items = SCHEMA.domain(d).items
    known = np.arange(items) % 4 > 1  # neither padding nor the unknown item, and others besides
    vectors[d] = (3 * rng.normal(size=(items, width)) * known[:, np.newaxis]).astype(np.float32)
  return Pretrained(vectors, {}, {}, SCHEMA.fingerprint())


def model_config(extractor="average_pooling", experiment=None, **embedding):
  tree = (experiment or small_experiment(extractor)).model_dump(mode="json", by_alias=True)
  tree["model"]["embedding"] |= {"init_from": "pretrained", **embedding}
  if extractor == "sim_soft":
    tree["model"]["options"] = {"top_k": 4}
  return config.from_tree(tree, "test").model


def model_of(made, settings, preset="lcn"):
  model = build_model(SCHEMA, settings, pretrained=made, catalogues=catalogues())
  train = small_experiment(learning_rate=0.5, preset=preset).train
  model.compile(optimizer=make_optimizer(model, train))
  return model


def tables_of(model):
  return {name: table.numpy() for name, table in model.embedder.tables.tables.items()}


@pytest.mark.parametrize(("init", "scale"), [("scaled_uniform", 1.0), ("glorot", 0.25)])
def test_an_id_begins_with_the_vector_of_its_item_as_long_as_a_random_row(init, scale):
  made, expected = vectors_of(), {}
  tables = tables_of(model_of(made, model_config(init=init, init_scale=scale)))
  for d, catalogue in catalogues().items():
    expected[d] = np.zeros((len(catalogue), WIDTH))
    for row, (index, *_) in enumerate(catalogue):
      if index > 1:  # neither padding nor a rare id
        expected[d][index] = made.vectors[d][row, :WIDTH]
    assert len(catalogue) / 3 < np.any(expected[d], axis=1).sum() <= len(catalogue) / 2
  size = np.sqrt(np.mean(np.concatenate([np.square(table[np.any(table, axis=1)]) for table in expected.values()])))
  for d, table in expected.items():
    limit = {"scaled_uniform": WIDTH**-0.5, "glorot": np.sqrt(6 / (len(table) + WIDTH))}[init]
    # of a uniform draw: variance limit^2 / 3
    np.testing.assert_allclose(tables[f"{d}_item"], table * scale * limit / np.sqrt(3) / size, rtol=1e-5)


def test_all_other_weights_begin_as_without_vectors():
  begun = model_of(vectors_of(), model_config())
  plain = model_of(None, model_config(init_from="none"))
  for one, other in zip(begun.trainable_variables, plain.trainable_variables, strict=True):
    assert one.name == other.name
    assert np.array_equal(one, other) == ("_item/table" not in one.name), one.name


def test_initial_values_are_scaled():
  tf.keras.utils.set_random_seed(0)
  whole = EmbeddingTables({"item": 30}, {"item": 1}, {"item": 4}, "glorot").tables["item"].numpy()
  tf.keras.utils.set_random_seed(0)
  part = EmbeddingTables({"item": 30}, {"item": 1}, {"item": 4}, "glorot", scale=0.25).tables["item"].numpy()
  assert np.abs(whole[2:]).max() > 0
  np.testing.assert_allclose(part, 0.25 * whole, rtol=1e-6)
  tree = small_experiment("none").model_dump(mode="json", by_alias=True)
  tree["model"]["embedding"]["init_scale"] = 0.5
  half = tables_of(build_model(SCHEMA, config.from_tree(tree, "half").model))
  for name, table in tables_of(build_model(SCHEMA, small_experiment("none").model)).items():
    np.testing.assert_allclose(half[name], 0.5 * table, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("preset", ["lcn", "twin"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_moves_the_rows_that_it_reads_unless_they_are_frozen(frozen, preset):
  model = model_of(vectors_of(), model_config(init_from="pretrained_frozen" if frozen else "pretrained"), preset)
  before = tables_of(model)
  model.train_step({"target": batch_of()})
  after = tables_of(model)
  for name in before:
    moved = not np.array_equal(after[name], before[name])
    assert moved == (not frozen or "_item" not in name), name
  counted = sum(table.size for name, table in before.items() if not frozen or "_item" not in name)
  assert parameters(model)["tables"] == counted
  assert {name for name in before if name.endswith("_item")} == {"target_item", "source_item"}
  # what a warm start takes over: frozen tables, too
  assert {"target_item", "source_item"} <= {v.name.split("/")[-2] for v in model.warm_variables()}


def test_a_model_may_search_and_begin_with_the_same_vectors():
  made = vectors_of()
  assert needs_pretrained(model_config("sim_soft")) == ("vectors",)
  assert needs_pretrained(model_config("sim_cluster")) == ("vectors", "clusters")
  model = model_of(made, model_config("sim_soft"))
  np.testing.assert_array_equal(model.embedder.vectors["target"], made.vectors["target"])
  assert not model_of(made, model_config()).embedder.vectors


@pytest.mark.parametrize("network", ["minet", pytest.param("conet", marks=pytest.mark.config)])
def test_every_network_begins_with_them(network):
  settings = model_config(experiment=network_experiment(network))
  width = settings.embedding.dim
  model = build_model(SCHEMA, settings, pretrained=vectors_of(width), catalogues=catalogues())
  rows = np.any(model.embedder.tables.tables["source_item"].numpy(), axis=1)
  assert 0 < rows.sum() <= len(rows) / 2


def test_both_models_of_a_separate_search_begin_with_them():
  tree = small_experiment("twin").model_dump(mode="json", by_alias=True)
  tree["model"] |= {"auxiliary_seed": 5}
  tree["model"]["embedding"] |= {"init_from": "pretrained"}
  model = build_model(
    SCHEMA, config.from_tree(tree, "two").model, pretrained=vectors_of(), catalogues=catalogues(), training=True
  )
  one, other = (part.embedder.tables.tables["target_item"] for part in (model, model.auxiliary))
  np.testing.assert_array_equal(one, other)
  assert len(model.warm_variables()) == len(model.trainable_variables)


def test_a_model_that_is_restored_needs_no_vectors_and_another_one_says_so():
  assert needs_pretrained(model_config(), restored=True) == ()
  build_model(SCHEMA, model_config("none"), restored=True)
  with pytest.raises(UserError, match=r"^model\.embedding\.init_from needs pre-trained item vectors"):
    build_model(SCHEMA, model_config("none"))
  with pytest.raises(UserError, match=r"^model\.extractor 'sim_cluster' needs pre-trained item clusters"):
    build_model(SCHEMA, model_config("sim_cluster"), pretrained=vectors_of(), catalogues=catalogues())


def test_vectors_that_are_narrower_than_a_table_are_told():
  tree = {"embedding": {"init_from": "pretrained", "dim": 8, "dims": {"source_item": 9}}, "pretraining": {"dim": 8}}
  told = r"^x: embedding\.init_from: .*pretraining\.dim 8 wide, fewer than the 9 columns of the table of source_item$"
  with pytest.raises(UserError, match=told):
    config.validated(Model, tree, "x")
  assert Model(embedding=Embedding(dim=9), pretraining={"dim": 8}).embedding.init_from == "none"
  with pytest.raises(UserError, match=r"are 7 wide, fewer than the 8 columns of the table of target_item\. Run"):
    model_of(vectors_of(7), model_config())
