"""Standardised values and shares of weights, against their definitions."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcn_tf.data.field_values import LIMIT, Scale, weight_shares
from lcn_tf.schema import Feature


def field(**options):
  return Feature(name="price", kind="numeric", standardise=True, **options)


def scale_of(numbers, **options):
  values, counts = np.unique(np.array(numbers, np.float64), return_counts=True)
  return Scale.of(values, counts, field(**options))


def test_a_value_is_the_distance_from_the_mean_in_deviations():
  scale = scale_of([1, 1, 3, 7])
  assert scale.mean == 3.0
  assert scale.deviation == pytest.approx(math.sqrt((4 + 4 + 0 + 16) / 4), rel=1e-11)
  np.testing.assert_allclose(scale(np.array([3.0, 1.0, 9.0])), np.array([0, -2, 6]) / math.sqrt(6), rtol=1e-6)


def test_a_number_that_there_is_not_has_the_value_0():
  assert scale_of([1, 5])(np.array([math.nan])).tolist() == [0.0]


@pytest.mark.parametrize(
  ("options", "of"),
  [
    ({"log1p": True}, lambda x: math.log(1 + x)),
    ({"clip": [2, 5]}, lambda x: min(max(x, 2), 5)),
    ({"clip": [2, None]}, lambda x: max(x, 2)),
    ({"clip": [None, 5]}, lambda x: min(x, 5)),
    ({"clip": [0, 5], "log1p": True}, lambda x: math.log(1 + min(max(x, 0), 5))),
  ],
)
def test_numbers_are_cut_then_their_logarithm_is_taken_then_they_are_standardised(options, of):
  numbers = [0.0, 1.5, 1.5, 4.0, 9.0, 30.0]
  shaped = [of(x) for x in numbers]
  mean = sum(shaped) / 6
  deviation = math.sqrt(sum((x - mean) ** 2 for x in shaped) / 6)
  expected = [(x - mean) / deviation for x in shaped]
  np.testing.assert_allclose(scale_of(numbers, **options)(np.array(numbers)), expected, rtol=1e-6, atol=1e-6)


def test_a_limit_makes_room_for_numbers_that_have_no_logarithm():
  scale = scale_of([0, 1, 2], clip=[0, None], log1p=True)
  assert scale(np.array([-3.0, 0.0]))[0] == scale(np.array([-3.0, 0.0]))[1] < 0


@pytest.mark.parametrize("numbers", [[], [0.1] * 7, [1e300, 1e300]])
def test_equal_numbers_or_none_say_nothing_of_any_number(numbers):
  scale = scale_of(numbers)
  assert scale.deviation == 0
  assert scale(np.array([-5.0, 0.1, 1e300, math.nan])).tolist() == [0.0] * 4


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(FLOATS, min_size=1, max_size=20), FLOATS)
def test_values_of_any_numbers_are_finite_and_rise_with_them(numbers, other):
  scale = scale_of(numbers)
  ordered = np.sort(np.array([*numbers, other]))
  values = scale(ordered)
  assert values.dtype == np.float32
  assert (np.abs(values) <= LIMIT).all()
  assert (np.diff(values) >= 0).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=50), st.randoms())
def test_training_values_have_mean_0_and_deviation_1_in_any_order(numbers, random):
  scale = scale_of(numbers)
  if scale.deviation:
    values = scale(np.array(numbers, np.float64)).astype(np.float64)
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, rel=1e-5)
  random.shuffle(numbers)
  assert scale_of(numbers) == scale


TAGS = pl.List(pl.String)


def shares(values, weights, max_values=3):
  return weight_shares(
    pl.Series(values, dtype=TAGS), pl.Series(weights, dtype=pl.List(pl.Float64)), max_values
  ).tolist()


def test_a_share_is_the_part_of_a_value_in_the_weights_of_the_kept_ones():
  values = [["a", "b"], None, [], ["c", "d", "e", "f"], ["a", "b"], ["g"]]
  weights = [[1.0, 3.0], None, [], [1.0, 0.0, 1.0, 6.0], [0.0, 0.0], [1e-300]]
  assert shares(values, weights) == [[0.25, 0.75, 0], [0, 0, 0], [0, 0, 0], [0.5, 0, 0.5], [0, 0, 0], [1, 0, 0]]


def test_a_missing_value_takes_its_weight_with_it():
  assert shares([["a", None, "b"], [None]], [[1.0, 5.0, 3.0], [2.0]]) == [[0.25, 0.75, 0], [0, 0, 0]]


def test_shares_of_the_largest_and_the_smallest_numbers_are_finite():
  assert shares([["a", "b"]] * 2, [[1.7e308, 1.7e308], [5e-324, 5e-324]]) == [[0.5, 0.5, 0]] * 2


def test_of_no_rows_there_are_no_shares():
  assert weight_shares(pl.Series([], dtype=TAGS), pl.Series([], dtype=pl.List(pl.Float64)), 2).shape == (0, 2)
