"""A request that contradicts itself or the schema is an error that names the tensor, never a wrong number."""

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.data.request_spec import request_spec
from lcn_tf.models.build import build_model
from lcn_tf.schema import DOMAINS
from lcn_tf.serving.checks import checked
from lcn_tf.serving.export import save
from tests.support.experiments import small_experiment
from tests.support.record_sets import random_request, small_schema, write_record_set

SCHEMA = small_schema()
SPEC = request_spec(SCHEMA)
B, N, L = 3, 4, 20


def request(seed=0, length=9):
  """Valid tensors; every history has `length` behaviours and a column or more of padding."""
  rng = np.random.default_rng(seed)
  requests = [
    random_request(SCHEMA, rng, user=i + 1, lengths=dict.fromkeys(DOMAINS, length), candidates=N) for i in range(B)
  ]
  serialized = tf.constant([records.encode(one, SCHEMA) for one in requests])
  batch = records.parse(serialized, SCHEMA, dict.fromkeys(DOMAINS, L))
  return {name: batch[name].numpy() for name in SPEC}


@pytest.fixture(scope="module")
def rank(tmp_path_factory):
  folder = tmp_path_factory.mktemp("export")
  experiment = small_experiment()
  record_set = write_record_set(folder / "records", SCHEMA, records={"train": 2})
  model = build_model(SCHEMA, experiment.model, catalogues={d: record_set.catalogue(d) for d in DOMAINS})
  loaded = tf.saved_model.load(str(save(model, experiment, record_set, folder / "served")))
  function = loaded.signatures["rank"]
  function.owner = loaded
  return function


@pytest.mark.job
@pytest.mark.parametrize("trials", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_whatever_bytes_a_record_has_it_is_scored_or_refused(rank, trials):
  rng, refusals = np.random.default_rng(3), 0
  rank_examples = rank.owner.signatures["rank_examples"]
  sound = [records.encode(random_request(SCHEMA, rng, user=i + 1, candidates=N), SCHEMA) for i in range(3)]
  assert np.isfinite(rank_examples(examples=tf.constant(sound))["probability"]).all()
  for _ in range(trials):
    example = tf.train.Example.FromString(sound[rng.integers(3)])
    features = example.features.feature
    name, kind = rng.choice(sorted(features)), rng.integers(3)
    data = bytearray(features[name].bytes_list.value[0])
    if kind == 0:
      data = data[: rng.integers(len(data) + 1)]
    elif kind == 1:
      data += bytes(rng.integers(0, 256, rng.integers(1, 9), np.uint8))
    else:
      data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    features[name].bytes_list.value[0] = bytes(data)
    try:
      found = rank_examples(examples=tf.constant([example.SerializeToString(), sound[0]]))["probability"].numpy()
    except tf.errors.InvalidArgumentError as error:
      assert ": expected" in str(error)  # noqa: PT017
      refusals += 1
      continue
    assert ((found >= 0) & (found <= 1)).all()
  assert 0.2 * trials < refusals < 0.95 * trials


def call(rank, tensors):
  return rank(**{name: tf.constant(value) for name, value in tensors.items()})["probability"].numpy()


def refused(rank, tensors, name):
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    call(rank, tensors)
  assert f"{name}: expected" in str(error.value), str(error.value)[-600:]


@pytest.mark.parametrize("name", sorted(set(SPEC) - {"candidate_items"}))
def test_another_number_of_requests_is_refused_for_every_tensor(rank, name):
  """One row, too, which would be spread over all."""
  for rows in (1, B - 1):
    refused(rank, request() | {name: request()[name][:rows]}, name)
  refused(rank, request() | {name: np.repeat(request()[name], 2, axis=0)}, name)


@pytest.mark.parametrize("name", ["candidate_times", "candidate_context", *(f"{d}_first_visible" for d in DOMAINS)])
def test_another_number_of_candidates_is_refused(rank, name):
  refused(rank, request() | {name: request()[name][:, : N - 1]}, name)
  if "first_visible" not in name:  # of which one column is for all
    refused(rank, request() | {name: request()[name][:, :1]}, name)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("part", ["times", "cross"])
def test_another_number_of_behaviours_is_refused(rank, domain, part):
  name = f"{domain}_{part}"
  for width in (0, 1, L - 1):
    refused(rank, request() | {name: request()[name][:, :width]}, name)


WRONG = [
  *((name, -1) for name in ("candidate_items", "candidate_context", "user_fields")),
  *((f"{d}_{part}", -1) for d in DOMAINS for part in ("items", "cross", "length", "first_visible")),
  *((f"{d}_length", L + 1) for d in DOMAINS),
  ("candidate_items", SCHEMA.target.items),
  ("candidate_context", 12),
  ("user_fields", 12),
  ("target_items", SCHEMA.target.items),
  ("source_items", SCHEMA.source.items),
  *((f"{d}_cross", 12) for d in DOMAINS),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_out_of_range_is_refused_wherever_it_is(rank, name, value):
  for position in (0, -1):
    tensor = request()[name]
    tensor.reshape(-1)[position] = value
    refused(rank, request() | {name: tensor}, name)


@pytest.mark.parametrize("domain", DOMAINS)
def test_padding_within_the_length_and_an_order_that_is_not_newest_first_are_refused(rank, domain):
  items = request()[f"{domain}_items"]
  items[1, 4] = 0
  refused(rank, request() | {f"{domain}_items": items}, f"{domain}_items")
  times = request()[f"{domain}_times"]
  times[:, :9] = times[:, 8::-1]
  refused(rank, request() | {f"{domain}_times": times}, f"{domain}_times")


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_candidate_that_would_see_what_is_not_older_is_refused(rank, domain):
  tensors = request()
  tensors["candidate_times"][2, 1] = tensors[f"{domain}_times"][2, 0]
  for d in DOMAINS:
    tensors[f"{d}_first_visible"][2, 1] = 0 if d == domain else L
  refused(rank, tensors, f"{domain}_first_visible")


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_history_of_width_0_has_no_length(rank, domain):
  narrow = {name: value[:, :0] for name, value in request().items() if name.startswith(f"{domain}_") and value.ndim > 1}
  narrow.pop(f"{domain}_first_visible")
  refused(rank, request() | narrow, f"{domain}_length")
  assert call(rank, request() | narrow | {f"{domain}_length": np.zeros(B, np.int32)}).shape == (B, N)


def test_valid_requests_are_answered(rank):
  expected = call(rank, request())
  assert expected.shape == (B, N)
  # a padded candidate, whatever its time
  padded = request()
  padded["candidate_items"][0, -1] = padded["candidate_times"][0, -1] = 0
  answers = call(rank, padded)
  np.testing.assert_array_equal(np.delete(answers.reshape(-1), N - 1), np.delete(expected.reshape(-1), N - 1))
  # one that sees nothing
  blind = request() | {f"{d}_first_visible": np.full([B, 1], L + 5, np.int32) for d in DOMAINS}
  nothing = request() | {f"{d}_length": np.zeros(B, np.int32) for d in DOMAINS}
  np.testing.assert_allclose(call(rank, blind), call(rank, nothing), rtol=1e-6)
  # nobody, and nothing to rank
  assert call(rank, {name: value[:0] for name, value in request().items()}).shape == (0, N)
  none = {name: value[:, :0] for name, value in request().items() if name.startswith("candidate") or "visible" in name}
  assert call(rank, request() | none).shape == (B, 0)


def test_a_tensor_of_another_type_or_rank_is_refused(rank):
  for name, value in request().items():
    for wrong in (value.astype(np.float32), value[..., np.newaxis]):
      with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        call(rank, request() | {name: wrong})


def mutated(tensors, rng):
  """The request with a change of a size, or of a few values, of one tensor."""
  changed = {name: value.copy() for name, value in tensors.items()}
  name = rng.choice(sorted(changed))
  value = changed[name]
  kind = rng.integers(4)
  if kind == 0:
    axis = int(rng.integers(value.ndim))
    width = int(rng.integers(0, value.shape[axis] + 3))
    changed[name] = np.take(value, np.arange(width) % value.shape[axis], axis=axis)
  elif kind == 1:
    flat = value.reshape(-1)
    flat[rng.integers(len(flat), size=3)] = rng.choice([-(2**31), -1, 0, 1, 5, 11, 12, 29, 30, 40, 2_000, 2**31 - 1], 3)
  elif kind == 2:
    changed[name] = rng.permutation(value, axis=int(rng.integers(value.ndim)))
  else:
    value.reshape(-1)[rng.integers(value.size)] += rng.integers(-3, 4)
  return changed


def expected_of(tensors):
  """What the request says, by loops over its candidates: the behaviours that each sees; None if it says nothing."""
  if any(tensors[name].shape[0] != len(tensors["candidate_items"]) for name in SPEC):
    return None
  seen = []
  for b, items in enumerate(tensors["candidate_items"]):
    for n in range(len(items)):
      own = []
      for d in DOMAINS:
        length, first = int(tensors[f"{d}_length"][b]), tensors[f"{d}_first_visible"][b]
        start = int(first[0] if len(first) == 1 else first[n])
        stop = min(start + SCHEMA.domain(d).max_length, length)
        rows = range(start, stop)
        own.append([tensors[f"{d}_{part}"][b, list(rows)].tolist() for part in ("items", "times", "cross")])
      seen.append((b, n, own))
  return seen


@pytest.mark.parametrize("trials", [120, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_changed_request_gets_a_number_that_is_not_that_of_what_it_says(rank, trials):
  """Answered requests are asked again one candidate at a time, with exactly the behaviours that the candidate sees."""
  rng = np.random.default_rng(7)
  answered = 0
  for trial in range(trials):
    tensors = mutated(request(seed=trial % 5), rng)
    try:
      found = call(rank, tensors)
    except (tf.errors.InvalidArgumentError, TypeError, ValueError):
      continue
    answered += 1
    for b, n, own in expected_of(tensors):
      if tensors["candidate_items"][b, n] == 0:
        continue
      alone = {
        "user_fields": tensors["user_fields"][b : b + 1],
        **{
          f"candidate_{part}": tensors[f"candidate_{part}"][b : b + 1, n : n + 1]
          for part in ("items", "times", "context")
        },
      }
      for d, (items, times, cross) in zip(DOMAINS, own, strict=True):
        alone[f"{d}_items"] = np.array([items], np.int32).reshape(1, -1)
        alone[f"{d}_times"] = np.array([times], np.int64).reshape(1, -1)
        alone[f"{d}_cross"] = np.array([cross], np.int32).reshape(1, len(items), tensors[f"{d}_cross"].shape[-1])
        alone[f"{d}_length"] = np.array([len(items)], np.int32)
        alone[f"{d}_first_visible"] = np.zeros([1, 1], np.int32)
      np.testing.assert_allclose(call(rank, alone)[0, 0], found[b, n], rtol=1e-4, err_msg=f"trial {trial}")
  assert 0.05 * trials < answered < 0.9 * trials


def test_checks_change_nothing():
  tensors = {name: tf.constant(value) for name, value in request().items()}
  found = checked(tensors, SCHEMA)
  assert found.keys() == tensors.keys()
  for name, value in found.items():
    np.testing.assert_array_equal(value, tensors[name])
