"""Item vectors from co-occurrences against the twin, and what k-means makes of them."""

import math

import numpy as np
import pytest
import scipy.sparse

from lcn_tf.pretraining import item2vec
from tests.reference import item2vec as reference


def random_events(seed=0, events=120, size=12):
  rng = np.random.default_rng(seed)
  return np.sort(rng.integers(0, 9, events)), rng.integers(0, size, events) ** 2 // size


@pytest.mark.parametrize("window", [1, 3, 200])
def test_pairs_are_counted_as_the_twin_counts_them(window):
  users, items = random_events()
  counts = item2vec.cooccurrences(users, items, 12, window)
  np.testing.assert_array_equal(counts.toarray(), reference.cooccurrences(users, items, 12, window))


@pytest.mark.parametrize("negatives", [1, 2])
def test_shifted_ppmi_is_that_of_the_twin(negatives):
  users, items = random_events()
  counts = item2vec.cooccurrences(users, items, 12, 3)
  expected = reference.shifted_ppmi(counts.toarray(), negatives)
  np.testing.assert_allclose(item2vec.shifted_ppmi(counts, negatives).toarray(), expected, rtol=1e-5)
  assert 0 < np.count_nonzero(expected) < counts.nnz


def test_worked_numbers():
  """Two users with items 0 and 1, one with 2 and 3: six ordered pairs; PMI(0, 1) = log 3, PMI(2, 3) = log 6."""
  counts = item2vec.cooccurrences(np.array([1, 1, 2, 2, 3, 3]), np.array([0, 1, 1, 0, 2, 3]), 4, 5)
  matrix = item2vec.shifted_ppmi(counts).toarray()
  assert matrix[0, 1] == matrix[1, 0] == pytest.approx(math.log(3))
  assert matrix[2, 3] == matrix[3, 2] == pytest.approx(math.log(6))
  assert np.count_nonzero(matrix) == 4
  shifted = item2vec.shifted_ppmi(counts, negatives=3).toarray()
  assert shifted[0, 1] == 0
  assert shifted[2, 3] == pytest.approx(math.log(2))


@pytest.mark.parametrize("dim", [1, 3, 11])
def test_inner_products_are_those_of_the_exact_factorisation(dim):
  users, items = random_events(events=400)
  matrix = item2vec.shifted_ppmi(item2vec.cooccurrences(users, items, 12, 3))
  vectors = item2vec.factorise(matrix, dim, seed=0)
  assert vectors.shape == (12, dim)
  assert vectors.dtype == np.float32
  np.testing.assert_allclose(vectors @ vectors.T, reference.inner_products(matrix.toarray(), dim), atol=1e-4)


def test_columns_beyond_the_items_are_zeros():
  users, items = random_events(events=400)
  matrix = item2vec.shifted_ppmi(item2vec.cooccurrences(users, items, 12, 3))
  wide = item2vec.factorise(matrix, 20, seed=0)
  assert np.all(wide[:, 11:] == 0)
  np.testing.assert_allclose(wide[:, :11], item2vec.factorise(matrix, 11, seed=0))


def test_the_same_seed_gives_the_same_vectors_and_clusters():
  users, items = random_events(events=400)
  matrix = item2vec.shifted_ppmi(item2vec.cooccurrences(users, items, 12, 3))
  one, two = (item2vec.factorise(matrix, 4, seed=3) for _ in range(2))
  np.testing.assert_array_equal(one, two)
  np.testing.assert_array_equal(item2vec.cluster(one, 3, seed=3), item2vec.cluster(two, 3, seed=3))


def test_an_item_without_neighbours_has_no_vector_and_no_cluster():
  counts = item2vec.cooccurrences(np.array([1, 1, 1, 2]), np.array([0, 1, 2, 3]), 4, 2)
  vectors = item2vec.factorise(item2vec.shifted_ppmi(counts), 2, seed=0)
  np.testing.assert_array_equal(np.any(vectors != 0, axis=1), [True, True, True, False])
  np.testing.assert_array_equal(item2vec.cluster(vectors, 2, seed=0) > 0, [True, True, True, False])


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_to_factorise_gives_zeros(size):
  vectors = item2vec.factorise(scipy.sparse.csr_matrix((size, size), dtype=np.float32), 4, seed=0)
  np.testing.assert_array_equal(vectors, np.zeros((size, 4)))
  np.testing.assert_array_equal(item2vec.cluster(vectors, 2, seed=0), np.zeros(size))


def test_what_is_left_out_of_the_factors_is_zero_and_not_noise():
  """A strong pair and a weaker one, one column: the weaker pair's rows of U are rounding alone."""
  matrix = scipy.sparse.csr_matrix(np.array([[0, 9, 0, 0], [9, 0, 0, 0], [0, 0, 1, 0.5], [0, 0, 0.5, 1]], np.float32))
  vectors = item2vec.factorise(matrix, 2, seed=0)
  np.testing.assert_array_equal(np.any(vectors != 0, axis=1), [True, True, False, False])


def test_clusters_follow_the_direction_whatever_the_length():
  rng = np.random.default_rng(0)
  kind = rng.integers(0, 3, 60)
  lengths = 10.0 ** rng.integers(-2, 3, 60)
  vectors = (np.eye(3)[kind] + 0.05 * rng.normal(size=(60, 3))) * lengths[:, np.newaxis]
  clusters = item2vec.cluster(vectors, 3, seed=0)
  assert set(clusters) == {1, 2, 3}
  assert len(set(zip(kind.tolist(), clusters.tolist(), strict=True))) == 3


def test_more_clusters_than_vectors_give_each_its_own():
  assert sorted(item2vec.cluster(np.eye(3, dtype=np.float32), 10, seed=0)) == [1, 2, 3]


def test_many_items_need_no_dense_matrix():
  """A dense matrix of so many items would take 160 GB."""
  rng = np.random.default_rng(0)
  users, items = np.sort(rng.integers(0, 500, 20_000)), rng.integers(0, 200_000, 20_000)
  matrix = item2vec.shifted_ppmi(item2vec.cooccurrences(users, items, 200_000, 1))
  assert item2vec.factorise(matrix, 2, seed=0).shape == (200_000, 2)
