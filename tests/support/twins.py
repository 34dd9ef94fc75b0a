"""Small TWINs, whose search reads projections of items."""

from typing import Any

from lcn_tf.config import Experiment, from_tree
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model
from tests.support.batches import catalogue
from tests.support.experiments import small_experiment
from tests.support.record_sets import small_schema

OPTIONS = {"top_k": 4, "num_heads": 2, "head_dim": 3, "output_dim": 4}


def twin_experiment(
  options: dict[str, Any] | None = None,
  *,
  refresh_every: int = 0,
  auxiliary_seed: int | None = None,
  histories: tuple[str, ...] = ("target", "source"),
  max_length: int = 0,
  **train_options: Any,
) -> Experiment:
  tree = small_experiment("average_pooling", **train_options).model_dump(mode="json", by_alias=True)
  tree["model"] |= {"extractor": "twin", "options": OPTIONS | (options or {})}
  tree["model"] |= {"projection_refresh": refresh_every, "auxiliary_seed": auxiliary_seed, "histories": histories}
  tree["model"]["max_length"] = max_length
  return from_tree(tree, "small twin")


def twin_of(options: dict[str, Any] | None = None, *, seed: int = 0, **settings: Any) -> RequestModel:
  experiment = twin_experiment(options, **settings)
  return build_model(small_schema(), experiment.model, seed=seed, catalogues=catalogue())
