import polars as pl
import pytest

from lcn_tf.config import Labels
from lcn_tf.data.build import tables
from lcn_tf.errors import UserError
from lcn_tf.schema import Schema
from tests.data import logs

GOOD = (1, 0, "target", 10, 1.0)
SCHEMA = Schema(target={"item_fields": ["category"], "cross_fields": ["event"]})


def check(interactions, items=None, users=None, schema=SCHEMA, **labels):
  items = logs.items(3) if items is None else items
  return tables.check(tables.RawTables(interactions, items, users), schema, Labels(**labels))


@pytest.mark.parametrize(
  ("bad", "labels", "reason"),
  [
    ((None, 0, "target", 10, 1.0), {}, "null user_id"),
    ((1, None, "target", 10, 1.0), {}, "null item_id"),
    ((1, 0, "Target", 10, 1.0), {}, "domain is not one of target, source"),
    ((1, 0, None, 10, 1.0), {}, "domain is not one of target, source"),
    ((1, 0, "target", None, 1.0), {}, "timestamp is null or not a number"),
    ((1, 0, "target", -1, 1.0), {}, "negative timestamp"),
    ((1, 0, "target", 10, 0.5), {}, "label is neither 0 nor 1"),
    ((1, 0, "target", 10, float("nan")), {}, "label is neither 0 nor 1"),
    ((1, 0, "target", 10, float("nan")), {"kind": "threshold"}, "label is not a number"),
    ((1, 99, "target", 10, 1.0), {}, "item is not in the items file"),
  ],
)
def test_a_bad_row_is_left_out_with_its_reason(bad, labels, reason):
  checked = check(logs.interactions([GOOD, bad, GOOD]), **labels)
  assert checked.interactions["row"].to_list() == [0, 2]
  assert checked.reasons() == {f"interactions: {reason}": 1}
  (row,) = checked.rejected.rows(named=True)
  assert (row["table"], row["row"], row["reason"]) == ("interactions", 1, reason)
  assert row["item_id"] == (None if bad[1] is None else str(bad[1]))


def test_an_item_of_the_other_domain_is_not_in_the_items_file():
  items = logs.items(3).filter((pl.col("domain") == "source") | (pl.col("item_id") > 0))
  checked = check(logs.interactions([GOOD, (1, 0, "source", 10, 1.0), (1, 1, "target", 11, 1.0)]), items)
  assert checked.interactions.select("domain", "item_id").rows() == [("source", 0), ("target", 1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_timestamp_that_is_no_moment_is_left_out(value):
  log = logs.interactions([GOOD, GOOD]).with_columns(timestamp=pl.Series([10.9, value]))
  checked = check(log)
  assert checked.interactions["timestamp"].to_list() == [10]
  assert checked.reasons() == {"interactions: timestamp is null or not a number": 1}


@pytest.mark.parametrize("value", [-1.0, float("nan"), None])
def test_a_weight_below_zero_or_missing_is_left_out(value):
  checked = check(logs.interactions([GOOD, GOOD], weight=pl.Series([2.5, value])))
  assert checked.interactions["weight"].to_list() == [2.5]
  assert checked.reasons() == {"interactions: weight is not a number of at least 0": 1}


def test_a_row_that_repeats_another_in_every_column_is_left_out_once():
  log = logs.interactions([GOOD, GOOD, (1, 1, "target", 10, 1.0)]).with_columns(event=pl.lit("same"))
  checked = check(log)
  assert checked.interactions["row"].to_list() == [0, 2]
  assert checked.reasons() == {"interactions: repeated row (the first is kept)": 1}


def test_rows_that_differ_in_a_column_that_nothing_reads_are_both_kept():
  log = logs.interactions([GOOD, GOOD]).with_columns(event=pl.lit("same"), basket=pl.Series([1, 2]))
  assert len(check(log).interactions) == 2


def test_repeated_items_and_users_keep_the_first_row_and_are_counted():
  items = pl.concat([logs.items(3), logs.items(1).with_columns(category=pl.lit("later"))])
  users = pl.DataFrame({"user_id": [1, 1, None], "age": ["a", "b", "c"]})
  schema = Schema(user_fields=["age"], target={"item_fields": ["category"]})
  checked = check(logs.interactions([GOOD]), items, users, schema)
  assert checked.reasons() == {
    "items: repeated item_id (the first row is kept)": 2,
    "users: null user_id": 1,
    "users: repeated user_id (the first row is kept)": 1,
  }
  assert "later" not in checked.items["field:category"].to_list()
  assert checked.users.select("user_id", "field:age").rows() == [(1, "a")]


def test_a_null_label_is_a_behaviour_that_is_no_candidate():
  checked = check(logs.interactions([GOOD, (1, 0, "target", 11, None)]))
  assert checked.interactions["label"].to_list() == [1.0, None]


@pytest.mark.parametrize(
  ("interactions_ids", "items_ids", "kept"),
  [
    (pl.Series([0, 1]), pl.Series(["0", "1"]), ["0", "1"]),
    (pl.Series([0, 1], dtype=pl.UInt32), pl.Series([0, 1], dtype=pl.Int8), [0, 1]),
    (pl.Series([0.0, 1.0]), pl.Series([0, 1]), [0, 1]),
    (pl.Series(["a", "b"], dtype=pl.Categorical), pl.Series(["b", "a"]), ["a", "b"]),
  ],
)
def test_ids_match_across_integer_and_string_types(interactions_ids, items_ids, kept):
  log = logs.interactions([GOOD, GOOD]).with_columns(item_id=interactions_ids)
  items = pl.DataFrame({"item_id": items_ids, "domain": ["target"] * 2, "category": ["c"] * 2})
  assert check(log, items).interactions["item_id"].to_list() == kept


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"timestamp": pl.lit("2020-01-01")}, "log: column 'timestamp' holds String, expected numbers: seconds since 1970"),
    ({"timestamp": pl.lit(0).cast(pl.Datetime)}, "expected numbers: seconds since 1970"),
    ({"domain": pl.lit(1)}, "log: column 'domain' holds Int32, expected strings: 'target' or 'source'"),
    ({"user_id": pl.lit(0.5)}, "log: column 'user_id' holds Float64, expected integers or strings"),
    ({"label": pl.lit("yes")}, "log: column 'label' holds String, expected numbers (records.labels.kind is given)"),
    ({"event": pl.lit(0.5)}, "log: column 'event' holds Float64, expected integers or strings, or lists of them"),
    (
      {"event": pl.concat_list("event")},
      "log: column 'event' holds lists (List(String)): a cross or context field of ",
    ),
    ({"event": pl.lit(0.5)}, "or lists of them. For numbers whose order counts set kind: numeric of that field"),
  ],
)
def test_a_column_of_a_wrong_type_is_an_error(columns, message):
  log = logs.interactions([GOOD]).with_columns(**columns)
  with pytest.raises(UserError) as error:
    tables.check(tables.RawTables(log, logs.items(3), names=("log", "items", "users")), SCHEMA, Labels())
  assert message in str(error.value)


@pytest.mark.parametrize("name", ["user_id", "item_id", "domain", "timestamp", "label", "event"])
def test_a_missing_column_is_an_error_that_names_the_nearest(name):
  log = logs.interactions([GOOD]).rename({name: f"{name}s"})
  with pytest.raises(UserError, match=f"interactions: no column '{name}' .*Did you mean '{name}s'"):
    check(log)


def test_user_fields_without_a_users_file_are_an_error():
  with pytest.raises(UserError, match="'age' is read from the users file, but there is none"):
    check(logs.interactions([GOOD]), schema=Schema(user_fields=["user_id", "age"]))


def test_a_log_without_one_good_row_is_an_error_that_counts_the_reasons():
  with pytest.raises(UserError, match=r"no usable interaction\. interactions: item is not in the items file: 2"):
    check(logs.interactions([(1, 7, "target", 10, 1.0), (1, 8, "target", 10, 1.0)]))
  with pytest.raises(UserError, match=r"no usable interaction\. the file is empty"):
    check(logs.interactions([]))


def test_fields_may_be_integers_booleans_whole_floats_and_lists_of_them():
  items = logs.items(2, whole=pl.Series([4.0, 3.0, None, 1.0]), flag=pl.Series([True, False, None, True]))
  items = items.with_columns(numbers=pl.Series([[1, 2], [], None, [3]]), one=pl.Series([1, 2, 3, None]))
  fields = ["whole", "flag", {"name": "numbers", "max_values": 2}, {"name": "one", "max_values": 2}]
  checked = check(logs.interactions([GOOD]), items, schema=Schema(target={"item_fields": fields}))
  assert checked.items["field:whole"].to_list() == ["4", "3", None, "1"]
  assert checked.items["field:flag"].to_list() == ["true", "false", None, "true"]
  assert checked.items["field:numbers"].to_list() == [["1", "2"], [], None, ["3"]]
  assert checked.items["field:one"].to_list() == [["1"], ["2"], ["3"], [None]]


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(tmp_path):
  log = logs.interactions([GOOD, (2, 1, "target", 10, 1.0)])
  (tmp_path / "log").mkdir()
  log[1:].write_parquet(tmp_path / "log" / "b.parquet")
  log[:1].write_parquet(tmp_path / "log" / "a.parquet")
  logs.items(3).write_parquet(tmp_path / "items.parquet")
  read = tables.read(str(tmp_path / "log"), str(tmp_path / "items.parquet"))
  assert read.interactions.equals(log)
  assert read.users is None


def test_a_path_that_is_no_parquet_file_is_an_error(tmp_path):
  (tmp_path / "text.parquet").write_text("user_id,item_id\n")
  (tmp_path / "empty").mkdir()
  for path, message in [
    ("texts.parquet", "no such file. Did you mean"),
    ("text.parquet", "damaged, or no Parquet file"),
    ("empty", "this folder holds no .parquet file"),
  ]:
    with pytest.raises(UserError, match=f"{tmp_path}/{path}: {message}"):
      tables.read(str(tmp_path / path), str(tmp_path / path))


def test_timestamps_in_milliseconds_are_rejected_row_by_row():
  rows = [(1, 0, "target", time, 1.0) for time in (0, 1_700_000_000, 1_700_000_000_000, 99_999_999_999)]
  checked = check(logs.interactions(rows))
  assert checked.interactions["timestamp"].to_list() == [0, 1_700_000_000, 99_999_999_999]
  reason = "interactions: timestamp is of the year 5138 or later: milliseconds?"
  assert checked.reasons() == {reason: 1}
  with pytest.raises(UserError, match=r"no usable interaction\. interactions: timestamp .*milliseconds\?: 1$"):
    check(logs.interactions(rows[2:3]))


def test_rejected_rows_are_told_by_file(tmp_path):
  """One day's file holds milliseconds, another one an unknown item."""
  days = [(10, 11), (1_700_000_000_000, 12, 1_700_000_000_001), (13,)]
  for day, times in enumerate(days):
    logs.interactions([(1, 0, "target", time, 1.0) for time in times]).write_parquet(tmp_path / f"day{day}.parquet")
  items = logs.items(1)
  items.write_parquet(tmp_path.parent / f"{tmp_path.name}.items.parquet")
  read = tables.read(str(tmp_path), f"{tmp_path}.items.parquet")
  checked = tables.check(read, SCHEMA, Labels())
  assert checked.rejected.select("file", "row").rows() == [("day1.parquet", 2), ("day1.parquet", 4)]
  assert list(checked.by_file().values()) == ["2 of them in day1.parquet"]
  assert checked.interactions["timestamp"].to_list() == [10, 11, 12, 13]


@pytest.mark.parametrize("kind", ["given", "threshold"])
def test_a_behaviour_that_was_never_a_candidate_needs_no_weight(kind):
  behaviour = (1, 0, "target", 11, None)
  checked = check(logs.interactions([GOOD, behaviour], weight=pl.Series([2.5, None])), kind=kind)
  assert checked.interactions["weight"].to_list() == [2.5, 1.0]
  assert checked.reasons() == {}


def test_a_folder_that_is_named_like_a_file_is_read_once(tmp_path):
  """As Spark writes it."""
  folder = tmp_path / "day1.parquet"
  folder.mkdir()
  pl.DataFrame({"item_id": [1, 2]}).write_parquet(folder / "part-0.parquet")
  for path in (tmp_path, folder):
    assert tables.read(str(path), str(folder)).interactions["item_id"].to_list() == [1, 2]


def test_a_list_of_floats_may_hold_no_number():
  schema = Schema(target={"item_fields": [{"name": "category", "max_values": 2}]})
  items = logs.items(1, category=pl.Series([[1.0, float("nan")]] * len(logs.items(1))))
  checked = check(logs.interactions([GOOD]), items, schema=schema)
  assert checked.items["field:category"].to_list()[0] == ["1", None]


def test_the_files_of_a_folder_may_differ_in_types_and_columns(tmp_path):
  pl.DataFrame({"item_id": [1, 2], "label": [0, 1]}).write_parquet(tmp_path / "day[1].parquet")
  pl.DataFrame({"item_id": [3], "label": [0.0], "more": ["x"]}).write_parquet(tmp_path / "day[2].parquet")
  read = tables.read(str(tmp_path), str(tmp_path / "day[1].parquet"))
  assert read.interactions.rows() == [(1, 0.0, None), (2, 1.0, None), (3, 0.0, "x")]
  assert read.items.height == 2


@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_seconds_are_kept_though_four_rows_in_ten_are_of_another_unit(unit):
  times = [1_700_000_000 + i for i in range(10)]
  mixed = [time * unit if i % 5 < 2 else time for i, time in enumerate(times)]
  checked = check(logs.interactions([(1, 0, "target", time, 1.0) for time in mixed]))
  assert checked.interactions["timestamp"].to_list() == [time for i, time in enumerate(times) if i % 5 >= 2]
  reason = "interactions: timestamp is of the year 5138 or later: milliseconds?"
  assert checked.reasons() == {reason: 4}
  assert checked.rejected["row"].to_list() == [0, 1, 5, 6]
  assert checked.rejected["timestamp"].to_list() == [str(mixed[i]) for i in (0, 1, 5, 6)]
  with pytest.raises(UserError, match=r"^interactions: no usable interaction\. interactions: timestamp .*\?: 10$"):
    check(logs.interactions([(1, 0, "target", time * unit, 1.0) for time in times]))


def test_a_weight_that_32_bits_do_not_hold_is_left_out():
  largest = 3.4028234663852886e38
  checked = check(logs.interactions([GOOD] * 4, weight=pl.Series([largest, 1e39, 0.0, float("inf")])))
  assert checked.interactions["weight"].to_list() == [largest, 0.0]
  assert checked.reasons() == {
    "interactions: weight is too large for a 32-bit float": 1,
    "interactions: weight is not a number of at least 0": 1,
  }


def test_many_interactions_on_items_that_the_file_lacks_are_told_by_domain(caplog):
  """Two of ten are many, one of ten is not."""
  rows = [(1, 0, "target", i, 1.0) for i in range(8)] + [(1, 0, "source", i, 1.0) for i in range(9)]
  rows += [(1, 77, "target", 8, 1.0), (1, 88, "target", 9, 1.0), (1, 99, "source", 9, 1.0)]
  checked = check(logs.interactions(rows))
  assert checked.reasons() == {"interactions: item is not in the items file": 3}
  assert [record.getMessage() for record in caplog.records] == [
    "interactions: 2 of 10 interactions of the target domain are on items that are not in items: 77, say; it has 0"
  ]


@pytest.mark.parametrize("others", [[], [(1, 0, "source", 1, 1.0)]])
def test_a_domain_none_of_whose_items_is_in_the_file_is_an_error_with_an_example_of_each(others):
  rows = [(1, 1, "target", i, 1.0) for i in range(3)] + others
  items = logs.items(2).with_columns(item_id=pl.format("00000{}", "item_id"))
  items = items.with_columns(item_id=pl.when(pl.col("domain") == "target").then("item_id").otherwise(pl.lit("0")))
  with pytest.raises(UserError) as error:
    check(logs.interactions(rows), items)
  assert (
    "interactions: 3 of 3 interactions of the target domain are on items that are not in items: '1', say; it has "
    "'000000'. Ids compare as texts where one of the files has texts: 7 is '7', and not '007'"
  ) in str(error.value)
  assert ("no usable interaction. interactions: item is not" in str(error.value)) == (not others)


def test_a_domain_without_one_item_is_an_error_that_says_so():
  items = logs.items(2).filter(pl.col("domain") == "target")
  with pytest.raises(
    UserError, match=r"1 of 1 interactions of the source domain .*: 0, say; it has none of that domain"
  ):
    check(logs.interactions([GOOD, (1, 0, "source", 1, 1.0)]), items)


def test_ids_above_64_bits_are_read_as_their_texts():
  ids = pl.Series([2**100, 7], dtype=pl.Int128)
  log = logs.interactions([GOOD, GOOD]).with_columns(user_id=ids, event=pl.Series([2**63, 1], dtype=pl.UInt64))
  checked = check(log)
  assert checked.interactions["user_id"].to_list() == [str(2**100), "7"]
  assert checked.interactions["field:event"].to_list() == [str(2**63), "1"]
