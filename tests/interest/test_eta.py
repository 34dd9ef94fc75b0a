import numpy as np
import pytest

from lcn_tf.interest.eta import ETA
from tests.reference import masked, two_stage
from tests.reference.eta import by_distance
from tests.support.hashing import check_the_search_learns_nothing, exact_in_half_precision
from tests.support.layers import check_extractor, check_layer, one_request, random_inputs, tensors
from tests.support.reading import behaviours_read
from tests.support.two_stage import check_exact_scores, twin_of

SMALL = {"bits": 24, "top_k": 4, "num_heads": 2, "head_dim": 3, "output_dim": 5}


def _eta(**options):
  return ETA(**{**SMALL, "esu": "mha", **options})


def _search(layer, candidates, behaviours):
  return by_distance(candidates, behaviours, layer._simhash.hyperplanes.numpy())


_twin = twin_of(_search)


def _kept(layer, candidates, behaviours):
  """The behaviours that candidate 0 of request 0 keeps."""
  return behaviours_read(layer, candidates, behaviours)[0, 0]


def test_survives_every_use_that_keras_makes_of_a_layer():
  bad = {"bits": [0, -8], "top_k": 0, "esu": "sum", "num_heads": 0, "head_dim": 0, "output_dim": -1}
  inputs = exact_in_half_precision(*random_inputs(0))
  check_layer(ETA, {**SMALL, "esu": "mha", "seed": 5}, inputs, bad=bad)


@pytest.mark.parametrize("esu", ["mha", "din"])
def test_shares_the_properties_of_all_extractors_and_equals_its_twin(esu):
  # distances tie, and ties go to the newer: permuting may change what is kept
  check_extractor(lambda: _eta(esu=esu), _twin, all_visible_learn=False, order_free=False)


@pytest.mark.parametrize("top_k", [1, 11, 40])
def test_every_number_kept_equals_the_twin(top_k):
  candidates, behaviours = random_inputs(top_k)
  layer = _eta(top_k=top_k)
  actual = layer(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(actual, _twin(layer, candidates, behaviours), rtol=2e-4, atol=2e-5)


def test_with_everything_kept_the_order_of_the_history_does_not_matter():
  candidates, behaviours = random_inputs(1)
  layer = _eta(top_k=20)
  order = np.random.default_rng(0).permutation(11)
  parts = {name: getattr(behaviours, name)[:, order] for name in ("embedding", "items", "fields", "times", "side")}
  permuted = behaviours._replace(**parts, visible=behaviours.visible[:, :, order])
  expected = layer(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(layer(*tensors((candidates, permuted))), expected, rtol=1e-4, atol=1e-5)


def test_search_orders_by_hamming_distance():
  candidates, behaviours = random_inputs(2)
  layer = _eta()
  layer(*tensors((candidates, behaviours)))
  scores = layer.search_scores(*tensors((candidates, behaviours))).numpy()
  search = _search(layer, candidates, behaviours)
  assert scores.dtype == np.float32
  for b, n, i in np.argwhere(behaviours.visible):
    assert scores[b, n, i] == 24 + 2 * search(b, n, i)


def test_exact_scores_are_those_of_the_attention_over_everything_visible():
  check_exact_scores(_eta(), *random_inputs(3))


def test_ties_go_to_the_newer_behaviours():
  random = np.random.default_rng(4)
  same, far = random.normal(size=6), random.normal(size=6)
  rows = [far, same, far, same, far, same, same, same]
  assert _kept(_eta(top_k=3), *one_request(same, rows)) == {1, 3, 5}
  assert _kept(_eta(top_k=6), *one_request(same, rows)) == {0, 1, 3, 5, 6, 7}


def test_many_ties_are_broken_as_in_the_twin():
  # 4 bits have 5 distances, 60 behaviours
  candidates, behaviours = random_inputs(5, L=60)
  layer = _eta(bits=4, top_k=7)
  layer(*tensors((candidates, behaviours)))
  search = _search(layer, candidates, behaviours)
  assert _kept(layer, candidates, behaviours) == set(two_stage.kept(candidates, behaviours, search, 0, 0, 7))


def test_the_norm_of_a_behaviour_does_not_matter_where_an_inner_product_would_be_misled():
  candidate = np.array([1.0, 0.0, 0.0])
  close, long = 0.1 * candidate, 10.0 * np.array([0.5, np.sqrt(0.75), 0.0])
  assert candidate @ long > candidate @ close
  assert _kept(_eta(bits=64, top_k=1), *one_request(candidate, [long, close])) == {1}
  assert _kept(_eta(bits=64, top_k=1), *one_request(candidate, [100 * long, 1e-3 * close])) == {1}


def test_padding_that_hashes_as_the_candidate_is_not_kept():
  # zeros hash to all ones; so does this candidate
  layer = _eta(bits=2, top_k=2)
  probe = one_request(np.ones(2), np.ones([4, 2]))
  layer(*tensors(probe))
  candidate = np.linalg.solve(layer._simhash.hyperplanes.numpy().T, np.ones(2))
  candidates, behaviours = one_request(candidate, [-candidate, -candidate, -candidate, np.zeros(2)])
  behaviours = behaviours._replace(visible=np.array([[[False, True, True, False]]]))
  assert _kept(layer, candidates, behaviours) == {1, 2}


def test_what_is_found_follows_the_embeddings():
  random = np.random.default_rng(6)
  candidate, other = random.normal(size=6), random.normal(size=6)
  layer = _eta(top_k=1)
  assert _kept(layer, *one_request(candidate, [other, candidate])) == {1}
  assert _kept(layer, *one_request(other, [other, candidate])) == {0}


def test_gradients_reach_what_is_kept_and_never_the_search():
  candidates, behaviours = random_inputs(7)
  layer = _eta()
  check_the_search_learns_nothing(layer, candidates, behaviours)
  learns = behaviours_read(layer, candidates, behaviours)[1, 2]
  search = _search(layer, candidates, behaviours)
  assert learns == set(two_stage.kept(candidates, behaviours, search, 1, 2, 4))
  assert len(learns) == 4 < len(masked.visible(behaviours.visible[1, 2]))


def test_two_histories_are_hashed_alike():
  inputs = tensors(random_inputs(8))
  one, other = _eta(name="interest_target"), _eta(name="interest_source")
  one(*inputs)
  other(*inputs)
  np.testing.assert_array_equal(one._simhash.hyperplanes, other._simhash.hyperplanes)
