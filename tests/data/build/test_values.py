"""One value at a time and whole columns keep the same rules: what a service sends is what a log was read as."""

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lcn_tf.config import Labels
from lcn_tf.data.build import tables
from lcn_tf.data.build.values import id_of, seconds_of, text_of
from lcn_tf.errors import UserError
from lcn_tf.schema import Schema
from tests.data import logs

SCHEMA = Schema(target={"cross_fields": ["event"]})
SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
NO_ID = [None, True, False, np.bool_(True), 0.5, -7.5, 5e-324, np.float32(0.5)]
NO_NUMBER = [float("nan"), float("inf"), float("-inf"), np.float32("nan"), np.float32("inf")]
NOT_TOLD_APART = [2.0**53, -(2.0**53), 1e16, 1e22, 1e300, np.float32(2**24), np.float32(-1e9)]
IDS = {
  "0": [0, 0.0, -0.0, np.int8(0), "0"],
  "7": [7, 7.0, "7", np.int8(7), np.int64(7), np.uint16(7), np.float32(7), np.float64(7), np.str_("7")],
  "-7": [-7, -7.0, "-7", np.int32(-7)],
  str(2**24): [2**24, 2.0**24, np.float64(2**24), np.int32(2**24)],
  str(2**53 - 1): [2**53 - 1, 2.0**53 - 1],
  str(2**53): [2**53, np.int64(2**53), np.uint64(2**53)],
  str(2**53 + 1): [2**53 + 1, np.int64(2**53 + 1)],
  str(2**63): [2**63, np.uint64(2**63)],
  str(-(2**63)): [-(2**63), np.int64(-(2**63))],
  str(2**64): [2**64],
  str(-(10**30)): [-(10**30)],
} | {
  text: [text]
  for text in ["007", " 7 ", "7 ", "\u0667", "7.0", "+7", "-0", "1e1", "", "nan", "true", "ü", "e\u0301", "\0"]
}


def of_column(name, value):
  """What the builder reads a row with that value as; None if it has none, or there is no such column."""
  log = logs.interactions([(1, 0, "target", 10, 1.0)]).with_columns(pl.Series(name, [value]))
  try:
    checked = tables.check(tables.RawTables(log, logs.items(1)), SCHEMA, Labels())
  except UserError as error:
    if f"column {name!r} holds" in str(error) or f"null {name}: 1" in str(error):
      return None
    raise
  return checked.interactions["field:event" if name == "event" else name].cast(pl.String)[0]


@pytest.mark.parametrize(("text", "value"), [(text, value) for text, values in IDS.items() for value in values])
def test_an_id_and_a_value_are_the_same_text_in_a_column_as_alone(text, value):
  assert of_column("user_id", value) == id_of(value) == text
  assert of_column("event", value) == text_of(value) == text


@pytest.mark.parametrize("value", NO_ID + NO_NUMBER + NOT_TOLD_APART)
def test_what_is_no_id_in_a_column_is_none_alone(value):
  assert of_column("user_id", value) is None
  assert id_of(value) is None


@pytest.mark.parametrize("value", [None, *NO_NUMBER, *NOT_TOLD_APART])
def test_a_value_that_a_column_cannot_hold_is_missing_alone(value):
  assert of_column("event", value) is None
  assert text_of(value) is None


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (np.bool_(False), "false")])
def test_truth_values_are_values_of_fields(value, text):
  assert of_column("event", value) == text_of(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (-7.25, "-7.25"), (np.float32(0.5), "0.5")])
def test_a_fraction_is_no_value_of_a_column_and_alone_equals_its_text(value, text):
  """Columns of texts may hold it."""
  assert of_column("event", value) is None
  assert text_of(value) == text == of_column("event", text)


@pytest.mark.job
@SETTINGS
@given(
  st.integers(-(2**100), 2**100)
  | st.floats()
  | st.floats(-(2**53), 2**53).map(np.floor)
  | st.floats(width=32).map(np.float32)
  | st.integers(-(2**63), 2**63 - 1).map(np.int64)
  | st.text(max_size=5)
)
@example(2.0**53 - 1)
def test_whatever_an_id_is_it_is_the_same_in_a_column_as_alone(value):
  assert of_column("user_id", value) == id_of(value)


@SETTINGS
@given(st.integers(0, 2**53 - 1), st.sampled_from([float, str, np.int64, np.uint64, np.float64]))
def test_whole_numbers_of_every_type_are_one_id(number, kind):
  assert id_of(kind(number)) == id_of(number) == str(number)


@pytest.mark.parametrize("value", [[7], (7,), {"a": 1}, b"7", object()])
def test_what_is_no_text_number_or_truth_value_is_told(value):
  assert id_of(value) is None
  with pytest.raises(ValueError, match="is no text, number or truth value"):
    text_of(value)


def test_a_text_that_no_file_can_hold_is_told():
  assert id_of("\ud800") is None
  with pytest.raises(ValueError, match=r"is not a text that UTF-8 can hold"):
    text_of("\ud800")


@pytest.mark.parametrize("value", [0, 0.9, 1_700_000_000, 1_700_000_000.75, np.int64(5), np.float64(5.5)])
def test_a_moment_is_the_same_second_in_a_column_as_alone(value):
  log = logs.interactions([(1, 0, "target", 10, 1.0)]).with_columns(timestamp=pl.Series([value]))
  checked = tables.check(tables.RawTables(log, logs.items(1)), SCHEMA, Labels())
  assert checked.interactions["timestamp"].to_list() == [seconds_of(value)] == [int(value)]


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 1e300, 2**62, 10**11, True, "12", None])
def test_what_is_no_moment_in_a_column_is_none_alone(value):
  log = logs.interactions([(1, 0, "target", 10, 1.0)]).with_columns(timestamp=pl.Series([value]))
  with pytest.raises(UserError, match="timestamp"):
    tables.check(tables.RawTables(log, logs.items(1)), SCHEMA, Labels())
  with pytest.raises(ValueError, match="is no moment: expected seconds since 1970"):
    seconds_of(value)
