"""The id mapping of a record set: the number of every item and of every value of a field."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence

import numpy as np
import polars as pl

from lcn_tf.data.field_values import Scale, put_vectors, weight_shares, weights_column
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, PADDING, DomainName, Feature, ItemVector, Schema, UserVector, value_columns

NULL = 1  # the index of a missing value: the first out-of-vocabulary row


@dataclasses.dataclass(frozen=True)
class ValueTable:
  """A built vocabulary. Values are compared as strings, so 7 and '7' are the same value.

  Index 0 is padding, 1..oov are out of vocabulary, then `values` in their order.

  Attributes:
    name: Name of the vocabulary.
    values: Strings `[V]`, by falling frequency in the training interactions; ties by value.
    counts: Occurrences of each there `[V]`.
    oov: Rows that the other values share: index `1 + hash(value) % oov`; a missing value has index 1.
    seed: Seed of the hash; see `oov_indices`.
  """

  name: str
  values: pl.Series
  counts: pl.Series
  oov: int = 1
  seed: int | None = None

  @property
  def size(self) -> int:
    """Rows in all."""
    return 1 + self.oov + len(self.values)

  @functools.cached_property
  def _table(self) -> pl.DataFrame:
    index = pl.int_range(1 + self.oov, self.size, dtype=pl.Int32, eager=True)
    return pl.DataFrame({"value": self.values, "index": index})

  def indices(self, values: pl.Series, null: int = NULL) -> np.ndarray:
    """The index of every value: `[len(values)]` int32.

    Args:
      values: Strings.
      null: The index of a missing value.
    """
    frame = pl.DataFrame({"value": values.cast(pl.String)})
    known = frame.unique().drop_nulls().join(self._table, on="value", how="left")
    if self.oov > 1:
      unseen = known.filter(pl.col("index").is_null()).select("value")
      rows = pl.Series("index", oov_indices(unseen["value"].to_list(), self.oov, self.seed))
      known = pl.concat([known.drop_nulls(), unseen.with_columns(rows)])
    known = known.with_columns(pl.col("index").fill_null(1))
    found = frame.join(known, on="value", how="left", maintain_order="left")["index"]
    return found.fill_null(null).to_numpy().astype(np.int32)

  def rows_of(self, later: "ValueTable") -> np.ndarray:
    """The row here of every row of a later vocabulary of the same kind: `[later.size]` int64, -1 for a new value.

    Padding and the out-of-vocabulary rows are the same in both.
    """
    shared = np.arange(1 + self.oov)
    found = pl.DataFrame({"value": later.values}).join(self._table, on="value", how="left", maintain_order="left")
    return np.concatenate([shared, found["index"].fill_null(-1).to_numpy()]).astype(np.int64)

  def frame(self) -> pl.DataFrame:
    """Columns `index`, `value`, `count`; padding and the out-of-vocabulary rows have no value and are not listed."""
    return self._table.select("index", "value").with_columns(self.counts.alias("count"))


@dataclasses.dataclass(frozen=True)
class BucketTable(ValueTable):
  """The buckets of a numeric field.

  Index 0 is padding, 1 a missing value, and 2.. the buckets by rising numbers. `values` are the lower edges as texts,
  "-inf" first. An edge belongs to the bucket above it.

  Attributes:
    scale: Standardisation of the numbers; None = the field has buckets alone.
  """

  scale: Scale | None = None

  @functools.cached_property
  def _edges(self) -> np.ndarray:
    return self.values.cast(pl.Float64).to_numpy()[1:]

  def indices(self, values: pl.Series, null: int = NULL) -> np.ndarray:
    """The index of every number: `[len(values)]` int32.

    Args:
      values: Numbers, float64.
      null: The index of a missing value.
    """
    found = 1 + self.oov + np.searchsorted(self._edges, values.fill_null(0.0).to_numpy(), "right")
    return np.where(values.is_null().to_numpy(), null, found).astype(np.int32)

  def rows_of(self, later: ValueTable) -> np.ndarray:
    """The row here of every row of later buckets: `[later.size]` int64. It is the bucket of their lower edge."""
    return np.concatenate([np.arange(1 + self.oov), self.indices(later.values.cast(pl.Float64))]).astype(np.int64)

  def frame(self) -> pl.DataFrame:
    """As `ValueTable.frame`; with a scale its `mean` and `deviation`, too, the same in every row."""
    frame = super().frame()
    if self.scale is None:
      return frame
    return frame.with_columns(mean=pl.lit(self.scale.mean), deviation=pl.lit(self.scale.deviation))


def oov_indices(values: Sequence[str], oov: int, seed: int | None = None) -> np.ndarray:
  """The rows, 1..oov, of values that are out of vocabulary: the same on every machine and in every version.

  Args:
    values: Texts `[K]`.
    oov: Rows that they share.
    seed: None = `1 + Fingerprint64(value) % oov` with the fingerprint of FarmHash, which graphs compute, too. A seed =
      the keyed hash BLAKE2b of record sets without `oov_hash`.

  Returns:
    `[K]` int32.
  """
  if oov == 1 or not values:
    return np.ones(len(values), np.int32)
  if seed is None:
    import tensorflow as tf  # takes seconds to load, and a vocabulary with one such row needs none of it

    return (1 + tf.strings.to_hash_bucket_fast(values, oov).numpy()).astype(np.int32)
  key = str(seed).encode()
  digests = (hashlib.blake2b(value.encode(), digest_size=8, key=key).digest() for value in values)
  return np.array([1 + int.from_bytes(digest, "little") % oov for digest in digests], np.int32)


@dataclasses.dataclass(frozen=True)
class IdMapping:
  """What a model was trained with: which number every item and every value of a field has.

  Catalogue rows are 0 = padding, 1 = unknown item (out of vocabulary in every single-valued field, no value in the
  others), then every item of the items file by falling frequency in the training interactions, ties by id. A
  vocabulary counts training interactions: item fields through the items met, cross and context fields row by row,
  `user_id` too; other user fields count users who have one.

  Attributes:
    items: Per domain, `row`, `item_id` and `count`, its training interactions.
    catalogues: Per domain, `[items, columns]` int32.
    vocabularies: Vocabularies by name.
    vectors: Per domain, frozen vectors `[items, width]` by name; zeros for an item without one.
    item_values: Per domain, the catalogue's `field_values`, `[items, value_columns]` float32; zeros for padding and the
      unknown item.
  """

  items: dict[DomainName, pl.DataFrame]
  catalogues: dict[DomainName, np.ndarray]
  vocabularies: dict[str, ValueTable]
  vectors: dict[DomainName, dict[str, np.ndarray]] = dataclasses.field(default_factory=lambda: {d: {} for d in DOMAINS})
  item_values: dict[DomainName, np.ndarray] = dataclasses.field(default_factory=dict)

  def met(self, domain: DomainName) -> np.ndarray:
    """Which rows of a catalogue some training interaction had, bool `[items]`."""
    items = self.items[domain]
    rows = items.filter(pl.col("count") > 0)["row"].to_numpy()
    return np.isin(np.arange(len(self.catalogues[domain])), rows)


def id_mapping_of(record_set: RecordSet) -> IdMapping:
  """The id mapping that a record set was built with.

  Raises:
    UserError: A file of it is missing, or is not what was written (`DamagedError`).
  """
  catalogues = {d: record_set.catalogue(d) for d in DOMAINS}
  vectors = {d: record_set.vectors(d) for d in DOMAINS}
  item_values = {d: record_set.item_values(d) for d in DOMAINS}
  return IdMapping(items_of(record_set), catalogues, vocabularies_of(record_set), vectors, item_values)


def items_of(record_set: RecordSet) -> dict[DomainName, pl.DataFrame]:
  """`IdMapping.items` of a record set. Errors as of `id_mapping_of`."""
  return {d: record_set.table(f"items/{d}.parquet") for d in DOMAINS}


def vocabularies_of(record_set: RecordSet) -> dict[str, ValueTable]:
  """`IdMapping.vocabularies` of a record set. Errors as of `id_mapping_of`."""
  schema = record_set.record_schema
  seed = int(record_set.notes.get("seed", 0)) if record_set.oov_hash == "blake2b" else None
  vocabularies: dict[str, ValueTable] = {}
  for name, declared in schema.vocabularies.items():
    file = f"vocabularies/{name}.parquet"
    scaled = schema.standardised(name)
    table = record_set.table(file, ["value", "count", *(["mean", "deviation"] if scaled else [])])
    stored = (name, table["value"], table["count"], declared.oov, seed)
    if schema.numeric(name):
      scale = Scale(table["mean"][0], table["deviation"][0], scaled.log1p, scaled.clip) if scaled else None
      vocabularies[name] = BucketTable(*stored, scale=scale)
    else:
      vocabularies[name] = ValueTable(*stored)
    if vocabularies[name].size != declared.size:
      raise UserError(f"{record_set.path / file}: {vocabularies[name].size} rows, dataset.json says {declared.size}")
  return vocabularies


def fingerprint(schema: Schema, mapping: IdMapping) -> str:
  """Tells schemas with sizes, the vocabularies' values in their order, and the catalogues apart."""
  digest = hashlib.sha256(schema.fingerprint().encode())
  for name in sorted(mapping.vocabularies):
    vocabulary = mapping.vocabularies[name]
    hashed_by = "farmhash64" if vocabulary.seed is None else vocabulary.seed
    one = vocabulary.oov == 1  # there is nothing to hash
    digest.update(json.dumps([name, vocabulary.oov, None if one else hashed_by, vocabulary.values.to_list()]).encode())
    if isinstance(vocabulary, BucketTable) and vocabulary.scale:
      digest.update(json.dumps([vocabulary.scale.mean, vocabulary.scale.deviation]).encode())
  for d in DOMAINS:
    digest.update(np.ascontiguousarray(mapping.catalogues[d], "<i4").tobytes())
    for name, vectors in sorted(mapping.vectors[d].items()):
      digest.update(name.encode() + np.ascontiguousarray(vectors, vectors.dtype.newbyteorder("<")).tobytes())
    if value_columns(schema.catalogue_features(d)):
      digest.update(np.ascontiguousarray(mapping.item_values[d], "<f4").tobytes())
  return digest.hexdigest()[:16]


def field_column(feature: Feature | ItemVector | UserVector) -> str:
  """The name of a field's column in `Checked`, apart from those of ids and times even if it is one of them."""
  return f"field:{feature.name}"


def field_table(frame: pl.DataFrame, features: tuple[Feature, ...], vocabularies: dict[str, ValueTable]) -> np.ndarray:
  """The indices of several fields side by side: `[rows, columns(features)]` int32."""
  parts = [field_indices(column_of(frame, f), f.max_values, vocabularies[f.vocabulary]) for f in features]
  return np.concatenate(parts, axis=1) if parts else np.zeros((len(frame), 0), np.int32)


def field_indices(column: pl.Series, max_values: int, table: ValueTable) -> np.ndarray:
  """The indices of a field's column: `[rows, max_values]` int32.

  The column is of strings or of lists of strings. Missing elements of a list are dropped, values beyond `max_values`
  too. A single-valued field without a value has index 1, shorter lists (a missing one is empty) are padded with 0.
  """
  if max_values == 1:
    return table.indices(_first(column))[:, np.newaxis]
  lists = column.list.drop_nulls()
  parts = [table.indices(lists.list.get(i, null_on_oob=True), null=PADDING) for i in range(max_values)]
  return np.stack(parts, axis=1)


def field_values(
  frame: pl.DataFrame, features: tuple[Feature | UserVector, ...], vocabularies: dict[str, ValueTable]
) -> np.ndarray:
  """Standardised values, weights and vectors of users side by side: `[rows, value_columns(features)]` float32.

  A row without a vector has zeros.
  """
  parts = [np.zeros((len(frame), 0), np.float32)]
  for feature in features:
    if isinstance(feature, UserVector):
      parts.append(np.zeros((len(frame), feature.width), np.float32))
      put_vectors(frame[field_column(feature)], parts[-1])
      continue
    table = vocabularies[feature.vocabulary]
    if feature.weights:
      parts.append(weight_shares(column_of(frame, feature), frame[weights_column(feature)], feature.max_values))
    elif isinstance(table, BucketTable) and table.scale:
      numbers = column_of(frame, feature).cast(pl.Float64).fill_null(float("nan")).to_numpy()
      parts.append(table.scale(numbers)[:, np.newaxis])
  return np.concatenate(parts, axis=1)


def field_sources(frame: pl.DataFrame, features: tuple[Feature, ...]) -> list[np.ndarray]:
  """What statistics tell of fields beyond their indices, an array `[rows]` of each.

  That is whether a row has no value (bool), or the numbers of a numeric field (float64, NaN for none).
  """
  found = []
  for feature in features:
    column = column_of(frame, feature)
    if feature.numeric:
      found.append(column.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    elif feature.max_values > 1:
      found.append((column.list.drop_nulls().list.len().fill_null(0) == 0).to_numpy())
    else:
      found.append(_first(column).is_null().to_numpy())
  return found


def _first(column: pl.Series) -> pl.Series:
  """The value of a field that has one, even if its column holds lists."""
  return column.list.drop_nulls().list.get(0, null_on_oob=True) if column.dtype == pl.List else column


def column_of(frame: pl.DataFrame, feature: Feature) -> pl.Series:
  """The field's values as strings, or numbers if it is numeric; the item id has no column of its own."""
  name = field_column(feature)
  return frame[name] if name in frame.columns else frame[feature.name].cast(pl.String)
