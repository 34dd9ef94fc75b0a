"""Calls that are too large to be scored at once."""

import json

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data.records import encode
from lcn_tf.data.request_spec import served_spec
from lcn_tf.serving import answers, blocks, signatures
from lcn_tf.serving.blocks import in_blocks
from lcn_tf.serving.export import describe, newest_version, save
from pipelines import export as command
from tests.support.batches import SCHEMA, batch_of, model_of
from tests.support.experiments import small_experiment, tiny_experiment
from tests.support.layers import ops_without_gpu_kernel
from tests.support.record_sets import random_request, tiny_schema, write_record_set
from tests.support.runs import write_run
from tests.support.twins import twin_of


def numbers(users, candidates, shared=False):
  """A request in which everything says where it stands."""
  place = tf.reshape(tf.range(users * candidates, dtype=tf.int64), [users, candidates])
  return {
    "candidate_items": place,
    "target_first_visible": 10 * place[:, :1] if shared else 10 * place,
    "user_fields": tf.range(users)[:, tf.newaxis],
  }


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
  ("users", "candidates", "sizes"),
  [
    (1, 8, [(1, 8)]),
    (2, 4, [(2, 4)]),
    (1, 9, [(1, 5), (1, 4)]),
    (1, 17, [(1, 6), (1, 6), (1, 5)]),
    (3, 3, [(2, 3), (1, 3)]),
    (5, 2, [(4, 2), (1, 2)]),
    (2, 11, [(1, 6), (1, 5), (1, 6), (1, 5)]),
    (9, 1, [(8, 1), (1, 1)]),
    (0, 5, [(0, 5)]),
    (3, 0, [(3, 0)]),
  ],
)
def test_each_candidate_is_scored_once_with_what_is_its_own(users, candidates, sizes, shared):
  seen = []

  def score(candidate_items, target_first_visible, user_fields):
    seen.append(tuple(candidate_items.shape))
    own = candidates * tf.cast(user_fields, tf.int64) if shared else candidate_items
    assert np.all(target_first_visible == 10 * own)
    return tf.cast(candidate_items, tf.float32) + 0.5 * tf.cast(user_fields, tf.float32)

  request = numbers(users, candidates, shared)
  found = in_blocks(score, request, 8)
  place = np.arange(users * candidates).reshape(users, candidates)
  np.testing.assert_array_equal(found, place + 0.5 * np.arange(users)[:, np.newaxis])
  assert seen == sizes


@pytest.mark.job
@pytest.mark.parametrize("extractor", ["lap", "average_pooling", "twin"])
def test_a_large_call_is_answered_as_its_candidates_alone(extractor, monkeypatch):
  model = model_of(extractor)
  batch = batch_of(5)
  request = {name: batch[name] for name in served_spec(SCHEMA)}
  monkeypatch.setattr(signatures, "at_once_here", lambda: 0)
  whole = signatures.rank_function(model, SCHEMA)(**request)["probability"]
  monkeypatch.setattr(signatures, "at_once_here", lambda: 3)
  rank = signatures.rank_function(model, SCHEMA)
  assert ops_without_gpu_kernel(rank) == set()
  np.testing.assert_allclose(rank(**request)["probability"], whole, rtol=1e-5)
  assert np.ptp(whole) > 1e-3
  one = {name: tensor[:1] for name, tensor in request.items()}
  np.testing.assert_allclose(rank(**one)["probability"], whole[:1], rtol=1e-5)


@pytest.mark.job
def test_every_signature_answers_in_blocks_as_at_once(tmp_path):
  record_set = write_record_set(tmp_path / "records", SCHEMA, records={"train": 4})
  rng, model = np.random.default_rng(0), twin_of()
  samples = [encode(random_request(SCHEMA, rng, user=i + 1, candidates=4), SCHEMA) for i in range(3)]
  answered = {}
  for at_once in (0, 3):
    version = save(
      model,
      small_experiment("twin"),
      record_set,
      tmp_path / str(at_once),
      samples=samples,
      at_once=at_once,
      encoded_user=True,
    )
    assert describe(version)["at_once"] == at_once
    assert answers.differences(version) == []
    answered[at_once] = json.loads((version / answers.REQUESTS).read_text())
  ranking = {"rank", "rank_examples", "rank_raw", "rank_projected", "rank_encoded"}
  assert {one["signature_name"] for one in answered[3]} == ranking
  for one, other in zip(answered[0], answered[3], strict=True):
    assert one["signature_name"] == other["signature_name"]
    np.testing.assert_allclose(other["outputs"]["probability"], one["outputs"]["probability"], rtol=1e-5)


@pytest.mark.job
def test_the_command_takes_the_size_of_a_block(tmp_path):
  write_run(tmp_path / "run", tiny_experiment(), write_record_set(tmp_path / "records", tiny_schema()))
  for flags, expected in (([], blocks.at_once_here()), (["--at_once=7"], 7)):
    command.main(["export", f"--run_dir={tmp_path / 'run'}", f"--output={tmp_path / 'served'}", "--notry", *flags])
    assert describe(newest_version(tmp_path / "served"))["at_once"] == expected


def test_the_model_is_in_the_graph_once():
  graph = signatures.rank_function(model_of("average_pooling"), SCHEMA).graph.as_graph_def().library.function
  of_model = [f for f in graph if any(node.op == "ResourceGather" for node in f.node_def)]
  assert len(of_model) == 1
  assert of_model[0].attr["_noinline"].b
