"""From the rows of an earlier run's vocabularies and catalogues to those of other records of the same schema."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy.sparse

from lcn_tf.data.id_mapping import NULL, BucketTable, ValueTable, items_of, vocabularies_of
from lcn_tf.data.record_set import RecordSet
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS, DomainName, item_vocabulary


class _Means(NamedTuple):
  """The first rows of new item ids.

  Attributes:
    rows: Rows of the new ids `[new]`.
    known: Rows, in the earlier table, of the ids that are in both vocabularies `[known]`.
    by_value: Weights `[values, known]` of the mean of the known ids of the items with a value.
    by_item: Weights `[new, values]` of the mean of these means.
  """

  rows: np.ndarray
  known: np.ndarray
  by_value: scipy.sparse.csr_matrix
  by_item: scipy.sparse.csr_matrix


class Growth:
  """Carries what has a row per value of a vocabulary, or per item, from one id mapping to another.

  A known value takes its row with it, wherever the row lies. Padding and the out-of-vocabulary rows stay. The row of a
  value that is not in `later` vanishes. A bucket of numbers is the earlier bucket of its lower edge.

  A new item id begins as the mean over the values of its item's fields, of the mean rows of the known ids of the items
  with that value. A field with several values has each of them. Values without such an id, and those that are out of
  vocabulary, do not count. If nothing is left, and for the new values of other vocabularies, it is the unknown row, the
  first out-of-vocabulary one.

  Args:
    earlier: Records or run folder, whose id mapping the rows are of.
    later: Record set of the same schema without sizes.
  """

  def __init__(self, earlier: RecordSet, later: RecordSet):
    self._earlier = earlier
    self._later = later
    self.same = earlier.fingerprint == later.fingerprint

  @functools.cached_property
  def _tables(self) -> tuple[dict[str, ValueTable], dict[str, ValueTable]]:
    return vocabularies_of(self._earlier), vocabularies_of(self._later)

  @functools.cached_property
  def _rows(self) -> dict[str, np.ndarray]:
    before, now = self._tables
    return {name: vocabulary.rows_of(now[name]) for name, vocabulary in before.items()}

  def rescaling(self, vocabulary: str) -> tuple[float, float]:
    """(a, b) such that the earlier standardised value of a number is a times the later one plus b."""
    before, now = (tables[vocabulary] for tables in self._tables)
    assert isinstance(before, BucketTable)
    assert isinstance(now, BucketTable)
    if not before.scale or not now.scale or not before.scale.deviation:
      return 1.0, 0.0  # the earlier values were all 0: nothing was learned of them
    deviation = before.scale.deviation
    return now.scale.deviation / deviation, (now.scale.mean - before.scale.mean) / deviation

  def earlier_size(self, vocabulary: str) -> int:
    """Rows of the earlier vocabulary."""
    return self._earlier.record_schema.vocabularies[vocabulary].size

  def new_rows(self, vocabulary: str) -> int:
    """Number of rows that the earlier vocabulary does not have."""
    return 0 if self.same else int(np.count_nonzero(self._rows[vocabulary] < 0))

  def weights(self, vocabulary: str, earlier: np.ndarray) -> np.ndarray:
    """The rows of the later vocabulary `[rows, ...]`, from those of the earlier one."""
    if self.same:
      return earlier
    rows = self._rows[vocabulary]
    later = earlier[np.where(rows < 0, NULL, rows)]
    for d in DOMAINS:
      if vocabulary == item_vocabulary(d) and (means := self._means[d]) is not None:
        later[means.rows] = means.by_item @ (means.by_value @ earlier[means.known])
    return later

  def slots(self, vocabulary: str, earlier: np.ndarray, fresh: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """As `weights`; `fresh` gives the rows of new values, by their numbers: what a new optimizer has."""
    if self.same:
      return earlier
    rows = self._rows[vocabulary]
    later = earlier[np.maximum(rows, 0)]
    if len(new := np.flatnonzero(rows < 0)):
      later[new] = fresh(new)
    return later

  @functools.cached_property
  def _means(self) -> dict[DomainName, _Means | None]:
    return {d: self._means_of(d) for d in DOMAINS}

  def _means_of(self, domain: DomainName) -> _Means | None:
    """What new ids of a domain begin with; None if no new item has a field's value in common with a known one."""
    schema, rows = self._later.record_schema, self._rows[item_vocabulary(domain)]
    catalogue = self._later.catalogue(domain)
    ids = catalogue[:, 0].astype(np.int64)
    inside = ids > schema.vocabularies[item_vocabulary(domain)].oov
    known, new = (np.flatnonzero(inside & one) for one in (rows[ids] >= 0, rows[ids] < 0))
    of_known, of_new, column = [], [], 1
    for feature in schema.domain(domain).item_fields:
      declared = schema.vocabularies[feature.vocabulary]
      values = catalogue[:, column : column + feature.max_values]
      of_known.append(_has_value(values[known], declared.oov, declared.size))
      of_new.append(_has_value(values[new], declared.oov, declared.size))
      column += feature.max_values
    if not of_known:
      return None
    by_value = _mean_rows(scipy.sparse.hstack(of_known).T.tocsr())
    met = scipy.sparse.diags((by_value.getnnz(axis=1) > 0).astype(np.float32))
    by_item = _mean_rows((scipy.sparse.hstack(of_new) @ met).tocsr())
    alike = by_item.getnnz(axis=1) > 0
    return _Means(ids[new][alike], rows[ids[known]], by_value, by_item[alike]) if alike.any() else None

  def items(self, domain: DomainName) -> np.ndarray:
    """The earlier catalogue row of every row of the later one, `[items]` int64; -1 for a new item."""
    before, now = (
      items_of(one)[domain].select("row", pl.col("item_id").cast(pl.String)) for one in (self._earlier, self._later)
    )
    found = now.join(before, on="item_id", how="left", suffix="_before")
    rows = np.full(self._later.record_schema.domain(domain).items, -1, np.int64)
    rows[:2] = [0, 1]
    rows[found["row"].to_numpy()] = found["row_before"].fill_null(-1).to_numpy()
    return rows

  def pretrained(self, earlier: Pretrained) -> Pretrained:
    """Item vectors and clusters, carried by item; new items have none, which is what zeros say."""

    def carried(table: dict[DomainName, np.ndarray]) -> dict[DomainName, np.ndarray]:
      found = {}
      for d, values in table.items():
        rows = self.items(d)
        found[d] = values[np.maximum(rows, 0)]
        found[d][rows < 0] = 0
      return found

    return Pretrained(
      carried(earlier.vectors), carried(earlier.clusters), earlier.notes, fingerprint=self._later.fingerprint
    )


def _has_value(values: np.ndarray, oov: int, size: int) -> scipy.sparse.csr_matrix:
  """1 where an item has a value of a field that is in vocabulary, `[items, size]` float32."""
  item, column = np.nonzero(values > oov)
  ones = np.ones(len(item), np.float32)
  found = scipy.sparse.coo_matrix((ones, (item, values[item, column])), (len(values), size)).tocsr()
  found.data[:] = 1  # of a value that an item has twice, too
  return found


def _mean_rows(matrix: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
  """The rows, each divided by its sum; those without an entry stay empty."""
  matrix.eliminate_zeros()
  total = np.asarray(matrix.sum(axis=1)).ravel()
  return (scipy.sparse.diags(1 / np.maximum(total, 1e-9)) @ matrix).astype(np.float32).tocsr()
