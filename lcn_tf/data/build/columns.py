"""Which columns the raw tables need: what the schema, the labels and the keys of rows read."""

import polars as pl

from lcn_tf.config import Labels
from lcn_tf.data.build.raw_table import RawTable
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, Schema


def read_columns(
  interactions: RawTable, items: RawTable, users: RawTable | None, schema: Schema, labels: Labels
) -> None:
  """Adds all columns that the schema and the labels need.

  Raises:
    UserError: A column is missing or of a wrong type.
  """
  for table in (interactions, items):
    table.identifier("item_id")
    table.text("domain", "domain", f"every row of the {table.kind} has one", DOMAINS)
  interactions.identifier("user_id")
  _same_type(interactions, items, "item_id")
  if users:
    users.identifier("user_id")
    _same_type(interactions, users, "user_id")
  read_interactions(interactions, schema, labels)
  item_fields = [f for d in DOMAINS for f in schema.domain(d).item_fields]
  # The two domains may hold different numbers of values of the same column.
  for feature in {f.name: f for f in sorted(item_fields, key=lambda f: f.max_values)}.values():
    items.field(feature, "an item field of the schema")
  for feature in {(f.name, f.weights, f.refuses_negative): f for f in item_fields}.values():
    items.field_values(feature)
  for vector in {v.name: v for d in DOMAINS for v in schema.domain(d).item_vectors}.values():
    items.vector(vector)
  for feature in schema.user_fields:
    if feature.name == "user_id" or users:
      table = users or interactions
      table.field(feature, "a user field of the schema")
      table.field_values(feature)
    else:
      raise UserError(f"schema.user_fields: {feature.name!r} is read from the users file, but there is none (--users)")
  for user_vector in schema.user_vectors:
    if not users:
      raise UserError(
        f"schema.user_vectors: {user_vector.name!r} is read from the users file, but there is none (--users)"
      )
    users.vector(user_vector)


def read_interactions(interactions: RawTable, schema: Schema, labels: Labels) -> None:
  """Adds the columns that interactions alone have."""
  interactions.time("timestamp")
  if labels.kind != "sampled":
    interactions.number(labels.column, "label", f"records.labels.kind is {labels.kind}")
  interactions.weight(labels.kind != "sampled")
  for feature in {f.name: f for d in DOMAINS for f in schema.domain(d).cross_fields + schema.context_fields}.values():
    interactions.field(feature, "a cross or context field of the schema")
  for feature in (*schema.context_fields, *(f for d in DOMAINS for f in schema.domain(d).cross_fields)):
    interactions.field_values(feature)


def _same_type(left: RawTable, right: RawTable, column: str) -> None:
  """Ids of two tables compare as strings unless both are integers."""
  if left.frame[column].dtype != right.frame[column].dtype:
    for table in (left, right):
      table.frame = table.frame.with_columns(pl.col(column).cast(pl.String))
