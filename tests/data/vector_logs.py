"""A log whose users have vectors besides standardised numbers and weighted lists, and record sets of it."""

import polars as pl

from tests.data import value_logs

SCHEMA = value_logs.SCHEMA | {"user_vectors": [{"name": "taste", "width": 3}, {"name": "mood", "width": 2}]}
TASTES = [[0.5, -1.0, 2.0], None, [1e-3, 7.0, -30.5], None, [0.0, 0.1, 0.0], [-2.0, 0.25, 1.0]]
MOODS = [[1, 2], [3, -4], None, None, [5, 6], [7, 8]]
USERS = value_logs.USERS.with_columns(
  taste=pl.Series(TASTES, dtype=pl.List(pl.Float64)), mood=pl.Series(MOODS, dtype=pl.List(pl.Int64))
)


def vectors_of(user):
  """Both vectors of a user side by side, zeros where there is none."""
  return [*(TASTES[user] or [0.0] * 3), *(MOODS[user] or [0.0] * 2)]


def build(folder, log=None, items=None, schema=SCHEMA, users=USERS, **options):
  """`value_logs.build` of users with vectors."""
  return value_logs.build(folder, log, items, schema, users, **options)
