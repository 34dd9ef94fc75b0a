import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from lcn_tf.data import records
from lcn_tf.data.read import validity
from lcn_tf.schema import DOMAINS, Schema
from tests.support.record_sets import random_request, small_schema, with_default_sizes

SCHEMAS = {
  "every kind of field": small_schema(),
  "no fields": with_default_sizes(Schema(target={"max_length": 5}, candidates=3)),
  "no extra behaviours": small_schema(max_length=7, candidates=1).model_copy(update={"extra_length": 0.0}),
}


def compiled_parse(schema):
  return tf.function(lambda x: records.parse(x, schema), input_signature=[tf.TensorSpec([None], tf.string)])


PARSE = {name: compiled_parse(schema) for name, schema in SCHEMAS.items()}


def expected_row(request, schema, lengths):
  """What `parse` should return for one record, by plain assignment."""
  row = {
    "user": request.user,
    "user_fields": request.user_fields,
    "candidate_mask": np.arange(schema.candidates) < len(request.items),
  }
  per_candidate = {
    "candidate_items": request.items,
    "candidate_times": request.times,
    "candidate_context": request.context,
    "label": request.labels,
    "weight": request.weights,
  }
  for d in DOMAINS:
    history = request.history(d)
    per_candidate[f"{d}_first_visible"] = history.first_visible
    row[f"{d}_length"] = min(len(history.items), lengths[d])
    for name, values in (("items", history.items), ("times", history.times), ("cross", history.cross)):
      row[f"{d}_{name}"] = np.zeros((lengths[d], *values.shape[1:]), values.dtype)
      row[f"{d}_{name}"][: len(values)] = values[: lengths[d]]
  for name, values in per_candidate.items():
    row[name] = np.zeros((schema.candidates, *values.shape[1:]), values.dtype)
    row[name][: len(values)] = values
  return row


def assert_rows_equal(batch, requests, schema, lengths):
  expected = [expected_row(request, schema, lengths) for request in requests]
  assert set(batch) == set(expected[0])
  for name, tensor in batch.items():
    np.testing.assert_array_equal(tensor, np.stack([row[name] for row in expected]), err_msg=name)


@pytest.mark.parametrize("name", SCHEMAS)
@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(seed=strategies.integers(0, 2**32 - 1), count=strategies.integers(1, 6))
def test_parse_equals_what_was_encoded(name, seed, count):
  schema, rng = SCHEMAS[name], np.random.default_rng(seed)
  requests = [random_request(schema, rng, user=i + 1) for i in range(count)]
  batch = PARSE[name](tf.constant([records.encode(request, schema) for request in requests]))
  assert_rows_equal(batch, requests, schema, {d: schema.capacity(d) for d in DOMAINS})


@pytest.mark.parametrize("length", [0, 1, 31, 32, 4095, 4096, 300_000])
def test_a_record_is_the_example_that_its_classes_write(length):
  """Lengths on either side of where a varint takes one more byte."""
  schema = with_default_sizes(Schema(target={"max_length": 300_000}, candidates=3))
  rng = np.random.default_rng(0)
  request = random_request(schema, rng, candidates=2, lengths={"target": length, "source": 3})
  encoded = records.encode(request, schema)
  found = tf.train.Example.FromString(encoded)
  assert set(found.features.feature) == set(records.layout(schema))
  data = found.features.feature["target_items"].bytes_list.value
  assert list(data) == [request.target.items.astype("<i4").tobytes()]
  again = tf.train.Example()
  again.CopyFrom(found)
  assert len(encoded) == again.ByteSize() == len(again.SerializeToString())
  assert tf.train.Example.FromString(again.SerializeToString()) == found


@pytest.mark.parametrize("name", SCHEMAS)
def test_decode_is_the_inverse_of_encode(name):
  schema, rng = SCHEMAS[name], np.random.default_rng(0)
  for _ in range(20):
    serialized = records.encode(random_request(schema, rng), schema)
    assert records.encode(records.decode(serialized, schema), schema) == serialized


@pytest.mark.parametrize("lengths", [{"target": 1, "source": 3}, {"target": 8, "source": 100}])
def test_a_narrow_width_cuts_the_oldest_behaviours_and_a_wide_one_pads(lengths):
  schema, rng = small_schema(), np.random.default_rng(1)
  requests = [random_request(schema, rng) for _ in range(5)]
  serialized = tf.constant([records.encode(request, schema) for request in requests])
  assert_rows_equal(records.parse(serialized, schema, lengths), requests, schema, lengths)
  as_tensors = records.parse(serialized, schema, {d: tf.constant(length) for d, length in lengths.items()})
  assert_rows_equal(as_tensors, requests, schema, lengths)


def test_extreme_values_survive():
  schema, rng = small_schema(), np.random.default_rng(2)
  request = random_request(schema, rng, user=2**62, lengths={"target": 3, "source": 0}, candidates=2)
  request.target.times[:] = [2**61, 2**33, -1]
  request.labels[:] = [0.1, -3.5]
  batch = records.parse(tf.constant([records.encode(request, schema)]), schema)
  assert_rows_equal(batch, [request], schema, {d: schema.capacity(d) for d in DOMAINS})


def test_encode_names_the_array_of_the_wrong_shape():
  schema, rng = small_schema(), np.random.default_rng(3)
  request = random_request(schema, rng, candidates=3)
  object.__setattr__(request, "labels", request.labels[:2])
  with pytest.raises(ValueError, match=r"label: shape \(2,\), expected \(3,\)"):
    records.encode(request, schema)


def test_decode_says_what_is_wrong_with_the_bytes():
  schema, rng = small_schema(), np.random.default_rng(4)
  serialized = records.encode(random_request(schema, rng, candidates=2), schema)

  def changed(name, data):
    example = tf.train.Example.FromString(serialized)
    if data is None:
      del example.features.feature[name]
    else:
      example.features.feature[name].bytes_list.value[0] = data
    return example.SerializeToString()

  with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
    records.decode(b"\xff\xff junk", schema)
  with pytest.raises(ValueError, match="feature 'label' is missing"):
    records.decode(changed("label", None), schema)
  with pytest.raises(ValueError, match="feature 'label': 7 bytes are not a whole number of float32"):
    records.decode(changed("label", b"\0" * 7), schema)
  with pytest.raises(ValueError, match="feature 'label': 3 values, expected"):
    records.decode(changed("label", b"\0" * 12), schema)


def test_a_candidate_sees_max_length_behaviours_from_its_first_visible_one_on():
  rng = np.random.default_rng(5)
  for _ in range(20):
    count, candidates, width = rng.integers(1, 5), rng.integers(1, 4), rng.integers(1, 12)
    first = rng.integers(0, width + 2, (count, candidates))
    length = rng.integers(0, width + 1, count)
    max_length = int(rng.integers(1, 8))
    visible = records.visibility(tf.constant(first), tf.constant(length), max_length, int(width))
    expected = np.zeros((count, candidates, width), bool)
    for b in range(count):
      for n in range(candidates):
        for i in range(first[b, n], min(first[b, n] + max_length, length[b])):
          expected[b, n, i] = True
    np.testing.assert_array_equal(visible, expected)


def test_no_visible_behaviour_is_as_new_as_its_candidate_and_none_that_is_older_is_missed():
  schema, rng = small_schema(), np.random.default_rng(6)
  requests = [random_request(schema, rng) for _ in range(50)]
  batch = records.parse(tf.constant([records.encode(request, schema) for request in requests]), schema)
  for d in DOMAINS:
    width = schema.capacity(d)
    visible = records.visibility(batch[f"{d}_first_visible"], batch[f"{d}_length"], width, width).numpy()
    older = batch[f"{d}_times"].numpy()[:, np.newaxis] < batch["candidate_times"].numpy()[:, :, np.newaxis]
    real = batch["candidate_mask"].numpy()[:, :, np.newaxis]
    real = real & (np.arange(width) < batch[f"{d}_length"].numpy()[:, np.newaxis])[:, np.newaxis]
    np.testing.assert_array_equal(visible & real, older & real)


def _change(name, index, value):
  def change(request):
    target = request
    *parents, last = name.split(".")
    for parent in parents:
      target = getattr(target, parent)
    if index is None:
      object.__setattr__(target, last, value)
    else:
      getattr(target, last)[index] = value

  return change


BROKEN = {
  "user 0, allowed are 1 and above.": _change("user", None, 0),
  "user field 'hobbies': index 12, allowed are 0 to 11.": _change("user_fields", 2, 12),
  "candidate 1: item 30, allowed are 1 to 29 (rows of the catalogue).": _change("items", 1, 30),
  "candidate 0: item 0, allowed are 1 to 29 (rows of the catalogue).": _change("items", 0, 0),
  "candidate 2: context field 'page': index -1, allowed are 0 to 11.": _change("context", (2, 1), -1),
  "candidate 1: label nan, weight 1.0.": _change("labels", 1, np.nan),
  "candidate 1: label 1.0, weight -1.0.": lambda r: (_change("labels", 1, 1)(r), _change("weights", 1, -1)(r)),
  "'source' behaviour 3: item 40, allowed are 1 to 39 (rows of the catalogue).": _change("source.items", 3, 40),
  "'target' behaviour 7: cross field 'dwell': index 99, allowed are 0 to 11.": _change("target.cross", (7, 1), 99),
  "'target' behaviour 1 is newer than behaviour 0; a history is stored newest first.": _change(
    "target.times", 1, 5_000
  ),
  "candidate 1: first visible 'source' behaviour -1.": _change("source.first_visible", 1, -1),
  "candidate 0 may see 'source' behaviour 0, which is not older than it.": lambda r: (
    _change("source.times", 0, 1_999)(r),
    _change("source.first_visible", 0, 0)(r),
    _change("times", 0, 1_999)(r),
  ),
}


def _assert_in_graph(serialized, schema):
  data = records.features(tf.constant(serialized), schema)
  validity.assert_valid(data, records.tensors(data, schema), schema, "target")


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_record_is_seen_by_the_graph_and_explained_in_words(message):
  schema, rng = small_schema(), np.random.default_rng(7)
  whole = [random_request(schema, rng, lengths={"target": 10, "source": 10}, candidates=3) for _ in range(3)]
  assert [validity.problem(request, schema, "target") for request in whole] == [None] * 3
  _assert_in_graph([records.encode(request, schema) for request in whole], schema)
  BROKEN[message](whole[1])
  assert validity.problem(whole[1], schema, "target") == message
  with pytest.raises(tf.errors.InvalidArgumentError, match=validity.FAILED):
    _assert_in_graph([records.encode(request, schema) for request in whole], schema)


def test_more_candidates_or_behaviours_than_the_schema_allows_are_a_broken_record():
  schema, rng = small_schema(), np.random.default_rng(8)
  large = small_schema(max_length=100, candidates=9)
  for lengths, candidates, message in (
    ({"target": 3, "source": 3}, 9, "9 candidates, allowed are 1 to 4."),
    ({"target": 31, "source": 3}, 2, "31 'target' behaviours, a record holds 30 at most."),
  ):
    request = random_request(large, rng, lengths=lengths, candidates=candidates)
    assert validity.problem(request, schema, "target") == message
    with pytest.raises(tf.errors.InvalidArgumentError, match=validity.FAILED):
      _assert_in_graph([records.encode(request, large)], schema)


def test_a_candidate_of_the_source_domain_is_a_row_of_the_source_catalogue():
  schema, rng = small_schema(), np.random.default_rng(9)
  request = random_request(schema, rng, domain="source", candidates=2)
  request.items[0] = 39
  assert validity.problem(request, schema, "source") is None
  assert "item 39" in validity.problem(request, schema, "target")


def test_a_feature_of_the_wrong_size_is_seen_by_the_graph():
  schema, rng = small_schema(), np.random.default_rng(10)
  example = tf.train.Example.FromString(records.encode(random_request(schema, rng), schema))
  example.features.feature["target_times"].bytes_list.value[0] += b"\0" * 8
  with pytest.raises(tf.errors.InvalidArgumentError, match="a feature's size"):
    _assert_in_graph([example.SerializeToString()], schema)
