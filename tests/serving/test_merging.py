"""Requests that wait together are answered by one call, each as if it were alone."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.data.request_spec import served_spec
from lcn_tf.models.build import build_model
from lcn_tf.schema import DOMAINS
from lcn_tf.serving.merging import RequestMerger, merged
from lcn_tf.serving.signatures import Signatures
from tests.support.experiments import small_experiment
from tests.support.record_sets import random_request, small_schema, write_record_set

SCHEMA = small_schema(candidates=9)


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
  folder = tmp_path_factory.mktemp("merging")
  record_set = write_record_set(folder / "records", SCHEMA, records={"train": 2})
  model = build_model(SCHEMA, small_experiment().model, catalogues={d: record_set.catalogue(d) for d in DOMAINS})
  return Signatures(model, SCHEMA, id_mapping_of(record_set), folder)


def requests_of(count, seed=0):
  """Requests of 1 to 9 candidates and histories of any length."""
  rng = np.random.default_rng(seed)
  found = []
  for i in range(count):
    lengths = {d: int(rng.integers(0, 21)) for d in DOMAINS}
    one = random_request(SCHEMA, rng, user=i + 1, lengths=lengths, candidates=1 + i % 9)
    batch = records.parse(tf.constant([records.encode(one, SCHEMA)]), SCHEMA, {d: max(lengths[d], 1) for d in DOMAINS})
    tensors = {name: batch[name].numpy() for name in served_spec(SCHEMA)}
    for d in DOMAINS:  # no item twice: rounding would order its occurrences, by the size of a call
      tensors[f"{d}_items"][0, : lengths[d]] = rng.permutation(np.arange(1, SCHEMA.domain(d).items))[: lengths[d]]
    for name in ("candidate_items", "candidate_times", "candidate_context", *(f"{d}_first_visible" for d in DOMAINS)):
      tensors[name] = tensors[name][:, : 1 + i % 9]
    found.append(tensors)
  return found


class Model:
  """The model, which notes the sizes of its calls, and waits at the first one until it may go on."""

  def __init__(self, signatures):
    self.function = signatures.functions["rank"]
    self.sizes, self.gate = [], threading.Event()

  def __call__(self, tensors):
    self.gate.wait()
    self.sizes.append(len(tensors["candidate_items"]))
    return self.function(**{name: tf.constant(value) for name, value in tensors.items()})["probability"].numpy()


@pytest.mark.job
def test_requests_that_wait_together_are_answered_as_each_alone(signatures):
  model, requests = Model(signatures), requests_of(11)
  with RequestMerger(model, most_requests=4, calls=1) as merger:
    answers = [merger.submit(one) for one in requests]
    model.gate.set()
    found = [one.result() for one in answers]
  assert sum(model.sizes) == 11
  assert max(model.sizes) == 4
  assert len(model.sizes) <= 4  # the first call may have begun with one request
  for one, answer in zip(requests, found, strict=True):
    alone = model(one)[0]
    assert answer.shape == alone.shape == (one["candidate_items"].shape[1],)
    np.testing.assert_allclose(answer, alone, rtol=1e-5)


def test_a_request_that_is_refused_fails_alone(signatures):
  model, requests = Model(signatures), requests_of(5)
  requests[2]["target_length"] = requests[2]["target_length"] + 1000
  with RequestMerger(model, most_requests=8) as merger:
    answers = [merger.submit(one) for one in requests]
    model.gate.set()
    for number, answer in enumerate(answers):
      if number == 2:
        with pytest.raises(tf.errors.InvalidArgumentError, match="target_length: expected"):
          answer.result()
      else:
        np.testing.assert_allclose(answer.result(), model(requests[number])[0], rtol=1e-5)


def test_a_call_is_not_larger_than_it_may_be(signatures):
  model, requests = Model(signatures), requests_of(9)
  cells = [one["candidate_items"].shape[1] * sum(one[f"{d}_items"].shape[1] for d in DOMAINS) for one in requests]
  with RequestMerger(model, most_requests=100, most_cells=max(cells) // 2) as merger:
    answers = [merger.submit(one) for one in requests]
    model.gate.set()
    for one, answer in zip(requests, answers, strict=True):
      assert answer.result().shape == (one["candidate_items"].shape[1],)
  assert len(model.sizes) > 3


def test_requests_wait_for_others_no_longer_than_they_may(signatures):
  model, requests = Model(signatures), requests_of(3)
  model.gate.set()
  with RequestMerger(model, most_requests=3, wait=3600.0, calls=1) as merger:
    answers = [merger.submit(one) for one in requests]  # the third one fills the call
    assert all(answer.result().size for answer in answers)
  assert model.sizes == [3]
  with RequestMerger(model, most_requests=3, wait=0.01) as merger:
    assert merger.rank(requests[0]).size
  assert model.sizes == [3, 1]


def test_a_merger_that_is_closed_answers_what_waits_and_takes_nothing_more(signatures):
  model = Model(signatures)
  merger = RequestMerger(model, wait=3600.0, calls=1)
  answer = merger.submit(requests_of(1)[0])
  model.gate.set()
  merger.close()
  assert answer.result().size == 1
  with pytest.raises(RuntimeError, match="closed"):
    merger.submit(requests_of(1)[0])


def test_calls_that_run_at_the_same_time_answer_their_own_requests(signatures):
  model, requests = Model(signatures), requests_of(30)
  model.gate.set()
  with RequestMerger(model, most_requests=3, calls=4) as merger:
    for one, answer in zip(requests, [merger.submit(each) for each in requests], strict=True):
      np.testing.assert_allclose(answer.result(), model(one)[0], rtol=1e-5)


def test_one_column_for_all_candidates_is_repeated_where_others_have_more():
  texts = np.array([["a"]], object)
  shared = {"candidate_ids": np.array([[7, 8]]), "context_hour": texts, "target_ids": np.zeros((1, 0), np.int64)}
  own = {"candidate_ids": np.array([[1, 2, 3]]), "context_hour": np.array([["x", "y", "z"]], object)}
  found = merged([shared, own | {"target_ids": np.array([[4]])}])
  assert found["candidate_ids"].tolist() == [[7, 8, 0], [1, 2, 3]]
  assert found["context_hour"].tolist() == [["a", "a", "a"], ["x", "y", "z"]]
  assert found["target_ids"].tolist() == [[0], [4]]
