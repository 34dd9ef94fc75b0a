"""Building of a model with all of its variables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lcn_tf.config import Model
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import example_batch
from lcn_tf.errors import UserError, unknown
from lcn_tf.interest import EXTRACTORS
from lcn_tf.models.base import Blueprint, RequestModel
from lcn_tf.models.id_tables import id_tables
from lcn_tf.models.networks import NETWORKS
from lcn_tf.models.separate_search import SeparateSearch
from lcn_tf.pretraining.vectors import KINDS, Kind, Pretrained
from lcn_tf.schema import DOMAINS, DomainName, Schema


def build_model(
  schema: Schema,
  config: Model,
  *,
  seed: int = 0,
  deduplicate: bool = True,
  catalogues: dict[DomainName, np.ndarray] | None = None,
  contents: dict[DomainName, dict[str, np.ndarray]] | None = None,
  item_values: dict[DomainName, np.ndarray] | None = None,
  pretrained: Pretrained | None = None,
  training: bool = True,
  restored: bool = False,
) -> RequestModel:
  """Builds a model for a schema with sizes. Call it in the scope of the strategy that trains the model.

  Args:
    schema: Schema with sizes.
    config: `model` section of the experiment.
    seed: Seed of the initial values and of all random choices of a step.
    deduplicate: Switch of the look-up by distinct rows; see `lcn_tf.layers.tables.EmbeddingTables`.
    catalogues: Item catalogue `[items, columns]` per domain; None = zeros, to be restored from a checkpoint.
    contents: Frozen vectors of the schema's items, by domain and name, `[items, width]`; None = zeros, as above.
    item_values: Float values of the item fields, `[items, value_columns]` per domain; None = zeros, as above.
    pretrained: Item vectors; needed if `needs_pretrained(config, restored)` names any.
    training: Switch of the weights that only training uses. False = the weights that serving needs.
    restored: True if the weights are to be restored: `model.embedding.init_from` is not followed then.

  Returns:
    The model.

  Raises:
    UserError: The network or the extractor is unknown, options are wrong, or item vectors are missing.
  """
  for kind in needs_pretrained(config, restored):
    if pretrained is None or not pretrained.holds([kind]):
      reader = f"extractor {config.extractor!r}" if kind in _searched(config) else "embedding.init_from"
      raise UserError(f"model.{reader} needs pre-trained item {kind} (model.pretraining)")
  tf.keras.utils.set_random_seed(seed)
  starts: dict[str, np.ndarray] = {}
  if pretrained and config.embedding.init_from != "none" and not restored:
    starts = id_tables(schema, config, pretrained, catalogues or {})
  model = _made(schema, config, seed, deduplicate, pretrained and pretrained.only(_searched(config)), starts)
  for domain, table in (catalogues or {}).items():
    model.embedder.set_catalogue(domain, table)
  for domain, vectors in (contents or {}).items():
    model.embedder.set_contents(domain, vectors)
  for domain, values in (item_values or {}).items():
    model.embedder.set_item_values(domain, values)
  model.build_from(example_batch(schema), training)
  return model


def item_tables(record_set: RecordSet) -> dict[str, Any]:
  """The arguments of `build_model` that hold what records say of items: catalogues, vectors and float values.

  Raises:
    DamagedError: A file of the records is not what was written.
  """
  return {
    "catalogues": {d: record_set.catalogue(d) for d in DOMAINS},
    "contents": {d: record_set.vectors(d) for d in DOMAINS},
    "item_values": {d: record_set.item_values(d) for d in DOMAINS},
  }


def check_model(schema: Schema, config: Model, jit_compile: bool = False) -> None:
  """Checks the model section of an experiment. It needs no item vectors, and no memory or device for the tables.

  Args:
    schema: Schema with sizes.
    config: `model` section of the experiment.
    jit_compile: `train.jit_compile` of the experiment.

  Raises:
    UserError: `build_model` refuses the section, or XLA cannot compile the model.
  """
  with tf.Graph().as_default():
    model = _made(schema, config, 0, True, None, {})
  if jit_compile and not all(extractor.compiles for extractor in getattr(model, "extractors", {}).values()):
    raise UserError(
      f"train.jit_compile: XLA cannot compile model.extractor {config.extractor!r} with these options. Set "
      "train.jit_compile to false, or options that XLA compiles (sdim: mode 'ta', or l2 false)"
    )


def _made(
  schema: Schema,
  config: Model,
  seed: int,
  deduplicate: bool,
  pretrained: Pretrained | None,
  starts: Mapping[str, np.ndarray],
) -> RequestModel:
  if config.network not in NETWORKS:
    raise unknown("model.network", "network", config.network, NETWORKS)
  network = NETWORKS[config.network] if config.auxiliary_seed is None else SeparateSearch
  return network(Blueprint(schema, config, seed, deduplicate, pretrained, starts))


def needs_pretrained(config: Model, restored: bool = False) -> tuple[Kind, ...]:
  """Names of the tables of item vectors that the model reads: `vectors`, `clusters`, both, or none.

  Args:
    config: `model` section of the experiment.
    restored: True for a model whose weights are restored, which does not read the vectors that its tables begin with.
  """
  searched = _searched(config)
  begins = config.embedding.init_from != "none" and not restored
  return tuple(kind for kind in KINDS if kind in searched or (begins and kind == "vectors"))


def _searched(config: Model) -> tuple[Kind, ...]:
  """Names of the tables of frozen item vectors that the model searches with."""
  return EXTRACTORS[config.extractor].pretrained if config.extractor in EXTRACTORS else ()
