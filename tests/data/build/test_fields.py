"""Numeric fields and vectors of items, from the log to the records, the request and the item representation."""

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from lcn_tf.config import Embedding
from lcn_tf.data.build import builder, tables
from lcn_tf.data.build.vocabulary import build_buckets, total_counts
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.data.record_set import SPLITS, RecordSet
from lcn_tf.errors import UserError
from lcn_tf.models.embedder import RequestEmbedding
from lcn_tf.schema import DOMAINS, Feature, Schema
from lcn_tf.serving.encoder import Behaviour, RankRequest, RequestEncoder
from tests.data import logs

WIDTH = 3
SCHEMA = {
  "user_fields": [{"name": "age", "kind": "numeric", "buckets": 3}],
  "context_fields": [{"name": "price", "kind": "numeric", "buckets": 5}],
  "target": {
    "item_fields": ["category", {"name": "size", "kind": "numeric", "buckets": 4}],
    "item_vectors": [{"name": "text", "width": WIDTH}],
    "cross_fields": [{"name": "price", "kind": "numeric", "buckets": 5}],
    "max_length": 9,
  },
  "source": {"item_fields": ["category"], "max_length": 9},
  "candidates": 4,
}


NUMERIC = {"name": "price", "kind": "numeric"}
NUMERIC_FIELD = Feature(name="price", kind="numeric", buckets=4)


def log_of(seed=0):
  rng = np.random.default_rng(seed)
  price = pl.Series(np.round(np.exp(rng.normal(size=400)), 1))
  return logs.random_log(rng, 400, span=90).with_columns(
    price=pl.select(pl.when(pl.Series(rng.random(400) < 0.9)).then(price)).to_series()
  )


def items_of(count=12):
  rng = np.random.default_rng(1)
  text = [None if i == 3 else rng.normal(size=WIDTH).tolist() for i in range(2 * count)]
  return logs.items(
    count, size=pl.Series(rng.integers(0, 6, 2 * count)), text=pl.Series(text, dtype=pl.List(pl.Float64))
  )


USERS = pl.DataFrame({"user_id": range(6), "age": [20.5, None, 41.0, 33.0, 33.0, 60.0]})


def build(folder, log=None, items=None, schema=SCHEMA, users=USERS, **options):
  log, items = log_of() if log is None else log, items_of() if items is None else items
  experiment = logs.experiment(schema, labels={"kind": "given"})
  return builder.build(experiment, tables.RawTables(log, items, users), folder / "records", **options)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  return build(tmp_path_factory.mktemp("fields"))


def test_buckets_lie_between_quantiles_and_equal_numbers_share_one():
  counted = [pl.DataFrame({"value": [1.0, 4.0], "count": [4, 1]}), pl.DataFrame({"value": [2.0, 3.0, 4.0], "count": 1})]
  table = build_buckets("price", total_counts(counted, pl.Float64), NUMERIC_FIELD)
  # of 8 interactions 4 have 1: the second and the third of four equal parts begin with 2
  assert table.frame().rows() == [(2, "-inf", 4), (3, "2.0", 2), (4, "4.0", 2)]
  assert table.size == 5
  assert table.indices(pl.Series([None, -1e300, 1.9, 2.0, 3.9, 4.0, 1e300])).tolist() == [1, 2, 2, 3, 3, 4, 4]


def test_a_field_without_a_training_value_has_one_bucket():
  nothing = pl.DataFrame({"value": [None], "count": [3]}, {"value": pl.Float64, "count": pl.Int64})
  table = build_buckets("price", total_counts([nothing], pl.Float64), NUMERIC_FIELD)
  assert table.frame().rows() == [(2, "-inf", 0)]
  assert table.indices(pl.Series([5.0, None])).tolist() == [2, 1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60), st.integers(2, 8))
def test_buckets_keep_the_order_and_are_about_equally_full(values, buckets):
  counted = pl.DataFrame({"value": values, "count": 1}).group_by("value").agg(pl.col("count").sum())
  field = NUMERIC_FIELD.model_copy(update={"buckets": buckets})
  table = build_buckets("price", total_counts([counted], pl.Float64), field)
  found = table.indices(pl.Series(np.sort(values)))
  assert (np.diff(found) >= 0).all()
  assert (found >= 2).all()
  assert (found < table.size).all()
  assert table.counts.to_list() == np.bincount(found - 2, minlength=table.size - 2).tolist()
  assert table.size - 2 <= buckets
  ties = counted["count"].max()
  assert table.counts.max() <= len(values) / buckets + ties
  assert table.counts.min() > 0


def test_records_hold_the_bucket_of_each_number(records):
  log, mapping = log_of(), id_mapping_of(records)
  edges = mapping.vocabularies["price"].values.cast(pl.Float64).to_numpy()
  assert len(edges) == 5
  users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  ids = dict(mapping.items["target"].select("row", "item_id").iter_rows())
  met = 0
  for split in SPLITS:
    for record in logs.requests(records, split):
      past = record.target
      items, times = np.append(record.items, past.items), np.append(record.times, past.times)
      buckets = np.append(record.context[:, 0], past.cross[:, 0])
      for item, time, bucket in zip(items.tolist(), times.tolist(), buckets.tolist(), strict=True):
        rows = log.filter(
          (pl.col("user_id") == users[record.user]) & (pl.col("item_id") == ids[item]) & (pl.col("timestamp") == time)
        )
        possible = {1 if price is None else 1 + int((edges <= price).sum()) for price in rows["price"]}
        assert bucket in possible
        met += 1
  assert met > 200


def test_a_request_has_the_buckets_of_its_record(records):
  encoder = RequestEncoder(records)
  behaviours = [Behaviour(1, 50, {"price": 0.4}), Behaviour(2, 51, {"price": "7"}), Behaviour(2, 52)]
  made = encoder.encode([RankRequest(60, [1], {"age": 33}, {"price": 1.5}, target=behaviours)])
  mapping = id_mapping_of(records)

  def bucket(name, value):
    return int(mapping.vocabularies[name].indices(pl.Series([value], dtype=pl.Float64))[0])

  assert made["user_fields"].tolist() == [[bucket("age", 33.0)]]
  assert made["candidate_context"].tolist() == [[[bucket("price", 1.5)]]]
  assert made["target_cross"][0, :, 0].tolist() == [1, bucket("price", 7.0), bucket("price", 0.4)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "1e400", "dear", True, [1.0]])
def test_a_request_with_what_is_no_number_is_told(records, value):
  request = RankRequest(60, [1], {"age": 33}, {"price": value})
  with pytest.raises(UserError, match=r"requests\[0\]\.context\['price'\]: .* is no finite number"):
    RequestEncoder(records).encode([request])


def test_the_catalogue_has_the_vector_of_each_item(records):
  (vectors,) = records.vectors("target").values()
  assert vectors.dtype == np.float32
  assert records.vectors("source") == {}
  text = {row["item_id"]: row["text"] for row in items_of().filter(pl.col("domain") == "target").iter_rows(named=True)}
  assert (vectors[:2] == 0).all()
  for row, item in id_mapping_of(records).items["target"].select("row", "item_id").iter_rows():
    np.testing.assert_array_equal(vectors[row], np.float32(text[item] or [0.0] * WIDTH))


def test_records_like_others_have_their_buckets_and_vectors(tmp_path, records):
  later = build(tmp_path, log_of(5), like=RecordSet.open(records.path))
  assert later.fingerprint == records.fingerprint
  np.testing.assert_array_equal(later.vectors("target")["text"], records.vectors("target")["text"])
  assert id_mapping_of(later).vocabularies["price"].values.equals(id_mapping_of(records).vocabularies["price"].values)


@pytest.mark.parametrize("change", ["vector", "edge"])
def test_another_vector_or_edge_is_another_fingerprint(tmp_path, records, change):
  if change == "vector":
    items = items_of().with_columns(text=pl.col("text").list.eval(pl.element() * 2))
    assert build(tmp_path, items=items).fingerprint != records.fingerprint
  else:
    assert build(tmp_path, log_of().with_columns(price=pl.col("price") * 2)).fingerprint != records.fingerprint


@pytest.mark.parametrize(
  ("column", "values", "reason"),
  [
    ("price", [1.0, float("nan"), None], "interactions: price is not a finite number"),
    ("price", [1.0, float("-inf"), None], "interactions: price is not a finite number"),
    ("price", ["1.5", "cheap", None], "interactions: price is not a finite number"),
    ("size", [1.0, float("nan"), None], "items: size is not a finite number"),
    ("size", ["1", "large", None], "items: size is not a finite number"),
    ("text", [[1.0] * WIDTH, [1.0] * (WIDTH + 1), None], "items: text is not 3 finite numbers of float32"),
    ("text", [[1.0] * WIDTH, [1.0, float("nan"), 0.0], None], "items: text is not 3 finite numbers of float32"),
    ("text", [[1.0] * WIDTH, [1.0, None, 0.0], None], "items: text is not 3 finite numbers of float32"),
    ("text", [[1.0] * WIDTH, [1.0, 1e300, 0.0], None], "items: text is not 3 finite numbers of float32"),
    ("text", [[1.0] * WIDTH, [], None], "items: text is not 3 finite numbers of float32"),
    ("age", [1.0, float("nan"), None], "users: age is not a finite number"),
  ],
)
def test_a_row_with_a_bad_number_or_vector_is_left_out_with_its_reason(column, values, reason):
  log = logs.interactions([(user, 0, "target", 10 + user, 1.0) for user in range(3)], price=pl.lit(1.0))
  items = pl.concat([logs.items(3).filter(pl.col("domain") == "target"), logs.items(1)[1:]])
  items = items.with_columns(size=pl.lit(1.0), text=pl.Series([[0.0] * WIDTH] * 4))
  users = pl.DataFrame({"user_id": range(3), "age": [1.0, 2.0, 3.0]})
  frames = {"interactions": log, "items": items, "users": users}
  table = reason.split(":")[0]
  given = values + [values[0]] * (len(frames[table]) - 3)
  frames[table] = frames[table].with_columns(pl.Series(column, given))
  experiment = logs.experiment(SCHEMA, labels={"kind": "given"})
  checked = tables.check(tables.RawTables(**frames), experiment.record_schema, experiment.records.labels)
  assert checked.reasons() == {reason: 1}
  assert checked.rejected["row"].to_list() == [1]


def test_a_bad_vector_of_a_domain_that_has_no_vectors_does_not_matter():
  items = items_of(2).with_columns(
    text=pl.Series([[1.0] * WIDTH] * 2 + [[1.0]] * 2), size=pl.Series(["1", "2", "x", "y"])
  )
  log = logs.interactions([(0, 0, "source", 10, 1.0)], price=pl.lit(None))
  experiment = logs.experiment(SCHEMA, labels={"kind": "given"})
  checked = tables.check(tables.RawTables(log, items, USERS), experiment.record_schema, experiment.records.labels)
  assert checked.reasons() == {}


def test_a_bad_number_of_a_domain_that_has_it_for_its_items_alone_does_not_matter():
  schema = Schema(target={"cross_fields": [NUMERIC]}, source={"item_fields": [NUMERIC]})
  log = logs.interactions([(0, 0, d, 10, 1.0) for d in DOMAINS], price=pl.lit("cheap"))
  items = logs.items(1, price=pl.lit(1.0))
  checked = tables.check(tables.RawTables(log, items), schema, logs.experiment(SCHEMA).records.labels)
  assert checked.interactions["domain"].to_list() == ["source"]
  assert checked.reasons() == {"interactions: price is not a finite number": 1}


@pytest.mark.parametrize(
  ("column", "message"),
  [
    (pl.Series("price", [True] * 400), r"column 'price' holds Boolean, expected numbers"),
    (pl.Series("price", [[1.0]] * 400), r"column 'price' holds List\(Float64\), expected numbers"),
  ],
)
def test_a_column_of_another_type_is_told_and_leaves_nothing(tmp_path, column, message):
  with pytest.raises(UserError, match=message):
    build(tmp_path, log_of().with_columns(column))
  assert list(tmp_path.iterdir()) == []


def test_a_column_of_vectors_that_holds_none_is_told(tmp_path):
  with pytest.raises(UserError, match=r"column 'text' holds String, expected lists of 3 numbers"):
    build(tmp_path, items=items_of().with_columns(text=pl.lit("a")))
  with pytest.raises(UserError, match=r"no column 'text' \(a vector of the items of the schema\)"):
    build(tmp_path, items=items_of().drop("text"))
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("schema", "message"),
  [
    ({"context_fields": [NUMERIC | {"max_values": 2}]}, "a numeric field holds one value"),
    ({"context_fields": [NUMERIC | {"buckets": 1}]}, "greater than or equal to 2"),
    ({"context_fields": [NUMERIC | {"kind": "number"}]}, "'categorical' or 'numeric'"),
    (
      {"context_fields": [NUMERIC], "vocabularies": {"price": {"oov": 2}}},
      "'price' is of a numeric field, which has no min_count",
    ),
    (
      {"context_fields": [NUMERIC], "user_fields": [{"name": "age", "vocabulary": "price"}]},
      "'price' is of fields that differ in kind, buckets, standardise, log1p or clip: age, price",
    ),
    (
      {"context_fields": [NUMERIC], "target": {"cross_fields": [{"name": "price", "vocabulary": "other"}]}},
      "the column 'price' is of a categorical and of a numeric field",
    ),
    ({"target": {"item_vectors": [{"name": "text", "width": 0}]}}, "greater than or equal to 1"),
    ({"target": {"item_vectors": [{"name": "a/b", "width": 3}]}}, "'a/b' is no name of a vector"),
    ({"target": {"item_vectors": [{"name": "text", "width": 3}] * 2}}, "'text' is a field too, or is named twice"),
    (
      {
        "target": {"item_vectors": [{"name": "t", "width": 3}]},
        "source": {"item_vectors": [{"name": "t", "width": 4}]},
      },
      "'t' differs between the domains",
    ),
  ],
)
def test_a_schema_that_contradicts_itself_is_told(schema, message):
  with pytest.raises(ValueError, match=message):
    Schema(**schema)


def test_a_schema_without_new_kinds_of_fields_keeps_its_fingerprint():
  assert Schema(user_fields=["age"], target={"item_fields": ["category"]}).fingerprint() == "fcb69dbe96045a76"
  assert Schema(user_fields=[NUMERIC]).fingerprint() != Schema(user_fields=["price"]).fingerprint()


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_item_is_represented_by_its_fields_and_the_projection_of_its_vector(deduplicate, dtype):
  schema = Schema(
    target={"items": 6, "item_vectors": [{"name": "text", "width": WIDTH, "dtype": dtype}], "max_length": 4},
    source={"items": 5, "item_vectors": [{"name": "text", "width": WIDTH, "dtype": dtype}], "max_length": 4},
    candidates=3,
    vocabularies={"target_item": {"size": 6}, "source_item": {"size": 5}},
  )
  embedder = RequestEmbedding(schema, Embedding(dim=4, dims={"text": 2}), DOMAINS, 0, deduplicate)
  rng = np.random.default_rng(0)
  vectors = {d: rng.normal(size=(schema.domain(d).items, WIDTH)).astype(dtype) for d in DOMAINS}
  for d in DOMAINS:
    embedder.set_catalogue(d, np.arange(schema.domain(d).items)[:, np.newaxis])
    embedder.set_contents(d, {"text": vectors[d]})
  batch = {
    "user_fields": np.zeros((2, 0), np.int32),
    "candidate_items": rng.integers(0, 6, (2, 3)),
    "candidate_times": np.full((2, 3), 9),
    "candidate_context": np.zeros((2, 3, 0), np.int32),
  }
  for d in DOMAINS:
    batch |= {
      f"{d}_items": rng.integers(0, 5, (2, 4)),
      f"{d}_times": np.zeros((2, 4), int),
      f"{d}_length": np.array([4, 2]),
    }
    batch |= {f"{d}_cross": np.zeros((2, 4, 0), np.int32), f"{d}_first_visible": np.zeros((2, 3), np.int32)}
  (embedded,) = embedder([("target", {name: tf.constant(value) for name, value in batch.items()})])
  kernel = embedder.content_projections["text"].kernel.numpy()
  assert kernel.shape == (WIDTH, 2)
  parts = {"target": [embedded.candidates, embedded.histories["target"]], "source": [embedded.histories["source"]]}
  for d, found in parts.items():
    table = embedder.tables.tables[f"{d}_item"].numpy()
    for part in found:
      ids = part.items.numpy()
      expected = np.concatenate([table[ids], vectors[d][ids].astype(np.float32) @ kernel], axis=-1)
      np.testing.assert_allclose(part.embedding, expected, rtol=1e-5, atol=1e-6)
  assert not any("content" in v.name and "kernel" not in v.name for v in embedder.trainable_variables)
