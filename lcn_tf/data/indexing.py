"""Vocabularies, catalogues and user profiles: everything of the input that becomes a number."""

import dataclasses
import hashlib
import json

import numpy as np
import polars as pl

from lcn_tf.data import tables as raw
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.vocabulary import NULL, ValueTable, build_vocabulary, count_values, field_indices
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, PADDING, UNKNOWN_ITEM, DomainName, Feature, Schema, columns


@dataclasses.dataclass(frozen=True)
class Numbering:
  """What a model was trained with: which number every item and every value of a field has.

  Catalogue rows are 0 = padding, 1 = unknown item (out of vocabulary in every single-valued field, no value in the
  others), then every item of the items file by falling frequency in the training interactions, ties by id. A
  vocabulary counts training interactions: item fields through the items met, cross and context fields row by row,
  `user_id` too; other user fields count users who have one.

  Attributes:
    items: Per domain, `row`, `item_id` and `count`, its training interactions.
    catalogues: Per domain, `[items, columns]` int32.
    vocabularies: By name.
  """

  items: dict[DomainName, pl.DataFrame]
  catalogues: dict[DomainName, np.ndarray]
  vocabularies: dict[str, ValueTable]

  def met(self, domain: DomainName) -> np.ndarray:
    """Which rows of a catalogue some training interaction had, bool `[items]`."""
    items = self.items[domain]
    rows = items.filter(pl.col("count") > 0)["row"].to_numpy()
    return np.isin(np.arange(len(self.catalogues[domain])), rows)


def numbering_of(record_set: RecordSet) -> Numbering:
  """The numbering that a record set was built with.

  Raises:
    UserError: A file of it is missing, or is not what was written (`DamagedError`).
  """
  schema, seed = record_set.record_schema, int(record_set.notes.get("seed", 0))
  vocabularies = {}
  for name, declared in schema.vocabularies.items():
    file = f"vocabularies/{name}.parquet"
    table = record_set.table(file, ["value", "count"])
    vocabularies[name] = ValueTable(name, table["value"], table["count"], declared.oov, seed)
    if vocabularies[name].size != declared.size:
      raise UserError(f"{record_set.path / file}: {vocabularies[name].size} rows, dataset.json says {declared.size}")
  items = {d: record_set.table(f"items/{d}.parquet") for d in DOMAINS}
  return Numbering(items, {d: record_set.catalogue(d) for d in DOMAINS}, vocabularies)


def fingerprint(schema: Schema, numbering: Numbering) -> str:
  """Tells schemas with sizes, the vocabularies' values in their order, and the catalogues apart."""
  digest = hashlib.sha256(schema.fingerprint().encode())
  for name in sorted(numbering.vocabularies):
    vocabulary = numbering.vocabularies[name]
    seed = vocabulary.seed if vocabulary.oov > 1 else None  # with one row there is nothing to hash
    digest.update(json.dumps([name, vocabulary.oov, seed, vocabulary.values.to_list()]).encode())
  for d in DOMAINS:
    digest.update(np.ascontiguousarray(numbering.catalogues[d], "<i4").tobytes())
  return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Indexed:
  """The checked tables as numbers.

  Attributes:
    interactions: Ordered by time, then position in the input: `user`, `item` (catalogue row), `domain`, `timestamp`,
      `label` (unless sampled), `weight`, and the fields as strings.
    users: `user`, `user_id`.
    user_fields: `[users + 1, P]`; row 0 is padding.
    users_without_profile: Users who are not in the users file.
    numbering: Of items and values.
    unknown_items: Per domain, how many items of the interactions are not in the catalogue.
  """

  interactions: pl.DataFrame
  users: pl.DataFrame
  user_fields: np.ndarray
  users_without_profile: int
  numbering: Numbering
  unknown_items: dict[DomainName, int]


def index(
  checked: raw.Checked, schema: Schema, train_end: int, seed: int, numbering: Numbering | None = None
) -> Indexed:
  """Numbers everything.

  Args:
    checked: The input.
    schema: Fields and vocabularies.
    train_end: Seconds; later interactions count for nothing in a numbering that is made here.
    seed: Of the out-of-vocabulary hash of a numbering that is made here.
    numbering: That of other records; items that it does not have become the unknown item. None: one is made.
  """
  interactions = checked.interactions.sort("timestamp", raw.ROW)
  training = interactions.filter(pl.col("timestamp") < train_end)

  user_ids = interactions["user_id"].unique().sort()
  users = pl.DataFrame({"user": pl.int_range(1, len(user_ids) + 1, dtype=pl.Int32, eager=True), "user_id": user_ids})
  trained = training.group_by("user_id").agg(pl.len().cast(pl.Int64).alias("count"))
  profiles = (
    users.join(checked.users.with_columns(profile=True), on="user_id", how="left", maintain_order="left")
    .join(trained, on="user_id", how="left", maintain_order="left")
    .with_columns(pl.col("count").fill_null(0))
    # as a feature it is known of those, too, who have no profile
    .drop(raw.field_column(Feature(name="user_id")), strict=False)
  )
  numbering = numbering or _numbering(checked.items, training, profiles, schema, seed)
  user_fields = field_table(profiles, schema.user_fields, numbering.vocabularies)

  rows = pl.concat(
    numbering.items[d].select(pl.lit(d).alias("domain"), "item_id", pl.col("row").alias("item")) for d in DOMAINS
  )
  item_id = pl.col("item_id")
  if rows["item_id"].dtype != interactions["item_id"].dtype:
    item_id = item_id.cast(pl.String)  # as the encoder of requests compares them
  found = (
    interactions.join(users, on="user_id", how="left", maintain_order="left")
    .with_columns(item_id.alias("key"))
    .join(rows.select("domain", item_id.alias("key"), "item"), on=["domain", "key"], how="left", maintain_order="left")
    .drop("key")
  )
  missing = found.filter(pl.col("item").is_null())
  return Indexed(
    found.with_columns(pl.col("item").fill_null(UNKNOWN_ITEM)),
    users,
    np.concatenate([np.zeros((1, user_fields.shape[1]), np.int32), user_fields]),
    profiles["profile"].null_count(),
    numbering,
    {d: missing.filter(pl.col("domain") == d)["item_id"].n_unique() for d in DOMAINS},
  )


def _numbering(
  items: pl.DataFrame, training: pl.DataFrame, profiles: pl.DataFrame, schema: Schema, seed: int
) -> Numbering:
  """That of the training interactions."""
  counted: dict[str, list[pl.DataFrame]] = {name: [] for name in schema.vocabularies}
  ordered: dict[DomainName, pl.DataFrame] = {}
  for d in DOMAINS:
    met = training.filter(pl.col("domain") == d).group_by("item_id").agg(pl.len().cast(pl.Int64).alias("count"))
    ordered[d] = (
      items.filter(pl.col("domain") == d)
      .join(met, on="item_id", how="left")
      .with_columns(pl.col("count").fill_null(0))
      .sort(["count", "item_id"], descending=[True, False])
      .with_row_index("row", offset=UNKNOWN_ITEM + 1)
      .with_columns(pl.col("row").cast(pl.Int32))
    )
    for feature in schema.catalogue_features(d):
      counted[feature.vocabulary].append(_count(ordered[d], feature, ordered[d]["count"]))
    rows = training.filter(pl.col("domain") == d)
    for feature in schema.domain(d).cross_fields:
      counted[feature.vocabulary].append(_count(rows, feature, pl.repeat(1, len(rows), dtype=pl.Int64, eager=True)))
  for feature in schema.context_fields:
    ones = pl.repeat(1, len(training), dtype=pl.Int64, eager=True)
    counted[feature.vocabulary].append(_count(training, feature, ones))
  for feature in schema.user_fields:
    # Every user has one id, so a frequency cut of ids can only be about how much a user did.
    weights = profiles["count"] if feature.name == "user_id" else (profiles["count"] > 0).cast(pl.Int64)
    counted[feature.vocabulary].append(_count(profiles, feature, weights))
  vocabularies = {
    name: build_vocabulary(name, frames, schema.vocabularies[name], seed) for name, frames in counted.items()
  }

  catalogues = {}
  for d in DOMAINS:
    features = schema.catalogue_features(d)
    padding = np.full((1, columns(features)), PADDING, np.int32)
    unknown = np.concatenate(
      [[NULL if f.max_values == 1 else PADDING] + [PADDING] * (f.max_values - 1) for f in features]
    )
    known = field_table(ordered[d], features, vocabularies)
    catalogues[d] = np.concatenate([padding, unknown[np.newaxis].astype(np.int32), known])
  return Numbering({d: ordered[d].select("row", "item_id", "count") for d in DOMAINS}, catalogues, vocabularies)


def _column(frame: pl.DataFrame, feature: Feature) -> pl.Series:
  """The field's values as strings; the item id has no column of its own."""
  name = raw.field_column(feature)
  return frame[name] if name in frame.columns else frame[feature.name].cast(pl.String)


def _count(frame: pl.DataFrame, feature: Feature, weights: pl.Series) -> pl.DataFrame:
  return count_values(_column(frame, feature), weights, feature.max_values)


def field_table(frame: pl.DataFrame, features: tuple[Feature, ...], vocabularies: dict[str, ValueTable]) -> np.ndarray:
  """The indices of several fields side by side: `[rows, columns(features)]` int32."""
  parts = [field_indices(_column(frame, f), f.max_values, vocabularies[f.vocabulary]) for f in features]
  return np.concatenate(parts, axis=1) if parts else np.zeros((len(frame), 0), np.int32)
