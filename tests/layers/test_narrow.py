import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers import narrow
from lcn_tf.layers.tables import EmbeddingTables
from tests.reference import narrow as twin


def table(rows=7, width=5, seed=0):
  """Random numbers of different sizes, with a row of zeros."""
  random = np.random.default_rng(seed)
  found = random.normal(size=(rows, width)) * 10.0 ** random.integers(-6, 3, (rows, 1))
  found[0] = 0
  return found.astype(np.float32)


def test_rows_are_integers_times_a_scale(monkeypatch):
  monkeypatch.setattr(narrow, "_CHUNK", 3)  # the last chunk is shorter
  given = table()
  integers, scales = narrow.to_int8(given)
  assert (integers.dtype, scales.dtype) == (np.int8, np.float32)
  for numbers, found, scale in zip(given, integers, scales, strict=True):
    expected, own_scale = twin.row(numbers)
    assert found.tolist() == expected
    assert scale == pytest.approx(own_scale, rel=1e-6)
  widened = narrow.from_int8(tf.constant(integers), tf.constant(scales)).numpy()
  assert not widened[0].any()
  assert (np.abs(widened - given) <= 0.5001 * scales[:, np.newaxis]).all()
  assert (np.abs(integers[1:]).max(axis=1) == 127).all()
  # a row and its negative
  np.testing.assert_array_equal(narrow.to_int8(-given)[0], -integers)


def test_the_smallest_and_the_largest_numbers_have_finite_rows():
  given = np.array([[1e-45, -1e-45], [3e38, -3e38], [1e-30, 0]], np.float32)
  widened = narrow.from_int8(*map(tf.constant, narrow.to_int8(given))).numpy()
  np.testing.assert_allclose(widened[1:], given[1:], rtol=1e-5)
  assert (np.abs(widened[0]) <= 1e-45).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_told_with_its_row(wrong, monkeypatch):
  monkeypatch.setattr(narrow, "_CHUNK", 2)
  given = table()
  given[5, 1] = wrong
  with pytest.raises(ValueError, match=r"^row 5 has a number that is not finite$"):
    narrow.to_int8(given)


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_lookups_widen_the_rows_that_they_read(dtype, deduplicate):
  starts = {"item": table(), "author": table(4, 3, seed=1)}
  sizes, widths = {"item": 7, "author": 4}, {"item": 5, "author": 3}
  layer = EmbeddingTables(
    sizes, {"item": 1, "author": 1}, widths, "glorot", deduplicate, starts=starts, frozen=["author"]
  )
  layer.make_narrow(dtype)
  ids = tf.constant([[0, 6, 2], [2, 2, 0]], tf.int64)
  # a vocabulary that two fields share, and padding
  first, author, second = layer([("item", ids), ("author", ids[0] // 2), ("item", ids[1])])
  for name, found, rows in (("item", first, ids), ("author", author, ids[0] // 2), ("item", second, ids[1])):
    given = starts[name][rows.numpy()]
    assert found.dtype == tf.float32
    error = np.abs(given).max(axis=-1, keepdims=True) / 254 if dtype == "int8" else np.abs(given) / 256
    assert (np.abs(found - given) <= 1.001 * error).all()
    assert not np.array_equal(found, given)
  assert not first[0, 0].numpy().any()
  expected = {"bfloat16": [tf.bfloat16], "int8": [tf.int8, tf.float32]}[dtype]
  assert [part.dtype for part in layer.narrow["item"]] == expected
  assert {table.ref() for table in layer.unread()} == {table.ref() for table in layer.tables.values()}


def test_float32_leaves_a_layer_as_it_is():
  layer = EmbeddingTables({"item": 7}, {"item": 1}, {"item": 5}, "glorot", starts={"item": table()})
  layer.make_narrow("float32")
  assert layer.unread() == []
  assert len(layer.variables) == 1
  np.testing.assert_array_equal(layer([("item", tf.range(7, dtype=tf.int64))])[0], table())
