"""Models and requests of any size, to measure cost on: random items, full histories, no records on disk."""

from typing import Any

import numpy as np
import tensorflow as tf

from lcn_tf import config as config_lib
from lcn_tf.config import Experiment
from lcn_tf.data.field_values import value_groups
from lcn_tf.data.request_spec import request_spec
from lcn_tf.errors import unknown
from lcn_tf.interest import EXTRACTORS
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.models.networks import NETWORKS
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS, Schema, columns, value_columns, with_sizes

_CATEGORIES = 1000
_NOW = 1_500_000_000

# Names beside those of extractors and networks: extractor and options.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
  "lap_five_percent": ("lap", {"top_k": [100, 20]}),
  "twin_cached": ("twin", {"projections": "cached"}),
  "twin_no_bias": ("twin", {"bias": False}),
  "twin_raw": ("twin", {"key": "raw"}),
}


def names() -> list[str]:
  """Names of the models that can be built: extractors, presets of them, and networks of their own wiring."""
  return [*EXTRACTORS, *PRESETS, *(name for name in NETWORKS if name != "ctr")]


def experiment(name: str, length: int, candidates: int = 1, side_fields: int = 3) -> Experiment:
  """Two histories of `length`; items of id and category, 32 wide each; cross fields, 8 wide each, recency one of them.

  So an item is 64 wide, a behaviour with its side information 96, as in the cost model of LAP.

  Raises:
    UserError: The name is unknown.
  """
  if name not in names():
    raise unknown("--models", "model", name, names())
  extractor, options = PRESETS.get(name, (name, {}))
  domain = {
    "item_fields": ["category"],
    "cross_fields": [f"side_{i}" for i in range(side_fields)],
    "max_length": length,
  }
  model = {"network": name} if name in NETWORKS else {"extractor": extractor, "options": options}
  tree = {
    "name": name,
    "schema": {"target": domain, "source": domain, "candidates": candidates, "extra_length": 0},
    "model": {**model, "embedding": {"dim": 32, "cross_dim": 8, "recency_buckets": 20, "init": "scaled_uniform"}},
    "train": {"global_batch_size": candidates},
  }
  return config_lib.from_tree(tree, f"synthetic {name}")


def sized(schema: Schema, items: int) -> Schema:
  """The schema with `items` items in each domain."""
  sizes = {name: 12 for name in schema.vocabularies}
  sizes |= {"category": _CATEGORIES + 2, "target_item": items + 2, "source_item": items + 2}
  return with_sizes(schema, sizes, {d: items + 2 for d in DOMAINS})


def random_vectors(rows: int, width: int, clusters: int, rng: np.random.Generator) -> Pretrained:
  """Random item vectors and clusters, numbered from 1, for models that search with frozen vectors."""
  vectors = {d: rng.normal(size=(rows, width)).astype(np.float32) for d in DOMAINS}
  return Pretrained(vectors, {d: rng.integers(1, clusters, (rows, 2)) for d in DOMAINS}, {}, "")


def build(name: str, length: int, *, items: int = 1000, deduplicate: bool = True, seed: int = 0) -> RequestModel:
  """The model, for inference.

  Args:
    name: Name out of `names()`.
    length: Behaviours L of each history.
    items: Items of each domain.
    deduplicate: True if each row of a table is looked up once; XLA needs False.
  """
  setup = experiment(name, length)
  schema = sized(setup.record_schema, items)
  rng = np.random.default_rng(seed)
  categories = np.concatenate([[0, 1], rng.integers(2, _CATEGORIES + 2, items)])
  catalogue = np.stack([np.arange(items + 2), categories], axis=1)
  pretrained = None
  if needs_pretrained(setup.model):
    pretrained = random_vectors(items + 2, 64, max(items // 10, 2), rng)
  return build_model(
    schema,
    setup.model,
    seed=seed,
    deduplicate=deduplicate,
    catalogues={d: catalogue for d in DOMAINS},
    pretrained=pretrained,
    training=False,
  )


def requests(schema: Schema, count: int, candidates: int, length: int, seed: int = 0) -> dict[str, tf.Tensor]:
  """Serving requests: full histories of uniformly drawn items, all candidates of one moment (`first_visible` `[B, 1]`).

  Args:
    schema: Schema with sizes.
    count, candidates, length: B, N and L.
  """
  rng = np.random.default_rng(seed)

  def fields(features: Any, *shape: int) -> np.ndarray:
    return rng.integers(2, 12, (*shape, columns(features)))

  batch: dict[str, np.ndarray] = {
    "user_fields": fields(schema.user_fields, count),
    "candidate_items": rng.integers(2, schema.target.items, (count, candidates)),
    "candidate_times": np.full((count, candidates), _NOW),
    "candidate_context": fields(schema.context_fields, count, candidates),
  }
  for d in DOMAINS:
    batch[f"{d}_items"] = rng.integers(2, schema.domain(d).items, (count, length))
    batch[f"{d}_times"] = _NOW - np.cumsum(rng.integers(1, 3600, (count, length)), axis=1)
    batch[f"{d}_cross"] = fields(schema.domain(d).cross_fields, count, length)
    batch[f"{d}_length"] = np.full(count, length)
    batch[f"{d}_first_visible"] = np.zeros((count, 1))
  sizes = {"": (count,), "N": (count, candidates)} | {d: (count, length) for d in DOMAINS}
  for name, (axis, features) in value_groups(schema).items():
    batch[name] = rng.random((*sizes[axis], value_columns(features)))
  return {name: tf.constant(batch[name], spec.dtype) for name, spec in request_spec(schema).items()}
