"""What the training interactions of a log hold: how often each item, user and value of a field is met."""

import dataclasses
from collections.abc import Sequence

import polars as pl

from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.vocabulary import count_values, total_counts
from lcn_tf.data.id_mapping import column_of, field_column
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema


@dataclasses.dataclass(frozen=True)
class Counts:
  """What the training interactions of a log hold.

  Attributes:
    items: Per domain, `item_id` and `count`.
    users: `user_id` and `count`.
    values: Per vocabulary, `value` and `count`, see `total_counts`.
  """

  items: dict[DomainName, pl.DataFrame]
  users: pl.DataFrame
  values: dict[str, pl.DataFrame]


def count(
  interactions: pl.DataFrame, checked: raw.Checked, schema: Schema, trained: pl.DataFrame | None = None
) -> Counts:
  """Counts the training interactions, by item, by user and by the values of every field.

  Args:
    interactions: Those of the input, with `training`.
    checked: Input, whose items and users say which values those of the interactions have.
    schema: Fields and vocabularies.
    trained: Users who are counted already, with the profiles that they had then, for fields that count each user once:
      of these users, what has changed counts. None = nobody.
  """
  return with_fields(count_rows(interactions, schema), checked, schema, trained)


def count_rows(interactions: pl.DataFrame, schema: Schema) -> Counts:
  """Counts the training interactions by item, by user and by the values of their own fields; see `count`."""
  training = interactions.filter("training")
  values: dict[str, list[pl.DataFrame]] = {name: [] for name in schema.vocabularies}
  met = {d: counted(training.filter(pl.col("domain") == d), "item_id") for d in DOMAINS}
  for d in DOMAINS:
    rows = training.filter(pl.col("domain") == d)
    for feature in schema.domain(d).cross_fields:
      values[feature.vocabulary].append(_count(rows, feature, _ones(rows)))
  for feature in schema.context_fields:
    values[feature.vocabulary].append(_count(training, feature, _ones(training)))
  return Counts(met, counted(training, "user_id"), _totals(values, schema))


def sum_of(parts: Sequence[Counts], schema: Schema) -> Counts:
  """The counts of `count_rows` over all parts."""
  met = {d: summed([part.items[d] for part in parts], "item_id") for d in DOMAINS}
  values = {name: [part.values[name] for part in parts] for name in schema.vocabularies}
  return Counts(met, summed([part.users for part in parts], "user_id"), _totals(values, schema))


def with_fields(rows: Counts, checked: raw.Checked, schema: Schema, trained: pl.DataFrame | None = None) -> Counts:
  """The counts of `count_rows` with those of the fields of items and users; arguments as of `count`."""
  values = {name: [frame] for name, frame in rows.values.items()}
  for d in DOMAINS:
    items = checked.items.filter(pl.col("domain") == d).join(rows.items[d], on="item_id")
    for feature in schema.catalogue_features(d):
      values[feature.vocabulary].append(_count(items, feature, items["count"]))
  for feature in schema.user_fields:
    values[feature.vocabulary] += _counts_of_users(rows.users, checked, feature, trained)
  return Counts(rows.items, rows.users, _totals(values, schema))


def _totals(values: dict[str, list[pl.DataFrame]], schema: Schema) -> dict[str, pl.DataFrame]:
  types = {name: pl.Float64 if schema.numeric(name) else pl.String for name in schema.vocabularies}
  return {name: total_counts(frames, types[name]) for name, frames in values.items()}


def counted(rows: pl.DataFrame, column: str) -> pl.DataFrame:
  """How many rows have each value of `column`: itself and `count`."""
  return rows.group_by(column).agg(pl.len().cast(pl.Int64).alias("count"))


def summed(parts: Sequence[pl.DataFrame], column: str) -> pl.DataFrame:
  """What `counted` is of the rows of all parts."""
  return pl.concat(parts).group_by(column).agg(pl.col("count").sum())


def _counts_of_users(
  users: pl.DataFrame, checked: raw.Checked, feature: Feature, trained: pl.DataFrame | None
) -> list[pl.DataFrame]:
  """Columns `value` and `count` of a user field; see `count`. A value that has nothing new but is met has count 0."""
  if feature.name == "user_id":
    # Every user has one id, so a frequency cut of ids can only be about how much a user did.
    return [users.select(pl.col("user_id").cast(pl.String).alias("value"), "count")]
  profiles = profiles_of(users, checked)
  if trained is None:
    return [_count(profiles, feature, _ones(profiles))]
  name = field_column(feature)
  if name not in profiles.columns or name not in trained.columns:
    return []
  first = users.join(trained, on="user_id", how="anti")
  both = trained.select("user_id", pl.col(name).alias("before")).join(checked.users, on="user_id", how="inner")
  changed = both.filter(pl.col(name).ne_missing(pl.col("before")))
  if changed[name].dtype == pl.List:
    changed = changed.with_columns(pl.col(name).list.set_difference(pl.col("before").fill_null([])))
  found = [_count(rows, feature, _ones(rows)) for rows in (profiles_of(first, checked), changed, profiles)]
  return [*found[:2], found[2].with_columns(count=pl.lit(0, pl.Int64))]


def _ones(rows: pl.DataFrame) -> pl.Series:
  return pl.repeat(1, len(rows), dtype=pl.Int64, eager=True)


def _count(frame: pl.DataFrame, feature: Feature, weights: pl.Series) -> pl.DataFrame:
  return count_values(column_of(frame, feature), weights, feature.max_values)


def profiles_of(users: pl.DataFrame, checked: raw.Checked) -> pl.DataFrame:
  """`users` with the columns of their profiles, and `profile`, null for users who have none."""
  joined = users.join(checked.users.with_columns(profile=True), on="user_id", how="left", maintain_order="left")
  # as a feature the id is known of those, too, who have no profile
  return joined.drop(field_column(Feature(name="user_id")), strict=False)
