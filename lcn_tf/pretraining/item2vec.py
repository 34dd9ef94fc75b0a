"""Item vectors from who is near whom in users' histories, and their clusters. NumPy and SciPy alone.

item2vec trains skip-gram with negative sampling on histories. Its optimum is a factorisation of the shifted pointwise
mutual information of item and context (Levy and Goldberg), and the factors are computed here directly:

    #(i, j)  pairs of events of one user, at most `window` events apart, whose items are i and j
    PMI(i, j)   = log(#(i, j) #(.) / (#(i) #(j)))
    M(i, j)     = max(PMI(i, j) - log k, 0)                 0 where #(i, j) = 0
    M           ~ U S V^T, the `dim` largest singular values
    p_i         = U_i sqrt(S)

Departures from item2vec (Barkan and Koenigstein, 2016): the closed form instead of SGD, so there is nothing to tune and
the result is exact; k = 1 by default, as the shift costs sparse items the little that they have; a window of the
history ordered by time instead of all pairs of a set.

Reference: O. Levy and Y. Goldberg, Neural Word Embedding as Implicit Matrix Factorization, NeurIPS 2014.
"""

import numpy as np
import scipy.sparse
import sklearn.cluster
import sklearn.utils.extmath

_NOISE = 1e-4  # of the longest vector: what is shorter is the factorisation's rounding


def cooccurrences(users: np.ndarray, items: np.ndarray, size: int, window: int) -> scipy.sparse.csr_matrix:
  """How often two items are near each other: symmetric counts `[size, size]`.

  Every pair of events counts in both directions; two events of one item count twice on the diagonal.

  Args:
    users: Users of the events, `[events]`, grouped and in the order of time.
    items: Items of the events, `[events]` in [0, size).
    window: Events apart that still count, on either side.
  """
  counts = scipy.sparse.csr_matrix((size, size), dtype=np.float32)
  for apart in range(1, window + 1):
    same = users[apart:] == users[:-apart]
    near = (items[:-apart][same], items[apart:][same])
    counts += scipy.sparse.coo_matrix((np.ones(len(near[0]), np.float32), near), (size, size)).tocsr()
  return (counts + counts.T).tocsr()


def shifted_ppmi(counts: scipy.sparse.csr_matrix, negatives: float = 1.0) -> scipy.sparse.csr_matrix:
  """M of the module's docstring from symmetric counts, `[size, size]`; `negatives` is k."""
  marginal = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
  pairs = counts.tocoo()
  pmi = np.log(pairs.data * marginal.sum() / (marginal[pairs.row] * marginal[pairs.col])) - np.log(negatives)
  kept = pmi > 0
  where = (pairs.row[kept], pairs.col[kept])
  return scipy.sparse.coo_matrix((pmi[kept].astype(np.float32), where), counts.shape).tocsr()


def factorise(matrix: scipy.sparse.csr_matrix, dim: int, seed: int) -> np.ndarray:
  """U sqrt(S) `[size, dim]` float32 of the largest singular values, by randomised SVD.

  Rows that carry nothing but rounding are exactly zero: those of empty rows, and of items whose few neighbours are in
  none of the `dim` directions. Columns beyond size - 1 are zero.
  """
  size = matrix.shape[0]
  rank = min(dim, size - 1)
  vectors = np.zeros((size, dim), np.float32)
  if rank < 1 or not matrix.nnz:
    return vectors
  left, singular, _ = sklearn.utils.extmath.randomized_svd(matrix, rank, n_iter=4, random_state=seed)
  vectors[:, :rank] = left * np.sqrt(singular)
  length = np.linalg.norm(vectors, axis=1)
  vectors[length <= _NOISE * length.max()] = 0
  return vectors


def principal(vectors: np.ndarray, dim: int) -> np.ndarray:
  """The vectors `[size, width]` along their `dim` principal axes through the origin, `[size, dim]` float32.

  An axis points to where its largest component is positive, so the result does not depend on the solver's signs.
  """
  wide = vectors.astype(np.float64)
  _, axes = np.linalg.eigh(wide.T @ wide)
  axes = axes[:, ::-1][:, :dim]  # eigh sorts by rising eigenvalues
  axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
  return (wide @ axes).astype(np.float32)


def cluster(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Clusters `[size]` int64 of the vectors' directions, numbered from 1; 0 for a zero vector.

  Mini-batch k-means with k-means++ on L2-normalised vectors: at most `count` clusters, fewer if some stay empty.
  """
  length = np.linalg.norm(vectors, axis=1)
  known = np.flatnonzero(length > 0)
  clusters = np.zeros(len(vectors), np.int64)
  if len(known):
    kmeans = sklearn.cluster.MiniBatchKMeans(
      min(count, len(known)), init="k-means++", n_init=1, batch_size=4096, random_state=seed
    )
    clusters[known] = 1 + kmeans.fit_predict(vectors[known] / length[known, np.newaxis])
  return clusters
