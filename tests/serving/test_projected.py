"""Projections of items that come with a request, and those that are baked into an export."""

import json

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.config import from_tree
from lcn_tf.data import records
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.data.request_spec import served_spec
from lcn_tf.errors import UserError
from lcn_tf.models import projections
from lcn_tf.serving import trial
from lcn_tf.serving.projecting import by_export, project_items
from lcn_tf.serving.projection_store import ProjectionStore
from lcn_tf.serving.signatures import Signatures
from lcn_tf.training.export_run import export_run
from tests.reference.projections import of_items
from tests.support.batches import batch_of, model_of
from tests.support.layers import ops_without_gpu_kernel
from tests.support.record_sets import ITEMS, random_request, small_schema, tiny_schema, write_record_set
from tests.support.runs import write_run
from tests.support.twins import twin_experiment, twin_of

pytestmark = pytest.mark.job

SCHEMA = small_schema()


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  return write_record_set(tmp_path_factory.mktemp("records"), SCHEMA, records={"train": 4, "validation": 4})


@pytest.fixture(scope="module")
def live(record_set, tmp_path_factory):
  model = twin_of()
  return model, Signatures(
    model, SCHEMA, id_mapping_of(record_set), tmp_path_factory.mktemp("tables"), encoded_user=True
  )


def request_of(seed=0, count=6):
  batch = batch_of(count, seed)
  return {name: tf.cast(batch[name], spec.dtype) for name, spec in served_spec(SCHEMA).items()}


def ids_of(record_set, rows):
  """Ids of items that have these rows; that of row 1 is of no item."""
  items = {d: id_mapping_of(record_set).items[d] for d in rows}
  numbers = {d: dict(zip(items[d]["row"], items[d]["item_id"], strict=True)) for d in rows}
  return {d: tf.constant([numbers[d].get(row, "no such item") for row in rows[d]]) for d in rows}


def probability(signatures, name, request):
  return signatures.functions[name](**request)["probability"].numpy()


def brought(request, tables):
  """A request with the projections of a table `[items, H * E]` of each domain."""
  return request | {
    f"{d}_projections": tf.constant(table[request[f"{d}_items"].numpy()], tf.float32) for d, table in tables.items()
  }


def test_items_have_the_projections_of_the_formula(live, record_set):
  model, signatures = live
  rows = {"target": [7, 2, 29], "source": [1, 3, 39, 5, 3]}
  ids = ids_of(record_set, rows)
  function = signatures.functions["project_items"]
  found = function(**{f"{d}_ids": ids[d] for d in rows})
  for d in rows:
    assert found[d].dtype == tf.float32
    np.testing.assert_allclose(found[d], of_items(model, d)[rows[d]], rtol=1e-4, atol=1e-6)
  none = function(target_ids=ids["target"][:0], source_ids=ids["source"])
  assert none["target"].shape == (0, 6)
  np.testing.assert_array_equal(none["source"], found["source"])


@pytest.mark.parametrize("kind", ["live", "cached", "separate", "one history", "short"])
def test_a_request_with_fresh_projections_is_answered_as_one_without(kind, live):
  options = {"cached": {"options": {"projections": "cached"}}, "separate": {"auxiliary_seed": 5}}
  options |= {"one history": {"histories": ("target",)}, "short": {"max_length": 9}}
  model = live[0] if kind == "live" else twin_of(**options[kind])
  found = projections.searched(model)
  assert list(found) == (["target"] if kind == "one history" else ["target", "source"])
  batch, fresh = batch_of(), {}
  for d, extractor in found.items():
    table = projections.item_projections(model, d, tf.range(ITEMS[d]))
    np.testing.assert_allclose(table, of_items(projections.searching(model), d), rtol=1e-4, atol=1e-6)
    if extractor.cached is not None:
      extractor.cached.assign(table)
    fresh[f"{d}_projections"] = tf.gather(table, batch[f"{d}_items"])
  expected = tf.sigmoid(model(batch)).numpy()
  np.testing.assert_allclose(tf.sigmoid(model(batch | fresh)), expected, rtol=0, atol=1e-6)
  other = {name: tf.reverse(value, [2]) for name, value in fresh.items()}
  assert np.abs(tf.sigmoid(model(batch | other)) - expected).max() > 1e-4


def test_the_signature_answers_as_the_one_that_projects(live):
  signatures = live[1]
  specs = signatures.functions["rank_projected"].structured_input_signature[1]
  assert {name for name in specs if name.endswith("_projections")} == {f"{d}_projections" for d in ITEMS}
  request = request_of()
  expected = probability(signatures, "rank", request)
  fresh = request | signatures.projections(request)
  np.testing.assert_allclose(probability(signatures, "rank_projected", fresh), expected, rtol=0, atol=1e-6)


def test_a_request_with_old_projections_is_answered_as_by_a_table_of_them(live):
  model, signatures = live
  tables = {d: np.random.default_rng(3).normal(size=(ITEMS[d], 6)).astype(np.float32) for d in ITEMS}
  table = twin_of({"projections": "cached"})
  values = {variable.name: variable for variable in model.variables}
  for variable in table.variables:
    if variable.name in values:
      variable.assign(values[variable.name])
  for d, extractor in table.extractors.items():
    extractor.cached.assign(tables[d])
  request = request_of()
  found = probability(signatures, "rank_projected", brought(request, tables))
  np.testing.assert_allclose(found, tf.sigmoid(table(batch_of())), rtol=0, atol=1e-6)
  assert np.abs(found - probability(signatures, "rank", request)).max() > 1e-4


def test_histories_of_width_0_have_projections_of_width_0(live):
  signatures = live[1]
  request = request_of()
  for d in ITEMS:
    request |= {f"{d}_{part}": request[f"{d}_{part}"][:, :0] for part in ("items", "times", "cross")}
    request[f"{d}_length"] = tf.zeros_like(request[f"{d}_length"])
  found = probability(signatures, "rank_projected", request | signatures.projections(request))
  np.testing.assert_allclose(found, probability(signatures, "rank", request), rtol=0, atol=1e-6)


def test_projections_that_do_not_fit_are_refused_by_name(live):
  signatures = live[1]
  request = request_of()
  fresh = signatures.projections(request)
  narrow = fresh | {"source_projections": fresh["source_projections"][:, 1:]}
  with pytest.raises(tf.errors.InvalidArgumentError, match="source_projections: expected as many behaviours as source"):
    probability(signatures, "rank_projected", request | narrow)
  few = fresh | {"target_projections": fresh["target_projections"][1:]}
  with pytest.raises(tf.errors.InvalidArgumentError, match="target_projections: expected as many requests as cand"):
    probability(signatures, "rank_projected", request | few)
  for wrong in (np.nan, np.inf):
    broken = fresh["target_projections"].numpy()
    broken[1, 0, 2] = wrong
    with pytest.raises(tf.errors.InvalidArgumentError, match="target_projections: expected finite projections"):
      probability(signatures, "rank_projected", request | fresh | {"target_projections": tf.constant(broken)})


def test_every_op_of_the_signature_has_a_gpu_kernel(live):
  assert ops_without_gpu_kernel(live[1].functions["rank_projected"]) == set()


def test_other_models_have_no_projections():
  assert projections.searched(model_of("average_pooling")) == {}
  raw = twin_of({"key": "raw"})
  assert projections.searched(raw) == {}
  assert projections.source(raw) is None
  with pytest.raises(UserError, match=r"'twin' with key: split.*raw keys depend on cross fields"):
    projections.search_with(raw, "table")


def tiny_twin(**options):
  tree = twin_experiment(options).model_dump(mode="json", by_alias=True)
  return from_tree(tree | {"schema": tiny_schema(sized=False).model_dump(mode="json")}, "tiny twin")


@pytest.mark.config
def test_a_table_is_baked_into_an_export(tmp_path):
  record_set = write_record_set(tmp_path / "records", tiny_schema(), records={"train": 4})
  model = write_run(tmp_path / "run", tiny_twin(), record_set)
  version = export_run(tmp_path / "run", tmp_path / "served", projections="table")
  assert json.loads((version / "assets.extra/lcn_tf.json").read_text())["projections"] == "table"
  card = (version / "assets.extra/README.md").read_text()
  assert "| projections of items | a table of all items |" in card
  assert "| `source_projections` | float32 | [B, L, 6] |" in card
  assert "| `source_ids` | string | [K] |" in card
  loaded = tf.saved_model.load(str(version))
  (table,) = (weight.numpy() for weight in loaded.weights if weight.shape == (ITEMS["source"], 6))
  np.testing.assert_allclose(table, projections.item_projections(model, "source", tf.range(ITEMS["source"])), rtol=1e-4)
  assert np.abs(table).max(axis=1)[2:].min() > 1e-3
  requests = [random_request(tiny_schema(), np.random.default_rng(n), user=n + 1, candidates=4) for n in range(5)]
  batch = records.parse(tf.constant([records.encode(one, tiny_schema()) for one in requests]), tiny_schema())
  batch["source_items"] = tf.where(batch["source_items"] > 30, 1, batch["source_items"])  # unknown items
  names = loaded.signatures["rank"].structured_input_signature[1]
  found = loaded.signatures["rank"](**{name: batch[name] for name in names})["probability"]
  np.testing.assert_allclose(found, tf.sigmoid(model(batch)), rtol=0, atol=1e-5)
  assert np.ptp(found) > 1e-4
  project_items(version, tmp_path / "store")
  store = ProjectionStore.open(tmp_path / "store", model=tmp_path / "served", misses=by_export(loaded))
  kept = {}
  for d in ITEMS:
    rows, ids = batch[f"{d}_items"].numpy(), id_mapping_of(record_set).items[d]["item_id"]
    projected, hit = store.look_up(d, np.array([None, "no such item", *ids], object)[rows], real=rows > 0)
    np.testing.assert_array_equal(hit, rows > 1)
    kept[f"{d}_projections"] = tf.constant(projected)
  assert store.misses > 0
  request = {name: batch[name] for name in names} | kept
  np.testing.assert_allclose(loaded.signatures["rank_projected"](**request)["probability"], found, rtol=0, atol=1e-6)


def test_a_table_is_taken_out_of_a_model():
  model, batch = twin_of({"projections": "cached"}), batch_of()
  assert projections.source(model) == "table"
  stale = model(batch)
  projections.search_with(model, "live")
  assert projections.source(model) == "live"
  assert not [weight for weight in model.variables if weight.shape in ((ITEMS["source"], 6), (ITEMS["target"], 6))]
  np.testing.assert_allclose(model(batch), twin_of()(batch), rtol=1e-5, atol=1e-6)
  assert np.abs(model(batch) - stale).max() > 1e-4
  projections.search_with(model, "table")
  assert projections.source(model) == "table"
  np.testing.assert_array_equal(model(batch), stale)


def test_a_model_without_projections_is_not_exported_with_a_table(record_set, tmp_path):
  write_run(tmp_path / "run", twin_experiment({"key": "raw"}), record_set)
  with pytest.raises(UserError, match=r"projections 'table': only the search of 'twin' with key: split reads"):
    export_run(tmp_path / "run", tmp_path / "served", projections="table")
  assert not (tmp_path / "served").exists()


def test_the_requests_of_an_export_have_one_with_projections_and_one_of_an_embedded_user(record_set, live):
  sample = records.encode(random_request(SCHEMA, np.random.default_rng(2)), SCHEMA)
  calls = trial._calls(live[1], [sample], SCHEMA, id_mapping_of(record_set))[-2:]
  assert [name for name, _ in calls] == ["rank_projected", "rank_encoded"]
  assert calls[0][1]["source_projections"].shape[1:] == (8, 6)
  assert calls[1][1]["source_embedding"].shape[1:] == (8, 8)
  answers = [
    live[1].answer(name, {key: tf.constant(value) for key, value in tensors.items()}) for name, tensors in calls
  ]
  np.testing.assert_allclose(*(one["probability"] for one in answers), rtol=0, atol=1e-6)
