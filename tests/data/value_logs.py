"""A log of standardised numbers and weighted lists, and record sets of it."""

import numpy as np
import polars as pl

from lcn_tf.data.build import builder, tables
from tests.data import logs

PRICE = {"name": "price", "kind": "numeric", "buckets": 4, "standardise": True, "log1p": True}
TAGS = {"name": "tags", "max_values": 2, "weights": "tag_weights"}
SCHEMA = {
  "user_fields": [
    {"name": "likes", "max_values": 3, "weights": "like_weights"},
    {"name": "age", "kind": "numeric", "buckets": 3, "standardise": True},
  ],
  "context_fields": [PRICE],
  "target": {
    "item_fields": [
      "category",
      TAGS,
      {"name": "size", "kind": "numeric", "buckets": 4, "standardise": True, "clip": [1, 4]},
    ],
    "cross_fields": [PRICE],
    "max_length": 9,
  },
  "source": {
    "item_fields": ["category"],
    "cross_fields": [{"name": "dwell", "kind": "numeric", "buckets": 3}],
    "max_length": 9,
  },
  "candidates": 4,
}
LIKES = [["a", "b"], [], ["c"], None, ["b", None, "a", "c"], ["d", "e"]]
LIKE_WEIGHTS = [[1.0, 3.0], [], [2.0], None, [1.0, 9.0, 0.0, 4.0], [0.0, 0.0]]
LIKE_SHARES = [[0.25, 0.75, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0.2, 0, 0.8], [0, 0, 0]]
AGES = [20.5, None, 41.0, 33.0, 33.0, 60.0]
USERS = pl.DataFrame({"user_id": range(6), "likes": LIKES, "like_weights": LIKE_WEIGHTS, "age": AGES})


def log_of(seed=0):
  rng = np.random.default_rng(seed)
  log = logs.random_log(rng, 400, users=6, span=90)
  price = pl.Series(np.round(np.exp(rng.normal(size=400)), 1))
  return log.with_columns(price=pl.select(pl.when(pl.Series(rng.random(400) < 0.9)).then(price)).to_series(), dwell=1.5)


def items_of(count=12):
  rng = np.random.default_rng(1)
  tags = [[f"t{rng.integers(4)}" for _ in range(i % 4)] or None for i in range(2 * count)]
  weights = [one and rng.random(len(one)).round(2).tolist() for one in tags]
  return logs.items(
    count, size=pl.Series(rng.integers(0, 6, 2 * count)), tags=pl.Series(tags), tag_weights=pl.Series(weights)
  )


def build(folder, log=None, items=None, schema=SCHEMA, users=USERS, name="records", records=None, **options):
  """The record set `folder`/`name`.

  Args:
    records: The section of the experiment.
    options: Arguments of `builder.build`.
  """
  log, items = log_of() if log is None else log, items_of() if items is None else items
  experiment = logs.experiment(schema, **{"labels": {"kind": "given"}} | (records or {}))
  return builder.build(experiment, tables.RawTables(log, items, users), folder / name, **options)
