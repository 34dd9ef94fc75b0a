import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.interest import lap
from lcn_tf.interest.lap import LAP
from lcn_tf.layers.masked import masked_top_k
from tests.reference import lap as twin
from tests.support.layers import (
  check_extractor,
  check_glorot,
  check_layer,
  far_from_zero,
  one_request,
  random_inputs,
  tensors,
)
from tests.support.reading import behaviours_read

MSA = ("query", "key", "value")
FSA = ("query", "key", "value", "output", "ffn_in", "ffn_in_bias", "ffn_out", "ffn_out_bias")
SMALL = {"num_heads": 2, "head_dim": 3, "msa_dim": 4, "output_dim": 5, "ffn_dim": 7}


def _lap(**options):
  """A small layer whose biases are not zero."""
  return far_from_zero(LAP(**{"top_k": (6, 3), **SMALL, **options}))


def _weights(layer):
  levels = {"msa": MSA, "fsa": FSA}
  return {
    level: {name: getattr(layer, f"{level}_{name}").numpy() for name in names}
    for level, names in levels.items()
    if level in layer.levels
  }


def _twin(layer, candidates, behaviours):
  options = {name: getattr(layer, name) for name in ("levels", "top_k", "csa_norm", "fsa_side", "activation")}
  return twin.lap(candidates, behaviours, _weights(layer), **options)


def _toy(rows, candidate, visible=None):
  """One request, one candidate, no side information."""
  return tensors(one_request(candidate, rows, visible, S=0, R=0))


def _read(layer, candidates, behaviours, columns):
  """The behaviours of request 0 that the given outputs of its candidate 0 depend on."""
  return behaviours_read(layer, candidates, behaviours, columns)[0, 0]


def test_survives_every_use_that_keras_makes_of_a_layer():
  bad = {
    "levels": [["csa", "dsa"], []],
    "top_k": [[5, 10], [0, 0], [5]],
    "num_heads": 0,
    "head_dim": -1,
    "msa_dim": 0,
    "output_dim": 0,
    "ffn_dim": 0,
    "csa_norm": "sparsemax",
  }
  options = {**SMALL, "top_k": (20, 12), "levels": ("csa", "msa", "fsa"), "csa_norm": "sigmoid", "fsa_side": False}
  check_layer(LAP, {**options, "activation": "gelu"}, random_inputs(0), bad=bad)


def test_shares_the_properties_of_all_extractors_and_equals_its_twin():
  check_extractor(_lap, _twin)


@pytest.mark.parametrize("top_k", [(1, 1), (5, 2), (11, 11), (40, 30)])
@pytest.mark.parametrize(
  "options",
  [
    {"levels": ("csa",)},
    {"levels": ("msa",)},
    {"levels": ("fsa",), "csa_norm": "none"},
    {"levels": ("csa", "msa"), "csa_norm": "sigmoid"},
    {"levels": ("csa", "fsa"), "activation": "gelu"},
    {"levels": ("msa", "fsa")},
    {"fsa_side": False, "csa_norm": "none"},
  ],
  ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_every_variant_equals_its_twin(options, top_k):
  candidates, behaviours = random_inputs(sum(top_k))
  layer = _lap(**options, top_k=top_k)
  actual = layer(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(actual, _twin(layer, candidates, behaviours), rtol=2e-4, atol=2e-5)


def test_complete_scope_is_an_unscaled_inner_product_attention():
  interest = LAP(levels=("csa",))(*_toy([(1, 0), (0, 1), (1, 1)], (1, 0)))
  # the weights .4223, .1554, .4223; with a stray 1 / sqrt(2) it would be (.8022, .5989)
  np.testing.assert_allclose(interest[0, 0], [0.8446, 0.5777], atol=5e-5)


def test_complete_scope_without_softmax_sums_the_raw_products():
  interest = LAP(levels=("csa",), csa_norm="none")(*_toy([(1, 0), (0, 1), (1, 1), (5, 5)], (1, 0), [1, 1, 1, 0]))
  np.testing.assert_allclose(interest[0, 0], [2.0, 1.0])


def test_one_level_is_as_wide_as_the_items():
  assert LAP(levels=("csa",))(*tensors(random_inputs(1))).shape == (3, 4, 6)


def test_all_levels_come_in_the_order_complete_median_focused():
  inputs = tensors(random_inputs(2))
  layer = _lap()
  whole = layer(*inputs)
  assert whole.shape == (3, 4, 6 + 5 + 5)
  np.testing.assert_allclose(whole[..., :6], LAP(levels=("csa",))(*inputs), rtol=1e-6)
  median = _lap(levels=("msa",))
  median(*inputs)
  median.set_weights([layer.msa_query, layer.msa_key, layer.msa_value])
  np.testing.assert_allclose(whole[..., 6:11], median(*inputs), rtol=1e-5, atol=1e-6)


def test_weights_have_the_sizes_of_the_paper():
  candidates, behaviours = random_inputs(3, D=64, S=24, R=5)
  behaviours = behaviours._replace(recency=np.zeros([5, 8], np.float32))
  layer = LAP()
  layer(*tensors((candidates, behaviours)))
  msa = sum(int(tf.size(getattr(layer, f"msa_{name}"))) for name in MSA)
  attention = sum(int(tf.size(getattr(layer, f"fsa_{name}"))) for name in FSA[:4])
  feed_forward = sum(int(tf.size(getattr(layer, f"fsa_{name}"))) for name in FSA[4:])
  assert (msa, attention, feed_forward) == (16_384, 20_480, 33_088)


@pytest.mark.parametrize("fsa_side", [True, False])
def test_heads_begin_glorot_uniform_as_the_one_matrix_that_they_stand_for(fsa_side):
  layer = LAP(fsa_side=fsa_side)
  layer(*tensors(random_inputs(3, D=64, S=30)))
  for weight, width in ((layer.fsa_query, 64), (layer.fsa_key, 96), (layer.fsa_value, 96)):
    check_glorot(weight, width if fsa_side else 64, 4 * 16)


def test_focused_scope_learns_only_from_what_both_levels_kept():
  candidates, behaviours = random_inputs(4, L=20)
  layer = _lap(activation="linear")
  seen = behaviours.visible[0, 0]
  complete, median, focused = (
    _read(layer, candidates, behaviours, columns) for columns in (slice(0, 6), slice(6, 11), slice(11, None))
  )
  assert complete == set(np.flatnonzero(seen))
  assert (len(median), len(focused)) == (6, 3)
  assert focused < median < complete


def test_a_behaviour_that_is_not_kept_moves_the_complete_scope_only():
  candidates, behaviours = random_inputs(5, L=20)
  layer = _lap()
  before = layer(*tensors((candidates, behaviours))).numpy()[0, 0]
  scores = behaviours.embedding[0] @ candidates.embedding[0, 0]
  worst = min(np.flatnonzero(behaviours.visible[0, 0]), key=lambda i: scores[i])
  behaviours.embedding[0, worst] -= 0.1 * candidates.embedding[0, 0]
  after = layer(*tensors((candidates, behaviours))).numpy()[0, 0]
  assert (after[:6] != before[:6]).all()
  np.testing.assert_allclose(after[6:], before[6:], rtol=1e-6)


def test_with_everything_kept_the_rankings_of_the_scopes_do_not_matter(monkeypatch):
  inputs = tensors(random_inputs(6))
  everything, few = _lap(top_k=(30, 30)), _lap(top_k=(3, 2))
  expected = [layer(*inputs).numpy() for layer in (everything, few)]
  monkeypatch.setattr(
    lap, "masked_top_k", lambda scores, mask, k, ordered: masked_top_k(-scores, mask, k, ordered=ordered)
  )
  np.testing.assert_allclose(everything(*inputs), expected[0], rtol=1e-5, atol=1e-6)
  assert np.abs(few(*inputs) - expected[1]).max() > 1e-3


def test_no_history_gives_zeros_although_the_feed_forward_layer_has_biases():
  candidates, behaviours = random_inputs(7)
  layer = _lap()
  unseen = behaviours._replace(visible=np.zeros_like(behaviours.visible))
  interest = layer(*tensors((candidates, unseen)))
  assert (layer.fsa_ffn_out_bias.numpy() != 0).all()
  np.testing.assert_array_equal(interest, np.zeros([3, 4, 16]))


@pytest.mark.parametrize("top_k", [(1, 1), (5, 2), (40, 30)])
@pytest.mark.parametrize("level", ["csa", "msa"])
@pytest.mark.parametrize("shape", [{}, {"S": 0}, {"R": 0}, {"S": 0, "R": 0}])
def test_the_order_after_a_level_equals_its_twin(level, top_k, shape):
  candidates, behaviours = random_inputs(sum(top_k), **shape)
  layer = _lap(top_k=top_k)
  inputs = tensors((candidates, behaviours))
  layer(*inputs)
  actual = layer.search_scores(*inputs, level=level)
  expected = twin.search_scores(candidates, behaviours, _weights(layer), level=level, top_k=top_k)
  assert actual.dtype == tf.float32
  assert actual.shape == expected.shape
  np.testing.assert_array_equal(np.where(behaviours.visible, actual, -np.inf), expected)


@pytest.mark.parametrize(
  ("levels", "ranking"), [(["csa", "msa", "fsa"], ["csa", "msa"]), (["msa", "fsa"], ["csa", "msa"]), (["fsa"], ["csa"])]
)
def test_every_level_that_ranks_is_a_level_of_the_search(levels, ranking):
  layer, inputs = _lap(levels=levels), tensors(random_inputs(3))
  layer(*inputs)
  found = layer.search_levels(*inputs)
  assert list(found) == [f"after {level.upper()}" for level in ranking]
  for level, (scores, alphas) in zip(ranking, found.values(), strict=True):
    np.testing.assert_array_equal(scores, layer.search_scores(*inputs, level=level))
    assert alphas is None
  assert layer.stored_projections(inputs[1]) is layer.exact_alphas(*inputs) is None


@pytest.mark.parametrize("shape", [{}, {"S": 0}, {"R": 0}, {"S": 0, "R": 0}])
@pytest.mark.parametrize("fsa_side", [True, False])
def test_exact_scores_are_the_final_attention_over_everything(fsa_side, shape):
  candidates, behaviours = random_inputs(8, **shape)
  layer = _lap(fsa_side=fsa_side)
  inputs = tensors((candidates, behaviours))
  layer(*inputs)
  actual = layer.exact_scores(*inputs)
  assert actual.dtype == tf.float32
  expected = twin.exact_scores(candidates, behaviours, _weights(layer), fsa_side=fsa_side)
  np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-6)


def test_candidates_that_see_the_same_may_share_their_visibility_in_the_search():
  candidates, behaviours = random_inputs(9)
  layer = _lap()
  shared = behaviours._replace(visible=behaviours.visible[:, :1])
  repeated = behaviours._replace(visible=np.repeat(shared.visible, 4, axis=1))
  layer(*tensors((candidates, behaviours)))
  for scores in (layer.search_scores, layer.exact_scores):
    np.testing.assert_array_equal(*(scores(*tensors((candidates, seen))) for seen in (shared, repeated)))


def test_what_the_focused_scope_reads_comes_first_in_the_order_after_the_median_scope():
  candidates, behaviours = random_inputs(10, L=20)
  layer = _lap(activation="linear")
  read = _read(layer, candidates, behaviours, slice(11, None))
  order = layer.search_scores(*tensors((candidates, behaviours)))[0, 0].numpy()
  assert read == set(np.argsort(-order)[:3])


def test_equal_behaviours_are_ordered_newest_first():
  inputs = _toy([(1, 0), (2, 0), (1, 0), (2, 0)], (1, 0))
  layer = _lap(top_k=(3, 2))
  layer(*inputs)
  np.testing.assert_array_equal(layer.search_scores(*inputs, level="csa")[0, 0], [-2, 0, -3, -1])


def test_a_level_that_does_not_search_is_refused():
  inputs = tensors(random_inputs(11))
  with pytest.raises(ValueError, match="found 'fsa'"):
    _lap().search_scores(*inputs, level="fsa")
  without = _lap(levels=("csa",))
  with pytest.raises(ValueError, match="found 'msa'"):
    without.search_scores(*inputs, level="msa")
  np.testing.assert_array_equal(without.search_scores(*inputs), without.search_scores(*inputs, level="csa"))
  with pytest.raises(NotImplementedError, match="no final attention"):
    without.exact_scores(*inputs)
