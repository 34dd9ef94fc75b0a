"""A model with all of its variables made."""

import numpy as np
import tensorflow as tf

from lcn_tf.config import Model
from lcn_tf.data.request_spec import example_batch
from lcn_tf.errors import UserError, unknown
from lcn_tf.interest import EXTRACTORS
from lcn_tf.models.base import RequestModel
from lcn_tf.models.networks import NETWORKS
from lcn_tf.models.separate_search import SeparateSearch
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DomainName, Schema


def build_model(
  schema: Schema,
  config: Model,
  *,
  seed: int = 0,
  deduplicate: bool = True,
  catalogues: dict[DomainName, np.ndarray] | None = None,
  pretrained: Pretrained | None = None,
  training: bool = True,
) -> RequestModel:
  """The model, built for a schema with sizes; call it in the scope of the strategy that trains it.

  Args:
    catalogues: `[items, columns]` per domain; zeros if None (to be restored from a checkpoint).
    pretrained: Frozen item vectors; needed if `needs_pretrained(config)`.
    training: Also make the weights that only training uses.

  Raises:
    UserError: No such network or extractor, wrong options, or item vectors are missing.
  """
  if needs_pretrained(config) and pretrained is None:
    raise UserError(f"model.extractor {config.extractor!r} needs pre-trained item vectors (model.pretraining)")
  tf.keras.utils.set_random_seed(seed)
  model = _made(schema, config, seed, deduplicate, pretrained and pretrained.only(_reads(config)))
  for domain, table in (catalogues or {}).items():
    model.embedder.set_catalogue(domain, table)
  model.build_from(example_batch(schema), training)
  return model


def check_model(schema: Schema, config: Model, jit_compile: bool = False) -> None:
  """Checks a model's section of an experiment, without item vectors, and without memory or devices for its tables.

  Raises:
    UserError: As `build_model`, or XLA is asked to compile what it cannot.
  """
  with tf.Graph().as_default():
    model = _made(schema, config, 0, True, None)
  if jit_compile and not all(extractor.compiles for extractor in getattr(model, "extractors", {}).values()):
    raise UserError(
      f"train.jit_compile: XLA cannot compile model.extractor {config.extractor!r} with these options. Leave it "
      "false, or see the extractor's description for options that XLA compiles"
    )


def _made(schema: Schema, config: Model, seed: int, deduplicate: bool, pretrained: Pretrained | None) -> RequestModel:
  if config.network not in NETWORKS:
    raise unknown("model.network", "network", config.network, NETWORKS)
  network = NETWORKS[config.network] if config.auxiliary_seed is None else SeparateSearch
  return network(schema, config, seed, deduplicate, pretrained)


def needs_pretrained(config: Model) -> bool:
  """Whether the model searches with frozen item vectors."""
  return bool(_reads(config))


def _reads(config: Model) -> tuple[str, ...]:
  """Which of the frozen item vectors' tables the model reads."""
  return EXTRACTORS[config.extractor].pretrained if config.extractor in EXTRACTORS else ()
