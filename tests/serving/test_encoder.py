import collections
import dataclasses

import numpy as np
import polars as pl
import pytest

from lcn_tf.data.build import builder, tables
from lcn_tf.data.record_set import SPLITS, RecordSet
from lcn_tf.data.request_spec import served_spec
from lcn_tf.errors import UserError
from lcn_tf.serving.encoder import Behaviour, BehaviourColumns, RankRequest, RequestEncoder
from tests.data import logs

SCHEMA = {
  "user_fields": [{"name": "user_id", "vocabulary": "user"}, {"name": "likes", "vocabulary": "likes", "max_values": 2}],
  "context_fields": ["place"],
  "target": {"item_fields": ["category"], "cross_fields": ["event", "place"], "max_length": 9},
  "source": {"cross_fields": ["place"], "max_length": 20},
  "vocabularies": {"event": {"min_count": 1, "oov": 5}},
  "candidates": 4,
}


@pytest.fixture(scope="module", params=["numbers", "texts"])
def case(request, tmp_path_factory):
  """A record set, the log that it was built from, and the users' likes."""
  log = logs.random_log(np.random.default_rng(0), 400, span=90)  # several behaviours share a second
  log = log.with_columns(place=pl.Series(np.random.default_rng(1).integers(0, 4, 400)))
  items = logs.items(12)
  if request.param == "texts":
    log, items = (f.with_columns(pl.lit("i") + pl.col("item_id").cast(pl.String)) for f in (log, items))
    log, items = (f.drop("item_id").rename({"literal": "item_id"}) for f in (log, items))
  users = pl.DataFrame({"user_id": range(6), "likes": [["a", "b"], [], ["c"], None, ["b", None, "a", "c"], ["d"]]})
  experiment = logs.experiment(SCHEMA, labels={"kind": "given"})
  folder = tmp_path_factory.mktemp("encoder") / "records"
  return builder.build(experiment, tables.RawTables(log, items, users), folder), log, dict(users.iter_rows())


def _history(log, user, domain):
  rows = log.filter((pl.col("user_id") == user) & (pl.col("domain") == domain))
  names = [name for name in ("event", "place") if name in SCHEMA[domain]["cross_fields"]]
  clicked = rows.filter(pl.col("label") == 1)
  return [
    Behaviour(row["item_id"], row["timestamp"], {name: row[name] for name in names})
    for row in clicked.sort("timestamp", maintain_order=True).iter_rows(named=True)
  ]


def test_a_request_is_numbered_as_its_record_is(case):
  """Each candidate of each record, asked for anew from what the log says."""
  records, log, likes = case
  encoder = RequestEncoder(records)
  users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  item_ids = dict(pl.read_parquet(records.path / "items" / "target.parquet").select("row", "item_id").iter_rows())
  met = 0
  for split in SPLITS:
    for record in logs.requests(records, split):
      user = users[record.user]
      for n, (item, time) in enumerate(zip(record.items.tolist(), record.times.tolist(), strict=True)):
        shown = log.filter(
          (pl.col("user_id") == user)
          & (pl.col("item_id") == item_ids[item])
          & (pl.col("timestamp") == time)
          & (pl.col("domain") == "target")
        )
        if len(shown) > 1:
          continue  # which of their places is meant cannot be told
        request = RankRequest(
          time=time,
          candidates=[item_ids[item]],
          user={"user_id": user, "likes": likes.get(user)},
          context={"place": shown["place"][0]},
          target=_history(log, user, "target"),
          source=_history(log, user, "source"),
        )
        tensors = encoder.encode([request])
        np.testing.assert_array_equal(tensors["candidate_items"], [[item]])
        np.testing.assert_array_equal(tensors["candidate_times"], [[time]])
        np.testing.assert_array_equal(tensors["candidate_context"], [[record.context[n]]])
        np.testing.assert_array_equal(tensors["user_fields"], [record.user_fields])
        for d in ("target", "source"):
          history, first = record.history(d), record.history(d).first_visible[n]
          seen = slice(first, first + SCHEMA[d]["max_length"])
          np.testing.assert_array_equal(tensors[f"{d}_items"], [history.items[seen]])
          np.testing.assert_array_equal(tensors[f"{d}_times"], [history.times[seen]])
          np.testing.assert_array_equal(tensors[f"{d}_cross"], [history.cross[seen]])
          assert tensors[f"{d}_length"] == [len(history.items[seen])]
          met += len(history.items[seen])
  assert met > 1000


def test_the_id_mapping_that_an_export_carries_is_enough(case, tmp_path):
  records, _, _ = case
  records.save_id_mapping(tmp_path)
  known = pl.read_parquet(records.path / "items" / "target.parquet")["item_id"].to_list()
  requests = [RankRequest(20, known, {"user_id": 1, "likes": ["a"]}, {"place": 2}, source=[Behaviour(known[2], 19)])]
  expected = RequestEncoder(records).encode(requests)
  for name, tensor in RequestEncoder(RecordSet.open(tmp_path)).encode(requests).items():
    np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def test_requests_of_several_users_are_padded_and_have_the_shapes_of_the_signature(case):
  records, _, _ = case
  known = pl.read_parquet(records.path / "items" / "target.parquet")["item_id"].to_list()
  requests = [
    RankRequest(10, known[:3], {"user_id": 1}, {"place": 2}, target=[Behaviour(known[0], 3), Behaviour(known[1], 10)]),
    RankRequest(20, known[:1], source=[Behaviour("no such item", 19, {"place": 77})]),
  ]
  tensors = RequestEncoder(records).encode(requests)
  for name, spec in served_spec(records.record_schema).items():
    assert spec.shape.is_compatible_with(tensors[name].shape), name
    assert tensors[name].dtype == spec.dtype.as_numpy_dtype, name
  assert tensors.keys() == served_spec(records.record_schema).keys()
  np.testing.assert_array_equal(tensors["candidate_items"], [[2, 3, 4], [2, 0, 0]])
  np.testing.assert_array_equal(tensors["target_length"], [1, 0])  # second 10 is not older than second 10
  np.testing.assert_array_equal(tensors["target_items"], [[2], [0]])
  np.testing.assert_array_equal(tensors["source_items"], [[0], [1]])  # the unknown item
  np.testing.assert_array_equal(tensors["source_cross"], [[[0]], [[1]]])  # out of vocabulary
  np.testing.assert_array_equal(tensors["candidate_context"][1], [[1], [0], [0]])  # not given; padding
  empty = RequestEncoder(records).encode([])
  assert empty["candidate_items"].shape == (0, 0)


def test_a_value_is_read_alike_whatever_else_is_in_the_call(case):
  """`place` is 0 .. 3 in the log, `likes` takes up to two texts."""
  encoder = RequestEncoder(case[0])

  def fields(*requests):
    tensors = encoder.encode([RankRequest(1, [0], user, context) for user, context in requests])
    return tensors["candidate_context"][:, 0, 0].tolist(), tensors["user_fields"].tolist()

  plain = {"user_id": 1, "likes": ["a"]}, {"place": 3}
  others = [({"likes": "b"}, {"place": 3.0}), ({"user_id": True}, {"place": "3"}), ({}, {"place": np.int32(3)})]
  (alone,), (user,) = fields(plain)
  context, users = fields(*others, plain)
  assert context == [alone] * 4
  assert alone > 1
  assert users[-1] == user
  (_, (listed,)), (_, (scalar,)) = fields(({"likes": ["b"]}, {})), fields(({"likes": "b"}, {}))
  assert listed == scalar
  with pytest.raises(UserError, match=r"requests\[0\]\.context\['place'\]: \{\} is no text, number or truth value"):
    fields(({}, {"place": {}}))


@pytest.mark.parametrize(
  ("request_", "message"),
  [
    (RankRequest(1, [], {"age": 3}), r"requests\[0\].user: unknown field 'age'"),
    (RankRequest(1, [], context={"plce": 3}), r"requests\[0\].context: .*'plce'.*place"),
    (RankRequest(1, [], source=[Behaviour(1, 0, {"event": 3})]), r"source\[0\].fields: .*'event'"),
  ],
)
def test_a_field_that_the_schema_does_not_have_is_told(case, request_, message):
  with pytest.raises(UserError, match=message):
    RequestEncoder(case[0]).encode([request_])


def test_whole_floats_are_the_numbers_that_a_column_of_them_was_read_as(tmp_path):
  """pandas makes floats of integers with nulls."""
  log = logs.random_log(np.random.default_rng(0), 400, span=90).with_columns(pl.col("event").cast(pl.String))
  place = pl.Series(np.random.default_rng(1).integers(1, 5, 400).astype(float))
  log = log.with_columns(place=place)
  users = pl.DataFrame({"user_id": range(6), "likes": [["a"]] * 6})
  experiment = logs.experiment(SCHEMA, labels={"kind": "given"})
  encoder = RequestEncoder(
    builder.build(experiment, tables.RawTables(log, logs.items(12), users), tmp_path / "records")
  )

  def places(*values):
    rows = [RankRequest(time=50, candidates=[0], context={"place": value}) for value in values]
    return encoder.encode(rows)["candidate_context"][:, 0, 0].tolist()

  assert len(set(places(1, 2, 3, 4))) == 4
  assert min(places(1, 2, 3, 4)) > 1
  assert places(1.0, 2.0, np.float32(3), 4.0) == places(1, 2, 3, 4)
  assert places(float("nan"), float("inf"), 1.5) == places(None, None, "none of these")


def test_fractions_of_a_second_are_cut_off_as_in_records(case):
  encoder = RequestEncoder(case[0])
  item = case[1]["item_id"][0]
  past = [Behaviour(item, time) for time in (100.9, 900.2, 100.1, 899.9)]
  tensors = encoder.encode([RankRequest(900.7, [item], target=past)])
  np.testing.assert_array_equal(tensors["target_times"], [[899, 100, 100]])
  np.testing.assert_array_equal(tensors["candidate_times"], [[900]])


def test_what_is_no_id_is_the_unknown_item(case):
  records, log, _ = case
  known = log.filter(pl.col("domain") == "target")["item_id"][0]
  candidates = [known, None, 7.9, float("nan"), "no such item", True if isinstance(known, str) else 10**30]
  items = RequestEncoder(records).encode([RankRequest(time=50, candidates=candidates)])["candidate_items"][0]
  assert items[0] > 1
  assert items[1:].tolist() == [1] * 5


SEVEN = [7, "7", 7.0, np.int32(7), np.str_("7")]
IDS = [*SEVEN, "007", " 7 ", "7 ", "\u0667", "7.0", "+7", "-0", "1e1", True, None, 7.5, "", "x7"]


@pytest.mark.parametrize("kind", [pl.Int64, pl.String])
def test_an_id_is_the_same_item_to_the_encoder_as_to_the_builder(tmp_path, kind):
  """Whatever the items file holds, numbers or texts; a later log of texts is numbered `--like` it."""
  log = logs.random_log(np.random.default_rng(0), 400, span=90)
  first = tables.RawTables(log, logs.items(12).with_columns(pl.col("item_id").cast(kind)))
  experiment = logs.experiment({"target": {"max_length": 3}, "source": {"max_length": 3}}, labels={"kind": "given"})
  records = builder.build(experiment, first, tmp_path / "records")
  encoder = RequestEncoder(records)
  rows = dict(
    zip(pl.read_parquet(records.path / "items/target.parquet")["item_id"].cast(pl.String), range(2, 14), strict=True)
  )
  texts = [str(one) for one in IDS if isinstance(one, str)]
  later = log[: len(texts)].with_columns(
    item_id=pl.Series(texts), domain=pl.lit("target"), label=pl.lit(1.0), timestamp=pl.Series(range(len(texts)))
  )
  items = pl.DataFrame({"item_id": texts, "domain": "target"}).unique("item_id")
  split = {"split": {"boundaries": [0, 1]}}
  like = logs.experiment({"target": {"max_length": 3}, "source": {"max_length": 3}}, labels={"kind": "given"}, **split)
  again = builder.build(like, tables.RawTables(later, items), tmp_path / "later", like=records)
  built = {}
  for record in logs.requests(again, "test") + logs.requests(again, "validation"):
    built |= dict(zip(record.times.tolist(), record.items.tolist(), strict=True))
  found = encoder.encode([RankRequest(10**6, IDS)])["candidate_items"][0].tolist()
  by_text = dict(zip(IDS, found, strict=True))
  assert [by_text[text] for text in texts] == [built[second] for second in range(len(texts))]
  assert found[: len(SEVEN)] == [rows["7"]] * len(SEVEN)
  assert set(found[len(SEVEN) :]) == {1}


@pytest.mark.parametrize(
  ("request_", "message"),
  [
    (RankRequest(float("nan"), [0]), r"^requests\[1\]\.time: nan is no moment"),
    (RankRequest(float("inf"), [0]), r"^requests\[1\]\.time: inf is no moment"),
    (RankRequest(1e300, [0]), r"^requests\[1\]\.time: 1e\+300 is no moment"),
    (RankRequest(-1, [0]), r"^requests\[1\]\.time: -1 is no moment"),
    (RankRequest(1_700_000_000_000, [0]), r"^requests\[1\]\.time: 1700000000000 is no moment: .*milliseconds\?$"),
    (RankRequest("12", [0]), r"^requests\[1\]\.time: '12' is no moment"),
    (RankRequest(True, [0]), r"^requests\[1\]\.time: True is no moment"),
    (RankRequest(9, [0], target=[Behaviour(0, None)]), r"^requests\[1\]\.target\[0\]\.timestamp: None is no moment"),
    (
      RankRequest(9, [0], source=[Behaviour(0, 1), Behaviour(0, 2**80)]),
      r"^requests\[1\]\.source\[1\]\.timestamp: \d+ is no moment",
    ),
    (RankRequest(9, [0], {"likes": ["a", "\ud800"]}), r"^requests\[1\]\.user\['likes'\]: '.ud800' is not a text"),
    (RankRequest(9, [0], context={"place": "\udfff"}), r"^requests\[1\]\.context\['place'\]: '.udfff' is not a text"),
    (
      RankRequest(9, [0], source=[Behaviour(0, 1, {"place": object()})]),
      r"^requests\[1\]\.source\[0\]\.fields\['place'\]: <object .* is no text",
    ),
  ],
)
def test_what_is_no_moment_or_value_is_told_with_its_place(case, request_, message):
  with pytest.raises(UserError, match=message):
    RequestEncoder(case[0]).encode([RankRequest(1, [0]), request_])


@pytest.mark.parametrize("trials", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_whatever_a_request_holds_it_is_encoded_or_told_with_its_place(case, trials):
  rng = np.random.default_rng(3)
  odd = [None, float("nan"), float("-inf"), 1e300, 2**63, -(2**70), "\ud83d", "", "0", "\x00", 0.5, True, [], {}, b"x"]
  odd += [np.float32("nan"), np.int64(3), np.array([1, 2]), ("a",), {"b"}, [None], ["\udc00"], 10**400, object()]

  def any_of(*usual):
    pool = odd if rng.random() < 0.04 else usual
    return pool[rng.integers(len(pool))]

  encoder = RequestEncoder(case[0])
  messages = []
  for _ in range(trials):
    requests = [
      RankRequest(
        any_of(20, 30.5),
        [any_of(0, 1) for _ in range(rng.integers(3))],
        {"user_id": any_of(1, "2"), "likes": any_of(["a"], "b")},
        {"place": any_of(1, "2")},
        [Behaviour(any_of(0, 3), any_of(5, 6.5)) for _ in range(rng.integers(3))],
        [Behaviour(any_of(0, 3), any_of(5, 6), {"place": any_of(1)}) for _ in range(rng.integers(3))],
      )
      for _ in range(rng.integers(1, 4))
    ]
    try:
      tensors = encoder.encode(requests)
    except UserError as error:
      messages.append(str(error))
      continue
    for name, spec in served_spec(case[0].record_schema).items():
      assert spec.shape.is_compatible_with(tensors[name].shape), name
  assert all(message.startswith("requests[") for message in messages)
  assert 0.1 * trials < len(messages) < 0.9 * trials


def _columns(behaviours, as_array=False):
  """The same behaviours column by column."""
  names = {name for behaviour in behaviours for name in behaviour.fields}
  columns = BehaviourColumns(
    [b.item_id for b in behaviours],
    [b.timestamp for b in behaviours],
    {name: [b.fields.get(name) for b in behaviours] for name in sorted(names)},
  )
  if not as_array:
    return columns
  fields = {name: np.array(values) for name, values in columns.fields.items()}
  return BehaviourColumns(np.array(columns.item_ids), np.array(columns.timestamps), fields)


@pytest.mark.parametrize("seed", range(6))
def test_a_history_in_any_order_and_of_any_length_is_cut_to_what_is_newest(case, seed):
  """More behaviours than the schema keeps (9 and 20), several in a second, some not older than the request."""
  records, _, _ = case
  rng = np.random.default_rng(seed)
  ids = pl.read_parquet(records.path / "items" / "source.parquet")["item_id"].to_list()

  def behaviours(count):
    times = rng.integers(0, 40, count)
    return [Behaviour(ids[rng.integers(12)], int(time), {"place": int(rng.integers(0, 6))}) for time in times]

  history = {"target": behaviours(60), "source": behaviours(60)}
  if seed % 2:
    history = {d: sorted(own, key=lambda one: one.timestamp) for d, own in history.items()}
  tensors = RequestEncoder(records).encode([RankRequest(35, [ids[0]], **history)])
  lookup = RequestEncoder(records)
  for d, length in (("target", 9), ("source", 20)):
    older = [(one.timestamp, place, one) for place, one in enumerate(history[d]) if one.timestamp < 35]
    wanted = [one for _, _, one in sorted(older, key=lambda entry: entry[:2], reverse=True)[:length]]
    alone = lookup.encode([RankRequest(one.timestamp + 1, [], **{d: [one]}) for one in wanted])
    np.testing.assert_array_equal(tensors[f"{d}_times"][0], [one.timestamp for one in wanted])
    np.testing.assert_array_equal(tensors[f"{d}_items"][0], alone[f"{d}_items"][:, 0])
    np.testing.assert_array_equal(tensors[f"{d}_cross"][0], alone[f"{d}_cross"][:, 0])
  for as_array in (False, True):
    columns = {d: _columns(own, as_array) for d, own in history.items()}
    for name, tensor in lookup.encode([RankRequest(35, [ids[0]], **columns)]).items():
      np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


def test_every_candidate_may_have_a_context_of_its_own(case):
  encoder = RequestEncoder(case[0])
  one = [
    encoder.encode([RankRequest(9, [0], context={"place": place})])["candidate_context"][0, 0, 0] for place in (3, 2)
  ]
  requests = [RankRequest(9, [0, 1], context=[{"place": 3}, {"place": 2}]), RankRequest(9, [0], context={"place": 2})]
  context = encoder.encode(requests)["candidate_context"][..., 0]
  np.testing.assert_array_equal(context, [one, [one[1], 0]])
  with pytest.raises(UserError, match=r"^requests\[0\]\.context: 1 mappings, and there are 2 candidates"):
    encoder.encode([RankRequest(9, [0, 1], context=[{"place": 3}])])
  with pytest.raises(UserError, match=r"^requests\[0\]\.context\[1\]: .*'plce'"):
    encoder.encode([RankRequest(9, [0, 1], context=[{}, {"plce": 3}])])


def test_unknown_ids_and_values_are_counted(case):
  records, _, _ = case
  known = pl.read_parquet(records.path / "items" / "target.parquet")["item_id"].to_list()
  request = RankRequest(
    20,
    [known[0], "nobody's", known[1]],
    {"user_id": 1, "likes": ["no such"]},
    [{"place": 1}, {}, {"place": 77}],
    source=[Behaviour(known[0], 3, {"place": 1}), Behaviour("x", 4, {"place": 99}), Behaviour("late", 20)],
  )
  counts = collections.Counter()
  encoder = RequestEncoder(records)
  encoder.encode([request], counts)
  expected = {"candidates": 3, "candidates unknown": 1, "source": 2, "source unknown": 1}
  expected |= {"user.user_id": 1, "user.likes": 1, "user.likes unknown": 1}
  expected |= {"context.place": 3, "context.place unknown": 2, "source.place": 2, "source.place unknown": 1}
  assert +counts == expected
  encoder.encode([request], counts)
  assert +counts == {name: 2 * count for name, count in expected.items()}


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"item_ids": [1]}, r"^requests\[0\]\.source: 'item_ids' has 1 values, and timestamps has 2"),
    ({"fields": {"place": [1]}}, r"^requests\[0\]\.source: 'place' has 1 values, and timestamps has 2"),
    ({"fields": {"plce": [1, 2]}}, r"^requests\[0\]\.source\.fields: .*'plce'.*place"),
    ({"timestamps": [1, "2"]}, r"^requests\[0\]\.source\.timestamps\[1\]: '2' is no moment"),
    ({"timestamps": [True, 2]}, r"^requests\[0\]\.source\.timestamps\[0\]: True is no moment"),
    ({"timestamps": [1, 2**70]}, r"^requests\[0\]\.source\.timestamps\[1\]: \d+ is no moment.*milliseconds\?"),
    ({"timestamps": [1, 10**400]}, r"^requests\[0\]\.source\.timestamps\[1\]: \d+ is no moment"),
    ({"timestamps": np.array([1.0, np.nan])}, r"^requests\[0\]\.source\.timestamps\[1\]: .*nan.* is no moment"),
    ({"timestamps": np.array([-1, 3])}, r"^requests\[0\]\.source\.timestamps\[0\]: .*-1.* is no moment"),
    ({"timestamps": np.array([1.7e12, 3])}, r"timestamps\[0\]: .* is no moment: .*milliseconds\?$"),
    ({"timestamps": np.ma.array([1, 2], mask=[1, 0])}, r"^requests\[0\]\.source\.timestamps\[0\]: None is no moment"),
    ({"timestamps": np.array([1, 1.7e9], np.float32)}, r"timestamps\[1\]: .* is a float32, .* not tell seconds"),
    ({"timestamps": [1, np.float32(1.7e9)]}, r"timestamps\[1\]: .* is a float32, .* not tell seconds"),
    ({"timestamps": np.array([1, 2], "M8[s]")}, r"timestamps\[0\]: .*1970.* is no moment"),
    ({"timestamps": np.array([1, 2], "m8[s]")}, r"timestamps\[0\]: .*timedelta.* is no moment"),
    ({"fields": {"place": np.array([1, 2], "m8[s]")}}, r"fields\['place'\]\[1\]: .*timedelta.* is no text"),
    ({"fields": {"place": np.array([1, 2], "M8[ns]")}}, r"fields\['place'\]\[1\]: .*1970.* is no text"),
    ({"fields": {"place": [object(), 2]}}, r"^requests\[0\]\.source\.fields\['place'\]\[0\]: <object .* is no text"),
  ],
)
def test_columns_that_cannot_be_read_are_told_with_their_place(case, columns, message):
  right = BehaviourColumns([0, 1], [1, 2], {"place": [1, 2]})
  with pytest.raises(UserError, match=message):
    RequestEncoder(case[0]).encode([RankRequest(9, [0], source=dataclasses.replace(right, **columns))])


class Labelled:
  """A column that is read by labels, as a pandas Series is; its iterator goes by position."""

  def __init__(self, values):
    self.values = values

  def __len__(self):
    return len(self.values)

  def __iter__(self):
    return iter(self.values)

  def __getitem__(self, label):
    return self.values[-1 - label]


@pytest.mark.parametrize(
  ("make", "same_as"),
  [
    (Labelled, list),
    (pl.Series, list),
    (tuple, list),
    (lambda values: np.array(values, object), list),
    (lambda values: np.array(values, np.uint64), list),
    (lambda values: np.array(values, np.float32), lambda values: [np.float32(value) for value in values]),
    (lambda values: np.ma.array(values, mask=[0] * len(values)), list),
  ],
)
def test_columns_of_any_kind_are_read_as_single_values_are(tmp_path, make, same_as):
  """Item 2^24 is one that 32-bit floats do not tell from the next one, so it is no id there."""
  log = logs.random_log(np.random.default_rng(0), 200, span=90).with_columns(place=pl.col("label"))
  large = pl.col("item_id").replace(1, 2**24)
  experiment = logs.experiment(
    {"target": {}, "source": {"cross_fields": ["place"]}, "vocabularies": {"place": {"oov": 99}}},
    labels={"kind": "given"},
  )
  log, items = (f.with_columns(item_id=large) for f in (log, logs.items(12)))
  encoder = RequestEncoder(builder.build(experiment, tables.RawTables(log, items), tmp_path / "records"))
  ids, times, places = [3, 2**24, 5, 7], [4, 9, 9, 2], [1, 0, 2**24 + 2, 2]
  columns = BehaviourColumns(make(ids), make(times), {"place": make(places)})
  rows = zip(*map(same_as, (ids, times, places)), strict=True)
  single = [Behaviour(item, time, {"place": place}) for item, time, place in rows]
  there, wanted = (encoder.encode([RankRequest(50, [0], source=source)]) for source in (columns, single))
  for name, tensor in wanted.items():
    np.testing.assert_array_equal(there[name], tensor, err_msg=name)


def test_masked_ids_and_values_of_columns_are_missing(case):
  encoder = RequestEncoder(case[0])
  masked = np.ma.array([3, 4], mask=[True, True])
  found = encoder.encode([RankRequest(9, [], source=BehaviourColumns(masked, [1, 2], {"place": masked}))])
  assert found["source_items"].tolist() == [[1, 1]]
  assert found["source_cross"].tolist() == [[[1], [1]]]
