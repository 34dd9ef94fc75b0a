"""What SIM, ETA and SDIM's attention mode share, with a search of the plainest kind."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf.interest.two_stage import TwoStage
from tests.reference import two_stage as twin
from tests.support.layers import check_extractor, check_glorot, check_layer, far_from_zero, random_inputs, tensors
from tests.support.reading import behaviours_read
from tests.support.two_stage import check_exact_scores, twin_of

SMALL = {"num_heads": 2, "head_dim": 3, "output_dim": 5}


@keras.utils.register_keras_serializable("tests")
class FirstFeature(TwoStage):
  """Searches by the first entry of the frozen vectors; filters by its second."""

  def search(self, candidates, behaviours):
    found = behaviours.vectors[:, tf.newaxis, :, 1] > -0.5
    scores = candidates.vectors[..., :1] * behaviours.vectors[:, tf.newaxis, :, 0]
    return scores, found & behaviours.visible


def _search(layer, candidates, behaviours):
  def search(b, n, i):
    if behaviours.vectors[b, i, 1] <= -0.5:
      return None
    return float(candidates.vectors[b, n, 0] * behaviours.vectors[b, i, 0])

  return search


def _layer(**options):
  """A small layer whose weights are all far from zero."""
  return far_from_zero(FirstFeature(**{"top_k": 4, **SMALL, **options}))


_twin = twin_of(_search)


@pytest.mark.parametrize("esu", ["din", "mha"])
def test_survives_every_use_that_keras_makes_of_a_layer(esu):
  bad = {"top_k": 0, "esu": "sum", "num_heads": 0, "head_dim": -1, "output_dim": 0} if esu == "din" else {}
  # all are kept: half precision may search otherwise
  check_layer(FirstFeature, {"top_k": 20, "esu": esu, **SMALL}, random_inputs(0), bad=bad)


@pytest.mark.parametrize("esu", ["din", "mha"])
def test_shares_the_properties_of_all_extractors_and_equals_its_twin(esu):
  check_extractor(lambda: _layer(esu=esu), _twin, all_visible_learn=False)


@pytest.mark.parametrize("top_k", [1, 11, 40])
@pytest.mark.parametrize("esu", ["din", "mha"])
def test_every_top_k_equals_its_twin(esu, top_k):
  candidates, behaviours = random_inputs(top_k)
  layer = _layer(esu=esu, top_k=top_k)
  actual = layer(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(actual, _twin(layer, candidates, behaviours), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("esu", ["din", "mha"])
def test_exactly_the_kept_behaviours_learn(esu):
  candidates, behaviours = random_inputs(1, L=20)
  layer = _layer(esu=esu)
  read = behaviours_read(layer, candidates, behaviours)
  search = _search(layer, candidates, behaviours)
  for b, n in np.ndindex(3, 4):
    assert read[b, n] == set(twin.kept(candidates, behaviours, search, b, n, 4))


def test_no_gradient_passes_the_search():
  inputs, past = tensors(random_inputs(2))
  with tf.GradientTape() as tape:
    tape.watch([inputs.vectors, past.vectors])
    loss = tf.reduce_sum(_layer()(inputs, past))
  assert tape.gradient(loss, [inputs.vectors, past.vectors]) == [None, None]


def test_search_scores_order_the_behaviours_as_they_are_kept_with_what_the_filter_leaves_out_behind():
  candidates, behaviours = random_inputs(3)
  layer = _layer()
  scores = layer.search_scores(*tensors((candidates, behaviours))).numpy()
  assert scores.shape == behaviours.visible.shape
  search = _search(layer, candidates, behaviours)
  for b, n in np.ndindex(3, 4):
    seen = np.flatnonzero(behaviours.visible[b, n])
    order = sorted(seen, key=lambda i, b=b, n=n: (-scores[b, n, i], i))
    kept = twin.kept(candidates, behaviours, search, b, n, 99)
    left_out = [i for i in seen if i not in kept]
    assert order == kept + left_out
  ((name, level),) = layer.search_levels(*tensors((candidates, behaviours))).items()
  assert name == "search"
  np.testing.assert_array_equal(level.scores, scores)


@pytest.mark.parametrize("R", [0, 5])
@pytest.mark.parametrize("esu", ["din", "mha"])
def test_exact_scores_are_the_final_attention_over_all_that_is_visible(esu, R):
  check_exact_scores(_layer(esu=esu), *random_inputs(4, R=R))


@pytest.mark.parametrize("esu", ["din", "mha"])
def test_exact_scores_need_no_cast_in_half_precision(esu):
  inputs = tensors(random_inputs(6))
  layer, half = _layer(esu=esu), _layer(esu=esu, dtype="mixed_bfloat16")
  half_inputs = tf.nest.map_structure(lambda x: tf.cast(x, tf.bfloat16) if x.dtype.is_floating else x, inputs)
  layer(*inputs), half(*half_inputs)
  scores = half.exact_scores(*half_inputs)
  assert scores.dtype == tf.float32
  np.testing.assert_allclose(scores, layer.exact_scores(*inputs), atol=0.02)


def test_heads_begin_glorot_uniform_as_the_one_matrix_that_they_stand_for():
  layer = FirstFeature(esu="mha")
  layer(*tensors(random_inputs(7, D=64, S=30)))
  for weight, width in ((layer.query, 64), (layer.key, 96), (layer.value, 96)):
    check_glorot(weight, width, 4 * 16)


def test_the_din_attention_has_the_width_of_a_behaviour_and_multi_head_attention_its_own():
  inputs = tensors(random_inputs(5))
  assert _layer(esu="din")(*inputs).shape == (3, 4, 6 + 3 + 2)
  assert _layer(esu="mha")(*inputs).shape == (3, 4, 5)
