import numpy as np
import pytest
import tensorflow as tf

from lcn_tf import config
from lcn_tf.interest.eta import ETA
from lcn_tf.interest.sim import SIMCluster, SIMClusterPlus, SIMHard, SIMSoft, share_a_value
from lcn_tf.schema import Domain, Feature, Schema, Vocabulary
from tests.reference import sim as twin
from tests.support.layers import check_extractor, check_layer, random_inputs, tensors
from tests.support.reading import behaviours_read
from tests.support.two_stage import twin_of

SMALL = {"top_k": 3, "num_heads": 2, "head_dim": 3, "output_dim": 5}
HARD = {"candidate_columns": [1, 2], "columns": [2], "first_value": 2}
LAYERS = {
  "hard": lambda **options: SIMHard(**{**HARD, **SMALL, **options}),
  "cluster": lambda **options: SIMCluster(**{**SMALL, **options}),
  "cluster_plus": lambda **options: SIMClusterPlus(**{**SMALL, **options}),
  "soft": lambda **options: SIMSoft(**{**SMALL, **options}),
}


def _searched(name, candidates, behaviours):
  fields = candidates.fields.shape[-1]
  if name == "hard":
    return twin.by_value(candidates, behaviours, [1, 2], [2], 2)
  if name == "soft":
    return twin.by_vector(candidates, behaviours)
  column = fields - 2 if name == "cluster" else fields - 1
  return twin.by_value(candidates, behaviours, [column], [column])


def _twin(name):
  return twin_of(lambda layer, candidates, behaviours: _searched(name, candidates, behaviours))


def _inputs(seed, **shape):
  """Id, two fields of values 0 to 3 and the finer field last; the value 0 stands for padding or no cluster."""
  candidates, behaviours = random_inputs(seed, **{"F": 4, **shape})
  for part in (candidates, behaviours):
    part.fields[..., 2] = part.fields[..., 0] % 4
    part.fields[..., 3] = part.fields[..., 0] % 3
  real = (behaviours.items > 0)[..., np.newaxis]
  # a behaviour's own deviation: rounding, which differs between machines, would order the occurrences of one item
  own = 0.1 * np.random.default_rng(seed + 4000).normal(size=behaviours.vectors.shape) * real
  return candidates, behaviours._replace(vectors=(behaviours.vectors + own).astype(np.float32))


def _one_request(own, others, **parts):
  """One candidate with field `own`, behaviours with fields `others`, all visible."""
  candidates, behaviours = random_inputs(0, B=1, N=1, L=len(others))
  candidates.fields[..., 1] = own
  behaviours.fields[..., 1] = others
  return candidates, behaviours._replace(visible=np.ones([1, 1, len(others)], bool), **parts)


def test_survives_every_use_that_keras_makes_of_a_layer():
  bad = {"columns": [[], [-1]], "candidate_columns": [[], [1, -2]], "first_value": 0, "top_k": 0, "esu": "sum"}
  options = {**HARD, **SMALL, "top_k": 20, "esu": "mha"}
  check_layer(SIMHard, options, _inputs(0), bad=bad)
  for layer_class in (SIMCluster, SIMSoft):
    check_layer(layer_class, {**SMALL, "top_k": 20}, _inputs(0))


@pytest.mark.parametrize(("name", "esu"), [("hard", "din"), ("soft", "mha")])
def test_shares_the_properties_of_all_extractors_and_equals_its_twin(name, esu):
  # a filter keeps the newest, and so does a tie of one item's occurrences: permuting changes what is kept
  check_extractor(lambda: LAYERS[name](esu=esu), _twin(name), all_visible_learn=False, order_free=False, inputs=_inputs)


@pytest.mark.parametrize(
  ("name", "esu"), [("hard", "mha"), ("cluster", "din"), ("cluster_plus", "mha"), ("soft", "din")]
)
def test_other_variants_share_the_properties_and_equal_their_twins(name, esu):
  check_extractor(
    lambda: LAYERS[name](esu=esu, top_k=20),
    _twin(name),
    all_visible_learn=False,
    shapes=({}, {"N": 1, "L": 6, "R": 0}),
    inputs=_inputs,
  )


def test_hard_search_keeps_the_newest_of_the_category():
  candidates, behaviours = _one_request(3, [3, 1, 3, 3])
  layer = SIMHard(**{**SMALL, "top_k": 2})
  assert behaviours_read(layer, candidates, behaviours) == {(0, 0): {0, 2}}


def test_hard_search_without_a_match_finds_nothing_and_says_zeros():
  candidates, behaviours = _one_request(2, [3, 1, 3, 3])
  output = SIMHard(**SMALL)(*tensors((candidates, behaviours)))
  np.testing.assert_array_equal(output, np.zeros_like(output))


@pytest.mark.parametrize("first_value", [1, 2, 4])
def test_padding_and_out_of_vocabulary_values_are_no_category(first_value):
  candidates, behaviours = _one_request(0, [0, 1, 2, 3, 4, 5])
  layer = SIMHard(first_value=first_value, **{**SMALL, "top_k": 6})
  for value in range(6):
    candidates.fields[..., 1] = value
    assert behaviours_read(layer, candidates, behaviours)[0, 0] == ({value} if value >= first_value else set())


def test_hard_search_with_several_values_needs_one_in_common():
  candidates, behaviours = random_inputs(0, B=1, N=1, L=5, F=4)
  behaviours.visible[:] = True
  candidates.fields[0, 0, 1:] = [7, 5, 0]
  behaviours.fields[0, :, 1:] = [[1, 7, 0], [5, 0, 0], [2, 3, 4], [0, 0, 0], [5, 7, 1]]
  layer = SIMHard([1, 2, 3], [1, 2, 3], **{**SMALL, "top_k": 5})
  assert behaviours_read(layer, candidates, behaviours)[0, 0] == {0, 1, 4}


def test_a_search_by_value_knows_its_rank_where_only_some_sizes_are_known():
  shapes = []

  @tf.function(
    autograph=False, input_signature=[tf.TensorSpec([None, 4], tf.int64), tf.TensorSpec([3, None], tf.int64)]
  )
  def search(own, others):
    alike = share_a_value([own], [others], 1)
    shapes.append(alike.shape.as_list())
    return alike

  assert search(tf.ones([3, 4], tf.int64), tf.ones([3, 5], tf.int64)).shape == (3, 4, 5)
  assert shapes == [[3, 4, None]]


def test_hard_search_orders_matches_by_recency_and_then_the_rest_by_recency():
  candidates, behaviours = _one_request(3, [1, 3, 2, 3, 1])
  scores = SIMHard(**SMALL).search_scores(*tensors((candidates, behaviours))).numpy()[0, 0]
  assert sorted(range(5), key=lambda i: (-scores[i], i)) == [1, 3, 0, 2, 4]


def test_finer_clusters_keep_a_part_of_what_the_categories_keep_that_contain_them():
  candidates, behaviours = random_inputs(1, L=30, F=4)
  for part in (candidates, behaviours):
    items = part.fields[..., 0]
    part.fields[..., 1] = np.where(items, 1 + items // 16, 0)
    part.fields[..., 2] = np.where(items, 1 + items // 8, 0)
    part.fields[..., 3] = np.where(items, 1 + items // 4, 0)
  sets = [
    behaviours_read(layer, candidates, behaviours)
    for layer in (SIMHard(**{**SMALL, "top_k": 30}), SIMCluster(**{**SMALL, "top_k": 30}), SIMClusterPlus(top_k=30))
  ]
  smaller = 0
  for place, by_category in sets[0].items():
    assert sets[2][place] <= sets[1][place] <= by_category
    smaller += sets[2][place] < sets[1][place] < by_category
  assert smaller


@pytest.mark.parametrize(("layer_class", "column"), [(SIMCluster, -2), (SIMClusterPlus, -1)])
def test_clusters_are_the_last_columns_and_cluster_zero_matches_nothing(layer_class, column):
  candidates, behaviours = random_inputs(2, B=1, N=1, L=4, F=5)
  behaviours.visible[:] = True
  candidates.fields[0, 0], behaviours.fields[0] = 9, 9  # all other columns match
  behaviours.fields[0, :, column] = [0, 2, 1, 2]
  for own, expected in ((2, {1, 3}), (0, set())):
    candidates.fields[0, 0, column] = own
    assert behaviours_read(layer_class(**SMALL), candidates, behaviours)[0, 0] == expected


def test_soft_search_prefers_real_behaviours_to_padding_however_low_they_score():
  candidates, behaviours = _one_request(1, [1, 1, 1])
  behaviours.visible[0, 0, 2] = False
  candidates = candidates._replace(vectors=np.array([[[1.0]]], np.float32))
  behaviours = behaviours._replace(vectors=np.array([[[-1.0], [-2.0], [0.0]]], np.float32))
  assert behaviours_read(SIMSoft(**{**SMALL, "top_k": 2}), candidates, behaviours)[0, 0] == {0, 1}


def test_soft_search_finds_the_identical_item_first_among_orthonormal_vectors():
  candidates, behaviours = random_inputs(3, B=1, N=3, L=6)
  behaviours.visible[:] = True
  candidates = candidates._replace(vectors=np.eye(6, dtype=np.float32)[np.newaxis, [4, 0, 2]])
  behaviours = behaviours._replace(vectors=np.eye(6, dtype=np.float32)[np.newaxis])
  kept = behaviours_read(SIMSoft(**{**SMALL, "top_k": 1}), candidates, behaviours)
  assert kept == {(0, 0): {4}, (0, 1): {0}, (0, 2): {2}}


def test_soft_search_without_a_vector_keeps_the_newest():
  candidates, behaviours = random_inputs(4, B=1, N=1, L=8)
  behaviours.visible[0, 0] = [False, True, True, True, False, True, True, True]
  candidates = candidates._replace(vectors=np.zeros_like(candidates.vectors))
  assert behaviours_read(SIMSoft(**SMALL), candidates, behaviours)[0, 0] == {1, 2, 3}


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_learned_does_not_change_what_is_read(name):
  candidates, behaviours = _inputs(5, L=20)
  layer = LAYERS[name]()
  before = behaviours_read(layer, candidates, behaviours)
  random = np.random.default_rng(0)
  candidates = candidates._replace(embedding=random.normal(size=candidates.embedding.shape).astype(np.float32))
  behaviours = behaviours._replace(embedding=random.normal(size=behaviours.embedding.shape).astype(np.float32))
  assert behaviours_read(layer, candidates, behaviours) == before
  assert any(before.values())


def _schema(source_fields=(), target_fields=None):
  genres = Feature(name="genres", vocabulary="genre", max_values=3)
  fields = (Feature(name="author"), genres) if target_fields is None else target_fields
  return Schema(
    target=Domain(item_fields=fields),
    source=Domain(item_fields=source_fields),
    vocabularies={"genre": Vocabulary(oov=4)} if target_fields is None else {},
  )


def _for_history(schema, domain="target", layer_class=SIMHard, **options):
  return layer_class.for_history(config.Model(extractor="sim_hard", options=options), schema, domain, "interest")


def test_a_category_is_found_by_name_among_the_columns_of_each_domain():
  genres = Feature(name="genres", vocabulary="genre", max_values=2)
  schema = _schema((genres, Feature(name="author")))
  first = _for_history(schema, top_k=7)
  assert (first.candidate_columns, first.columns, first.first_value, first.top_k) == ([1], [1], 2, 7)
  layer = _for_history(schema, "source", category="genres")
  assert (layer.candidate_columns, layer.columns, layer.first_value) == ([2, 3, 4], [1, 2], 5)
  layer = _for_history(schema, "source", category="author")
  assert (layer.candidate_columns, layer.columns, layer.first_value) == ([1], [3], 2)


def test_a_history_without_the_category_or_with_another_vocabulary_of_it_is_left_out():
  assert _for_history(_schema(), "source", category="author") is None
  other = _schema((Feature(name="author", vocabulary="source_author"),))
  assert _for_history(other, "source", category="author") is None
  assert _for_history(other, "target", category="author") is not None


def test_an_unknown_category_is_told_with_the_known_ones():
  with pytest.raises(
    ValueError, match=r"category: unknown item field 'genre'\. Did you mean 'genres'\? Known: author, ge"
  ):
    _for_history(_schema(), category="genre")
  with pytest.raises(ValueError, match=r"category: items of the target domain have no field"):
    _for_history(_schema(target_fields=()))


def test_options_name_the_category_and_not_its_columns():
  shared = ["top_k", "esu", "num_heads", "head_dim", "output_dim"]
  assert list(SIMHard.options()) == ["category", *shared]
  for layer in (SIMCluster, SIMClusterPlus, SIMSoft):
    assert list(layer.options()) == shared
  assert ETA.options() == {"bits": int, "seed": int, **SIMSoft.options()}
  assert _for_history(_schema(), "source", SIMCluster, top_k=9).top_k == 9


def test_what_has_to_be_made_first_is_said():
  read = {extractor: extractor.pretrained for extractor in (SIMHard, SIMCluster, SIMClusterPlus, SIMSoft)}
  clusters, vectors = ("clusters",), ("vectors",)
  assert read == {SIMHard: (), SIMCluster: clusters, SIMClusterPlus: clusters, SIMSoft: vectors}
