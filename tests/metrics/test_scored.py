"""Scored candidates: what is refused, and merging."""

import numpy as np
import pytest

from lcn_tf import metrics


def _chunks():
  rng = np.random.default_rng(0)
  return [
    (rng.random(n).astype(np.float32), rng.integers(0, 2, n).astype(np.float32), rng.integers(0, 9, n))
    for n in (100, 1, 0, 57)
  ]


def test_merged_accumulators_equal_one_pass():
  chunks = _chunks()
  whole = metrics.Scored(*(np.concatenate(column) for column in zip(*chunks, strict=True)))
  first, second = metrics.Accumulator(), metrics.Accumulator()
  first.add(*chunks[0]).add(*chunks[1])
  second.add(*chunks[2]).add(*chunks[3])
  merged = first.merge(second).result()
  assert metrics.summary(merged, replicates=5) == metrics.summary(whole, replicates=5)
  other_way = metrics.Scored.concatenate([second.result(), metrics.Scored(*chunks[0]), metrics.Scored(*chunks[1])])
  assert metrics.gauc(other_way.scores, other_way.labels, other_way.users) == pytest.approx(
    metrics.gauc(whole.scores, whole.labels, whole.users)
  )


def test_chunks_without_weights_count_one_each():
  accumulator = metrics.Accumulator().add([0.1], [0], [1]).add([0.2, 0.3], [1, 1], [1, 2], np.array([2.0, 0.5]))
  np.testing.assert_array_equal(accumulator.result().weights, [1.0, 2.0, 0.5])


def test_empty_accumulator_has_undefined_metrics():
  found = metrics.summary(metrics.Accumulator().result(), replicates=3)
  assert found["candidates"] == found["users"] == 0
  assert all(np.isnan(found[name]) for name in ("auc", "gauc", "logloss", "calibration"))
  assert np.isnan(found["confidence"]["auc"]).all()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (([0.1, 0.2], [0], [1, 1]), r"arrays \[n\] of one length, found .*'labels': \(1,\)"),
    (([0.1, np.nan], [0, 1], [1, 1]), "1 of 2 scores are NaN"),
    (([0.1, 0.2], [0, 2], [1, 1]), "1 of 2 labels are neither 0 nor 1, such as 2"),
    (([0.1, 0.2], [0, 1], [1, 1], [1.0, -1.0]), "1 of 2 weights are negative or not finite"),
    (([0.1, 0.2], [0, 1], [1, 1], [1.0, np.nan]), "1 of 2 weights are negative or not finite"),
  ],
)
def test_wrong_columns_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    metrics.Scored(*arguments)


def test_summary_counts():
  found = metrics.summary(metrics.Scored([0.9, 0.2, 0.6], [1, 0, 0], ["a", "a", "b"]), replicates=0)
  assert (found["candidates"], found["positives"], found["users"], found["gauc_users"]) == (3, 1, 2, 1)
  assert found["auc"] == found["gauc"] == 1.0


def test_scores_that_are_no_probabilities_have_no_logloss():
  found = metrics.summary(metrics.Scored([3, 1, 2], [1, 0, 0], [1, 1, 1]), replicates=10)
  assert found["auc"] == 1.0
  assert np.isnan(found["logloss"])
  assert np.isnan(found["calibration"])
  assert np.isnan(found["confidence"]["logloss"]).all()
