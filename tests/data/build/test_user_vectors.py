"""Vectors of users, from the users file to the records, to those of a later log, to statistics and to the request."""

import collections
import dataclasses
import math

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf.config import Labels, from_tree
from lcn_tf.data import records as record_lib
from lcn_tf.data import statistics
from lcn_tf.data.build import tables
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.data.read import diagnosis, validity
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.schema import Schema, value_columns
from lcn_tf.serving.encoder import RankRequest, RequestEncoder
from lcn_tf.serving.raw_client import raw_tensors
from lcn_tf.serving.samples import raw_requests
from tests.data import logs, value_logs
from tests.data.value_logs import LIKE_SHARES, items_of, log_of
from tests.data.vector_logs import MOODS, SCHEMA, TASTES, USERS, build, vectors_of
from tools import show_records

OWN = value_columns(
  Schema(**value_logs.SCHEMA).user_fields
)  # float columns of the fields, which lie before the vectors
ALL = {"split": {"kind": "all_train"}}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  return build(tmp_path_factory.mktemp("vectors"))


def users_of(records):
  """Ids of the users by their index."""
  return dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())


def check_vectors(records, split="train", of=vectors_of):
  """Checks the vectors of each record of a split; returns the users that were met."""
  users, met = users_of(records), set()
  for record in (one for d in ("target", "source") for one in logs.requests(records, split, d)):
    np.testing.assert_array_equal(record.user_values[OWN:], np.float32(of(users[record.user])))
    np.testing.assert_allclose(record.user_values[:3], LIKE_SHARES[users[record.user]], atol=1e-6)
    met.add(users[record.user])
  return met


def test_records_hold_the_vectors_of_each_user_behind_the_values_of_the_fields(records):
  assert check_vectors(records) == set(range(6))
  assert check_vectors(records, "test")
  assert diagnosis.verify(records) == []


def test_a_user_without_a_profile_has_zeros(tmp_path):
  made = build(tmp_path, users=USERS.filter(pl.col("user_id") != 5))
  users = users_of(made)
  (mine,) = {tuple(one.user_values[OWN:]) for one in logs.requests(made, "train") if users[one.user] == 5}
  assert mine == (0.0,) * 5


def test_without_vectors_records_are_those_of_the_fields_alone(tmp_path, records):
  plain = value_logs.build(tmp_path)
  assert plain.fingerprint != records.fingerprint
  for d in ("target", "source"):
    for one, other in zip(logs.requests(plain, "train", d), logs.requests(records, "train", d), strict=True):
      np.testing.assert_array_equal(one.user_values, other.user_values[:OWN])
      np.testing.assert_array_equal(one.user_fields, other.user_fields)
  bare = build(tmp_path / "bare", schema={"user_vectors": SCHEMA["user_vectors"][1:], "candidates": 4})
  assert bare.record_schema.user_fields == ()
  users = users_of(bare)
  for one in logs.requests(bare, "train"):
    assert one.user_values.tolist() == (MOODS[users[one.user]] or [0, 0])


def test_records_like_others_have_the_vectors_of_their_own_users(tmp_path, records):
  other = USERS.with_columns(taste=pl.col("taste").list.eval(pl.element() * 2))
  later = build(tmp_path, log_of(5), users=other, like=RecordSet.open(records.path))
  # users have no row of the id mapping: other vectors are other input of the same model
  assert later.fingerprint == records.fingerprint
  assert check_vectors(later, "test", lambda user: np.float32(vectors_of(user)) * [2, 2, 2, 1, 1])


def test_records_of_the_next_part_know_the_vectors_of_before_and_take_new_ones(tmp_path):
  log = log_of()
  first = build(tmp_path, log.filter(pl.col("timestamp") < 60), users=USERS.filter(pl.col("user_id") != 5))
  rest = log.filter(pl.col("timestamp") >= 60)
  cut = [rest.filter(pl.col("timestamp") < 75), rest.filter(pl.col("timestamp") >= 75)]
  # the state has their likes
  second = build(tmp_path, cut[0], items_of(), users=None, name="second", records=ALL, extend=first)
  met = {users_of(second)[one.user]: one.user_values[OWN:] for one in logs.requests(second, "train")}
  assert set(met) == set(range(6))
  for user, values in met.items():
    np.testing.assert_array_equal(values, np.float32([0] * 5 if user == 5 else vectors_of(user)))
  brought = USERS.filter(pl.col("user_id") == 5).vstack(
    USERS.filter(pl.col("user_id") == 0).with_columns(taste=pl.Series([[9.0, 9.0, 9.0]]))
  )
  third = build(tmp_path, cut[1], items_of(), users=brought, name="third", records=ALL, extend=second)
  assert check_vectors(third, of=lambda user: [9, 9, 9, 1, 2] if user == 0 else vectors_of(user)) == set(range(6))


def test_a_part_of_a_log_without_user_fields_needs_no_users_to_know_their_vectors(tmp_path):
  log, schema = log_of(), SCHEMA | {"user_fields": []}
  first = build(tmp_path, log.filter(pl.col("timestamp") < 60), schema=schema)
  rest = log.filter(pl.col("timestamp") >= 60)
  second = build(tmp_path, rest, items_of(), schema, users=None, name="second", records=ALL, extend=first)
  users = users_of(second)
  for record in logs.requests(second, "train"):
    np.testing.assert_array_equal(record.user_values, np.float32(vectors_of(users[record.user])))


def test_a_part_none_of_whose_users_has_a_vector_goes_on(tmp_path):
  log = log_of()
  first = build(tmp_path, log.filter(pl.col("timestamp") < 60))
  nobody = USERS.filter(pl.col("user_id") < 2).with_columns(taste=pl.lit(None), mood=pl.lit(None))
  rest = log.filter(pl.col("timestamp") >= 60)
  second = build(tmp_path, rest, items_of(), users=nobody, name="second", records=ALL, extend=first)
  assert check_vectors(second, of=lambda user: [0] * 5 if user < 2 else vectors_of(user)) == set(range(6))


def test_a_part_of_another_width_is_refused(tmp_path):
  first = build(tmp_path, log_of().filter(pl.col("timestamp") < 60))
  schema = SCHEMA | {"user_vectors": [{"name": "taste", "width": 2}]}
  with pytest.raises(UserError, match=r"user_vectors"):
    build(tmp_path, log_of(), schema=schema, name="second", records=ALL, extend=first)
  assert not (tmp_path / "second").exists()


BAD = "users: taste is not 3 finite numbers of float32"


@pytest.mark.parametrize(
  "vector",
  [[1.0, 2.0], [1.0] * 4, [], [1.0, math.nan, 0.0], [1.0, -math.inf, 0.0], [1.0, None, 0.0], [1.0, 1e300, 0.0]],
  ids=str,
)
def test_a_user_with_a_bad_vector_is_left_out_with_the_reason(vector):
  experiment = logs.experiment(SCHEMA, labels={"kind": "given"})
  users = USERS.with_columns(taste=pl.Series([[1.0, 2.0, 3.0], vector, None, *TASTES[:3]], dtype=pl.List(pl.Float64)))
  checked = tables.check(tables.RawTables(log_of(), items_of(), users), experiment.record_schema, Labels())
  assert checked.reasons() == {BAD: 1}
  assert checked.rejected["row"].to_list() == [1]
  assert checked.users["user_id"].to_list() == [0, 2, 3, 4, 5]


@pytest.mark.parametrize(
  ("users", "message"),
  [
    (USERS.with_columns(taste=pl.lit("a")), r"column 'taste' holds String, expected lists of 3 numbers \(a vector of"),
    (USERS.with_columns(taste=pl.Series([["1", "2", "3"]] * 6)), r"'taste' holds List\(String\), expected lists of 3"),
    (USERS.drop("taste"), r"no column 'taste' \(a vector of the users of the schema\)"),
    (None, r"schema\.user_vectors: 'taste' is read from the users file, but there is none \(--users\)"),
  ],
  ids=["text", "texts", "none", "no file"],
)
def test_a_column_that_holds_no_vectors_is_told_and_leaves_nothing(tmp_path, users, message):
  schema = SCHEMA | {"user_fields": []}
  with pytest.raises(UserError, match=message):
    build(tmp_path, schema=schema, users=users)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [pl.Array(pl.Float32, 3), pl.Array(pl.Int16, 3), pl.List(pl.Float32)])
def test_vectors_of_other_types_are_read(tmp_path, dtype):
  whole = pl.Series("taste", [[user, 1, -2] for user in range(6)], dtype=dtype)
  made = build(tmp_path, users=USERS.with_columns(whole))
  assert check_vectors(made, of=lambda user: [user, 1, -2, *vectors_of(user)[3:]])


TASTE = {"name": "taste", "width": 3}


@pytest.mark.parametrize(
  ("schema", "message"),
  [
    ({"user_vectors": [TASTE | {"width": 0}]}, "greater than or equal to 1"),
    ({"user_vectors": [TASTE | {"dtype": "float16"}]}, "Input should be 'float32'"),
    *(
      (schema, "user_vectors: 'taste' is a column of the users too, or is named twice")
      for schema in (
        {"user_vectors": [TASTE] * 2},
        {"user_vectors": [TASTE], "user_fields": ["taste"]},
        {"user_vectors": [TASTE], "user_fields": [{"name": "likes", "max_values": 2, "weights": "taste"}]},
      )
    ),
    ({"user_vectors": [TASTE | {"name": "user_id"}]}, "'user_id' is a column of the users too"),
  ],
)
def test_a_schema_that_contradicts_itself_is_told(schema, message):
  with pytest.raises(ValueError, match=message):
    Schema(**schema)


def test_a_width_of_the_projection_of_a_vector_that_there_is_not_is_told():
  tree = {"name": "x", "schema": {"user_vectors": [TASTE]}, "model": {"embedding": {"dims": {"taste": 5}}}}
  assert from_tree(tree, "test").model.embedding.dims == {"taste": 5}
  tree["model"] = {"embedding": {"dims": {"tast": 5}}}
  with pytest.raises(UserError, match=r"the schema has no vocabulary 'tast'\. Did you mean 'taste'\?"):
    from_tree(tree, "test")


def test_vectors_and_their_widths_are_part_of_the_fingerprint():
  prints = {
    Schema(user_fields=["age"], user_vectors=vectors).fingerprint()
    for vectors in ([], [TASTE], [TASTE | {"width": 4}], [TASTE | {"name": "mood"}])
  }
  assert len(prints) == 4
  assert Schema(user_fields=["age"], target={"item_fields": ["category"]}).fingerprint() == "fcb69dbe96045a76"


def test_statistics_say_how_many_users_have_no_vector(records):
  part = statistics.read(records).parts["train"]["target"]
  users = {users_of(records)[one.user] for one in logs.requests(records, "train")}
  for name, vectors in (("taste", TASTES), ("mood", MOODS)):
    (told,) = [field.numbers for field in part.fields if (field.name, field.of) == (name, "user")]
    own = [np.linalg.norm(vectors[user]) for user in users if vectors[user]]
    assert (told.rows, told.missing) == (len(users), len(users) - len(own)) == (6, 2)
    assert told.mean == pytest.approx(np.mean(own))


def test_shown_records_have_the_beginning_of_each_vector(tmp_path):
  users = USERS.with_columns(taste=pl.concat_list("taste", pl.lit(0.5), pl.lit(0.25)))
  schema = SCHEMA | {"user_vectors": [TASTE | {"width": 5}, SCHEMA["user_vectors"][1]]}
  made = build(tmp_path, schema=schema, users=users)
  ids, shown = users_of(made), "\n".join(show_records.show(made, "train", "target")).splitlines()
  ends = {ids[int(line.split()[1])]: line for line in shown if line.startswith("user ")}
  assert ends[0].endswith(" taste=[0.5, -1, 2, 0.5, ...] mood=[1, 2]")
  assert ends[1].endswith(" taste=none mood=[3, -4]")
  assert ends[3].endswith(" taste=none mood=none")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_with_a_number_that_is_none_is_not_valid(records, value):
  schema = records.record_schema
  record = logs.requests(records, "train")[0]
  values = record.user_values.copy()
  values[OWN + 1] = -1e30
  sound = dataclasses.replace(record, user_values=values.copy())
  assert validity.problem(sound, schema, "target") is None
  values[OWN + 1] = value
  wrong = dataclasses.replace(record, user_values=values)
  assert validity.problem(wrong, schema, "target") == (
    f"user_values 0: value {value} of 'taste', allowed are finite numbers."
  )
  data = record_lib.features(tf.constant([record_lib.encode(wrong, schema)]), schema)
  with pytest.raises(tf.errors.InvalidArgumentError, match="user_values"):
    validity.assert_valid(data, record_lib.tensors(data, schema), schema, "target")


@pytest.mark.parametrize(
  "make", [list, tuple, np.array, lambda x: np.array(x, np.float32), np.ma.array, lambda x: [np.float64(n) for n in x]]
)
def test_a_request_has_the_vectors_of_its_record(records, make):
  record = next(one for one in logs.requests(records, "train") if users_of(records)[one.user] == 0)
  user = {"likes": ["a", "b"], "like_weights": [1, 3], "age": 20.5, "taste": make(TASTES[0]), "mood": make(MOODS[0])}
  made = RequestEncoder(records).encode([RankRequest(60, [1], user), RankRequest(60, [1]), RankRequest(60, [1], user)])
  np.testing.assert_allclose(made["user_values"][0], record.user_values, rtol=1e-6)
  np.testing.assert_array_equal(made["user_values"][1], 0)
  np.testing.assert_array_equal(made["user_values"][2], made["user_values"][0])
  assert made["user_values"].dtype == np.float32


def test_a_sample_of_a_request_has_the_vectors_of_its_record(records):
  schema, found = records.record_schema, logs.requests(records, "train")
  samples = [record_lib.encode(record, schema) for record in found]
  made = RequestEncoder(records).encode(raw_requests(samples, schema, id_mapping_of(records)))
  np.testing.assert_array_equal(made["user_values"][:, OWN:], [record.user_values[OWN:] for record in found])


MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ([1, 2], "2 values"),
    ([], "0 values"),
    (np.zeros(4), "4 values"),
    ([1, math.nan, 2], "value 1 is nan"),
    (np.array([1, 2, -math.inf]), r"value 2 is .*-inf.*"),
    ([1, None, 2], "value 1 is None"),
    ([1, "2", 3], "value 1 is '2'"),
    ([True, 2, 3], "value 0 is True"),
    ([1, 2, 1e39], r"value 2 is 1e\+39"),
    ([1, 2, 10**400], "value 2 is 10+"),
    ([1, 2, [3]], r"value 2 is \[3\]"),
    (np.zeros((3, 3)), "value 0 is array.*"),
    (MASKED, "value 1 is masked"),
    ("abc", "'abc' is no list"),
    (1.0, "1.0 is no list"),
    (np.array(1.0), r"array\(1\.\) is no list"),
    ({1, 2, 3}, r"\{1, 2, 3\} is no list"),
  ],
  ids=str,
)
def test_a_request_with_what_is_no_vector_is_told_with_its_place(records, value, message):
  requests = [RankRequest(60, [1]), RankRequest(60, [1], {"taste": value})]
  told = rf"^requests\[1\]\.user\['taste'\]: {message}: expected 3 finite numbers of float32$"
  with pytest.raises(UserError, match=told):
    RequestEncoder(records).encode(requests)
  with pytest.raises(UserError, match=told):
    raw_tensors(requests, records.record_schema, {"target": True, "source": True})


def test_a_misspelt_vector_of_a_request_is_told(records):
  with pytest.raises(UserError, match=r"requests\[0\]\.user: .*'tast'. Did you mean 'taste'\?"):
    RequestEncoder(records).encode([RankRequest(60, [1], {"tast": [1, 2, 3]})])


def test_users_without_a_vector_are_counted(records):
  requests = [RankRequest(60, [1], {"taste": TASTES[0]}), RankRequest(60, [1]), RankRequest(60, [1], {"mood": [0, 0]})]
  counts = collections.Counter()
  RequestEncoder(records).encode(requests, counts)
  assert {name: counts[name] for name in counts if "taste" in name or "mood" in name} == {
    "user.taste": 3,
    "user.taste unknown": 2,
    "user.mood": 3,
    "user.mood unknown": 3,
  }
