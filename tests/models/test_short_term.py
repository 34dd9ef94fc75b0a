"""The short-term module: DIN over the newest behaviours of each history, beside whatever extractor there is."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.data.request_spec import request_spec
from lcn_tf.models.base import click_loss
from lcn_tf.models.build import build_model
from lcn_tf.serving import export
from tests.support.experiments import small_experiment
from tests.support.record_sets import random_request, small_schema, write_record_set

SCHEMA = small_schema()


def _experiment(extractor="none", short_term=2):
  experiment = small_experiment(extractor)
  return experiment.model_copy(update={"model": experiment.model.model_copy(update={"short_term": short_term})})


def _model(extractor="none", short_term=2):
  random = np.random.default_rng(0)
  tables = {}
  for d in ("target", "source"):
    tables[d] = random.integers(1, 12, (SCHEMA.domain(d).items, 5 if d == "target" else 2))
    tables[d][:, 0] = np.arange(len(tables[d]))
  return build_model(SCHEMA, _experiment(extractor, short_term).model, catalogues=tables)


def _batch(count=4, candidates=4, seed=0):
  random = np.random.default_rng(seed)
  lengths = {"target": 9, "source": 12}
  requests = [random_request(SCHEMA, random, user=i + 1, candidates=candidates, lengths=lengths) for i in range(count)]
  return records.parse(tf.constant([records.encode(request, SCHEMA) for request in requests]), SCHEMA)


def test_each_history_gets_a_module_of_its_own_beside_the_extractors():
  model, without = _model("lap"), _model("lap", short_term=0)
  new = {v.name for v in model.trainable_variables} - {v.name for v in without.trainable_variables}
  for d in ("target", "source"):
    assert any(name.startswith(f"ctr/short_term_{d}/") for name in new)
  assert all(name.startswith("ctr/short_term_") for name in new)
  assert len(new) == 2 * 5
  # of each history: the item, its cross fields and recency
  wider = model.mlp.weights[0].shape[0] - without.mlp.weights[0].shape[0]
  assert wider == (8 + 2 * 4 + 4) + (8 + 4 + 4)


@pytest.mark.parametrize("domain", ["target", "source"])
def test_logits_change_with_the_newest_visible_behaviours_of_each_candidate_and_no_others(domain):
  model, batch = _model(short_term=2), _batch()
  before = model(batch).numpy()
  first = batch[f"{domain}_first_visible"].numpy()
  length = batch[f"{domain}_length"].numpy()
  changed_somewhere = np.zeros(first.shape, bool)
  for position in range(int(length.max())):
    other = dict(batch)
    column = tf.one_hot(position, batch[f"{domain}_items"].shape[1], dtype=tf.bool, on_value=True, off_value=False)
    other[f"{domain}_items"] = tf.where(column, 3 + batch[f"{domain}_items"] % 20, batch[f"{domain}_items"])
    changed = np.abs(model(other).numpy() - before) > 1e-7
    newest = (position >= first) & (position < first + 2) & (position < length[:, np.newaxis])
    assert not (changed & ~newest).any()
    changed_somewhere |= changed
  sees = first < length[:, np.newaxis]
  np.testing.assert_array_equal(changed_somewhere, sees)
  assert len({int(x) for x in first.ravel()}) > 1, "all candidates see the same"


def test_without_it_a_model_without_extractor_reads_no_history():
  model, batch = _model(short_term=0), _batch()
  other = batch | {f"{d}_items": tf.ones_like(batch[f"{d}_items"]) for d in ("target", "source")}
  np.testing.assert_array_equal(model(other), model(batch))


@pytest.mark.job
def test_it_learns_and_is_exported(tmp_path):
  model, batch = _model("average_pooling", 3), _batch(seed=5)
  own = [v for v in model.trainable_variables if "short_term_" in v.name]
  with tf.GradientTape() as tape:
    loss = click_loss(model(batch), batch)
  for variable, gradient in zip(own, tape.gradient(loss, own), strict=True):
    assert np.abs(gradient).max() > 0, variable.name

  record_set = write_record_set(tmp_path / "records", SCHEMA, records={"train": 2})
  version = export.save(model, _experiment("average_pooling", 3), record_set, tmp_path / "served")
  request = {name: tensor for name, tensor in batch.items() if name in request_spec(SCHEMA)}
  served = tf.saved_model.load(str(version)).signatures["rank"](**request)
  np.testing.assert_allclose(served["probability"], tf.sigmoid(model(batch)), rtol=1e-5)
