"""Rows of one id mapping by those of another: known values by value, new ids by the fields of their items."""

import numpy as np
import polars as pl
import pytest

from lcn_tf.data.id_mapping import vocabularies_of
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS, item_vocabulary
from lcn_tf.training.growth import Growth
from lcn_tf.training.run_folder import Run
from lcn_tf.training.warm_start import WarmStart
from tests.training import growing


def table(record_set, name, seed=0, width=3):
  rows = record_set.record_schema.vocabularies[name].size
  return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def by_value(record_set, name):
  return dict(record_set.table(f"vocabularies/{name}.parquet")["value", "index"].iter_rows())


def items(record_set, domain):
  """Of every item with an id of its own: the row of the id, and the values of its fields."""
  schema, found = record_set.record_schema, []
  names = {f.vocabulary: {i: v for v, i in by_value(record_set, f.vocabulary).items()} for f in schema.features()}
  for row in record_set.catalogue(domain):
    values, column = [], 1
    for feature in schema.domain(domain).item_fields:
      indices = row[column : column + feature.max_values]
      values += [(feature.name, names[feature.vocabulary][i]) for i in indices if i in names[feature.vocabulary]]
      column += feature.max_values
    if row[0] > schema.vocabularies[item_vocabulary(domain)].oov:
      found.append((row[0], set(values)))
  return found


def expected_id_rows(earlier, later, domain, old):
  """The docstring of `Growth`, item by item."""
  name = item_vocabulary(domain)
  oov, before = earlier.record_schema.vocabularies[name].oov, by_value(earlier, name)
  value_of = {index: value for value, index in by_value(later, name).items()}
  rows = np.zeros((later.record_schema.vocabularies[name].size, old.shape[1]), np.float32)
  rows[: 1 + oov] = old[: 1 + oov]
  known = [(old[before[value_of[row]]], values) for row, values in items(later, domain) if value_of[row] in before]
  for row, values in items(later, domain):
    if value_of[row] in before:
      rows[row] = old[before[value_of[row]]]
      continue
    means = [
      np.mean([one for one, theirs in known if value in theirs], axis=0)
      for value in values
      if any(value in theirs for _, theirs in known)
    ]
    rows[row] = np.mean(means, axis=0) if means else old[1]
  return rows


@pytest.mark.parametrize("domain", DOMAINS)
def test_new_ids_begin_as_their_fields_say(domain, half, whole):
  name = item_vocabulary(domain)
  old = table(half, name)
  found = Growth(half, whole).weights(name, old)
  expected = expected_id_rows(half, whole, domain, old)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  as_unknown = (expected[3:] == old[1]).all(axis=1)
  # tags, which only target items have, are shared by many
  assert as_unknown.any() == (domain == "source")
  before = by_value(half, name)
  new = [row for value, row in by_value(whole, name).items() if value not in before]
  assert as_unknown.sum() < len(new), "no new item with one"
  for value, row in by_value(whole, name).items():
    if value in before:
      np.testing.assert_array_equal(found[row], old[before[value]])


@pytest.mark.parametrize("name", ["category", "tags", "user_id", "price", "target_item", "source_item"])
def test_a_value_keeps_its_row_wherever_it_lies_and_what_vanished_leaves_none(name, half, whole):
  for earlier, later in ((half, whole), (whole, half)):
    old = table(earlier, name)
    growth, fresh = Growth(earlier, later), np.full_like(table(later, name), 0.1)
    found, slots = growth.weights(name, old), growth.slots(name, old, fresh.__getitem__)
    oov = later.record_schema.vocabularies[name].oov
    np.testing.assert_array_equal(found[: 1 + oov], old[: 1 + oov])
    np.testing.assert_array_equal(slots[: 1 + oov], old[: 1 + oov])
    before, now = by_value(earlier, name), by_value(later, name)
    assert len(found) == len(slots) == 1 + oov + len(now)
    if name == "price":
      continue
    assert set(before) != set(now) or name == "user_id"
    for value, row in now.items():
      np.testing.assert_array_equal(slots[row], old[before[value]] if value in before else fresh[row])
      if value in before:
        np.testing.assert_array_equal(found[row], old[before[value]])
      elif not name.endswith("_item"):
        np.testing.assert_array_equal(found[row], old[1])


def test_a_bucket_of_numbers_is_the_earlier_one_that_its_lower_edge_lies_in(half, whole):
  old = table(half, "price")
  edges = [float(value) for value in by_value(half, "price")]
  found = Growth(half, whole).weights("price", old)
  for value, row in by_value(whole, "price").items():
    np.testing.assert_array_equal(found[row], old[2 + sum(edge <= float(value) for edge in edges[1:])])
  assert list(by_value(whole, "price")) != list(by_value(half, "price"))


def test_the_same_vocabularies_leave_everything_as_it_is(half):
  old = table(half, "target_item")
  growth = Growth(half, half)
  assert growth.weights("target_item", old) is old
  assert growth.slots("target_item", old, old.__getitem__) is old
  assert growth.new_rows("target_item") == 0


def test_as_many_rows_are_new_as_there_are_new_values(half, whole):
  growth = Growth(half, whole)
  for name in ("category", "target_item"):
    assert growth.new_rows(name) == len(set(by_value(whole, name)) - set(by_value(half, name))) > 0


def test_rows_of_a_vocabulary_with_a_value_in_the_place_of_another_go_by_value(half):
  """A bounded vocabulary gives the row of a value that it drops to a new one."""
  vocabulary = vocabularies_of(half)["category"]
  values = vocabulary.values.to_list()
  later = type(vocabulary)("category", pl.Series(["new", *values[1:]]), vocabulary.counts, vocabulary.oov)
  np.testing.assert_array_equal(vocabulary.rows_of(later), [0, 1, -1, *range(3, vocabulary.size)])


@pytest.fixture
def run(half, tmp_path):
  """A run folder with item vectors, as far as they are handed on."""
  rng, schema = np.random.default_rng(0), half.record_schema
  vectors = {d: rng.normal(size=(schema.domain(d).items, 4)).astype(np.float32) for d in DOMAINS}
  clusters = {d: rng.integers(1, 5, (schema.domain(d).items, 2)) for d in DOMAINS}
  vectors["target"][0] = clusters["target"][0] = 0
  experiment = growing.experiment(model={"extractor": "sim_cluster", "options": {"top_k": 2}})
  notes = {"settings": experiment.model.pretraining.settings()}
  Pretrained(vectors, clusters, notes, half.fingerprint).save(tmp_path / "run" / "pretrained")
  return Run(tmp_path / "run", experiment, half)


def test_frozen_item_vectors_and_clusters_are_handed_on_by_item(run, half, whole, tmp_path):
  WarmStart(run, "", Growth(half, whole)).hand_on_vectors(run.experiment, tmp_path / "vectors")
  old, found = Pretrained.open(run.path / "pretrained"), Pretrained.open(tmp_path / "vectors", whole.fingerprint)
  for d in DOMAINS:
    before, now = (dict(one.table(f"items/{d}.parquet")["item_id", "row"].iter_rows()) for one in (half, whole))
    assert set(before) < set(now)
    for item, row in now.items():
      for one, other in ((found.vectors, old.vectors), (found.clusters, old.clusters)):
        np.testing.assert_array_equal(one[d][row], other[d][before[item]] if item in before else 0)
    np.testing.assert_array_equal(found.vectors[d][:2], old.vectors[d][:2])


@pytest.mark.parametrize("change", ["same records", "other settings", "path", "item_vector", "no reader"])
def test_vectors_that_the_job_makes_or_copies_itself_are_not_handed_on(change, run, half, whole, tmp_path):
  tree = run.experiment.model_dump(mode="json", by_alias=True)
  if change == "other settings":
    tree["model"]["pretraining"]["window"] = 3
  if change in ("path", "item_vector"):
    tree["model"]["pretraining"][change] = "elsewhere"
  if change == "no reader":
    tree["model"] |= {"extractor": "none", "options": {}}
  later = half if change == "same records" else whole
  experiment = growing.config.from_tree(tree, "changed")
  WarmStart(run, "", Growth(half, later)).hand_on_vectors(experiment, tmp_path / "vectors")
  assert not (tmp_path / "vectors").exists()
