"""Vectors of users in the model: against their twin, trained, found, exported and served."""

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf import config
from lcn_tf.config import Embedding
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import example_batch
from lcn_tf.models.embedder import RequestEmbedding
from lcn_tf.schema import DOMAINS, value_columns
from lcn_tf.serving.encoder import RankRequest, RequestEncoder
from lcn_tf.serving.export import save
from tests.data import logs
from tests.data.vector_logs import SCHEMA, TASTES, build
from tests.reference.fields import embed_fields, project_vectors
from tests.support.layers import ops_without_gpu_kernel
from tests.support.trained import batch_of, learned, model_of


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  return build(tmp_path_factory.mktemp("vectors"))


def experiment_of(schema, **model):
  model = {
    "extractor": "average_pooling",
    "embedding": {"dim": 4, "cross_dim": 3, "dims": {"taste": 5}, "recency_buckets": 0},
    "item_dim": 5,
    "mlp": {"units": [8]},
  } | model
  train = {"global_batch_size": schema["candidates"], "learning_rate": 0.03}
  return config.from_tree({"name": "vectors", "schema": schema, "model": model, "train": train}, "test")


@pytest.mark.parametrize("deduplicate", [True, False])
def test_a_profile_is_its_fields_and_the_projections_of_its_vectors(records, deduplicate):
  schema = records.record_schema
  embedder = RequestEmbedding(schema, Embedding(dim=4, cross_dim=3, dims={"taste": 5}), DOMAINS, 5, deduplicate)
  embedder([("target", batch_of(records))])
  rng = np.random.default_rng(3)
  projections = {name: layer.kernel for name, layer in embedder.user_projections.items()}
  for variable in (*embedder.tables.tables.values(), *embedder.slopes.values(), *projections.values()):
    variable.assign(rng.normal(size=variable.shape))
  batches = [(d, batch_of(records, domain=d)) for d in DOMAINS]
  own = value_columns(schema.user_fields)
  for (_, batch), embedded in zip(batches, embedder(batches), strict=True):
    values = batch["user_values"].numpy()
    assert not values[:, own:].any(axis=1).all()
    assert embedded.profile.shape[-1] == 4 + 4 + 5 + 4
    for b, indices in enumerate(batch["user_fields"].numpy()):
      expected = embed_fields(schema.user_fields, indices, values[b, :own], embedder.tables.tables, embedder.slopes)
      expected += project_vectors(schema.user_vectors, values[b, own:], projections)
      np.testing.assert_allclose(embedded.profile[b], np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_under_mixed_precision_a_profile_has_the_type_of_the_others(records):
  tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  embedder = RequestEmbedding(records.record_schema, Embedding(dim=4), DOMAINS, 5)
  (embedded,) = embedder([("target", batch_of(records))])
  assert embedded.profile.dtype == embedded.candidates.embedding.dtype == tf.bfloat16
  assert all(layer.kernel.dtype == tf.float32 for layer in embedder.user_projections.values())


def test_a_schema_without_vectors_makes_no_projection(records):
  schema = records.record_schema.model_copy(update={"user_vectors": ()})
  embedder = RequestEmbedding(schema, Embedding(dim=4), DOMAINS, 5)
  embedder([("target", example_batch(schema))])
  assert not any("user_vector" in v.name for v in embedder.variables)


def test_the_dense_optimizer_trains_the_projections(records):
  model = model_of(records, experiment_of(SCHEMA))
  kernels = [layer.kernel for layer in model.embedder.user_projections.values()]
  assert {kernel.name.split("/")[-3:-1][1] for kernel in kernels} == {"taste", "mood"}
  assert {kernel.ref() for kernel in kernels} <= {v.ref() for v in model.dense_variables()}
  before = [kernel.numpy() for kernel in kernels]
  model.train_step({"target": batch_of(records)})
  for kernel, old in zip(kernels, before, strict=True):
    assert (kernel.numpy() != old).any(axis=1).all()


def planted(vectors, folder):
  """AUC on test clicks of a model that has the vectors of the users, or not.

  The log-odds of a click are the inner product of the user's vector and one that the item's category has. A tenth of
  the users has no vector, and is indifferent.
  """
  rng = np.random.default_rng(0)
  log = logs.random_log(rng, 2400, users=120, span=900).with_columns(domain=pl.lit("target"))
  tastes, categories = rng.normal(size=(120, 3)), 3 * np.eye(3)
  tastes[::10] = 0
  odds = (tastes[log["user_id"].to_numpy()] * categories[log["item_id"].to_numpy() % 3]).sum(axis=1)
  log = log.with_columns(label=pl.Series((rng.random(2400) < 1 / (1 + np.exp(-odds))).astype(float)))
  own = [None if not taste.any() else taste.tolist() for taste in tastes]
  users = pl.DataFrame({"user_id": range(120), "taste": pl.Series(own, dtype=pl.List(pl.Float64))})
  schema = {"target": {"item_fields": ["category"]}, "candidates": 8}
  if vectors:
    schema |= {"user_vectors": [{"name": "taste", "width": 3}]}
  made = build(folder, log, logs.items(12), schema, users, name=f"records_{vectors}", records={"source_records": False})
  dims = {"dims": {"taste": 5}} if vectors else {}
  embedding = {"dim": 4, "cross_dim": 3, "recency_buckets": 0} | dims
  experiment = experiment_of(schema, extractor="none", histories=["target"], embedding=embedding, mlp={"units": [16]})
  tf.keras.utils.set_random_seed(0)
  model = model_of(made, experiment)
  return learned(model, made, 60)


@pytest.mark.job
def test_a_planted_taste_is_found(tmp_path):
  found = {vectors: planted(vectors, tmp_path) for vectors in (True, False)}
  assert found[True] > found[False] + 0.2
  assert found[True] > 0.8


@pytest.fixture(scope="module")
def served(records, tmp_path_factory):
  experiment = experiment_of(SCHEMA)
  model = model_of(records, experiment)
  folder = save(model, experiment, records, tmp_path_factory.mktemp("served"))
  return model, folder, tf.saved_model.load(str(folder))


def scored(served, *users):
  """Probabilities `[users]` of one candidate for users of a request; and the tensors."""
  encoder = RequestEncoder(RecordSet.open(served[1] / "assets.extra"))
  tensors = encoder.encode([RankRequest(60, [1], user, {"price": 1.0}) for user in users])
  rank = served[2].signatures["rank"]
  return rank(**{name: tf.constant(value) for name, value in tensors.items()})["probability"].numpy()[:, 0], tensors


@pytest.mark.job
def test_an_export_scores_a_vector_as_the_model_does(served):
  users = {}, {"taste": TASTES[0]}, {"taste": [0, 0, 0], "mood": None}, {"taste": TASTES[2], "mood": np.ones(2)}
  found, tensors = scored(served, *users)
  request = {name: tf.constant(value) for name, value in tensors.items()}
  np.testing.assert_allclose(found, tf.sigmoid(served[0](request)).numpy()[:, 0], rtol=1e-5)
  assert found[0] == found[2]  # zeros are no vector
  assert len(set(found.tolist())) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_request_with_a_number_that_is_none_is_refused(served, value):
  _, tensors = scored(served, {})
  tensors["user_values"][0, -1] = value
  with pytest.raises(tf.errors.InvalidArgumentError, match="user_values: expected finite values of likes, age, taste"):
    served[2].signatures["rank"](**{name: tf.constant(one) for name, one in tensors.items()})


def test_every_op_of_the_serving_signature_has_a_gpu_kernel(served):
  assert ops_without_gpu_kernel(served[2].signatures["rank"]) == set()
