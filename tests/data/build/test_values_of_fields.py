"""Standardised numbers and weighted lists, from the log to the records, to those of a later log and to the request."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf.data import records as record_lib
from lcn_tf.data.build import tables
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.data.read import diagnosis, validity
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, Schema, columns, value_columns
from lcn_tf.serving.encoder import Behaviour, RankRequest, RequestEncoder
from tests.data import logs
from tests.data.value_logs import AGES, LIKE_SHARES, PRICE, SCHEMA, TAGS, USERS, build, items_of, log_of
from tools import show_records


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  return build(tmp_path_factory.mktemp("values"))


@pytest.fixture(scope="module")
def training(records):
  """Rows of the log before the validation."""
  return log_of().filter(pl.col("timestamp") < records.notes["train_end"])


def standardised(value, seen, of=lambda x: x):
  """The value by its definition; `seen` are the training interactions' numbers."""
  seen = [of(x) for x in seen if x is not None]
  mean = sum(seen) / len(seen)
  deviation = math.sqrt(sum((x - mean) ** 2 for x in seen) / len(seen))
  return 0.0 if value is None else (of(value) - mean) / deviation


def prices(training):
  """Numbers that the vocabulary of prices counts: the context of all rows, and what target behaviours had."""
  return training["price"].to_list() + training.filter(pl.col("domain") == "target")["price"].to_list()


def check_prices(records, log, seen):
  """Checks the standardised price of each target candidate and target behaviour of a record set; returns their number.

  Args:
    records: Record set.
    log: Log that it was built from.
    seen: Numbers whose mean and deviation count.
  """
  ids = dict(id_mapping_of(records).items["target"].select("row", "item_id").iter_rows())
  users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  met = 0
  for record in (one for split in records.splits for one in logs.requests(records, split)):
    assert record.source.values.shape[-1] == 0
    items, times = np.append(record.items, record.target.items), np.append(record.times, record.target.times)
    found = np.append(record.context_values, record.target.values)
    for item, time, value in zip(items.tolist(), times.tolist(), found.tolist(), strict=True):
      rows = log.filter(
        (pl.col("user_id") == users[record.user]) & (pl.col("item_id") == ids[item]) & (pl.col("timestamp") == time)
      )
      possible = [standardised(price, seen, math.log1p) for price in rows["price"]]
      assert min(abs(value - one) for one in possible) < 1e-5
      met += 1
  return met


def test_records_hold_the_standardised_value_of_each_number(records, training):
  assert check_prices(records, log_of(), prices(training)) > 200


def test_records_of_the_next_part_go_on_with_the_means_and_values_of_the_ones_before(tmp_path, training):
  log, items = log_of(), items_of()
  lists = {"tags": pl.Series([["t1", "t0"]] * 2), "tag_weights": pl.Series([[1.0, 4.0]] * 2)}
  new = items.filter(pl.col("item_id") == 11).with_columns(**lists)
  first = build(tmp_path, log.filter(pl.col("timestamp") < 60), items.filter(pl.col("item_id") < 11))
  second = log.filter(pl.col("timestamp") >= 60).with_columns(price=pl.col("price") * 3)
  split = {"split": {"kind": "all_train"}}
  later = build(tmp_path, second, new, users=None, name="later", records=split, extend=first)
  seen = prices(log.filter((pl.col("timestamp") < first.notes["train_end"]) & (pl.col("item_id") < 11)))
  assert check_prices(later, pl.concat([log.filter(pl.col("timestamp") < 60), second]), seen) > 100
  row = dict(id_mapping_of(later).items["target"].select("item_id", "row").iter_rows())[11]
  np.testing.assert_allclose(later.item_values("target")[row, :2], [0.2, 0.8])
  np.testing.assert_array_equal(later.item_values("target")[:row], first.item_values("target"))
  users = dict(pl.read_parquet(later.path / "users.parquet").select("user", "user_id").iter_rows())
  for record in logs.requests(later, "train"):
    np.testing.assert_allclose(record.user_values[:3], LIKE_SHARES[users[record.user]], atol=1e-6)


def test_records_hold_the_age_and_the_shares_of_each_user(records, training):
  users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  trained = [AGES[user] for user in training["user_id"].unique()]
  met = set()
  for record in logs.requests(records, "train"):
    user = users[record.user]
    np.testing.assert_allclose(record.user_values, [*LIKE_SHARES[user], standardised(AGES[user], trained)], atol=1e-5)
    met.add(user)
  assert met == set(range(6))


def test_the_catalogue_holds_the_values_of_each_item_weighted_by_its_interactions(records, training):
  items = items_of().filter(pl.col("domain") == "target")
  sizes = dict(items.select("item_id", "size").iter_rows())
  seen = [sizes[item] for item in training.filter(pl.col("domain") == "target")["item_id"]]
  values = records.item_values("target")
  assert values.dtype == np.float32
  assert (values[:2] == 0).all()
  for row, item in id_mapping_of(records).items["target"].select("row", "item_id").iter_rows():
    (tags, weights) = items.filter(pl.col("item_id") == item).select("tags", "tag_weights").row(0)
    kept = [*(weights or [])[: TAGS["max_values"]], 0.0, 0.0][:2]
    expected = [weight / (sum(kept) or 1) for weight in kept]
    size = standardised(sizes[item], seen, lambda x: min(max(x, 1), 4))
    np.testing.assert_allclose(values[row], [*expected, size], atol=1e-5)
  assert records.item_values("source").shape == (14, 0)


def test_the_vocabulary_of_the_record_set_has_mean_and_deviation(records, training):
  table = records.table("vocabularies/price.parquet")
  seen = [math.log1p(price) for price in prices(training) if price is not None]
  assert table["mean"].unique().to_list() == [pytest.approx(np.mean(seen))]
  assert table["deviation"].unique().to_list() == [pytest.approx(np.std(seen))]
  assert records.table("vocabularies/dwell.parquet").columns == ["index", "value", "count"]


def test_records_like_others_have_their_means_and_values(tmp_path, records):
  log = log_of(5).with_columns(price=pl.col("price") * 9)
  later = build(tmp_path, log, items_of().with_columns(size=9), like=RecordSet.open(records.path))
  assert later.fingerprint == records.fingerprint
  np.testing.assert_array_equal(later.item_values("target"), records.item_values("target"))
  scale = id_mapping_of(records).vocabularies["price"].scale
  assert id_mapping_of(later).vocabularies["price"].scale == scale
  possible = scale(log["price"].drop_nulls().to_numpy()).tolist()
  values = np.concatenate([record.context_values[:, 0] for record in logs.requests(later, "test")])
  assert np.isin(values, [*possible, 0.0]).all()
  assert values.mean() > 1


def changed(name, **options):
  """The schema with another setting of a field of the target's items or of the context."""
  target = SCHEMA["target"]
  items = [
    field if isinstance(field, str) or field["name"] != name else field | options for field in target["item_fields"]
  ]
  if name == "price":
    price = [PRICE | options]
    return SCHEMA | {"context_fields": price, "target": target | {"cross_fields": price}}
  return SCHEMA | {"target": target | {"item_fields": items}}


@pytest.mark.parametrize("change", ["mean", "weights", "log1p", "clip", "weightless"])
def test_another_mean_weight_or_setting_is_another_fingerprint(tmp_path, records, change):
  made = {
    # the edges of the buckets stay as they are
    "mean": lambda: build(
      tmp_path, log_of().with_columns(price=pl.when(pl.col("price") > 4).then(99).otherwise("price"))
    ),
    "weights": lambda: build(tmp_path, items=items_of().with_columns(tag_weights=pl.col("tag_weights").list.reverse())),
    "log1p": lambda: build(tmp_path, schema=changed("price", log1p=False)),
    "clip": lambda: build(tmp_path, schema=changed("size", clip=[1, 4.5])),
    "weightless": lambda: build(tmp_path, schema=changed("tags", weights="")),
  }[change]()
  if change == "mean":
    edges = [one.table("vocabularies/price.parquet")["value"].to_list() for one in (made, records)]
    assert edges[0] == edges[1]
  assert made.fingerprint != records.fingerprint


def test_records_without_float_values_have_no_such_feature_and_no_such_table(tmp_path):
  schema = {
    "context_fields": [{"name": "price", "kind": "numeric"}],
    "target": {"item_fields": ["category"]},
    "candidates": 4,
  }
  made = build(tmp_path, schema=schema, users=None)
  assert set(record_lib.layout(made.record_schema)) == {
    *("user", "user_fields", "candidate_items", "candidate_times", "candidate_context", "label", "weight"),
    *(f"{d}_{part}" for d in DOMAINS for part in ("items", "times", "cross", "first_visible")),
  }
  assert sorted(file.name for file in (made.path / "catalogue").iterdir()) == ["source.npy", "target.npy"]
  assert Schema(**schema).fingerprint() == "73b063ebd0147a8b"


def test_a_request_has_the_values_of_its_record(records):
  encoder, mapping = RequestEncoder(records), id_mapping_of(records)
  price, age = mapping.vocabularies["price"].scale, mapping.vocabularies["age"].scale
  behaviours = [Behaviour(1, 50, {"price": 0.4}), Behaviour(2, 51, {"price": "7"}), Behaviour(2, 52)]
  first = RankRequest(
    60, [1, 2], {"age": 33, "likes": ["a", "b"], "like_weights": [1, 3]}, {"price": 1.5}, target=behaviours
  )
  second = RankRequest(60, [1], {"likes": "a", "like_weights": 2}, {"price": 3})
  made = encoder.encode([first, second])
  np.testing.assert_allclose(made["user_values"], [[0.25, 0.75, 0, *age(np.array([33.0]))], [1, 0, 0, 0]])
  one, other = price(np.array([1.5, 3.0]))
  np.testing.assert_allclose(made["candidate_values"], [[[one], [one]], [[other], [0]]])
  expected = [0, *price(np.array([7.0, 0.4]))]
  np.testing.assert_allclose(made["target_values"], [np.transpose([expected]), np.zeros((3, 1))])
  assert made["candidate_values"].dtype == made["target_values"].dtype == made["user_values"].dtype == np.float32
  assert "source_values" not in made


LIST = (
  r"requests\[0\]\.user\['like_weights'\]: .* is not 2 finite numbers of at least 0, one for each value of the list"
)


@pytest.mark.parametrize(
  ("user", "context", "message"),
  [
    *(({"likes": ["a", "b"], "like_weights": wrong}, {}, LIST) for wrong in ([1], None, [1, -1], [1, math.nan], "ab")),
    *(
      ({"likes": ["a", "b"], "like_weights": wrong}, {}, LIST) for wrong in ([1, None], [1, 2, "3"], [1, math.inf], 1.0)
    ),
    ({"like_weights": [1]}, {}, r"\['like_weights'\]: \[1\] is not 0 finite numbers"),
    ({"likes": {"a"}, "like_weights": [1]}, {}, r"requests\[0\]\.user\['likes'\]: a set, which has no order"),
    ({"like_weight": [1]}, {}, r"requests\[0\]\.user: .*'like_weight'.*like_weights"),
    ({}, {"price": -0.5}, r"requests\[0\]\.context\['price'\]: -0\.5 is below 0, which log1p does not take"),
  ],
)
def test_a_request_with_values_that_are_none_is_told(records, user, context, message):
  with pytest.raises(UserError, match=message):
    RequestEncoder(records).encode([RankRequest(60, [1], user, context)])


BAD_TAGS = "items: tag_weights is not one finite number of at least 0 for each of tags"
BAD_LIKES = "users: like_weights is not one finite number of at least 0 for each of likes"
TWO = ["t1", "t2"]


@pytest.mark.parametrize(
  ("column", "values", "reason"),
  [
    ("tag_weights", [[1.0, 1.0], [1.0], None], BAD_TAGS),
    ("tag_weights", [[1.0, 1.0], [1.0, 1.0, 1.0], None], BAD_TAGS),
    ("tag_weights", [[1.0, 1.0], None, None], BAD_TAGS),
    ("tag_weights", [[1.0, 1.0], [1.0, -0.1], None], BAD_TAGS),
    ("tag_weights", [[1.0, 1.0], [1.0, float("nan")], None], BAD_TAGS),
    ("tag_weights", [[1.0, 1.0], [1.0, float("inf")], None], BAD_TAGS),
    ("tag_weights", [[1.0, 1.0], [1.0, None], None], BAD_TAGS),
    ("tag_weights", [[1, 0], [1, 1], [1]], BAD_TAGS),
    ("like_weights", [[1.0, 1.0], [1.0], None], BAD_LIKES),
    ("price", [1.0, -0.1, None], "interactions: price is below 0, which log1p does not take"),
    ("price", [1.0, "-0.1", None], "interactions: price is below 0, which log1p does not take"),
  ],
)
def test_a_row_with_bad_values_is_left_out_with_its_reason(column, values, reason):
  log = logs.interactions(
    [(user, 0, "target", 10 + user, 1.0) for user in range(3)], price=pl.lit(1.0), dwell=pl.lit(1.0)
  )
  lists = pl.Series([TWO, TWO, None, None])
  items = pl.concat([logs.items(3).filter(pl.col("domain") == "target"), logs.items(1)[1:]])
  items = items.with_columns(size=pl.lit(1.0), tags=lists, tag_weights=pl.Series([[1.0, 2.0], [0.0, 0.0], None, []]))
  users = pl.DataFrame(
    {"user_id": range(3), "age": [1.0, 2.0, 3.0], "likes": lists[:3], "like_weights": items["tag_weights"][:3]}
  )
  frames = {"interactions": log, "items": items, "users": users}
  assert checked(frames).reasons() == {}
  table = reason.split(":")[0]
  rest = [None] if column == "tag_weights" else []
  frames[table] = frames[table].with_columns(pl.Series(column, [*values, *rest], strict=False))
  found = checked(frames)
  assert found.reasons() == {reason: 1}
  assert found.rejected["row"].to_list() == [2 if values[-1] == [1] else 1]


def checked(frames, schema=SCHEMA):
  experiment = logs.experiment(schema, labels={"kind": "given"})
  return tables.check(tables.RawTables(**frames), experiment.record_schema, experiment.records.labels)


def test_bad_weights_and_numbers_of_a_domain_that_does_not_read_them_do_not_matter():
  price = {"name": "price", "kind": "numeric", "vocabulary": "plain"}
  schema = SCHEMA | {"context_fields": [], "source": {"item_fields": [TAGS | {"weights": ""}], "cross_fields": [price]}}
  log = logs.interactions([(0, 0, d, 10, 1.0) for d in DOMAINS], price=pl.lit(-1.0), dwell=pl.lit(1.0))
  items = logs.items(1, size=pl.lit(1.0), tags=pl.Series([TWO] * 2), tag_weights=pl.Series([[1.0, 1.0], [1.0]]))
  found = checked({"interactions": log, "items": items, "users": USERS}, schema)
  assert found.reasons() == {"interactions: price is below 0, which log1p does not take": 1}
  assert found.interactions["domain"].to_list() == ["source"]


@pytest.mark.parametrize(
  ("tags", "weights"),
  [
    (pl.lit(None), pl.lit(None)),
    (pl.Series([[], None] * 2, dtype=pl.List(pl.String)), pl.lit(None)),
    (pl.Series(["a", None] * 2), pl.Series([[2], None] * 2)),
    (pl.Series([["a", "b"]] * 4, dtype=pl.Array(pl.String, 2)), pl.Series([[1, 2]] * 4, dtype=pl.Array(pl.Int8, 2))),
  ],
  ids=["no column has any", "empty", "one value", "arrays"],
)
def test_lists_and_weights_of_other_types_fit_each_other(tags, weights):
  log = logs.interactions([(0, 0, "target", 10, 1.0)], price=pl.lit(1.0), dwell=pl.lit(1.0))
  items = logs.items(2, size=pl.lit(1.0), tags=tags, tag_weights=weights)
  assert checked({"interactions": log, "items": items, "users": USERS}).reasons() == {}


def test_a_lower_limit_cuts_numbers_that_would_have_no_logarithm(tmp_path):
  log = log_of().with_columns(price=pl.col("price") - 1)
  made = build(tmp_path, log, schema=changed("price", clip=[0, None]))
  assert made.rejected == {}
  values = np.concatenate([record.context_values[:, 0] for record in logs.requests(made, "train")])
  assert np.isclose(values, values.min()).mean() > 0.3  # of prices below 1


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"tag_weights": pl.lit(1.0)},
      r"column 'tag_weights' holds Float64, expected lists of numbers \(the weights of 'tags'\)",
    ),
    ({"tag_weights": pl.Series([["1"]] * 24)}, r"column 'tag_weights' holds List\(String\), expected lists of numbers"),
    (None, r"no column 'tag_weights' \(the weights of 'tags'\)"),
  ],
)
def test_a_column_of_weights_that_holds_none_is_told_and_leaves_nothing(tmp_path, change, message):
  items = items_of().with_columns(**change) if change else items_of().drop("tag_weights")
  with pytest.raises(UserError, match=message):
    build(tmp_path, items=items)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("field", "message"),
  [
    ({"standardise": True}, "'x': standardise is of numeric fields"),
    ({"kind": "numeric", "log1p": True}, "'x': log1p is of standardised values, which the field has with standardise"),
    ({"kind": "numeric", "clip": [0, 1]}, "'x': clip is of standardised values"),
    *(
      ({"kind": "numeric", "standardise": True, "clip": clip}, r"'x': clip \[.*\] is not two finite limits that rise")
      for clip in ([1, 0], [1, 1], [0, math.inf], [math.nan, 1], [None, None])
    ),
    ({"kind": "numeric", "standardise": True, "clip": [1]}, "clip"),
    ({"kind": "numeric", "standardise": True, "log1p": True, "clip": [-1, 1]}, "leaves numbers below 0, which log1p"),
    ({"kind": "numeric", "weights": "w"}, "'x': weights are of the values of a list"),
    ({"weights": "w"}, "'x': weights are of the values of a list"),
    ({"max_values": 2, "weights": "x"}, "'x': weights names the column of the values themselves"),
  ],
)
def test_a_field_that_contradicts_itself_is_told(field, message):
  with pytest.raises(ValueError, match=message):
    Schema(user_fields=[{"name": "x"} | field])


@pytest.mark.parametrize("change", [{"standardise": False, "log1p": False}, {"log1p": False}, {"clip": [0, 9]}])
def test_fields_of_one_vocabulary_are_standardised_alike(change):
  with pytest.raises(
    ValueError, match="of fields that differ in kind, buckets, standardise, log1p or clip: price, price"
  ):
    Schema(context_fields=[PRICE], target={"cross_fields": [PRICE | change]})
  assert Schema(context_fields=[PRICE], target={"cross_fields": [PRICE | change | {"vocabulary": "other"}]})


def test_a_damaged_table_of_values_is_told(tmp_path, records):
  made = build(tmp_path)
  (made.path / "catalogue" / "target_values.npy").write_bytes(b"x")
  with pytest.raises(UserError, match=r"target_values\.npy: damaged"):
    RecordSet.open(made.path).item_values("target")


@pytest.mark.job
def test_a_record_set_of_float_values_is_valid_as_a_whole(records):
  assert diagnosis.verify(records) == []


@pytest.mark.parametrize(
  ("name", "place", "value", "message"),
  [
    ("user_values", 1, -0.5, "user_values 0: value -0.5 of 'likes', allowed are finite numbers of at least 0."),
    ("user_values", 3, math.inf, "user_values 0: value inf of 'age', allowed are finite numbers."),
    ("candidate_values", (1, 0), math.nan, "candidate_values 1: value nan of 'price', allowed are finite numbers."),
    ("target_values", (2, 0), -math.inf, "target_values 2: value -inf of 'price', allowed are finite numbers."),
  ],
)
def test_a_record_with_a_value_that_is_none_is_not_valid(records, name, place, value, message):
  schema = records.record_schema
  record = next(one for one in logs.requests(records, "train") if len(one.items) > 1 and len(one.target.items) > 2)
  found = {
    "user_values": record.user_values,
    "candidate_values": record.context_values,
    "target_values": record.target.values,
  }
  found = {key: array.copy() for key, array in found.items()}
  assert validity.problem(record, schema, "target") is None
  found[name][place] = value
  wrong = dataclasses.replace(
    record,
    user_values=found["user_values"],
    context_values=found["candidate_values"],
    target=dataclasses.replace(record.target, values=found["target_values"]),
  )
  assert validity.problem(wrong, schema, "target") == message
  data = record_lib.features(tf.constant([record_lib.encode(wrong, schema)]), schema)
  with pytest.raises(tf.errors.InvalidArgumentError, match=name):
    validity.assert_valid(data, record_lib.tensors(data, schema), schema, "target")


def test_records_are_parsed_with_their_values_and_zeros_behind(records):
  schema = records.record_schema
  found = logs.requests(records, "train")[:9]
  batch = record_lib.parse(tf.constant([record_lib.encode(record, schema) for record in found]), schema)
  assert batch["user_values"].shape == (9, value_columns(schema.user_fields))
  for b, record in enumerate(found):
    np.testing.assert_array_equal(batch["user_values"][b], record.user_values)
    for name, own in (("candidate_values", record.context_values), ("target_values", record.target.values)):
      np.testing.assert_array_equal(batch[name][b, : len(own)], own)
      assert not np.any(batch[name][b, len(own) :])
  assert "source_values" not in batch


def test_shown_records_have_the_values_behind_the_indices(records):
  record = next(one for one in logs.requests(records, "train") if one.user_values[1] and one.user_fields[1])
  text = next(one for one in show_records.show(records, "train", "target") if f"user {record.user} " in one)
  first, second = record.user_fields[:2]
  age = f"age={record.user_fields[3]}:{record.user_values[3]:.3g}"
  assert f"user {record.user}  likes=[{first}:0.25, {second}:0.75] {age}" in text
  assert columns(records.record_schema.user_fields) == 4
