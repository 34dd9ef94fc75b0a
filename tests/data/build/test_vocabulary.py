import numpy as np
import polars as pl
import pytest

from lcn_tf.data.build.vocabulary import build_vocabulary, count_values, total_counts
from lcn_tf.data.id_mapping import field_indices, oov_indices
from lcn_tf.schema import Vocabulary


def counted(**counts):
  return pl.DataFrame({"value": list(counts), "count": list(counts.values())}, schema_overrides={"count": pl.Int64})


def test_values_follow_padding_and_oov_rows_by_falling_count_then_by_value():
  table = build_vocabulary("v", total_counts([counted(b=2, a=2, z=5, rare=1)]), Vocabulary(min_count=2, oov=3))
  assert table.values.to_list() == ["z", "a", "b"]
  assert table.size == 1 + 3 + 3
  assert table.indices(pl.Series(["b", "z", "a"])).tolist() == [6, 4, 5]


def test_values_below_min_count_and_unseen_values_are_out_of_vocabulary():
  table = build_vocabulary("v", total_counts([counted(a=3, b=2)]), Vocabulary(min_count=3))
  assert table.indices(pl.Series(["a", "b", "never"])).tolist() == [2, 1, 1]


def test_counts_of_fields_that_share_a_vocabulary_are_added():
  table = build_vocabulary("v", total_counts([counted(a=1, b=2), counted(a=1, c=1)]), Vocabulary(min_count=2))
  assert table.values.to_list() == ["a", "b"]
  assert table.counts.to_list() == [2, 2]


def test_oov_rows_are_shared_by_a_stable_hash_of_the_value():
  table = build_vocabulary("v", total_counts([]), Vocabulary(oov=50))
  values = [f"value {i}" for i in range(2000)]
  indices = table.indices(pl.Series(values))
  assert indices.tolist() == [int(oov_indices([v], 50)[0]) for v in values]
  assert set(indices) == set(range(1, 51))
  assert np.bincount(indices)[1:].max() < 80  # 40 each, give or take six sigma
  # Fixed numbers: a change would send the values of existing models to other rows.
  assert oov_indices(["a", "b", "ü"], 1000).tolist() == [940, 823, 892]
  # as FARM_FINGERPRINT of other systems has it
  assert oov_indices(["foo"], 2**31 - 1).tolist() == [1 + 6150913649986995171 % (2**31 - 1)]


def test_record_sets_with_a_keyed_hash_keep_their_rows():
  assert oov_indices(["a", "b", "ü"], 1000, seed=0).tolist() == [315, 317, 711]
  values = [str(i) for i in range(100)]
  assert oov_indices(values, 10, seed=0).tolist() != oov_indices(values, 10, seed=1).tolist()


def test_a_missing_value_has_the_first_oov_row():
  table = build_vocabulary("v", total_counts([counted(a=1)]), Vocabulary(oov=4))
  assert table.indices(pl.Series(["a", None])).tolist() == [5, 1]


def test_lists_are_cut_at_max_values_and_padded_with_zeros():
  table = build_vocabulary("v", total_counts([counted(a=3, b=2, c=1)]), Vocabulary())
  lists = pl.Series([["a", "b", "c"], ["c"], [], None, [None, "b"], ["x", "a"]])
  expected = [[2, 3], [4, 0], [0, 0], [0, 0], [3, 0], [1, 2]]
  assert field_indices(lists, 2, table).tolist() == expected
  assert field_indices(lists, 1, table)[:, 0].tolist() == [2, 4, 1, 1, 3, 1]


@pytest.mark.parametrize(
  ("column", "max_values", "expected"),
  [
    (pl.Series(["a", "b", "a", None]), 1, {"a": 4, "b": 2}),
    (pl.Series([["a", "b"], ["b", "a", "c"], [], None]), 2, {"a": 3, "b": 3}),
  ],
)
def test_values_are_counted_by_the_weight_of_their_rows(column, max_values, expected):
  found = count_values(column, pl.Series([1, 2, 3, 4]), max_values)
  assert dict(found.iter_rows()) == expected


def test_rows_of_weight_zero_give_no_value_a_row():
  assert count_values(pl.Series(["a", "b"]), pl.Series([0, 1]), 1)["value"].to_list() == ["b"]


def test_the_written_frame_maps_each_value_to_its_index():
  table = build_vocabulary("v", total_counts([counted(a=1, b=9)]), Vocabulary(oov=2))
  assert table.frame().rows() == [(3, "b", 9), (4, "a", 1)]
