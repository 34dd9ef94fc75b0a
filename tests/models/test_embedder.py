"""How tables begin; frozen item vectors and clusters in the embedding of requests."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.config import Embedding
from lcn_tf.data import records
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models.build import build_model
from lcn_tf.models.embedder import RequestEmbedding
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS
from lcn_tf.training.optimizers import make_optimizer
from tests.support.experiments import small_experiment
from tests.support.record_sets import random_request, small_schema

SCHEMA = small_schema()
WIDTH = 5


def pretrained(seed=0):
  rng = np.random.default_rng(seed)
  vectors, clusters = {}, {}
  for d in DOMAINS:
    items = SCHEMA.domain(d).items
    known = np.arange(items) % 4 > 1  # neither padding nor the unknown item, and others besides
    vectors[d] = (rng.normal(size=(items, WIDTH)) * known[:, np.newaxis]).astype(np.float32)
    clusters[d] = rng.integers(1, 9, (items, 2)) * known[:, np.newaxis]
  return Pretrained(vectors, clusters, {}, SCHEMA.fingerprint())


def batch_of(domain="target", seed=0):
  rng = np.random.default_rng(seed)
  requests = [random_request(SCHEMA, rng, user=i + 1, domain=domain) for i in range(5)]
  return records.parse(tf.constant([records.encode(request, SCHEMA) for request in requests]), SCHEMA)


def embedder_of(histories=DOMAINS, deduplicate=True, made=None):
  layer = RequestEmbedding(SCHEMA, Embedding(dim=4, cross_dim=2), histories, 4, deduplicate, made)
  for d in DOMAINS:
    rng = np.random.default_rng(1)
    table = rng.integers(1, 12, layer.catalogues[d].shape) if d in layer.catalogues else None
    if table is not None:
      table[0] = 0
      layer.set_catalogue(d, table)
  return layer


def model_of(made, extractor="sim_soft"):
  experiment = small_experiment(extractor, learning_rate=0.5)
  config = experiment.model.model_copy(update={"options": {"top_k": 4}})
  model = build_model(SCHEMA, config, pretrained=made)
  model.compile(optimizer=make_optimizer(model, experiment.train))
  return model


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("init", ["scaled_uniform", "glorot"])
def test_tables_begin_uniform_in_the_range_of_their_initialisation(init, width):
  tf.keras.utils.set_random_seed(0)
  rows = EmbeddingTables({"item": 3002}, {"item": 1}, {"item": width}, init).tables["item"].numpy()
  limit = {"scaled_uniform": 1 / np.sqrt(width), "glorot": np.sqrt(6 / (3002 + width))}[init]
  np.testing.assert_array_equal(rows[:2], 0)
  assert 0.999 * limit < np.abs(rows).max() <= limit * (1 + 1e-6)
  # of a uniform draw: mean 0, variance limit^2 / 3
  np.testing.assert_allclose(rows[2:].mean(), 0, atol=0.02 * limit)
  np.testing.assert_allclose(rows[2:].std(), limit / np.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("init", [None, "scaled_uniform"])
def test_tables_of_a_model_begin_as_glorot_says_unless_told(init):
  tf.keras.utils.set_random_seed(0)
  config = Embedding(dim=4, cross_dim=2, **({"init": init} if init else {}))
  tables = RequestEmbedding(SCHEMA, config, DOMAINS, 4).tables.tables
  widths = {name: table.shape[1] for name, table in tables.items()}
  assert set(widths.values()) == {2, 4}
  assert widths["dwell"] == 2
  for name, table in tables.items():
    size, width = table.shape
    limit = 1 / np.sqrt(width) if init else np.sqrt(6 / (size + width))
    assert 0.75 * limit < np.abs(table.numpy()).max() <= limit * (1 + 1e-6), name


@pytest.mark.parametrize("deduplicate", [True, False])
def test_every_item_has_the_vector_and_clusters_of_its_row(deduplicate):
  made = pretrained()
  embedder = embedder_of(deduplicate=deduplicate, made=made)
  batches = [(d, batch_of(d, seed)) for seed, d in enumerate(DOMAINS)]
  for (domain, batch), embedded in zip(batches, embedder(batches), strict=True):
    read = [(domain, embedded.candidates)] + [(d, embedded.histories[d]) for d in DOMAINS]
    for d, part in read:
      items = part.items.numpy()
      np.testing.assert_array_equal(part.vectors, made.vectors[d][items])
      np.testing.assert_array_equal(part.fields[..., -2:], made.clusters[d][items])
      np.testing.assert_array_equal(part.fields[..., :-2], embedder.catalogues[d].numpy()[items])
      assert (items == 0).any()
      assert np.abs(part.vectors.numpy()).max() > 0
      assert part.vectors.shape[-1] == WIDTH
    np.testing.assert_array_equal(embedded.candidates.items, batch["candidate_items"])


def _mean_of_real(table, lists):
  """`[..., width]` of ids `[..., values]`."""
  means = [table[ids[ids > 0]].sum(axis=0) / max((ids > 0).sum(), 1) for ids in lists.reshape(-1, lists.shape[-1])]
  return np.reshape(means, (*lists.shape[:-1], table.shape[-1]))


@pytest.mark.parametrize("padding", [0.0, 7.0])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_of_a_list_of_values_the_real_ones_are_averaged(deduplicate, padding):
  embedder = RequestEmbedding(SCHEMA, Embedding(dim=4, cross_dim=2), ("target",), 0, deduplicate)
  random = np.random.default_rng(2)
  for table in embedder.tables.tables.values():
    rows = random.normal(size=table.shape)
    rows[0] = padding
    table.assign(rows)
  genres = np.array([[3, 0, 0], [3, 5, 0], [0, 0, 0], [2, 7, 9]])
  hobbies = np.array([[4, 0], [4, 6], [0, 0], [0, 5], [3, 3]])
  catalogue = np.ones(embedder.catalogues["target"].shape, int)
  catalogue[:, 2:] = genres[np.arange(len(catalogue)) % 4]
  embedder.set_catalogue("target", catalogue)
  batch = batch_of()
  batch["user_fields"] = tf.concat([batch["user_fields"][:, :1], tf.constant(hobbies, tf.int32)], axis=1)
  (embedded,) = embedder([("target", batch)])
  tables = {name: table.numpy() for name, table in embedder.tables.tables.items()}
  for part in (embedded.candidates, embedded.histories["target"]):
    lists = genres[part.items.numpy() % 4]
    assert len(np.unique(lists.reshape(-1, 3), axis=0)) == 4
    np.testing.assert_allclose(part.embedding[..., 8:], _mean_of_real(tables["genre"], lists), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(embedded.profile[:, 4:], _mean_of_real(tables["hobbies"], hobbies), rtol=1e-5, atol=1e-6)


def test_padding_has_zero_vectors_and_cluster_zero():
  (embedded,) = embedder_of(made=pretrained())([("target", batch_of())])
  for part in (embedded.candidates, *embedded.histories.values()):
    padding = part.items.numpy() == 0
    assert padding.any()
    np.testing.assert_array_equal(part.vectors.numpy()[padding], 0)
    np.testing.assert_array_equal(part.fields.numpy()[padding][:, -2:], 0)


def test_a_model_of_one_history_reads_the_tables_of_one_domain():
  embedder = embedder_of(("target",), made=pretrained())
  assert set(embedder.vectors) == set(embedder.clusters) == {"target"}
  (embedded,) = embedder([("target", batch_of())])
  assert embedded.histories["target"].vectors.shape[-1] == WIDTH


def test_without_item_vectors_there_are_none_of_width_zero_and_no_columns():
  (embedded,) = embedder_of()([("target", batch_of())])
  assert embedded.candidates.vectors.shape == (5, 4, 0)
  for d in DOMAINS:
    part = embedded.histories[d]
    assert part.vectors.shape[-1] == 0
    assert part.fields.shape[-1] == sum(feature.max_values for feature in SCHEMA.catalogue_features(d))


def frozen_of(model):
  """What the model reads of the item vectors: (kind, domain) -> variable."""
  kinds = {"vectors": model.embedder.vectors, "clusters": model.embedder.clusters}
  return {(kind, d): variable for kind, tables in kinds.items() for d, variable in tables.items()}


READ = [("sim_soft", "vectors"), ("sim_cluster", "clusters"), ("sim_cluster_plus", "clusters")]


@pytest.mark.parametrize(("extractor", "kind"), READ)
def test_training_leaves_what_is_read_as_it_is_and_holds_nothing_else(extractor, kind):
  made = pretrained()
  model = model_of(made, extractor)
  assert set(frozen_of(model)) == {(kind, d) for d in DOMAINS}
  frozen = {id(v) for v in frozen_of(model).values()}
  assert not frozen & {id(v) for v in model.trainable_variables}
  before = [table.numpy() for table in model.table_variables()]
  model.train_step({"target": batch_of()})
  assert max(np.abs(a - b.numpy()).max() for a, b in zip(before, model.table_variables(), strict=True)) > 0.1
  for (kind, d), variable in frozen_of(model).items():
    np.testing.assert_array_equal(variable, getattr(made, kind)[d])


@pytest.mark.parametrize(("extractor", "kind"), READ)
def test_a_checkpoint_holds_what_is_read(extractor, kind, tmp_path):
  made, other = pretrained(), pretrained(seed=1)
  path = tf.train.Checkpoint(model=model_of(made, extractor)).write(str(tmp_path / "checkpoint"))
  restored = model_of(other, extractor)
  tf.train.Checkpoint(model=restored).read(path).expect_partial().assert_existing_objects_matched()
  for (kind, d), variable in frozen_of(restored).items():
    np.testing.assert_array_equal(variable, getattr(made, kind)[d])


@pytest.mark.parametrize("deduplicate", [True, False])
def test_the_key_of_an_item_is_the_sum_of_its_fields_keys(deduplicate):
  embedder = RequestEmbedding(SCHEMA, Embedding(dim=4, cross_dim=2), DOMAINS, 4, deduplicate, key_dim=3)
  rng = np.random.default_rng(3)
  for d in DOMAINS:
    table = rng.integers(1, 12, embedder.catalogues[d].shape) * (np.arange(SCHEMA.domain(d).items) > 0)[:, np.newaxis]
    table[::5, -1] = 0  # a list that is not full
    embedder.set_catalogue(d, table)
  tables = {name: table.numpy() for name, table in embedder.tables.tables.items()}
  keyed = {feature.vocabulary for d in DOMAINS for feature in SCHEMA.catalogue_features(d)}
  assert {name for name in tables if name.endswith("/key")} == {f"{name}/key" for name in keyed}
  for (domain, _), embedded in zip(batches := [(d, batch_of(d, 1)) for d in DOMAINS], embedder(batches), strict=True):
    for d, part in [(domain, embedded.candidates)] + [(d, embedded.histories[d]) for d in DOMAINS]:
      expected, column = 0.0, 0
      for feature in SCHEMA.catalogue_features(d):
        ids = embedder.catalogues[d].numpy()[part.items.numpy(), column : column + feature.max_values]
        expected = expected + _mean_of_real(tables[f"{feature.vocabulary}/key"], ids)
        column += feature.max_values
      assert part.keys.shape[-1] == 3
      np.testing.assert_allclose(part.keys, expected, rtol=1e-5, atol=1e-6)


def test_without_a_wish_for_keys_there_are_none():
  embedder = embedder_of()
  assert not any("key" in name for name in embedder.tables.tables)
  (embedded,) = embedder([("target", batch_of())])
  assert embedded.candidates.keys.shape[-1] == embedded.histories["source"].keys.shape[-1] == 0
