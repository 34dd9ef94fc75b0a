import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.interest import twin
from lcn_tf.interest.base import kept_rows
from lcn_tf.interest.twin import TWIN
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.layers.union_walk import union_walk
from lcn_tf.schema import Domain, Feature, Schema
from tests.reference import twin as reference
from tests.reference.behaviours import side_information
from tests.reference.masked import visible
from tests.support.experiments import small_experiment
from tests.support.layers import (
  CATALOGUE,
  check_extractor,
  check_glorot,
  check_layer,
  far_from_zero,
  random_inputs,
  tensors,
)

SMALL = {"top_k": 4, "num_heads": 3, "head_dim": 3, "output_dim": 5}


def _twin(**options):
  """A small layer with weights that are neither ones nor zeros, and a cache of the items of `consistent_inputs`."""
  layer = far_from_zero(TWIN(**{**SMALL, **options}))
  drawn = layer.make_weights

  def make_weights(*arguments):
    drawn(*arguments)
    if layer.cached is not None:
      layer.cached.assign(layer.project(tf.constant(_table(layer.key_weight.shape[1]))))

  layer.make_weights = make_weights
  return layer


def _table(width):
  table = np.random.default_rng(17).normal(size=(CATALOGUE, width)).astype(np.float32)
  table[0] = 0.0
  return table


def consistent_inputs(seed, **shape):
  """Inputs whose behaviours are what the table of items says, as a cache needs it."""
  candidates, behaviours = random_inputs(seed, **shape)
  return candidates, behaviours._replace(embedding=_table(behaviours.embedding.shape[-1])[behaviours.items])


def _weights(layer):
  names = {"query": "query_weight", "key": "key_weight", "value": "value_weight", "output": "output_weight"}
  names |= {"cross": "cross_weight", "beta": "cross_scale"}
  return {name: getattr(layer, attribute).numpy() for name, attribute in names.items() if hasattr(layer, attribute)}


def _reference(layer, candidates, behaviours):
  options = {"top_k": layer.top_k, "bias": layer.bias, "key": layer.key}
  cache = None if layer.cached is None else layer.cached.numpy()
  return reference.twin(candidates, behaviours, _weights(layer), layer._fields, **options, cache=cache)


def _alphas(layer, candidates, behaviours, b, n):
  """Alpha of each visible behaviour by head, and which behaviours these are."""
  seen = visible(behaviours.visible[b, n])
  sides = [side_information(candidates, behaviours, b, n, i) for i in seen]
  embeddings = [behaviours.embedding[b, i] for i in seen]
  options = {"bias": layer.bias, "key": layer.key}
  query = candidates.embedding[b, n]
  return reference.alphas(query, embeddings, sides, _weights(layer), layer._fields, **options), seen


def _kept(layer, candidates, behaviours):
  """The set that each candidate keeps."""
  indices, valid = (part.numpy() for part in layer(*tensors((candidates, behaviours)), pool=False))
  return {(b, n): set(indices[b, n][valid[b, n]]) for b, n in np.ndindex(*indices.shape[:2])}


def _built(layer, inputs):
  layer(*tensors(inputs))
  return layer


def test_survives_every_use_that_keras_makes_of_a_layer():
  bad = {
    "top_k": 0,
    "num_heads": -1,
    "head_dim": 0,
    "output_dim": 0,
    "key": "keys",
    "projections": "stale",
    "cross_widths": [[2, 0]],
    "items": 0,
  }
  options = {**SMALL, "bias": True, "key": "split", "projections": "cached", "cross_widths": [2, 1], "items": CATALOGUE}
  check_layer(TWIN, {**options, "top_k": 20}, random_inputs(0), bad=bad)
  check_layer(TWIN, {**SMALL, "top_k": 20, "key": "raw", "bias": False}, random_inputs(0))


@pytest.mark.parametrize("options", [{}, {"projections": "cached", "items": CATALOGUE}], ids=["live", "cached"])
@pytest.mark.parametrize("shared", [False, True], ids=["each sees its own", "all see the same"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_search_in_chunks_finds_what_one_at_once_finds(options, shared, size, monkeypatch):
  """Long histories of many candidates are searched some candidates at a time, for want of memory."""
  inputs = consistent_inputs(18, N=5, L=40)
  inputs = tensors((inputs[0], inputs[1]._replace(visible=inputs[1].visible[:, : 1 if shared else None])))
  layer = _twin(**options)
  expected = layer(*inputs, pool=False)
  sizes = []

  def counted(alphas, visible, top_k):
    sizes.append(alphas.shape[1])
    return union_walk(alphas, visible, top_k)

  monkeypatch.setattr(twin, "union_walk", counted)
  monkeypatch.setattr(twin, "_AT_ONCE", 3 * layer.num_heads * 40 * size)
  for actual, wanted in zip(layer(*inputs, pool=False), expected, strict=True):
    np.testing.assert_array_equal(actual, wanted)
  # the fewest chunks of one size
  assert sizes == {1: [1] * 5, 2: [2] * 3, 3: [3] * 2}[size]
  function = tf.function(lambda *inputs: layer(*inputs, pool=False), autograph=False)
  for actual, wanted in zip(function(*inputs), expected, strict=True):
    assert actual.shape == (3, 5, 4)
    np.testing.assert_array_equal(actual, wanted)


@pytest.mark.job
@pytest.mark.parametrize("options", [{}, {"projections": "cached", "items": CATALOGUE}], ids=["live", "cached"])
def test_shares_the_properties_of_all_extractors_and_equals_its_twin(options):
  check_extractor(lambda: _twin(**options), _reference, all_visible_learn=False, inputs=consistent_inputs)


@pytest.mark.parametrize("top_k", [1, 5, 11, 30])
@pytest.mark.parametrize(
  "options",
  [
    {"num_heads": 1},
    {"bias": False},
    {"key": "raw"},
    {"cross_widths": [2, 1]},
    {"cross_widths": [1, 1, 1], "projections": "cached", "items": CATALOGUE},
    {"bias": False, "projections": "cached", "items": CATALOGUE},
  ],
  ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_every_variant_equals_its_twin(options, top_k):
  inputs = consistent_inputs(top_k)
  layer = _twin(**options, top_k=top_k)
  actual = layer(*tensors(inputs))
  np.testing.assert_allclose(actual, _reference(layer, *inputs), rtol=2e-4, atol=2e-5)


def _toy(rows, candidate, side):
  """One request, one candidate, one cross field."""
  length = len(rows)
  return tensors(
    (
      Candidates(
        np.array([[candidate]], np.float32),
        np.ones([1, 1], np.int32),
        np.ones([1, 1, 1], np.int64),
        [[9]],
        np.zeros([1, 1, 0], np.float32),
        np.zeros([1, 1, 0], np.float32),
      ),
      Behaviours(
        np.array([rows], np.float32),
        np.ones([1, length], np.int32),
        np.ones([1, length, 1], np.int64),
        np.ones([1, length], np.int64),
        np.array([side], np.float32)[..., np.newaxis],
        np.zeros([0, 2], np.float32),
        np.ones([1, 1, length], bool),
        np.zeros([1, length, 0], np.float32),
        np.zeros([1, length, 0], np.float32),
      ),
    )
  )


def _toy_twin(bias, top_k):
  layer = TWIN(top_k=top_k, num_heads=1, head_dim=2, output_dim=2, bias=bias)
  inputs = _toy([(1, 0), (0, 1), (1, 1)], (2, 0), [0, 1, 0.5])
  _built(layer, inputs)
  for name, value in {"query_weight": [np.eye(2)], "key_weight": [np.eye(2)], "output_weight": np.eye(2)}.items():
    getattr(layer, name).assign(value)
  layer.value_weight.assign([[[1, 0], [0, 1], [0, 0]]])
  if bias:
    layer.cross_weight.assign([[1.0]])
    layer.cross_scale.assign([[2.0]])
  return layer, inputs


def test_the_worked_numbers():
  # softmax of (1.4142, 0, 1.4142) and of (1.4142, 2, 2.4142), over rows (1, 0), (0, 1), (1, 1)
  for bias, weights in ((False, (0.4458, 0.1084, 0.4458)), (True, (0.1813, 0.3257, 0.4929))):
    layer, inputs = _toy_twin(bias, top_k=3)
    np.testing.assert_allclose(layer(*inputs)[0, 0], [weights[0] + weights[2], weights[1] + weights[2]], atol=2e-4)
  for bias, kept in ((False, {0, 2}), (True, {2, 1})):
    layer, inputs = _toy_twin(bias, top_k=2)
    indices, valid = layer(*inputs, pool=False)
    assert valid.numpy().all()
    assert set(indices.numpy().ravel()) == kept


@pytest.mark.parametrize(("projections", "key"), [("live", "split"), ("live", "raw"), ("cached", "split")])
def test_search_and_exact_attention_find_the_same_hundred(projections, key):
  inputs = consistent_inputs(3, B=4, N=3, L=500, D=8, S=4)
  inputs = (inputs[0], inputs[1]._replace(visible=np.ones_like(inputs[1].visible)))
  layer = _built(_twin(top_k=100, num_heads=4, key=key, projections=projections, items=CATALOGUE), inputs)
  searched, exact = (scores(*tensors(inputs)).numpy() for scores in (layer.search_scores, layer.exact_scores))
  kept = _kept(layer, *inputs)
  for b, n in np.ndindex(4, 3):
    best = [set(np.argsort(-scores[b, n], kind="stable")[:100]) for scores in (searched, exact)]
    assert best[0] == best[1] == kept[b, n]
    # and that is the walk over an alpha that was made without the layer
    alphas, seen = _alphas(layer, *inputs, b, n)
    assert best[0] == {seen[i] for i in reference.walk(alphas)[:100]}
    for k in (10, 37):
      assert set(np.argsort(-searched[b, n])[:k]) == {seen[i] for i in reference.walk(alphas)[:k]}


def test_a_stale_cache_is_searched_and_never_pooled():
  inputs = consistent_inputs(4, L=60)
  layer = _built(_twin(top_k=8, projections="cached", items=CATALOGUE), inputs)
  fresh = _kept(layer, *inputs)
  layer.key_weight.assign(layer.key_weight * [[[1.0]], [[-1.0]], [[0.3]]])
  stale = layer(*tensors(inputs)).numpy()
  np.testing.assert_allclose(stale, _reference(layer, *inputs), rtol=2e-4, atol=2e-5)
  assert _kept(layer, *inputs) == fresh
  hits = [
    len(set(np.argsort(-scores[0])[:8]) & set(np.argsort(-scores[1])[:8]))
    for scores in zip(
      *(score(*tensors(inputs)).numpy()[1] for score in (layer.search_scores, layer.exact_scores)), strict=True
    )
  ]
  assert 0 < np.mean(hits) < 8


@pytest.mark.parametrize(("projections", "key"), [("live", "split"), ("live", "raw"), ("cached", "split")])
def test_the_search_has_one_level_whose_alphas_are_those_of_the_attention(projections, key):
  inputs = consistent_inputs(5)
  layer = _built(_twin(key=key, projections=projections, items=CATALOGUE), inputs)
  read = tensors(inputs)
  ((name, (scores, alphas)),) = layer.search_levels(*read).items()
  assert name == "search"
  np.testing.assert_array_equal(scores, layer.search_scores(*read))
  np.testing.assert_allclose(alphas, layer.exact_alphas(*read), rtol=1e-4, atol=1e-5)


def test_stored_projections_of_another_twin_are_searched_in_place_of_its_own():
  inputs = consistent_inputs(6)
  layer, old = (_built(_twin(), inputs) for _ in range(2))
  old.key_weight.assign(layer.key_weight * [[[1.0]], [[-1.0]], [[0.3]]])
  read = tensors(inputs)
  stale = layer.search_levels(*read, old.stored_projections(read[1]))["search"]
  np.testing.assert_array_equal(stale.alphas, layer.alphas(*read, old.project(read[1].embedding)))
  assert np.abs(stale.alphas - layer.exact_alphas(*read)).max() > 0.01
  assert _built(_twin(key="raw"), inputs).stored_projections(read[1]) is None


def test_one_head_keeps_the_highest_alphas():
  inputs = consistent_inputs(5, L=40)
  layer = _built(_twin(num_heads=1, top_k=7), inputs)
  for (b, n), kept in _kept(layer, *inputs).items():
    (alpha,), seen = _alphas(layer, *inputs, b, n)
    assert kept == {seen[i] for i in np.argsort(-np.array(alpha))[:7]}


def test_the_heads_keep_one_set_together_not_one_each():
  """Per-head sets are another model: with one set, a head also pools what only another head ranks high."""
  inputs = consistent_inputs(6, B=2, N=3, L=200, D=8)
  inputs = (inputs[0], inputs[1]._replace(visible=np.ones_like(inputs[1].visible)))
  layer = _built(_twin(num_heads=4, top_k=20), inputs)
  for (b, n), kept in _kept(layer, *inputs).items():
    alphas, seen = _alphas(layer, *inputs, b, n)
    own = [{seen[i] for i in reference.ranking(alpha)[:20]} for alpha in alphas]
    assert len(kept) == 20
    assert all(5 <= len(kept & best) < 20 for best in own)
    assert all(len(kept & best) >= 5 for best in own)


def test_only_kept_behaviours_learn():
  candidates, behaviours = consistent_inputs(7, L=40)
  layer = _built(_twin(top_k=5), (candidates, behaviours))
  kept = _kept(layer, candidates, behaviours)
  for n in range(4):
    inputs = tensors((candidates, behaviours))
    with tf.GradientTape() as tape:
      tape.watch(inputs[1].embedding)
      tape.watch(inputs[1].side)
      output = tf.reduce_sum(layer(*inputs)[1, n] ** 2)
    for gradient in tape.gradient(output, [inputs[1].embedding, inputs[1].side]):
      learns = (gradient.numpy() != 0).any(axis=-1)
      assert set(np.flatnonzero(learns[1])) == kept[1, n]
      assert not learns[[0, 2]].any()


def test_gradients_are_those_of_plain_attention_over_what_is_kept():
  inputs = tensors(consistent_inputs(8))
  layer = _built(_twin(), inputs)
  kept = layer(*inputs, pool=False)

  def plain(candidates, behaviours):
    query, key = candidates.embedding, layer.key_weight
    cross = tf.transpose(layer.cross_weight * tf.repeat(layer.cross_scale, layer._fields, axis=0))
    rows = kept_rows(candidates, behaviours, kept[0])
    alpha = tf.einsum("bnd,hde,hxe,bnkx->bnhk", query, layer.query_weight, key, rows[..., :6]) / 3**0.5
    alpha += tf.einsum("hc,bnkc->bnhk", cross, rows[..., 6:])
    alpha = tf.where(kept[1][:, :, tf.newaxis], alpha, -1e9)
    weights = tf.nn.softmax(alpha) * tf.cast(kept[1][:, :, tf.newaxis], tf.float32)
    heads = tf.einsum("bnhk,bnkx,hxe->bnhe", weights, rows, layer.value_weight)
    return tf.reshape(heads, [3, 4, -1]) @ layer.output_weight

  found = []
  for function in (layer, plain):
    watched = [inputs[0].embedding, inputs[1].embedding, inputs[1].side, inputs[1].recency]
    with tf.GradientTape() as tape:
      tape.watch(watched)
      loss = tf.reduce_sum(tf.sin(3.0 * function(*inputs)))
    found.append(tape.gradient(loss, watched + layer.trainable_weights))
  for actual, expected in zip(*found, strict=True):
    actual, expected = (tf.convert_to_tensor(gradient) for gradient in (actual, expected))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("top_k", [11, 100])
def test_a_short_history_gets_plain_multi_head_attention(top_k):
  """Whatever the search finds: all heads attend to all behaviours."""
  candidates, behaviours = inputs = consistent_inputs(9)
  layer = _built(_twin(top_k=top_k), inputs)
  actual = layer(*tensors(inputs)).numpy()
  for b, n in np.ndindex(3, 4):
    alphas, seen = _alphas(layer, candidates, behaviours, b, n)
    rows = [
      np.concatenate([behaviours.embedding[b, i], side_information(candidates, behaviours, b, n, i)]) for i in seen
    ]
    heads = []
    for head, alpha in enumerate(np.array(alphas)):
      weights = np.exp(alpha - alpha.max()) if seen else np.zeros(0)
      pooled = weights @ np.array(rows) / weights.sum() if seen else np.zeros(layer.value_weight.shape[1])
      heads.append(pooled @ layer.value_weight[head].numpy())
    np.testing.assert_allclose(actual[b, n], np.concatenate(heads) @ layer.output_weight.numpy(), rtol=2e-4, atol=2e-5)


def test_the_scale_of_a_cross_weight_and_its_beta_cancel():
  inputs = consistent_inputs(10)
  layer = _built(_twin(cross_widths=[2, 1]), inputs)
  before = layer(*tensors(inputs)).numpy()
  factors = np.array([[2.0, 0.1, -3.0], [5.0, 1.0, 0.5], [0.25, 7.0, -1.0]], np.float32)  # fields x heads
  layer.cross_weight.assign(layer.cross_weight * np.repeat(factors, [2, 1, 2], axis=0))
  assert np.abs(layer(*tensors(inputs)).numpy() - before).max() > 1e-2
  layer.cross_scale.assign(layer.cross_scale / factors)
  np.testing.assert_allclose(layer(*tensors(inputs)), before, rtol=1e-4, atol=1e-5)


def test_a_constant_added_to_one_heads_alpha_changes_nothing():
  candidates, behaviours = inputs = consistent_inputs(11, L=40, R=0)
  layer = _built(_twin(), inputs)
  before, kept = layer(*tensors(inputs)).numpy(), _kept(layer, *inputs)
  # a cross feature that is 1 everywhere, known to head 1 alone
  behaviours.side[..., 0] = 1.0
  value = layer.value_weight.numpy()
  value[:, 6] = 0.0
  layer.value_weight.assign(value)
  results = []
  for shift in ([0.0, 0.0, 0.0], [0.0, 50.0, 0.0]):
    weight = layer.cross_weight.numpy()
    weight[0] = shift
    layer.cross_weight.assign(weight)
    results.append((layer(*tensors(inputs)).numpy(), _kept(layer, *inputs)))
  assert results[0][1] == results[1][1]
  np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-3, atol=1e-4)
  assert kept != results[0][1] or np.abs(before - results[0][0]).max() > 1e-3


def test_beta_zero_is_without_bias_and_cross_fields_are_pooled_all_the_same():
  inputs = consistent_inputs(12)
  layer, without = _built(_twin(), inputs), _built(_twin(bias=False), inputs)
  assert not hasattr(without, "cross_weight")
  layer.cross_scale.assign(tf.zeros_like(layer.cross_scale))
  for name in ("query_weight", "key_weight", "value_weight", "output_weight"):
    getattr(without, name).assign(getattr(layer, name))
  expected = without(*tensors(inputs))
  np.testing.assert_allclose(layer(*tensors(inputs)), expected, rtol=1e-5, atol=1e-6)
  assert _kept(layer, *inputs) == _kept(without, *inputs)
  other = inputs[1]._replace(side=inputs[1].side + 1.0)
  assert (np.abs(without(*tensors((inputs[0], other))) - expected)[1:] > 1e-3).any()


@pytest.mark.job
@pytest.mark.parametrize("options", [{}, {"projections": "cached", "items": CATALOGUE}], ids=["live", "cached"])
def test_without_any_cross_field_it_shares_the_properties_and_has_no_bias(options):
  def inputs_of(seed, **shape):
    return consistent_inputs(seed, **shape, S=0, R=0)

  shapes = ({}, {"N": 1, "L": 4})
  check_extractor(lambda: _twin(**options), _reference, all_visible_learn=False, inputs=inputs_of, shapes=shapes)
  inputs = inputs_of(20, L=40)
  layer, without = _built(_twin(**options), inputs), _built(_twin(**options, bias=False), inputs)
  assert not [weight.name for weight in layer.weights if "cross" in weight.name or "beta" in weight.name]
  for name in ("query_weight", "key_weight", "value_weight", "output_weight"):
    getattr(without, name).assign(getattr(layer, name))
  np.testing.assert_array_equal(layer(*tensors(inputs)), without(*tensors(inputs)))


def test_the_bias_differs_between_behaviours_and_decides_what_is_kept():
  candidates, behaviours = inputs = consistent_inputs(13, L=40, R=0)
  layer = _built(_twin(top_k=3), inputs)
  last = np.flatnonzero(behaviours.visible[1, 0])[-1]
  push = np.linalg.lstsq(layer._cross_query().numpy(), np.full(3, 100.0), rcond=None)[0]
  assert last not in _kept(layer, *inputs)[1, 0]
  behaviours.side[1, last] = push
  assert last in _kept(layer, *inputs)[1, 0]


def test_age_moves_the_search_of_one_candidate_and_not_of_another():
  candidates, behaviours = inputs = consistent_inputs(14, L=40)
  layer = _built(_twin(top_k=5), inputs)
  kept = _kept(layer, *inputs)
  candidates.times[1, 0] += 3000
  later = _kept(layer, *inputs)
  assert later[1, 0] != kept[1, 0]
  assert all(later[row] == kept[row] for row in kept if row != (1, 0))


def test_weights_have_the_sizes_of_the_paper_and_beta_starts_at_one():
  candidates, behaviours = random_inputs(15, D=160, S=24, R=5)
  behaviours = behaviours._replace(recency=np.zeros([5, 8], np.float32))
  layer = _built(TWIN(cross_widths=[8, 8, 8]), (candidates, behaviours))
  sizes = {name: weight.size for name, weight in _weights(layer).items()}
  projection = 4 * 32 * 160
  expected = {"query": projection, "key": projection, "value": 4 * 32 * 192, "output": 128 * 64}
  assert sizes == {**expected, "cross": 32 * 4, "beta": 4 * 4}
  np.testing.assert_array_equal(layer.cross_scale, np.ones([4, 4]))
  # Glorot of an [8, 1] kernel
  assert 0.6 * (6 / 9) ** 0.5 < np.abs(layer.cross_weight).max() <= (6 / 9) ** 0.5
  assert len(np.unique(layer.cross_weight)) == 32 * 4


@pytest.mark.parametrize("key", ["split", "raw"])
def test_heads_begin_glorot_uniform_as_the_one_matrix_that_they_stand_for(key):
  layer = _built(TWIN(key=key), random_inputs(15, D=64, S=30))
  widths = {"query": 64, "key": 64 if key == "split" else 96, "value": 96}
  for name, width in widths.items():
    check_glorot(getattr(layer, f"{name}_weight"), width, 4 * 32)


def test_cross_widths_must_add_up():
  with pytest.raises(ValueError, match=r"cross_widths must add up to the width 3 of side information; found \[2, 2\]"):
    TWIN(cross_widths=[2, 2])(*tensors(random_inputs(16)))


def test_raw_keys_cannot_be_cached():
  with pytest.raises(ValueError, match="raw keys"):
    TWIN(key="raw", projections="cached", items=3)


def test_an_experiment_gives_it_the_cross_fields_and_the_catalogue_of_each_history():
  schema = Schema(
    target=Domain(cross_fields=(Feature(name="dwell"), Feature(name="action")), items=7),
    source=Domain(cross_fields=(Feature(name="dwell"),), items=9),
  )
  config = small_experiment("average_pooling").model
  config = config.model_copy(update={"options": {"projections": "cached"}})
  config = config.model_copy(update={"embedding": config.embedding.model_copy(update={"dims": {"action": 3}})})
  layers = [TWIN.for_history(config, schema, domain, name=domain) for domain in ("target", "source")]
  assert [(layer.cross_widths, layer.items) for layer in layers] == [([4, 3], 7), ([4], 9)]
  assert not {"cross_widths", "items"} & set(TWIN.options())


def test_xla_finds_and_pools_the_same():
  inputs = tensors(consistent_inputs(19, B=2, N=2, L=20))
  layer = _twin()
  expected = layer(*inputs)
  compiled = tf.function(lambda *inputs: layer(*inputs), autograph=False, jit_compile=True)
  np.testing.assert_allclose(compiled(*inputs), expected, rtol=1e-4, atol=1e-6)
