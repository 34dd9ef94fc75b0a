"""A model with all of its variables made."""

import numpy as np
import tensorflow as tf

from lcn_tf.config import Model
from lcn_tf.models.ctr import CTR
from lcn_tf.schema import DomainName, Schema
from lcn_tf.serving.signatures import example_batch


def build_model(
  schema: Schema,
  config: Model,
  *,
  seed: int = 0,
  deduplicate: bool = True,
  catalogues: dict[DomainName, np.ndarray] | None = None,
) -> CTR:
  """The model, built for a schema with sizes; call it in the scope of the strategy that trains it.

  Args:
    catalogues: `[items, columns]` per domain; zeros if None (to be restored from a checkpoint).
  """
  tf.keras.utils.set_random_seed(seed)
  model = CTR(schema, config, seed, deduplicate)
  for domain, table in (catalogues or {}).items():
    model.embedder.set_catalogue(domain, table)
  example = example_batch(schema)
  model(example)
  model.build_crp(example)
  return model
