"""Purity of clusters that were planted, against loops, and the command on tiny records."""

import json
import math

import numpy as np
import pytest

from lcn_tf.analysis import embedding_map
from lcn_tf.analysis.embedding_map import Items, purity, silhouette
from lcn_tf.errors import UserError
from lcn_tf.schema import Schema
from pipelines import embedding_map as command
from tests.support.experiments import small_experiment
from tests.support.record_sets import small_schema, write_record_set
from tests.support.runs import write_run


def _clusters(seed, categories, spread=0.05, each=12):
  """Items around one direction per category."""
  random = np.random.default_rng(seed)
  names = np.repeat(categories, each)
  vectors = np.eye(8)[names] + spread * random.normal(size=(len(names), 8))
  return Items(vectors * random.uniform(0.5, 2.0, (len(names), 1)), names)


def test_planted_clusters_are_pure_within_and_across_domains():
  target, source = _clusters(0, [1, 2, 3]), _clusters(1, [2, 3, 4])
  assert purity(target) == (1.0, pytest.approx(11 / 35))
  # category 1 does not occur among the source items
  assert purity(target, source) == (1.0, pytest.approx(12 / 36))
  assert silhouette(target) > 0.9


def test_the_length_of_a_vector_does_not_matter():
  items = _clusters(2, [1, 2], spread=0.3)
  longer = Items(items.vectors * np.arange(1, 25)[:, np.newaxis], items.categories)
  assert purity(longer) == purity(items)
  assert silhouette(longer) == pytest.approx(silhouette(items))


def test_categories_drawn_blindly_are_as_pure_as_chance():
  random = np.random.default_rng(0)
  items = Items(random.normal(size=(400, 6)), random.integers(0, 4, 400))
  found, chance = purity(items)
  assert chance == pytest.approx(0.25, abs=0.01)
  assert found == pytest.approx(chance, abs=0.03)
  assert abs(silhouette(items)) < 0.05


def test_swapped_domains_are_not_pure_across():
  # the two domains use each other's directions
  target, source = _clusters(3, [1, 2]), _clusters(4, [1, 2])
  swapped = Items(source.vectors, 3 - source.categories)
  assert purity(target) == purity(swapped)
  assert purity(target, swapped)[0] == 0.0


def test_purity_equals_loops():
  random = np.random.default_rng(5)
  items = Items(random.normal(size=(20, 4)), random.integers(0, 3, 20))
  among = Items(random.normal(size=(15, 4)), random.integers(0, 3, 15))

  def cosine(a, b):
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))

  for other in (None, among):
    there = items if other is None else other
    shares = []
    for i in range(20):
      ranked = [j for j in range(len(there.vectors)) if other is not None or j != i]
      ranked.sort(key=lambda j, i=i, there=there: -cosine(items.vectors[i], there.vectors[j]))
      shares.append(np.mean([there.categories[j] == items.categories[i] for j in ranked[:3]]))
    assert purity(items, other, neighbours=3)[0] == pytest.approx(np.mean(shares))


def test_nothing_to_compare_gives_no_number():
  one = Items(np.ones([1, 3]), np.array([1]))
  assert all(math.isnan(value) for value in (*purity(one), *purity(one, Items(np.ones([2, 3]), np.array([2, 2])))))
  assert math.isnan(silhouette(Items(np.ones([4, 3]), np.ones(4))))


def test_the_map_is_the_same_for_the_same_seed():
  items = _clusters(6, [1, 2, 3], each=8)
  one = embedding_map.project(items.vectors, seed=1)
  assert one.shape == (24, 2)
  np.testing.assert_array_equal(one, embedding_map.project(items.vectors, seed=1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Records whose domains share the field `author`, and an untrained model with and one without a projection."""
  folder = tmp_path_factory.mktemp("map")
  tree = small_schema().model_dump()
  tree["target"]["item_fields"] = tree["source"]["item_fields"]
  del tree["vocabularies"]["genre"]
  schema = Schema.model_validate(tree)
  record_set = write_record_set(folder / "records", schema, records={"train": 2, "validation": 1, "test": 1})
  config = small_experiment("average_pooling")
  config = config.model_copy(update={"record_schema": schema})
  projected = write_run(folder / "projected", config, record_set)
  side_by_side = config.model_copy(update={"model": config.model.model_copy(update={"item_dim": 0})})
  write_run(folder / "side_by_side", side_by_side.model_copy(update={"name": "side by side"}), record_set)
  return folder, record_set, projected


def test_item_vectors_are_what_the_model_compares(runs):
  _, record_set, model = runs
  rows = np.array([3, 7, 5])
  tables = model.embedder.tables.tables
  for d in ("target", "source"):
    ids, authors = record_set.catalogue(d)[rows].T
    fields = np.concatenate([tables[f"{d}_item"].numpy()[ids], tables["author"].numpy()[authors]], axis=1)
    expected = fields @ model.embedder.projections[d].kernel.numpy()
    np.testing.assert_allclose(embedding_map.item_vectors(model, d, rows), expected, rtol=1e-4, atol=1e-6)


def test_the_command_leaves_a_table_and_a_page(runs, tmp_path, capsys):
  folder, _, _ = runs
  arguments = [f"--run_dir={folder / name}" for name in ("projected", "side_by_side")]
  arguments += [f"--records={folder / 'records'}", f"--output={tmp_path}", "--field=author", "--items=40"]
  command.main(["embedding_map", *arguments])
  found = json.loads((tmp_path / "embedding_map.json").read_text(), parse_constant=pytest.fail)
  rows = {(row["model"], row["representation"]): row for row in found["tables"][0]["rows"]}
  assert list(rows) == [
    ("small average_pooling", "whole"),
    ("side by side", "whole"),
    ("side by side", "id alone"),
  ]
  assert found["target items"] == found["source items"] == 20
  # the field's own columns tell the category, the untrained ids do not
  assert rows["side by side", "whole"]["target"] > rows["side by side", "id alone"]["target"]
  page = (tmp_path / "index.html").read_text()
  assert page.count("<img") == 4
  assert "first value of author" in capsys.readouterr().out


def test_what_cannot_be_mapped_is_told(runs, tmp_path):
  folder, _, _ = runs
  arguments = [f"--run_dir={folder / 'projected'}", f"--records={folder / 'records'}", f"--output={tmp_path / 'out'}"]
  with pytest.raises(UserError, match=r"unknown item field 'autor'\. Did you mean 'author'"):
    command.main(["embedding_map", *arguments, "--field=autor"])
  other = write_record_set(tmp_path / "other", small_schema(), records={"train": 2, "validation": 1, "test": 1})
  arguments[1] = f"--records={other.path}"
  with pytest.raises(UserError, match="trained with other records"):
    command.main(["embedding_map", *arguments, "--field=author"])
  with pytest.raises(UserError, match="unknown item field 'genres'"):
    command.main(["embedding_map", *arguments, "--field=genres"])
  assert not (tmp_path / "out").exists()
