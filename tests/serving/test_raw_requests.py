"""The raw signature numbers a request in the graph as the encoder does in Python."""

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf.data.build import builder, tables
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.schema import DOMAINS
from lcn_tf.serving.encoder import Behaviour, RankRequest, RequestEncoder
from lcn_tf.serving.raw_client import raw_tensors
from lcn_tf.serving.raw_requests import RawRequests
from tests.data import logs, vector_logs

PLAIN = {
  "user_fields": [{"name": "user_id", "vocabulary": "user"}, {"name": "likes", "max_values": 2}],
  "context_fields": ["place"],
  "target": {"item_fields": ["category"], "cross_fields": ["event", "place"], "max_length": 9},
  "source": {"cross_fields": ["place"], "max_length": 20},
  "vocabularies": {"event": {"oov": 5}, "likes": {"oov": 3}},
  "candidates": 4,
}
NOTHING = {"target": {"max_length": 7}, "source": {"max_length": 5}, "candidates": 4}


def records_of(folder, kind):
  """Plain fields with ids that are numbers or texts, no fields at all, and fields with values, weights and vectors."""
  if kind == "values":
    return vector_logs.build(folder)
  log, items = logs.random_log(np.random.default_rng(0), 400, span=90), logs.items(12)
  log = log.with_columns(place=pl.Series(np.random.default_rng(1).integers(0, 4, 400)))
  if kind == "texts":
    odd = pl.lit("i\n") + pl.col("item_id").cast(pl.String)  # a line end in an id, too
    log, items = (frame.with_columns(item_id=odd) for frame in (log, items))
  users = pl.DataFrame({"user_id": range(6), "likes": [["a", "b"], [], ["c"], None, ["b", None, "a", "c"], ["d"]]})
  experiment = logs.experiment(NOTHING if kind == "nothing" else PLAIN, labels={"kind": "given"})
  raw = tables.RawTables(log, items, None if kind == "nothing" else users)
  return builder.build(experiment, raw, folder / "records")


@pytest.fixture(scope="module", params=["numbers", "texts", "nothing", "values"])
def case(request, tmp_path_factory):
  """A record set, its encoder, and what the graph makes of raw tensors."""
  record_set = records_of(tmp_path_factory.mktemp("raw"), request.param)
  schema = record_set.record_schema
  module = RawRequests(id_mapping_of(record_set), schema, tmp_path_factory.mktemp("tables"))
  function = tf.function(lambda **raw: module(raw), autograph=False).get_concrete_function(**module.spec)
  return record_set, RequestEncoder(record_set), module, function


def tensors_of(case, requests):
  record_set, _, module, _ = case
  integer = {d: module.spec[f"{d}_ids"].dtype == tf.int64 for d in DOMAINS}
  given = raw_tensors(requests, record_set.record_schema, integer)
  return {name: tf.constant(value, module.spec[name].dtype) for name, value in given.items()}


def random_requests(record_set, rng, count):
  """Requests of known and unknown ids and values, with histories in any order, times that repeat, and lists."""
  mapping = id_mapping_of(record_set)
  ids = {d: [*mapping.items[d]["item_id"].to_list(), None, "no such item"] for d in DOMAINS}
  schema = record_set.record_schema

  def pick(values):
    return values[rng.integers(len(values))]

  def value(feature):
    if feature.numeric:
      return pick([None, 0.0, 1.5, 2, 3.25, 41.0, 60.0, 1e6, float(np.round(np.exp(rng.normal()), 3))])
    return pick([*mapping.vocabularies[feature.vocabulary].values.to_list(), None, "new", "late-7", "ü"])

  def several(feature):
    values = [value(feature) for _ in range(rng.integers(5))]
    found = {feature.name: pick([values, values[0] if values else None, None])}
    if feature.weights:
      found[feature.weights] = [float(pick([0, 1, 0.25, 3])) for _ in found[feature.name] or []]
      if not isinstance(found[feature.name], list):
        found = {feature.name: [values[0], values[-1]] if values else [], feature.weights: [2.0, 1.0] if values else []}
    return found

  def user():
    found = {}
    for feature in schema.user_fields:
      found |= several(feature) if feature.max_values > 1 else {feature.name: value(feature)}
    return found | {v.name: pick([None, rng.normal(size=v.width)]) for v in schema.user_vectors}

  def behaviours(d):
    fields = schema.domain(d).cross_fields
    return [
      Behaviour(pick(ids[d]), int(rng.integers(0, 30)), {f.name: value(f) for f in fields if rng.random() < 0.9})
      for _ in range(rng.integers(40))
    ]

  def context(candidates):
    many = [{f.name: value(f) for f in schema.context_fields} for _ in range(candidates)]
    return many if rng.random() < 0.5 else dict(many[0] if many else {})

  requests = []
  for _ in range(count):
    candidates = [pick(ids["target"]) for _ in range(rng.integers(5))]
    history = {d: behaviours(d) for d in DOMAINS}
    requests.append(RankRequest(int(rng.integers(10, 40)), candidates, user(), context(len(candidates)), **history))
  return requests


@pytest.mark.parametrize("seed", range(5))
def test_the_graph_numbers_requests_as_the_encoder_does(case, seed):
  record_set, encoder, _, function = case
  requests = random_requests(record_set, np.random.default_rng(seed), [0, 1, 6, 12, 30][seed])
  expected, found = encoder.encode(requests), function(**tensors_of(case, requests))
  assert set(expected) <= set(found)
  for name, tensor in found.items():
    if name not in expected:
      assert tensor.shape[-1] == 0
    elif name.endswith("first_visible"):
      assert (tensor.numpy() == 0).all()
    elif name.endswith("values"):
      np.testing.assert_allclose(tensor, expected[name], rtol=2e-7, err_msg=name)
    else:
      np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def refused(case, name, **changed):
  raw = tensors_of(case, random_requests(case[0], np.random.default_rng(1), 3))
  function = case[3]
  function(**raw)
  wrong = {key: change(raw[key]) for key, change in changed.items()}
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    function(**raw | wrong)
  assert f"{name}: expected" in str(error.value), str(error.value)[-600:]


def test_what_is_no_time_or_count_is_an_error_that_names_the_tensor(case):
  for name in ("time", "target_times", "source_times"):
    refused(case, name, **{name: lambda tensor: tensor * 0 + 1_700_000_000_000})
    refused(case, name, **{name: lambda tensor: tensor * 0 - 1})
  for name in ("candidate_count", "target_count", "source_count"):
    refused(case, name, **{name: lambda tensor: tensor * 0 - 1})
    refused(case, name, **{name: lambda tensor: tensor + 1000})


def test_sizes_that_do_not_agree_are_errors_that_name_the_tensor(case):
  for name, spec in case[2].spec.items():
    if name != "time":
      refused(case, name, **{name: lambda tensor: tensor[:1]})
    if spec.shape.rank == 2 and name.startswith(("target", "source")) and not name.endswith("_ids"):
      refused(case, name, **{name: lambda tensor: tensor[:, :-1]})


def test_numbers_that_are_none_are_errors_that_name_the_tensor(case):
  floating = [name for name, spec in case[2].spec.items() if spec.dtype.is_floating]
  for name in floating:
    refused(case, name, **{name: lambda tensor: tensor + np.inf})
  unsigned = [name for name in floating if name.endswith(("price", "weights"))]
  assert bool(unsigned) == bool(floating)
  for name in unsigned:
    refused(case, name, **{name: lambda tensor: tensor * 0 - 1})


def changed(raw, rng):
  """The tensors with a change of a size, of some values, or of the order of one tensor."""
  tensors = {name: tensor.numpy().copy() for name, tensor in raw.items()}
  name = rng.choice(sorted(tensors))
  value = tensors[name]
  kind = rng.integers(3)
  if kind == 0:
    axis = int(rng.integers(value.ndim))
    width = int(rng.integers(0, value.shape[axis] + 3))
    tensors[name] = np.take(value, np.arange(width) % max(value.shape[axis], 1), axis=axis) if value.size else value
  elif kind == 1 and value.size:
    odd = {"O": [b"", b"\xff\xfe", b"\x00", b"new"], "f": [np.nan, np.inf, -1.0, 1e300]}
    pool = odd.get(value.dtype.kind, [-(2**31), -1, 0, 3, 40, 2**31 - 1])
    with np.errstate(over="ignore"):  # 1e300 is infinite in float32
      value.reshape(-1)[rng.integers(value.size, size=2)] = [pool[rng.integers(len(pool))] for _ in range(2)]
  else:
    tensors[name] = rng.permutation(value, axis=int(rng.integers(value.ndim)))
  return {key: tf.constant(one, raw[key].dtype) for key, one in tensors.items()}


@pytest.mark.parametrize("trials", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_whatever_a_raw_request_holds_it_is_numbered_or_refused_with_the_tensor(case, trials):
  record_set, _, module, function = case
  rng, schema, refusals = np.random.default_rng(11), record_set.record_schema, []
  for trial in range(trials):
    raw = changed(tensors_of(case, random_requests(record_set, np.random.default_rng(trial % 7), 3)), rng)
    try:
      found = function(**raw)
    except (tf.errors.InvalidArgumentError, ValueError) as error:
      refusals.append(str(error))
      continue
    for name, features in (("user_fields", schema.user_fields), ("candidate_context", schema.context_fields)):
      for column, feature in enumerate(f for f in features for _ in range(f.max_values)):
        assert found[name][..., column].numpy().max(initial=0) < schema.vocabularies[feature.vocabulary].size
    assert found["candidate_items"].numpy().max(initial=0) < schema.target.items
    for d in DOMAINS:
      items, times, length = (found[f"{d}_{part}"].numpy() for part in ("items", "times", "length"))
      real = np.arange(items.shape[1]) < length[:, np.newaxis]
      assert ((items > 0) == real).all()
      assert (items < schema.domain(d).items).all()
      assert (np.diff(times, axis=1) <= 0).all()
      assert (times[real] < np.broadcast_to(raw["time"].numpy()[:, np.newaxis], times.shape)[real]).all()
  assert [message for message in refusals if not any(name in message for name in module.spec)] == []
  assert 0.1 * trials < len(refusals) < 0.95 * trials
