"""The user's side of a request is embedded once: candidates are then ranked as by the whole request."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf import config
from lcn_tf.data.request_spec import served_spec
from lcn_tf.errors import UserError
from lcn_tf.models.build import build_model
from lcn_tf.serving.encoded import encode_user, encoded_functions, rank_encoded
from lcn_tf.serving.signatures import rank_function
from tests.data import vector_logs
from tests.models.test_embedder import pretrained
from tests.support import trained
from tests.support.batches import SCHEMA, batch_of, catalogue
from tests.support.experiments import small_experiment
from tests.support.layers import ops_without_gpu_kernel
from tests.support.networks import network_model
from tests.support.twins import twin_of

PARTS = {"items", "times", "length", "fields", "embedding", "side"}


def small_model(extractor, histories=("target", "source"), **model):
  experiment = small_experiment(extractor)
  changed = experiment.model.model_copy(update={"histories": histories, **model})
  vectors = pretrained() if extractor.startswith("sim") else None
  model = build_model(SCHEMA, changed, catalogues=catalogue(), pretrained=vectors)
  for ages in model.age_variables():  # zeros would hide wrong times
    ages.assign(np.random.default_rng(0).normal(size=ages.shape))
  return model


MODELS = {
  "short": lambda: small_model("lap", max_length=13, short_term=3),
  "one history": lambda: small_model("average_pooling", ("target",)),
  "keys": lambda: small_model("dare"),
  "vectors": lambda: small_model("sim_soft"),
  "minet": lambda: network_model("minet"),
  "pi_net": lambda: network_model("pi_net"),
}


def sides(batch, schema, histories=("target", "source")):
  """The tensors of a request: the user's, and the candidates' that `rank_encoded` takes."""
  request = {name: batch[name] for name in served_spec(schema)}
  later = {name for name in request if name.startswith("candidate_") or name.endswith("_first_visible")}
  read = {name for name in later if name.startswith(("candidate_", *histories))}
  return {name: request[name] for name in request.keys() - later}, {name: request[name] for name in read}


@pytest.mark.job
@pytest.mark.parametrize("name", MODELS)
def test_embedded_users_are_ranked_as_their_requests_are(name):
  model, batch = MODELS[name](), batch_of()
  histories = tuple(model.embedder.histories)
  user, candidates = sides(batch, SCHEMA, histories)
  kept = encode_user(model, SCHEMA, user)
  more = {"keys": {"keys"}, "vectors": {"vectors"}}.get(name, set())
  assert set(kept) == {"user_profile"} | {f"{d}_{part}" for d in histories for part in PARTS | more}
  expected = tf.sigmoid(model(batch)).numpy()
  assert np.ptp(expected) > 1e-4
  # all at once, a block of several users, and blocks of some candidates of one
  for at_once in (0, 2 * expected.shape[1], 2):
    found = rank_encoded(model, SCHEMA, kept | candidates, at_once)["probability"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
  # other candidates of the same users
  items = batch["candidate_items"]
  other = batch | {"candidate_items": tf.where(items > 0, 1 + items * 7 % 29, 0)}
  found = rank_encoded(model, SCHEMA, kept | sides(other, SCHEMA, histories)[1], 0)["probability"]
  np.testing.assert_allclose(found, tf.sigmoid(model(other)), rtol=0, atol=1e-6)


def test_values_and_vectors_of_users_are_embedded(tmp_path):
  record_set = vector_logs.build(tmp_path)
  schema, batch = record_set.record_schema, trained.batch_of(record_set)
  tree = {"extractor": "average_pooling", "embedding": {"dim": 4, "cross_dim": 3, "recency_buckets": 0}, "item_dim": 5}
  tree = {"name": "vectors", "schema": vector_logs.SCHEMA, "model": tree | {"mlp": {"units": [8]}}}
  train = {"train": {"global_batch_size": schema.candidates}}
  model = trained.model_of(record_set, config.from_tree(tree | train, "test"))
  user, candidates = sides(batch, schema)
  assert "user_values" in user
  expected = tf.sigmoid(model(batch)).numpy()
  kept = encode_user(model, schema, user)
  np.testing.assert_allclose(
    rank_encoded(model, schema, kept | candidates, 0)["probability"], expected, rtol=0, atol=1e-6
  )
  nobody = encode_user(model, schema, user | {"user_values": tf.zeros_like(user["user_values"])})
  assert np.abs(rank_encoded(model, schema, nobody | candidates, 0)["probability"] - expected).max() > 1e-4


@pytest.fixture(scope="module")
def functions():
  model = small_model("lap")
  return encoded_functions(model, SCHEMA, 512) | {"rank": rank_function(model, SCHEMA)}


def asked(function, tensors):
  specs = function.structured_input_signature[1]
  assert set(specs) == set(tensors)
  return function(**{name: tf.cast(tensors[name], spec.dtype) for name, spec in specs.items()})


@pytest.mark.job
def test_the_signatures_answer_as_rank_and_histories_of_width_0_are_empty(functions):
  encode, ranked, rank = (functions[name] for name in ("encode_user", "rank_encoded", "rank"))
  batch = batch_of()
  narrow = dict(batch)
  for d in ("target", "source"):
    narrow |= {f"{d}_{part}": batch[f"{d}_{part}"][:, :0] for part in ("items", "times", "cross")}
    narrow[f"{d}_length"] = tf.zeros_like(batch[f"{d}_length"])
  for one in (batch, narrow):
    user, candidates = sides(one, SCHEMA)
    kept = asked(encode, user)
    found = asked(ranked, kept | candidates)["probability"]
    expected = asked(rank, {name: one[name] for name in served_spec(SCHEMA)})["probability"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
  assert ops_without_gpu_kernel(ranked) == set()
  assert ops_without_gpu_kernel(encode) == set()


def test_what_does_not_fit_is_refused_by_name(functions):
  encode, ranked = functions["encode_user"], functions["rank_encoded"]
  user, candidates = sides(batch_of(), SCHEMA)
  kept = dict(asked(encode, user))

  whole = {encode: user, ranked: kept | candidates}
  for function, name, change, message in (
    (encode, "source_items", lambda items: items[1:], "expected as many requests as target_length"),
    (encode, "source_items", lambda items: items + 1000, "expected rows of the source catalogue"),
    (encode, "source_length", lambda length: length + 99, "expected at least 0 and at most the width"),
    (ranked, "source_side", lambda side: side[:, 1:], "expected as many behaviours as source_items"),
    (ranked, "user_profile", lambda profile: profile[1:], "expected as many requests as candidate_items"),
    (ranked, "target_embedding", lambda embedding: embedding / 0.0, "expected finite numbers"),
    (ranked, "candidate_items", lambda items: items + 99, "expected rows of the target catalogue"),
    (ranked, "source_length", lambda length: length + 99, "expected at least 0 and at most the width"),
  ):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name}: {message}"):
      asked(function, whole[function] | {name: change(whole[function][name])})
  early = whole[ranked] | {"candidate_times": tf.zeros_like(candidates["candidate_times"])}
  with pytest.raises(tf.errors.InvalidArgumentError, match="first_visible: expected to begin with one of"):
    asked(ranked, early)
  parts = [name for name, tensor in kept.items() if name.startswith("target_") and tensor.shape.rank > 1]
  with pytest.raises(tf.errors.InvalidArgumentError, match="target_items: expected at least one column"):
    asked(ranked, whole[ranked] | {name: kept[name][:, :0] for name in parts})


def test_a_search_unit_with_weights_of_its_own_has_no_embedded_user():
  with pytest.raises(UserError, match=r"encoded_user: this model has no embedded user.*model\.auxiliary_seed"):
    encoded_functions(twin_of(auxiliary_seed=5), SCHEMA, 0)
