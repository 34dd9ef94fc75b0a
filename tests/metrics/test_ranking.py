"""AUC and GAUC against their definitions, scikit-learn and the worked example of the specification."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from lcn_tf import metrics
from tests.reference import metrics as reference

SCORES = np.array([0.9, 0.2, 0.95, 0.7, 0.1, 0.99, 0.98, 0.97, 0.96])
LABELS = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0])
USERS = np.array(["A", "A", "A", "B", "B", "C", "C", "C", "C"])


@st.composite
def candidates(draw, max_size=30):
  """Few distinct scores (ties), few users, weights that may be zero."""
  rows = draw(
    st.lists(
      st.tuples(
        st.sampled_from([-3.0, 0.0, 0.125, 0.25, 0.5, 1.0]),
        st.integers(0, 1),
        st.integers(-2, 4),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
      ),
      max_size=max_size,
    )
  )
  columns = zip(*rows, strict=True) if rows else ([], [], [], [])
  return [np.array(c, t) for c, t in zip(columns, (np.float64, np.int64, np.int64, np.float64), strict=True)]


def test_gauc_of_the_worked_example():
  assert metrics.gauc(SCORES, LABELS, USERS) == pytest.approx(0.7)


def test_users_of_the_worked_example():
  auc_u, weight_u = metrics.user_auc(SCORES, LABELS, USERS)
  np.testing.assert_allclose(auc_u, [0.5, 1.0, np.nan])
  np.testing.assert_array_equal(weight_u, [3, 2, 4])


def test_pooled_auc_of_the_worked_example():
  assert metrics.auc(SCORES, LABELS) == pytest.approx(0.2857, abs=5e-5)


def test_constant_predictor_gives_one_half():
  assert metrics.auc(np.zeros(9), LABELS) == 0.5
  assert metrics.gauc(np.zeros(9), LABELS, USERS) == 0.5


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_or_nothing_is_nan(labels):
  scores = np.linspace(0, 1, len(labels))
  assert np.isnan(metrics.auc(scores, labels))
  assert np.isnan(metrics.gauc(scores, labels, np.zeros(len(labels), int)))


def test_a_class_without_weight_is_nan():
  assert np.isnan(metrics.auc([0.1, 0.9], [0, 1], np.array([1.0, 0.0])))


def test_nan_scores_are_counted():
  with pytest.raises(ValueError, match="2 of 3 scores are NaN"):
    metrics.auc([np.nan, 0.5, np.nan], [0, 1, 1])
  with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
    metrics.gauc([np.nan, 0.5], [0, 1], [1, 1])


def test_labels_other_than_0_and_1_are_refused():
  with pytest.raises(ValueError, match=r"1 of 2 labels are neither 0 nor 1, such as 0\.5"):
    metrics.auc([0.1, 0.2], [0.5, 1.0])


def test_infinite_scores_rank_outermost():
  assert metrics.auc([np.inf, 0.0, -np.inf], [1, 1, 0]) == 1.0


@given(candidates())
@settings(deadline=None)
def test_auc_is_its_definition(rows):
  scores, labels, _, weights = rows
  np.testing.assert_allclose(metrics.auc(scores, labels), reference.auc(scores, labels), atol=1e-12)
  np.testing.assert_allclose(metrics.auc(scores, labels, weights), reference.auc(scores, labels, weights), atol=1e-12)


@given(candidates())
@settings(deadline=None)
def test_gauc_is_its_definition(rows):
  scores, labels, users, weights = rows
  np.testing.assert_allclose(metrics.gauc(scores, labels, users), reference.gauc(scores, labels, users), atol=1e-12)
  np.testing.assert_allclose(
    metrics.gauc(scores, labels, users, weights), reference.gauc(scores, labels, users, weights), atol=1e-12
  )


@given(candidates(), st.permutations(range(7)))
@settings(deadline=None)
def test_order_of_candidates_and_names_of_users_do_not_matter(rows, names):
  scores, labels, users, weights = rows
  order = np.random.default_rng(0).permutation(len(scores))
  renamed = np.array([str(names[user + 2]) for user in users])
  np.testing.assert_allclose(
    metrics.gauc(scores[order], labels[order], renamed[order], weights[order]),
    metrics.gauc(scores, labels, users, weights),
  )
  np.testing.assert_allclose(metrics.auc(scores[order], labels[order]), metrics.auc(scores, labels))


@pytest.mark.parametrize("decimals", [1, 3, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_equals_scikit_learn(decimals, dtype):
  rng = np.random.default_rng(decimals)
  scores = rng.random(5000).round(decimals).astype(dtype)
  labels = rng.random(5000) < scores
  weights = rng.random(5000)
  assert metrics.auc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
  assert metrics.auc(scores, labels, weights) == pytest.approx(
    sklearn.metrics.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-10
  )


def test_reversed_scores_mirror_the_auc():
  rng = np.random.default_rng(3)
  scores, labels = rng.integers(0, 50, 1000), rng.integers(0, 2, 1000)
  assert metrics.auc(-scores, labels) == pytest.approx(1 - metrics.auc(scores, labels))


def test_sparse_user_ids_group_like_dense_ones():
  rng = np.random.default_rng(4)
  scores, labels, users = rng.random(500), rng.integers(0, 2, 500), rng.integers(0, 30, 500)
  assert metrics.gauc(scores, labels, users * 10**15) == metrics.gauc(scores, labels, users)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_threshold_curve_is_that_of_scikit_learn(weighted, monkeypatch):
  monkeypatch.setattr("lcn_tf.metrics.ranking.BLOCK", 50)
  rng = np.random.default_rng(0)
  labels = rng.random(300) < 0.3
  scores = (rng.integers(0, 12, 300) + 3 * labels) / 15
  weights = rng.uniform(0, 2, 300) if weighted else None
  curve = metrics.threshold_curve(scores, labels, weights)
  x, y, _ = sklearn.metrics.roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
  np.testing.assert_allclose(curve.false_positives / curve.negatives, x, atol=1e-12)
  np.testing.assert_allclose(curve.true_positives / curve.positives, y, atol=1e-12)


def test_a_threshold_curve_of_many_scores_keeps_the_area_and_the_ends():
  rng = np.random.default_rng(1)
  labels = rng.random(20_000) < 0.3
  scores = rng.normal(labels, 1)
  curve = metrics.threshold_curve(scores, labels, points=400)
  x, y = curve.false_positives / curve.negatives, curve.true_positives / curve.positives
  assert len(x) <= 400
  assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
  assert np.trapz(y, x) == pytest.approx(metrics.auc(scores, labels), abs=1e-3)
