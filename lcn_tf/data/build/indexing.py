"""Vocabularies, catalogues and user profiles: everything of the input that becomes a number."""

import dataclasses

import numpy as np
import polars as pl

from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.vocabulary import build_buckets, build_vocabulary, count_values
from lcn_tf.data.id_mapping import NULL, IdMapping, column_of, field_column, field_table
from lcn_tf.schema import DOMAINS, PADDING, UNKNOWN_ITEM, DomainName, Feature, ItemVector, Schema, columns


@dataclasses.dataclass(frozen=True)
class Indexed:
  """The checked tables as numbers.

  Attributes:
    interactions: Ordered by time, then position in the input: `user`, `item` (catalogue row), `domain`, `timestamp`,
      `label` (unless sampled), `weight`, `split`, `training`, and the fields as strings.
    users: `user`, `user_id`.
    user_fields: `[users + 1, P]`; row 0 is padding.
    users_without_profile: Users who are not in the users file.
    mapping: Id mapping.
    unknown_items: Per domain, how many items of the interactions are not in the catalogue.
  """

  interactions: pl.DataFrame
  users: pl.DataFrame
  user_fields: np.ndarray
  users_without_profile: int
  mapping: IdMapping
  unknown_items: dict[DomainName, int]


def index(
  interactions: pl.DataFrame, checked: raw.Checked, schema: Schema, seed: int, mapping: IdMapping | None = None
) -> Indexed:
  """Numbers everything.

  Args:
    interactions: Those of the input, with `split` and `training` (see `splits.Divided`). What is not of the training
      part counts for nothing in a mapping that is made here.
    checked: The input.
    schema: Fields and vocabularies.
    seed: Seed of the out-of-vocabulary hash of a mapping that is made here.
    mapping: That of other records; items that it does not have become the unknown item. None: one is made.
  """
  interactions = interactions.sort("timestamp", raw.ROW)
  training = interactions.filter("training")

  user_ids = interactions["user_id"].unique().sort()
  users = pl.DataFrame({"user": pl.int_range(1, len(user_ids) + 1, dtype=pl.Int32, eager=True), "user_id": user_ids})
  trained = training.group_by("user_id").agg(pl.len().cast(pl.Int64).alias("count"))
  profiles = (
    users.join(checked.users.with_columns(profile=True), on="user_id", how="left", maintain_order="left")
    .join(trained, on="user_id", how="left", maintain_order="left")
    .with_columns(pl.col("count").fill_null(0))
    # as a feature it is known of those, too, who have no profile
    .drop(field_column(Feature(name="user_id")), strict=False)
  )
  mapping = mapping or _id_mapping(checked.items, training, profiles, schema, seed)
  user_fields = field_table(profiles, schema.user_fields, mapping.vocabularies)

  rows = pl.concat(
    mapping.items[d].select(pl.lit(d).alias("domain"), "item_id", pl.col("row").alias("item")) for d in DOMAINS
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
    mapping,
    {d: missing.filter(pl.col("domain") == d)["item_id"].n_unique() for d in DOMAINS},
  )


def _id_mapping(
  items: pl.DataFrame, training: pl.DataFrame, profiles: pl.DataFrame, schema: Schema, seed: int
) -> IdMapping:
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
  buckets = {feature.vocabulary: feature.buckets for feature in schema.features() if feature.numeric}
  vocabularies = {
    name: build_buckets(name, frames, buckets[name])
    if name in buckets
    else build_vocabulary(name, frames, schema.vocabularies[name], seed)
    for name, frames in counted.items()
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
  vectors = {d: {f.name: _vectors(ordered[d], f) for f in schema.domain(d).item_vectors} for d in DOMAINS}
  return IdMapping(
    {d: ordered[d].select("row", "item_id", "count") for d in DOMAINS}, catalogues, vocabularies, vectors
  )


def _vectors(items: pl.DataFrame, vector: ItemVector) -> np.ndarray:
  """`[2 + items, width]`: zeros for padding, for the unknown item and for items without a vector."""
  table = np.zeros((2 + len(items), vector.width), vector.dtype)
  column = items[field_column(vector)]
  there = column.is_not_null().to_numpy()
  if there.any():
    table[2:][there] = column.drop_nulls().explode().to_numpy().reshape(-1, vector.width)
  return table


def _count(frame: pl.DataFrame, feature: Feature, weights: pl.Series) -> pl.DataFrame:
  return count_values(column_of(frame, feature), weights, feature.max_values)
