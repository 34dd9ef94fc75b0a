"""A log that goes on: record sets of its first half and of all of it, with vocabularies of their own."""

import numpy as np
import polars as pl

from lcn_tf import config
from lcn_tf.data.build.builder import build
from lcn_tf.data.build.tables import RawTables
from tests.data import logs

SCHEMA = {
  "user_fields": ["user_id"],
  "context_fields": [{"name": "price", "kind": "numeric", "buckets": 4}],
  "target": {"item_fields": ["category", {"name": "tags", "max_values": 2}], "max_length": 8},
  "source": {"item_fields": ["category"], "max_length": 8},
  "candidates": 4,
  "vocabularies": {"source_item": {"min_count": 2, "oov": 2}},
}


def tables(share, seed=0, size=500, count=24):
  """The oldest `share` of a log whose items and users appear one after the other, some with new values of fields."""
  rng = np.random.default_rng(seed)
  log = logs.random_log(rng, size, users=12, count=count)
  newest = pl.col("timestamp") * count // 1000
  log = log.with_columns(
    item_id=pl.col("item_id") % (2 + newest), price=pl.Series(rng.normal(size=size)) + pl.col("timestamp") / 1000
  )
  items = logs.items(
    count,
    category=pl.when(pl.col("item_id") % 7 != 4).then(pl.concat_str(pl.lit("c"), pl.col("item_id") // 5)),
    tags=pl.concat_list(
      pl.concat_str(pl.lit("t"), pl.col("item_id") % 5), pl.concat_str(pl.lit("t"), pl.col("item_id") // 3)
    ),
  )
  return RawTables(log.filter(pl.col("timestamp") < 1000 * share), items.filter(pl.col("item_id") < 2 + count * share))


def experiment(schema=None, model=None, records=None, **train):
  """A few hundred weights on these records."""
  tree = {
    "name": "grows",
    "schema": schema or SCHEMA,
    "records": {"labels": {"kind": "given"}, "shards": 1, **(records or {})},
    "model": {
      "extractor": "none",
      "embedding": {"dim": 4, "cross_dim": 2, "recency_buckets": 3},
      "item_dim": 4,
      "mlp": {"units": [4]},
      **(model or {}),
    },
    "train": {"global_batch_size": 32, "shuffle_buffer": 32, "learning_rate": 0.01, **train},
  }
  return config.from_tree(tree, "grows")


def record_set(folder, share, **settings):
  return build(experiment(**settings), tables(share), folder)
