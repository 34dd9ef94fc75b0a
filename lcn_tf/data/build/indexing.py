"""Vocabularies, catalogues and user profiles: everything of the input that becomes a number."""

import dataclasses

import numpy as np
import polars as pl

from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.counting import Counts, profiles_of
from lcn_tf.data.build.vocabulary import build_buckets, build_vocabulary, extend_vocabulary
from lcn_tf.data.field_values import put_vectors
from lcn_tf.data.id_mapping import NULL, IdMapping, ValueTable, field_column, field_table, field_values
from lcn_tf.schema import (
  DOMAINS,
  PADDING,
  UNKNOWN_ITEM,
  DomainName,
  ItemVector,
  Schema,
  columns,
  value_columns,
)


@dataclasses.dataclass(frozen=True)
class Indexed:
  """The checked tables as numbers.

  Attributes:
    interactions: Ordered by time, then position in the input: `user`, `item` (catalogue row), `domain`, `timestamp`,
      `label` (unless sampled), `weight`, `split`, `training`, and the fields as strings. Empty if they lie in buckets.
    users: Everybody who has an index, `user`, `user_id`; in the order of the index.
    active: Those of them who have interactions.
    user_fields: `[users + 1, P]`; row 0 is padding, rows of users without interactions are zeros.
    user_values: Float values of these and vectors, `[users + 1, V]`; see `lcn_tf.data.field_values`.
    users_without_profile: Active users who are not in the users file.
    mapping: Id mapping.
    unknown_items: Per domain, how many items of the interactions are not in the catalogue.
    met: Per domain, how many interactions are on each row of the catalogue `[items]` int64.
  """

  interactions: pl.DataFrame
  users: pl.DataFrame
  active: pl.DataFrame
  user_fields: np.ndarray
  user_values: np.ndarray
  users_without_profile: int
  mapping: IdMapping
  unknown_items: dict[DomainName, int]
  met: dict[DomainName, np.ndarray]


def new_mapping(checked: raw.Checked, counts: Counts, schema: Schema) -> IdMapping:
  """The id mapping of a log that begins.

  Args:
    checked: Input.
    counts: Training interactions of it.
    schema: Fields and vocabularies.
  """
  numeric = {feature.vocabulary: feature for feature in schema.features() if feature.numeric}
  vocabularies = {
    name: build_buckets(name, counted, numeric[name])
    if name in numeric
    else build_vocabulary(name, counted, schema.vocabularies[name])
    for name, counted in counts.values.items()
  }
  items = {d: _ranked(checked.items.filter(pl.col("domain") == d), counts.items[d]) for d in DOMAINS}
  rows = {d: _with_rows(items[d]) for d in DOMAINS}
  vectors = {d: {f.name: _vectors(items[d], f) for f in schema.domain(d).item_vectors} for d in DOMAINS}
  values = _item_values(items, schema, vocabularies)
  return IdMapping(rows, _catalogues(items, schema, vocabularies), vocabularies, vectors, values)


def extended_mapping(
  earlier: IdMapping,
  checked: raw.Checked,
  fresh: pl.DataFrame,
  counts: Counts,
  totals: dict[str, pl.DataFrame],
  part: int,
  schema: Schema,
  grow: bool,
) -> IdMapping:
  """The id mapping of a log that goes on: rows of before stay, new ones are appended.

  Args:
    earlier: That of the records that are extended.
    checked: Items and users of before and of the input.
    fresh: Items of the input.
    counts: Training interactions of the input.
    totals: Per vocabulary, `value`, `count` and `last`, see `extend_vocabulary`.
    part: Number of the part that is added.
    schema: Fields and vocabularies.
    grow: True if new items and values get rows.
  """
  vocabularies = {
    name: extend_vocabulary(table, totals[name], part, schema.vocabularies[name])
    if grow and not schema.numeric(name)
    else table
    for name, table in earlier.vocabularies.items()
  }
  rows, items, vectors = {}, {}, {}
  for d in DOMAINS:
    known = earlier.items[d].drop("row").cast({"item_id": checked.items["item_id"].dtype})
    of_domain = checked.items.filter(pl.col("domain") == d)
    unmet = of_domain.join(known, on="item_id", how="anti") if grow else of_domain.clear()
    everything = pl.concat([known.select("item_id"), _ranked(unmet, counts.items[d]).select("item_id")])
    items[d] = everything.join(of_domain, on="item_id", how="left", maintain_order="left")
    counted = pl.concat([known, counts.items[d].select(known.columns)]).group_by("item_id").agg(pl.col("count").sum())
    rows[d] = _with_rows(everything.join(counted, on="item_id", how="left", maintain_order="left"))
    in_rows = everything.join(fresh.filter(pl.col("domain") == d), on="item_id", how="left", maintain_order="left")
    vectors[d] = {f.name: _vectors(in_rows, f, earlier.vectors[d][f.name]) for f in schema.domain(d).item_vectors}
  values = _item_values(items, schema, vocabularies)
  return IdMapping(rows, _catalogues(items, schema, vocabularies), vocabularies, vectors, values)


def _ranked(items: pl.DataFrame, met: pl.DataFrame) -> pl.DataFrame:
  """The items by falling frequency in the training interactions, with `count`; ties by id."""
  counted = items.join(met, on="item_id", how="left").with_columns(pl.col("count").fill_null(0))
  return counted.sort(["count", "item_id"], descending=[True, False])


def _with_rows(items: pl.DataFrame) -> pl.DataFrame:
  numbered = items.with_row_index("row", offset=UNKNOWN_ITEM + 1).with_columns(pl.col("row").cast(pl.Int32))
  return numbered.select("row", "item_id", pl.col("count").fill_null(0))


def _catalogues(
  items: dict[DomainName, pl.DataFrame], schema: Schema, vocabularies: dict[str, ValueTable]
) -> dict[DomainName, np.ndarray]:
  """Of every domain `[2 + items, columns]`, padding and the unknown item first."""
  catalogues = {}
  for d in DOMAINS:
    features = schema.catalogue_features(d)
    padding = np.full((1, columns(features)), PADDING, np.int32)
    unknown = np.concatenate(
      [[NULL if f.max_values == 1 else PADDING] + [PADDING] * (f.max_values - 1) for f in features]
    )
    known = field_table(items[d], features, vocabularies)
    catalogues[d] = np.concatenate([padding, unknown[np.newaxis].astype(np.int32), known])
  return catalogues


def _item_values(
  items: dict[DomainName, pl.DataFrame], schema: Schema, vocabularies: dict[str, ValueTable]
) -> dict[DomainName, np.ndarray]:
  """Of every domain `[2 + items, value_columns]`, zeros for padding and the unknown item."""
  known = {d: field_values(items[d], schema.catalogue_features(d), vocabularies) for d in DOMAINS}
  return {d: np.pad(values, [(UNKNOWN_ITEM + 1, 0), (0, 0)]) for d, values in known.items()}


def _vectors(items: pl.DataFrame, vector: ItemVector, earlier: np.ndarray | None = None) -> np.ndarray:
  """`[2 + items, width]`: zeros for padding, for the unknown item and for items without a vector.

  Args:
    items: Items in the order of the rows.
    vector: Name and type.
    earlier: Vectors of the first rows, which stay where the items have no other.
  """
  table = np.zeros((2 + len(items), vector.width), vector.dtype)
  if earlier is not None:
    table[: len(earlier)] = earlier
  put_vectors(items[field_column(vector)], table[2:])
  return table


def number_users(interactions: pl.DataFrame, earlier: pl.DataFrame | None = None) -> pl.DataFrame:
  """Everybody's index, from 1 on: `user`, `user_id`, in the order of the index.

  Args:
    interactions: Those of the input.
    earlier: Users who have an index, which they keep; None = nobody.
  """
  found = interactions["user_id"].unique().sort()
  if earlier is None:
    known = pl.DataFrame(schema={"user": pl.Int32, "user_id": found.dtype})
  else:
    known = earlier.select("user", pl.col("user_id").cast(found.dtype))
    found = found.filter(~found.is_in(known["user_id"].implode()))
  first = len(known) + 1
  new = pl.DataFrame({"user": pl.int_range(first, first + len(found), dtype=pl.Int32, eager=True), "user_id": found})
  return pl.concat([known, new])


def index(
  interactions: pl.DataFrame, checked: raw.Checked, schema: Schema, users: pl.DataFrame, mapping: IdMapping
) -> Indexed:
  """Numbers everything.

  Args:
    interactions: Those of the input, with `split` and `training` (see `splits.Divided`).
    checked: The input.
    schema: Fields and vocabularies.
    users: Everybody's index, see `number_users`.
    mapping: Id mapping; items that it does not have become the unknown item.
  """
  numbered = Numbering(mapping, interactions.schema["item_id"]).rows(interactions, users)
  met, unknown = {}, {}
  for d in DOMAINS:
    rows = numbered.filter(pl.col("domain") == d)
    met[d] = np.bincount(rows["item"].to_numpy(), minlength=len(mapping.catalogues[d]))
    unknown[d] = rows.filter(pl.col("item") == UNKNOWN_ITEM)["item_id"].n_unique()
  active = users.join(interactions.select("user_id").unique(), on="user_id", how="semi", maintain_order="left")
  return index_users(numbered, active, checked, schema, users, mapping, unknown, met)


class Numbering:
  """The numbers of items, and of interactions by those of their users.

  Args:
    mapping: Id mapping; items that it does not have become the unknown item.
    item_id: Type of the ids of items.
  """

  def __init__(self, mapping: IdMapping, item_id: pl.DataType):
    rows = pl.concat(
      mapping.items[d].select(pl.lit(d).alias("domain"), "item_id", pl.col("row").alias("item")) for d in DOMAINS
    )
    self._key = pl.col("item_id")
    if rows["item_id"].dtype != item_id:
      self._key = self._key.cast(pl.String)  # as the encoder of requests compares them
    self._rows = rows.select("domain", self._key.alias("key"), "item")

  def items(self, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with `domain` and `item_id`, and `item`."""
    found = rows.with_columns(self._key.alias("key")).join(
      self._rows, on=["domain", "key"], how="left", maintain_order="left"
    )
    return found.drop("key").with_columns(pl.col("item").fill_null(UNKNOWN_ITEM))

  def rows(self, interactions: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Interactions with `user` and `item`, by time, then position in the input; `users` is the index of their users."""
    ordered = interactions.sort("timestamp", raw.ROW)
    return self.items(ordered.join(users, on="user_id", how="left", maintain_order="left"))


def index_users(
  numbered: pl.DataFrame,
  active: pl.DataFrame,
  checked: raw.Checked,
  schema: Schema,
  users: pl.DataFrame,
  mapping: IdMapping,
  unknown: dict[DomainName, int],
  met: dict[DomainName, np.ndarray],
) -> Indexed:
  """`Indexed` of the interactions `numbered`; other arguments as of `index`, and its attributes."""
  profiles = profiles_of(active, checked)
  user_fields = np.zeros((len(users) + 1, columns(schema.user_fields)), np.int32)
  user_fields[active["user"].to_numpy()] = field_table(profiles, schema.user_fields, mapping.vocabularies)
  user_values = np.zeros((len(users) + 1, value_columns(schema.user_parts())), np.float32)
  user_values[active["user"].to_numpy()] = field_values(profiles, schema.user_parts(), mapping.vocabularies)
  without = profiles["profile"].null_count()
  return Indexed(numbered, users, active, user_fields, user_values, without, mapping, unknown, met)
