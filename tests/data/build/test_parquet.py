"""Logs as Spark, Hive, pandas and daily jobs leave them."""

import os
import pathlib

import polars as pl
import pytest

from lcn_tf.config import Labels
from lcn_tf.data.build import parquet, tables
from lcn_tf.errors import StorageError, UserError
from lcn_tf.schema import Schema
from tests.data import logs


def write(file, **columns):
  file.parent.mkdir(parents=True, exist_ok=True)
  pl.DataFrame(columns).write_parquet(file)
  return file


def days(folder, **columns):
  """A file for each entry of the columns' lists."""
  for number, values in enumerate(zip(*columns.values(), strict=True)):
    write(folder / f"day{number}.parquet", **dict(zip(columns, values, strict=True)))
  return parquet.read(str(folder))


def checked(folder, *series, column="user_id"):
  """The log of several days that differ in one column, as the builder reads it."""
  for number, values in enumerate(series):
    rows = [(1, 0, "target", 10 + 10 * number + i, 1.0) for i in range(len(values))]
    logs.interactions(rows).with_columns(values.alias(column)).write_parquet(folder / f"day{number}.parquet")
  source = parquet.read(str(folder))
  table = tables.RawTables(source.frame, logs.items(1), names=(str(folder), "items", "users"))
  table.sources["interactions"] = source
  return tables.check(table, Schema(target={"cross_fields": ["event"]}), Labels())


def damage(file, mark):
  """Makes a text of a column no text, which nothing but reading that column finds."""
  data = file.read_bytes()
  assert mark.encode() in data
  file.write_bytes(data.replace(mark.encode(), b"\xff" * len(mark), 1))


def test_what_writers_leave_behind_is_not_read(tmp_path, caplog):
  write(tmp_path / "part-1.parquet", a=[2])
  write(tmp_path / "deep" / "er" / "part-0.parquet", a=[1])
  for left in ("_temporary/0/part-0", ".ipynb_checkpoints/x", "deep/_tmp/x", "_part-2", ".part-3", "deep/.hidden"):
    write(tmp_path / f"{left}.parquet", a=[9])
  for name in ("_SUCCESS", "_metadata", ".part-1.parquet.crc"):
    (tmp_path / name).write_bytes(b"no parquet")
  source = parquet.read(str(tmp_path))
  assert source.frame["a"].to_list() == [1, 2]
  assert source.files == (("deep/er/part-0.parquet", 1), ("part-1.parquet", 1))
  assert source.size == sum((tmp_path / name).stat().st_size for name, _ in source.files)
  assert "do not end with .parquet" not in caplog.text


def test_files_of_other_kinds_are_told(tmp_path, caplog):
  write(tmp_path / "a.parquet", a=[1])
  (tmp_path / "b.csv").write_text("a\n2\n")
  write(tmp_path / "c.PARQUET", a=[3])
  assert parquet.read(str(tmp_path)).frame["a"].to_list() == [1]
  assert f"{tmp_path}: 2 files do not end with .parquet and are not read: b.csv" in caplog.text


def test_files_rows_and_bytes_are_told(tmp_path, caplog):
  write(tmp_path / "a.parquet", a=[1, 2])
  write(tmp_path / "b.parquet", a=[3])
  with caplog.at_level("INFO", "absl"):
    parquet.read(str(tmp_path))
  assert f"{tmp_path}: 2 files, 3 rows, " in caplog.text


def test_links_to_folders_and_files_are_followed(tmp_path):
  """Another disk holds the older days."""
  write(tmp_path / "archive" / "day1" / "part.parquet", a=[1])
  write(tmp_path / "archive" / "some file", a=[2])
  write(tmp_path / "log" / "day3.parquet", a=[3])
  (tmp_path / "log" / "day1").symlink_to("../archive/day1")
  (tmp_path / "log" / "day2.parquet").symlink_to(tmp_path / "archive" / "some file")
  (tmp_path / "link").symlink_to("log")
  for path in ("log", "link"):
    source = parquet.read(str(tmp_path / path))
    assert source.frame["a"].to_list() == [1, 2, 3]
    assert [name for name, _ in source.files] == ["day1/part.parquet", "day2.parquet", "day3.parquet"]
  assert parquet.read(str(tmp_path / "log" / "day2.parquet")).frame["a"].to_list() == [2]


@pytest.mark.parametrize("name", ["log", "log/day2", "log/day2.parquet", "log/deep/day2.parquet"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, name):
  if name != "log":
    write(tmp_path / "log" / "day1.parquet", a=[1])
  (tmp_path / name).parent.mkdir(exist_ok=True)
  (tmp_path / name).symlink_to("/nowhere/there")
  with pytest.raises(UserError) as error:
    parquet.read(str(tmp_path / "log"))
  assert str(error.value) == f"{tmp_path / name}: a link to /nowhere/there, which is not there"


def test_a_link_that_nobody_would_read_may_lead_nowhere(tmp_path):
  write(tmp_path / "a.parquet", a=[1])
  (tmp_path / "_latest").symlink_to("nowhere")
  (tmp_path / ".lock.parquet").symlink_to("nowhere")
  assert parquet.read(str(tmp_path)).frame["a"].to_list() == [1]


def test_a_link_to_a_folder_above_does_not_loop(tmp_path):
  write(tmp_path / "log" / "day" / "a.parquet", a=[1])
  (tmp_path / "log" / "day" / "up").symlink_to("../..")
  (tmp_path / "log" / "day" / "zelf").symlink_to(".")
  assert parquet.read(str(tmp_path / "log")).frame["a"].to_list() == [1]


def test_a_folder_that_two_links_lead_to_is_read_once(tmp_path):
  write(tmp_path / "there" / "a.parquet", a=[1])
  (tmp_path / "log").mkdir()
  for name in ("one", "two"):
    (tmp_path / "log" / name).symlink_to("../there")
  assert parquet.read(str(tmp_path / "log")).frame["a"].to_list() == [1]


@pytest.mark.parametrize(("number", "kind"), [(13, UserError), (5, StorageError)])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path, monkeypatch, number, kind):
  write(tmp_path / "a.parquet", a=[1])
  write(tmp_path / "day2" / "a.parquet", a=[2])

  def scandir(path):
    if pathlib.Path(path).name == "day2":
      raise OSError(number, os.strerror(number), str(path))
    return original(path)

  original = os.scandir
  monkeypatch.setattr(os, "scandir", scandir)
  with pytest.raises(kind) as error:
    parquet.read(str(tmp_path))
  assert str(error.value) == f"{tmp_path}/day2: this folder cannot be read: {os.strerror(number)}"


def test_the_names_of_folders_are_columns(tmp_path):
  write(tmp_path / "day=2024-01-01" / "domain=target" / "x=7" / "a.parquet", a=[1, 2])
  write(tmp_path / "day=2024-01-02" / "domain=source" / "x=12" / "a.parquet", a=[3])
  frame = parquet.read(str(tmp_path)).frame
  assert frame.schema == {"a": pl.Int64, "day": pl.String, "domain": pl.String, "x": pl.Int64}
  assert frame.rows() == [
    (1, "2024-01-01", "target", 7),
    (2, "2024-01-01", "target", 7),
    (3, "2024-01-02", "source", 12),
  ]


@pytest.mark.parametrize(
  ("given", "kind", "value"), [("7", pl.Int64, 7), ("a", pl.String, "a"), ("01", pl.String, "01")]
)
def test_what_the_name_of_a_folder_does_not_give_is_null(tmp_path, given, kind, value):
  write(tmp_path / f"x={given}" / "a.parquet", a=[1])
  write(tmp_path / "x=__HIVE_DEFAULT_PARTITION__" / "a.parquet", a=[2])
  frame = parquet.read(str(tmp_path)).frame.sort("a")
  assert frame["x"].to_list() == [value, None]
  assert frame.schema["x"] == kind


def test_the_names_of_folders_are_unquoted_and_only_plain_numbers_are_numbers(tmp_path):
  values = {
    "a%2Fb c%3D%C3%BC": "a/b c=ü",
    "1%3A2": "1:2",
    "007": "007",
    "-3": "-3",
    "\u0667": "\u0667",
    "3.0": "3.0",
    "": "",
  }
  for number, name in enumerate(values):
    write(tmp_path / f"n{number}" / f"x={name}" / "a.parquet", a=[number])
  write(tmp_path / "n9" / "no partition" / "=y" / "a.parquet", a=[9])
  frame = parquet.read(str(tmp_path)).frame
  assert frame["x"].to_list() == [*values.values(), None]
  assert frame.columns == ["a", "x"]


def test_a_column_of_the_file_wins_over_the_name_of_the_folder(tmp_path):
  write(tmp_path / "a=1" / "a=2" / "b.parquet", b=[1])
  write(tmp_path / "a=3" / "c.parquet", a=[4], b=[2])
  assert parquet.read(str(tmp_path)).frame.sort("b")["a"].to_list() == [2, 4]


def test_the_folder_that_is_given_and_those_above_it_are_no_columns(tmp_path):
  write(tmp_path / "x=1" / "y=2" / "z=3" / "a.parquet", a=[1])
  assert parquet.read(str(tmp_path / "x=1" / "y=2")).frame.rows(named=True) == [{"a": 1, "z": 3}]
  assert parquet.read(str(tmp_path / "x=1" / "y=2" / "z=3" / "a.parquet")).frame.columns == ["a"]


ENUM = pl.Enum(["7", "8"])


@pytest.mark.parametrize(
  "others",
  [
    pl.Series([7.0, None]),
    pl.Series([7.0, float("nan")]),
    pl.Series([7.0, None], dtype=pl.Float32),
    pl.Series([7, None]),
    pl.Series([7, None], dtype=pl.UInt64),
    pl.Series(["7", None], dtype=pl.Categorical),
    pl.Series(["7", None], dtype=ENUM),
  ],
)
@pytest.mark.parametrize("first", [pl.Series(["7", "8"]), pl.Series(["7", "8"], dtype=ENUM)])
def test_a_user_is_one_whatever_type_the_id_has_on_which_day(tmp_path, first, others):
  table = checked(tmp_path, first, others)
  assert table.interactions["user_id"].to_list() == ["7", "8", "7"]
  assert table.reasons() == {"interactions: null user_id": 1}


@pytest.mark.parametrize(
  ("first", "second"),
  [
    (pl.Series([7]), pl.Series([7.0, None])),
    (pl.Series([7.0]), pl.Series([7.0, float("nan")])),
    (pl.Series([7], dtype=pl.Int8), pl.Series([7, None], dtype=pl.UInt32)),
    (pl.Series([7], dtype=pl.Int64), pl.Series([7, None], dtype=pl.Float32)),
  ],
)
def test_ids_of_numbers_alone_stay_numbers(tmp_path, first, second):
  table = checked(tmp_path, first, second)
  assert table.interactions["user_id"].to_list() == [7, 7]
  assert table.reasons() == {"interactions: null user_id": 1}


def test_texts_of_two_enumerations_are_texts(tmp_path):
  one, two = (pl.Series([text], dtype=pl.Enum([text])) for text in "ab")
  assert days(tmp_path, a=[one, two]).frame["a"].to_list() == ["a", "b"]


def test_lists_of_texts_of_every_type_are_lists_of_texts(tmp_path):
  one, two = (pl.Series([[text]], dtype=pl.List(pl.Enum([text]))) for text in "ab")
  more = pl.Series([["c"]], dtype=pl.List(pl.Categorical))
  assert days(tmp_path, a=[one, pl.Series([None]), two, more]).frame["a"].to_list() == [["a"], None, ["b"], ["c"]]


def test_lists_of_whole_floats_are_those_of_integers_and_texts(tmp_path):
  source = days(tmp_path, a=[pl.Series([["7"], None]), pl.Series([[7.0, float("nan")], []]), pl.Series([[8]])])
  assert source.frame["a"].to_list() == [["7"], None, ["7", None], [], ["8"]]


def test_a_column_that_a_day_lacks_is_null_there(tmp_path):
  write(tmp_path / "day1.parquet", a=[1], b=["x"])
  write(tmp_path / "day2.parquet", a=[2.0])
  write(tmp_path / "day3.parquet", a=pl.Series([None]), c=[3])
  assert parquet.read(str(tmp_path)).frame.rows() == [(1.0, "x", None), (2.0, None, None), (None, None, 3)]


@pytest.mark.parametrize(
  ("first", "second", "types"),
  [
    (pl.Series([["a"]]), pl.Series(["a"]), ("List(String)", "String")),
    (pl.Series([1]), pl.Series([1]).cast(pl.Date), ("Int64", "Date")),
    (pl.Series([1]), pl.Series([1]).cast(pl.Datetime("us")), ("Int64", "Datetime(time_unit='us', time_zone=None)")),
    (pl.Series([{"a": 1}]), pl.Series([1]), ("Struct({'a': Int64})", "Int64")),
  ],
)
@pytest.mark.parametrize("column", ["user_id", "event", "timestamp", "label", "weight"])
def test_types_with_nothing_in_common_are_told_if_the_column_is_needed(tmp_path, first, second, types, column):
  with pytest.raises(UserError) as error:
    checked(tmp_path, first, second, column=column)
  assert str(error.value).startswith(f"{tmp_path}: column {column!r} (")
  files = [f"{kind} in {tmp_path}/day{day}.parquet" for day, kind in enumerate(types)]
  assert str(error.value).endswith(f") cannot be read: no common type: {files[0]}; {files[1]}")


def test_types_with_nothing_in_common_do_not_matter_in_a_column_that_nobody_needs(tmp_path):
  table = checked(tmp_path, pl.Series([["a"]]), pl.Series([1]), column="basket")
  assert table.interactions["timestamp"].to_list() == [10, 20]


@pytest.mark.parametrize("column", ["user_id", "item_id", "event"])
@pytest.mark.parametrize(
  ("series", "day", "found"),
  [
    ([pl.Series([2**24], dtype=pl.Float32)], 0, "Float32, and from 16,777,216 on"),
    ([pl.Series([1]), pl.Series([None, -1e9], dtype=pl.Float32)], 1, "Float32, and from 16,777,216 on"),
    ([pl.Series([1.0, float("nan")]), pl.Series([2.0**53])], 1, "Float64, and from 9,007,199,254,740,992 on"),
    ([pl.Series([2**60]), pl.Series([1.0])], 0, "Int64, and from 9,007,199,254,740,992 on"),
    ([pl.Series(["1"]), pl.Series([1e17])], 1, "Float64, and from 9,007,199,254,740,992 on"),
    ([pl.Series([-(2**63)]), pl.Series([1], dtype=pl.Float32)], 0, "Int64, and from 9,007,199,254,740,992 on"),
  ],
)
def test_numbers_that_floats_do_not_tell_apart_are_refused_with_file_and_column(tmp_path, column, series, day, found):
  with pytest.raises(UserError) as error:
    checked(tmp_path, *series, column=column)
  message = (
    f"{tmp_path}/day{day}.parquet: column {column!r} holds {found} floats do not tell whole numbers apart; found "
  )
  assert str(error.value).startswith(message)
  assert str(error.value).endswith(". Write it as integers or text")


@pytest.mark.parametrize("second", [pl.Series([7.0, 0.5]), pl.Series([7.0, float("inf")])])
@pytest.mark.parametrize("column", ["user_id", "event"])
def test_fractions_are_refused_though_other_files_hold_texts(tmp_path, second, column):
  """The float 7.0 beside them would be the text '7.0', another user than '7'."""
  with pytest.raises(UserError) as error:
    checked(tmp_path, pl.Series(["7"]), second, column=column)
  assert str(error.value).endswith(
    f"cannot be read: {tmp_path}/day1.parquet: Float64 that are no whole numbers, and other files hold text"
  )


def test_lists_of_fractions_are_refused_though_other_files_hold_lists_of_texts(tmp_path):
  source = days(tmp_path, a=[pl.Series([["7"]]), pl.Series([[7.0, 0.5]])])
  assert source.frame.columns == []
  assert source.unreadable == {
    "a": f"{tmp_path}/day1.parquet: List(Float64) that are no whole numbers, and other files hold text"
  }


@pytest.mark.parametrize(
  ("kind", "largest", "kept"),
  [
    (pl.Float32, 2**24 - 1, True),
    (pl.Float64, 2**53 - 1, True),
    (pl.Int64, 2**53 + 1, True),
    (pl.UInt64, 2**63, False),
  ],
)
def test_numbers_that_are_told_apart_are_read(tmp_path, kind, largest, kept):
  table = checked(tmp_path, pl.Series([largest, largest - 1], dtype=kind))
  expected = [largest, largest - 1]
  assert table.interactions["user_id"].to_list() == (expected if kept else [str(number) for number in expected])


def test_seconds_of_32_bits_are_refused_and_larger_numbers_than_seconds_rejected(tmp_path):
  with pytest.raises(UserError, match=r"day0\.parquet: column 'timestamp' holds Float32, and from 16,777,216 on"):
    checked(tmp_path, pl.Series([1.7e9], dtype=pl.Float32), column="timestamp")
  table = checked(tmp_path, pl.Series([1.7e9, 1.7e18]), column="timestamp")
  assert table.interactions["timestamp"].to_list() == [1_700_000_000]
  assert list(table.reasons()) == ["interactions: timestamp is of the year 5138 or later: milliseconds?"]


def test_a_column_that_cannot_be_read_and_nobody_needs_is_left_out(tmp_path, caplog):
  checked(tmp_path, pl.Series(["damage this", "x"]), column="comment")
  damage(tmp_path / "day0.parquet", "damage this")
  source = parquet.read(str(tmp_path))
  assert source.frame.columns == ["user_id", "item_id", "domain", "timestamp", "label", "event"]
  assert source.frame["timestamp"].to_list() == [10, 11]
  assert f"{tmp_path}/day0.parquet: columns that cannot be read: comment" in caplog.text
  table = tables.RawTables(source.frame, logs.items(1), sources={"interactions": source})
  assert len(tables.check(table, Schema(), Labels()).interactions) == 2


@pytest.mark.parametrize("column", ["user_id", "domain", "event", "label", "weight"])
@pytest.mark.parametrize("bad", [0, 1])
def test_a_column_that_cannot_be_read_and_is_needed_is_told_with_its_file(tmp_path, column, bad):
  """The other day's file is whole, and has it."""
  series = [pl.Series(["damage this", "x"]), pl.Series(["target", "x"])]
  for number, values in enumerate(series if bad == 0 else series[::-1]):
    frame = logs.interactions([(1, 0, "target", 10, 1.0)] * 2).with_columns(values.alias(column))
    frame.write_parquet(tmp_path / f"day{number}.parquet")
  damage(tmp_path / f"day{bad}.parquet", "damage this")
  source = parquet.read(str(tmp_path))
  table = tables.RawTables(
    source.frame, logs.items(1), names=("log", "items", "users"), sources={"interactions": source}
  )
  with pytest.raises(UserError) as error:
    tables.check(table, Schema(target={"cross_fields": ["event"]}), Labels())
  head, _, reason = str(error.value).partition(" cannot be read: ")
  assert head.startswith(f"log: column {column!r} (")
  assert reason.startswith(f"{tmp_path}/day{bad}.parquet: damaged, or no Parquet file: ")
  assert reason.count("day") == 1


def test_weights_that_cannot_be_read_are_not_those_of_a_log_without_weights(tmp_path):
  logs.interactions([(1, 0, "target", 10, 1.0)], weight=pl.lit("damage this")).write_parquet(tmp_path / "day0.parquet")
  damage(tmp_path / "day0.parquet", "damage this")
  source = parquet.read(str(tmp_path / "day0.parquet"))
  assert "weight" not in source.frame.columns
  table = tables.RawTables(source.frame, logs.items(1), sources={"interactions": source})
  with pytest.raises(
    UserError, match=r"^interactions: column 'weight' \(.*\) cannot be read: .*/day0\.parquet: damaged"
  ):
    tables.check(table, Schema(), Labels())


def test_a_file_that_is_cut_short_is_named(tmp_path):
  file = write(tmp_path / "log" / "a.parquet", a=list(range(100)))
  write(tmp_path / "log" / "b.parquet", a=[1])
  file.write_bytes(file.read_bytes()[:-20])
  with pytest.raises(UserError, match=rf"^{file}: damaged, or no Parquet file: .*\. Write the file again\.$"):
    parquet.read(str(tmp_path / "log"))
