"""Batches and catalogues of the small schema, for tests of whole models."""

import numpy as np
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.models.build import build_model
from lcn_tf.training.optimizers import make_optimizer
from tests.support.experiments import small_experiment
from tests.support.record_sets import random_request, small_schema

SCHEMA = small_schema()


def batch_of(count=6, seed=0, domain="target", candidates=None):
  rng = np.random.default_rng(seed)
  requests = [random_request(SCHEMA, rng, user=i + 1, domain=domain, candidates=candidates) for i in range(count)]
  return records.parse(tf.constant([records.encode(request, SCHEMA) for request in requests]), SCHEMA)


def without_repeats(batch, seed=0):
  """The same requests, with histories in which no item occurs twice.

  Rounding orders the equal scores of one item's occurrences, and it differs between machines and sizes of a batch.
  """
  rng, found = np.random.default_rng(seed), dict(batch)
  for d in ("target", "source"):
    rows, width = batch[f"{d}_items"].shape
    items = np.arange(1, SCHEMA.domain(d).items)
    length = np.minimum(batch[f"{d}_length"], len(items))
    drawn = np.zeros((rows, max(width, len(items))), np.int32)
    drawn[:, : len(items)] = [rng.permutation(items) for _ in range(rows)]
    found[f"{d}_length"] = tf.constant(length, tf.int32)
    found[f"{d}_items"] = tf.constant(drawn[:, :width] * (np.arange(width) < length[:, np.newaxis]), tf.int32)
  return found


def catalogue(seed=0):
  rng = np.random.default_rng(seed)
  tables = {}
  for d in ("target", "source"):
    fields = SCHEMA.catalogue_features(d)
    limits = [SCHEMA.vocabularies[f.vocabulary].size for f in fields for _ in range(f.max_values)]
    tables[d] = rng.integers(1, limits, (SCHEMA.domain(d).items, len(limits)))
    tables[d][:, 0] = np.arange(len(tables[d])) % SCHEMA.vocabularies[f"{d}_item"].size
    tables[d][0] = 0
  return tables


def row(batch, index):
  return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def candidate(batch, n):
  """The same requests with their n-th candidate alone."""
  return {
    name: tensor[:, n : n + 1]
    if name.startswith(("candidate_", "label", "weight")) or "first_visible" in name
    else tensor
    for name, tensor in batch.items()
  }


def model_of(extractor="lap", crp=False, seed=0, deduplicate=True, **train):
  experiment = small_experiment(extractor, crp=crp, **train)
  model = build_model(SCHEMA, experiment.model, seed=seed, catalogues=catalogue(), deduplicate=deduplicate)
  model.compile(optimizer=make_optimizer(model, experiment.train))
  return model
