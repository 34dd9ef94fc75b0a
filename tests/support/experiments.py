"""Small experiments on the record sets of `record_sets`."""

from typing import Any

from lcn_tf import config
from lcn_tf.config import Experiment
from tests.support.record_sets import small_schema, tiny_schema


def small_experiment(extractor: str = "lap", *, crp: bool = False, **train: Any) -> Experiment:
  """A few thousand weights, 16 requests a step."""
  options = {"top_k": [8, 4], "msa_dim": 8, "output_dim": 8, "ffn_dim": 16, "head_dim": 4} if extractor == "lap" else {}
  tree = {
    "name": f"small {extractor}",
    "schema": small_schema(sized=False).model_dump(mode="json"),
    "model": {
      "extractor": extractor,
      "options": options,
      "embedding": {"dim": 8, "cross_dim": 4, "recency_buckets": 6, "init": "scaled_uniform"},
      "item_dim": 8,
      "mlp": {"units": [16, 8]},
      "crp": {"units": [8], "weight": 0.5} if crp else None,
    },
    "train": {"global_batch_size": 64, "shuffle_buffer": 64, "epochs": 2, **train},
  }
  return config.from_tree(tree, "small")


def tiny_experiment(extractor: str = "none", *, crp: bool = False, **train: Any) -> Experiment:
  """`small_experiment` on records of `tiny_schema`."""
  tree = small_experiment(extractor, crp=crp, **train).model_dump(mode="json", by_alias=True)
  return config.from_tree(tree | {"schema": tiny_schema(sized=False).model_dump(mode="json")}, "tiny")
