"""Standardised values and weighted lists in the model: against their twin, trained, exported and served."""

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf import config
from lcn_tf.config import Embedding
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import request_spec
from lcn_tf.models.embedder import RequestEmbedding
from lcn_tf.schema import DOMAINS, Feature, Schema
from lcn_tf.serving.encoder import Behaviour, RankRequest, RequestEncoder
from lcn_tf.serving.export import save
from tests.data import logs
from tests.data.value_logs import AGES, LIKE_WEIGHTS, LIKES, SCHEMA, build, log_of
from tests.reference.fields import embed_fields
from tests.support.layers import ops_without_gpu_kernel
from tests.support.trained import batch_of, learned, model_of


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  return build(tmp_path_factory.mktemp("values"))


def embedder_of(records, deduplicate=True, max_length=0):
  """An embedder whose weights are all random, the rows of padding, too."""
  made = RequestEmbedding(
    records.record_schema, Embedding(dim=4, cross_dim=3), DOMAINS, 5, deduplicate, max_length=max_length, key_dim=2
  )
  rng = np.random.default_rng(3)
  for d in DOMAINS:
    made.set_catalogue(d, records.catalogue(d))
    made.set_item_values(d, records.item_values(d))
  for variable in (*made.tables.tables.values(), *made.slopes.values()):
    variable.assign(rng.normal(size=variable.shape))
  return made


@pytest.mark.parametrize("max_length", [0, 3])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_every_field_is_embedded_as_its_twin(records, deduplicate, max_length):
  schema, embedder = records.record_schema, embedder_of(records, deduplicate, max_length)
  tables = {name: table.numpy() for name, table in embedder.tables.tables.items()}
  slopes = {name: slope.numpy() for name, slope in embedder.slopes.items()}
  assert sorted(slopes) == ["age", "price", "size", "size/key"]
  batches = [(d, batch_of(records, domain=d)) for d in DOMAINS]
  for (domain, batch), embedded in zip(batches, embedder(batches), strict=True):
    batch = {name: tensor.numpy() for name, tensor in batch.items()}
    for b in range(len(batch["user"])):
      expected = embed_fields(schema.user_fields, batch["user_fields"][b], batch["user_values"][b], tables, slopes)
      np.testing.assert_allclose(embedded.profile[b], np.concatenate(expected), rtol=1e-4, atol=1e-5)
      for n in range(schema.candidates):
        own = batch["candidate_context"][b, n], batch["candidate_values"][b, n]
        (expected,) = embed_fields(schema.context_fields, *own, tables, slopes)
        np.testing.assert_allclose(embedded.context[b, n], expected, rtol=1e-4, atol=1e-5)
    side = embedded.histories["target"].side
    fields = schema.target.cross_fields
    width = side.shape[1]
    assert bool(max_length and deduplicate) == (width < batch["target_cross"].shape[1])
    for b, position in np.argwhere(batch["target_items"][:, :width]).tolist():
      own = batch["target_cross"][b, position], batch["target_values"][b, position]
      np.testing.assert_allclose(side[b, position], embed_fields(fields, *own, tables, slopes)[0], rtol=1e-4, atol=1e-5)
    _check_items(records, embedder, {domain: [embedded.candidates]}, tables, slopes)
    _check_items(records, embedder, {d: [embedded.histories[d]] for d in DOMAINS}, tables, slopes)


def _check_items(records, embedder, parts, tables, slopes):
  """Representation and key of every item in tensors of the domains."""
  for d, some in parts.items():
    catalogue, values = records.catalogue(d), records.item_values(d)
    kernel, fields = embedder.projections[d].kernel.numpy(), records.record_schema.catalogue_features(d)
    rows = [embed_fields(fields, *own, tables, slopes) for own in zip(catalogue, values, strict=True)]
    keys = [embed_fields(fields, *own, tables, slopes, "/key") for own in zip(catalogue, values, strict=True)]
    represented = np.array([np.concatenate(row) @ kernel for row in rows])
    for part in some:
      items = part.items.numpy()
      assert len(np.unique(items)) > 5
      np.testing.assert_allclose(part.embedding, represented[items], rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(part.keys, np.array([sum(key) for key in keys])[items], rtol=1e-4, atol=1e-5)


def test_a_schema_without_float_values_makes_no_variable_and_no_tensor():
  schema = Schema(
    context_fields=[Feature(name="price", kind="numeric")], user_fields=[Feature(name="tags", max_values=2)]
  )
  sized = schema.model_copy(
    update={
      "vocabularies": {name: one.model_copy(update={"size": 5}) for name, one in schema.vocabularies.items()},
      "target": schema.target.model_copy(update={"items": 5}),
      "source": schema.source.model_copy(update={"items": 5}),
    }
  )
  embedder = RequestEmbedding(sized, Embedding(dim=4), DOMAINS)
  assert not any("slope" in v.name or "item_values" in v.name for v in embedder.variables)
  assert all(spec.dtype.is_integer for spec in request_spec(sized).values())


def test_a_copy_of_the_catalogues_takes_the_values_of_the_items_along(records):
  made, other = embedder_of(records), RequestEmbedding(records.record_schema, Embedding(dim=4), DOMAINS, 5)
  other.copy_catalogues(made)
  assert np.any(records.item_values("target"))
  np.testing.assert_array_equal(other.item_values["target"], records.item_values("target"))


def experiment_of(schema, **model):
  model = {
    "extractor": "average_pooling",
    "embedding": {"dim": 4, "cross_dim": 3, "recency_buckets": 0},
    "item_dim": 5,
    "mlp": {"units": [8]},
  } | model
  train = {"global_batch_size": schema["candidates"], "learning_rate": 0.03}
  return config.from_tree({"name": "values", "schema": schema, "model": model, "train": train}, "test")


def test_slopes_begin_as_zeros_and_the_dense_optimizer_trains_them(records):
  model = model_of(records, experiment_of(SCHEMA))
  slopes = list(model.embedder.slopes.values())
  assert len(slopes) == 3
  assert not any(np.any(slope) for slope in slopes)
  assert {slope.ref() for slope in slopes} <= {v.ref() for v in model.dense_variables()}
  model.train_step({"target": batch_of(records)})
  assert all(np.abs(slope).min() > 0 for slope in slopes)
  np.testing.assert_array_equal(model.embedder.item_values["target"], records.item_values("target"))


def planted(standardise, folder):
  """AUC on test clicks, whose log-odds rise with the logarithm of the price, of a model with two buckets of prices."""
  rng = np.random.default_rng(0)
  log = logs.random_log(rng, 2000, users=60, span=900).with_columns(price=np.exp(rng.normal(size=2000)))
  odds = 1 / (1 + np.exp(-2 * np.log(log["price"].to_numpy())))
  log = log.with_columns(label=pl.Series((rng.random(2000) < odds).astype(float)))
  options = {"standardise": True, "log1p": True} if standardise else {}
  schema = {"context_fields": [{"name": "price", "kind": "numeric", "buckets": 2} | options], "candidates": 8}
  made = build(folder, log, schema=schema, users=None, name=f"records_{standardise}")
  model = model_of(made, experiment_of(schema, extractor="none", histories=["target"]))
  return learned(model, made, 40)


@pytest.mark.job
def test_a_planted_linear_effect_is_found_better_with_the_standardised_value(tmp_path):
  found = {standardise: planted(standardise, tmp_path) for standardise in (True, False)}
  assert found[True] > found[False] + 0.05
  assert found[True] > 0.8


@pytest.fixture(scope="module")
def served(records, tmp_path_factory):
  """A model with random slopes, and its export."""
  experiment = experiment_of(SCHEMA)
  model = model_of(records, experiment)
  rng = np.random.default_rng(4)
  for slope in model.embedder.slopes.values():
    slope.assign(rng.normal(size=slope.shape))
  folder = save(model, experiment, records, tmp_path_factory.mktemp("served"))
  return model, folder, tf.saved_model.load(str(folder))


@pytest.mark.job
def test_a_request_by_raw_values_is_scored_as_its_record(records, served):
  model, folder, loaded = served
  encoder, log = RequestEncoder(RecordSet.open(folder / "assets.extra")), log_of()
  users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  ids = dict(id_mapping_of(records).items["target"].select("row", "item_id").iter_rows())
  test = logs.requests(records, "test")
  expected = tf.sigmoid(model(batch_of(records, "test"))).numpy()
  rank = loaded.signatures["rank"]
  scores = set()
  for b, record in enumerate(test):
    user = users[record.user]
    mine = log.filter((pl.col("user_id") == user) & (pl.col("label") == 1)).sort("timestamp", maintain_order=True)
    histories = {
      d: [
        Behaviour(row["item_id"], row["timestamp"], {name: row[name]})
        for row in mine.filter(pl.col("domain") == d).iter_rows(named=True)
      ]
      for d, name in (("target", "price"), ("source", "dwell"))
    }
    profile = {"likes": LIKES[user], "like_weights": LIKE_WEIGHTS[user], "age": AGES[user]}
    for n, (item, time) in enumerate(zip(record.items.tolist(), record.times.tolist(), strict=True)):
      shown = log.filter(
        (pl.col("user_id") == user)
        & (pl.col("item_id") == ids[item])
        & (pl.col("timestamp") == time)
        & (pl.col("domain") == "target")
      )
      if len(shown) > 1:
        continue  # which of their prices is meant cannot be told
      request = RankRequest(time, [ids[item]], profile, {"price": shown["price"][0]}, **histories)
      tensors = {name: tf.constant(value) for name, value in encoder.encode([request]).items()}
      score = float(rank(**tensors)["probability"][0, 0])
      assert score == pytest.approx(expected[b, n], rel=1e-4)
      scores.add(round(score, 5))
  assert len(scores) > 10


def request_of(records):
  """The tensors of a request of two candidates with histories."""
  known = id_mapping_of(records).items["target"]["item_id"].to_list()[:2]
  past = [Behaviour(known[0], 50, {"price": 2.0}), Behaviour(known[1], 51)]
  return RequestEncoder(records).encode(
    [RankRequest(60, known, {"likes": ["a"], "like_weights": [1]}, {"price": 1}, past)]
  )


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("user_values", -0.5, "user_values: expected values of likes, age, weights of at least 0"),
    ("user_values", np.nan, "user_values: expected finite values of likes, age"),
    ("candidate_values", np.inf, "candidate_values: expected finite values of price"),
    ("target_values", -np.inf, "target_values: expected finite values of price"),
  ],
)
def test_a_request_with_a_value_that_is_none_is_refused(records, served, name, value, message):
  tensors = request_of(records)
  tensors[name].flat[0] = value
  with pytest.raises(tf.errors.InvalidArgumentError, match=message):
    served[2].signatures["rank"](**{key: tf.constant(one) for key, one in tensors.items()})


@pytest.mark.parametrize(("name", "what"), [("candidate_values", "candidates"), ("target_values", "behaviours")])
def test_values_of_another_number_of_candidates_or_behaviours_are_refused(records, served, name, what):
  tensors = request_of(records)
  tensors[name] = tensors[name][:, :1]
  with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name}: expected as many {what}"):
    served[2].signatures["rank"](**{key: tf.constant(one) for key, one in tensors.items()})


def test_weights_of_a_request_need_not_add_up_to_1_and_those_of_padding_do_not_count(records, served):
  tensors, rank = request_of(records), served[2].signatures["rank"]
  before = rank(**{key: tf.constant(one) for key, one in tensors.items()})["probability"].numpy()
  assert tensors["user_fields"][0, :3].tolist()[1:] == [0, 0]
  tensors["user_values"][:, :3] = [7, 0, 5]
  after = rank(**{key: tf.constant(one) for key, one in tensors.items()})["probability"].numpy()
  np.testing.assert_allclose(after, before, rtol=1e-6)


def test_histories_of_width_0_have_values_of_width_0(records, served):
  request = RankRequest(60, id_mapping_of(records).items["target"]["item_id"].to_list()[:2], {}, {"price": 1})
  tensors = RequestEncoder(records).encode([request])
  assert tensors["target_values"].shape == (1, 0, 1)
  found = served[2].signatures["rank"](**{key: tf.constant(one) for key, one in tensors.items()})["probability"]
  assert np.isfinite(found).all()


def test_every_op_of_the_serving_signature_has_a_gpu_kernel(served):
  assert ops_without_gpu_kernel(served[2].signatures["rank"]) == set()
