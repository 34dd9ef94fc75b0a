"""`model.max_length`: a model of the newest M behaviours is the same model on histories cut to them."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.models.build import build_model
from tests.support.batches import SCHEMA, candidate, catalogue
from tests.support.experiments import small_experiment
from tests.support.layers import ops_without_gpu_kernel
from tests.support.networks import CLOSE, DOMAINS, network_experiment, one_moment
from tests.support.record_sets import random_request

LIMIT = 13  # above LAP's top_k, below what the schema lets a candidate see


def _batch(count=4, candidates=2):
  """Full records, whose candidates see the history from different behaviours on, and one short history."""
  random = np.random.default_rng(0)
  full = {d: SCHEMA.capacity(d) for d in DOMAINS}
  lengths = [full] * (count - 1) + [{"target": 5, "source": 16}]
  requests = [
    random_request(SCHEMA, random, user=i + 1, candidates=candidates, lengths=each) for i, each in enumerate(lengths)
  ]
  return records.parse(tf.constant([records.encode(request, SCHEMA) for request in requests]), SCHEMA)


def _models(name, limit=LIMIT):
  """The model with and without a limit, of the same weights, none of them zero."""
  networks = ("minet", "conet", "pi_net")
  experiment = network_experiment(name, units=(16, 8, 8)) if name in networks else small_experiment(name)
  configs = [experiment.model.model_copy(update={"max_length": length}) for length in (limit, 0)]
  limited, free = (build_model(SCHEMA, each, catalogues=catalogue(), training=False) for each in configs)
  random = np.random.default_rng(0)
  for variable in limited.dense_variables():
    if not variable.numpy().any():
      variable.assign(0.3 * random.normal(size=variable.shape))
  free.set_weights(limited.get_weights())
  return limited, free


def _cut(batch, limit):
  """The requests with histories of the newest behaviours that their first candidate sees and nothing else."""
  cut = dict(batch)
  for d in DOMAINS:
    first, length = batch[f"{d}_first_visible"].numpy()[:, 0], batch[f"{d}_length"].numpy()
    left = np.clip(length - first, 0, limit)
    for part in ("items", "times", "cross"):
      rows = batch[f"{d}_{part}"].numpy()
      kept = np.zeros([len(rows), limit, *rows.shape[2:]], rows.dtype)
      for i in range(len(rows)):
        kept[i, : left[i]] = rows[i, first[i] : first[i] + left[i]]
      cut[f"{d}_{part}"] = tf.constant(kept)
    cut[f"{d}_length"] = tf.cast(left, batch[f"{d}_length"].dtype)
  return one_moment(cut)


@pytest.mark.parametrize("name", ["average_pooling", "lap", "twin", "minet", "conet"])
def test_logits_are_those_of_histories_cut_to_the_newest_that_each_candidate_sees(name):
  limited, free = _models(name)
  batch = _batch()
  first = batch["target_first_visible"].numpy()
  assert (first > 0).any()
  assert (first[:-1] + LIMIT < SCHEMA.capacity("target")).any()
  logits = limited(batch).numpy()
  assert np.abs(free(batch).numpy() - logits).max() > 1e-3, "the comparison is empty: nothing is cut"
  for n in range(logits.shape[1]):
    np.testing.assert_allclose(free(_cut(candidate(batch, n), LIMIT))[:, 0], logits[:, n], **CLOSE)


def test_pi_net_of_candidates_that_see_the_newest_behaviour_reads_no_step_beyond_the_limit():
  # of other candidates it reads fewer steps: see PiNet, departures
  limited, free = _models("pi_net")
  batch = one_moment(_batch())
  logits = limited(batch).numpy()
  assert np.abs(free(batch).numpy() - logits).max() > 1e-4, "the comparison is empty: nothing is cut"
  np.testing.assert_allclose(free(_cut(batch, LIMIT)), logits, **CLOSE)


@pytest.mark.parametrize("limit", [1, 7, 30, 1000])
def test_a_candidate_sees_no_more_than_the_smaller_of_the_models_and_the_schemas_limit(limit):
  # 30 is between the target domain's 24 and the source domain's 48
  limited, _ = _models("average_pooling", limit)
  batch = _batch()
  (embedded,) = limited.embedder([("target", batch)])
  for d in DOMAINS:
    most = min(limit, SCHEMA.domain(d).max_length)
    first, length = batch[f"{d}_first_visible"].numpy(), batch[f"{d}_length"].numpy()
    expected = np.clip(length[:, np.newaxis] - first, 0, most)
    visible = embedded.histories[d].visible.numpy()
    np.testing.assert_array_equal(visible.sum(axis=-1), expected)
    assert expected.max() == most
    seen = expected > 0
    np.testing.assert_array_equal(visible.argmax(axis=-1)[seen], first[seen])


def test_no_limit_is_the_schemas():
  _, free = _models("average_pooling")
  assert free.embedder.max_lengths == {d: SCHEMA.domain(d).max_length for d in DOMAINS}


def test_what_no_candidate_sees_is_not_computed_and_every_op_of_the_cut_has_a_gpu_kernel():
  limited, _ = _models("average_pooling")
  batch = _batch()
  (embedded,) = limited.embedder([("target", batch)])
  for d in DOMAINS:
    width = min(SCHEMA.capacity(d), int(batch[f"{d}_first_visible"].numpy().max()) + LIMIT)
    assert width < SCHEMA.capacity(d)
    history = embedded.histories[d]
    for part in (history.items, history.times, history.fields, history.embedding, history.side):
      assert part.shape[1] == width
    assert history.visible.shape[-1] == width
    assert history.items.dtype == tf.int32
  compiled = build_model(
    SCHEMA,
    small_experiment("average_pooling").model.model_copy(update={"max_length": LIMIT}),
    catalogues=catalogue(),
    deduplicate=False,
  )
  (whole,) = compiled.embedder([("target", batch)])
  assert whole.histories["target"].items.shape[1] == batch["target_items"].shape[1]
  spec = {
    name: tf.TensorSpec([None, None, *tensor.shape[2:]][: tensor.shape.rank], tensor.dtype)
    for name, tensor in batch.items()
  }
  step = tf.function(lambda data: limited(data), autograph=False).get_concrete_function(spec)
  assert ops_without_gpu_kernel(step) == set()
