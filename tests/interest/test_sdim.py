import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.interest.sdim import SDIM
from tests.reference import sdim as twin
from tests.reference import two_stage
from tests.support.hashing import check_the_search_learns_nothing, exact_in_half_precision
from tests.support.layers import (
  check_extractor,
  check_layer,
  one_request,
  ops_without_gpu_kernel,
  random_inputs,
  tensors,
)
from tests.support.reading import behaviours_read
from tests.support.two_stage import check_exact_scores, twin_of

POOL = {"hashes": 6, "width": 2}
TA = {**POOL, "mode": "ta", "esu": "mha", "top_k": 4, "num_heads": 2, "head_dim": 3, "output_dim": 5}


def _hyperplanes(layer):
  return layer._simhash.hyperplanes.numpy()


def _pool_twin(layer, candidates, behaviours):
  return twin.pool(candidates, behaviours, _hyperplanes(layer), width=layer.width, l2=layer.l2)


def _search(layer, candidates, behaviours):
  return twin.by_collisions(candidates, behaviours, _hyperplanes(layer), layer.width)


_ta_twin = twin_of(_search)


def _one_request(candidate, rows):
  """One candidate that sees all of the given rows, which have no side information."""
  return tensors(one_request(candidate, rows, S=0, R=0))


def _at(degrees):
  return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


def test_survives_every_use_that_keras_makes_of_a_layer():
  bad = {"hashes": [0, -1], "width": [0, 9], "mode": "sum", "esu": "sum", "top_k": 0, "output_dim": -2}
  inputs = exact_in_half_precision(*random_inputs(0))
  check_layer(SDIM, {**POOL, "l2": True, "seed": 3}, inputs, bad=bad)
  check_layer(SDIM, {**POOL, "l2": False}, inputs)
  check_layer(SDIM, TA, inputs)


@pytest.mark.parametrize("l2", [True, False])
def test_pool_shares_the_properties_of_all_extractors_and_equals_its_twin(l2):
  check_extractor(lambda: SDIM(**POOL, l2=l2), _pool_twin, all_visible_learn=False)


@pytest.mark.parametrize("esu", ["mha", "din"])
def test_attention_shares_the_properties_of_all_extractors_and_equals_its_twin(esu):
  # numbers of collisions tie, and ties go to the newer: permuting may change what is kept
  shapes = ({}, {"N": 1, "L": 6, "S": 0}, {"R": 0})
  check_extractor(
    lambda: SDIM(**{**TA, "esu": esu}), _ta_twin, all_visible_learn=False, order_free=False, shapes=shapes
  )


@pytest.mark.parametrize(("hashes", "width"), [(1, 1), (5, 3), (8, 3), (7, 1), (3, 5)])
@pytest.mark.parametrize("l2", [True, False])
def test_pool_of_any_size_equals_its_twin(hashes, width, l2):
  candidates, behaviours = random_inputs(hashes, B=2)
  layer = SDIM(hashes=hashes, width=width, l2=l2)
  actual = layer(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(actual, _pool_twin(layer, candidates, behaviours), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_pool_is_exact_for_any_visibility(share):
  candidates, behaviours = random_inputs(1, L=20)
  behaviours = behaviours._replace(visible=np.random.default_rng(2).random(behaviours.visible.shape) < share)
  layer = SDIM(**POOL)
  actual = layer(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(actual, _pool_twin(layer, candidates, behaviours), rtol=2e-4, atol=2e-5)


def test_a_table_per_user_equals_comparing_pair_by_pair():
  candidates, behaviours = random_inputs(3, B=2, N=6, L=200, D=16)
  shared = np.random.default_rng(4).random([2, 1, 200]) < 0.8
  served = tensors((candidates, behaviours._replace(visible=shared)))
  # the last candidate sees what no other sees, so nothing is seen by all
  apart = np.concatenate([np.repeat(shared, 5, axis=1), ~shared], axis=1)
  compared = tensors((candidates, behaviours._replace(visible=apart)))
  layer = SDIM()
  np.testing.assert_allclose(layer(*served)[:, :5], layer(*compared)[:, :5], rtol=1e-5, atol=1e-5)
  assert np.abs(layer(*served)).max() > 0.1


def test_the_gradient_of_the_table_equals_that_of_comparing_pair_by_pair():
  candidates, behaviours = random_inputs(5, B=2, N=4, L=40)
  shared = np.random.default_rng(6).random([2, 1, 40]) < 0.8
  layer = SDIM(**POOL)
  inputs, past = tensors((candidates, behaviours))
  gradients = []
  for last in (shared, ~shared):
    visible = tf.constant(np.concatenate([np.repeat(shared, 3, axis=1), last], axis=1))
    with tf.GradientTape() as tape:
      tape.watch(past.embedding)
      loss = tf.reduce_sum(layer(inputs, past._replace(visible=visible))[:, :3] ** 2 * np.arange(1.0, 12.0))
    gradients.append(tf.convert_to_tensor(tape.gradient(loss, past.embedding)).numpy())
  np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)
  assert np.abs(gradients[0]).max() > 1e-3


@pytest.mark.parametrize("options", [POOL, {**POOL, "l2": False}, TA])
def test_a_training_step_of_unknown_shapes_runs_on_a_gpu(options):
  candidates, behaviours = random_inputs(6)
  layer = SDIM(**options)
  inputs, past = tensors((candidates, behaviours))
  layer(inputs, past)
  specification = [tf.TensorSpec([None, None, 6]), tf.TensorSpec([None, None, None], tf.bool)]

  def gradient(embedding, visible):
    with tf.GradientTape() as tape:
      tape.watch(embedding)
      loss = tf.reduce_sum(layer(inputs, past._replace(embedding=embedding, visible=visible)) ** 2)
    return tf.convert_to_tensor(tape.gradient(loss, embedding))

  step = tf.function(gradient, input_signature=specification, autograph=False)
  assert ops_without_gpu_kernel(step.get_concrete_function()) == set()
  for visible in (past.visible, past.visible[:, :1]):
    actual, expected = step(past.embedding, visible), gradient(past.embedding, visible)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ("width", "degrees", "expected"),
  [
    *((3, *pair) for pair in [(0, 1), (30, 0.5787), (45, 0.4219), (60, 0.2963), (90, 0.125), (120, 0.0370), (180, 0)]),
    (1, 60, 0.6667),
    (2, 90, 0.25),
  ],
)
def test_chance_of_a_collision_falls_with_the_angle(width, degrees, expected):
  inputs = _one_request([1.0, 0.0], [_at(degrees)])
  layer = SDIM(hashes=20_000, width=width, l2=False)
  layer(*inputs)
  share = float(layer.search_scores(*inputs)[0, 0, 0]) / 20_000 if expected else 0.0
  assert abs(share - expected) < 1e-4 + 4 * np.sqrt(expected * (1 - expected) / 20_000)
  np.testing.assert_allclose(layer(*inputs)[0, 0], share * np.array(_at(degrees)), atol=1e-4)


@pytest.mark.parametrize(("l2", "expected"), [(False, (1.0, 0.5)), (True, (0.8536, 0.3536))])
def test_pool_of_the_candidate_and_a_vector_at_a_right_angle(l2, expected):
  interest = SDIM(hashes=20_000, width=1, l2=l2)(*_one_request([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]))
  np.testing.assert_allclose(interest[0, 0], expected, atol=0.01)


@pytest.mark.parametrize("hashes", [1, 5, 48])
def test_pool_of_behaviours_equal_to_the_candidate_is_its_direction(hashes):
  candidate = np.array([3.0, -4.0, 12.0])
  interest = SDIM(hashes=hashes)(*_one_request(candidate, [candidate] * 5))
  np.testing.assert_allclose(interest[0, 0], candidate / 13.0, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"l2": False}, {"mode": "ta", "esu": "mha"}, {"mode": "ta", "esu": "din"}])
def test_the_candidates_opposite_is_nothing_to_it(options):
  candidate = np.array([3.0, -4.0, 12.0])
  interest = SDIM(**options)(*_one_request(candidate, [-candidate, -2 * candidate]))
  np.testing.assert_array_equal(interest, np.zeros_like(interest))


def test_without_l2_the_pools_of_disjoint_histories_add_up_and_with_it_they_do_not():
  candidates, behaviours = random_inputs(7, L=20)
  part = np.random.default_rng(8).random(20) < 0.5
  for l2 in (False, True):
    layer = SDIM(**POOL, l2=l2)
    whole, one, other = (
      layer(*tensors((candidates, behaviours._replace(visible=behaviours.visible & mask)))).numpy()
      for mask in (np.ones(20, bool), part, ~part)
    )
    assert np.allclose(whole, one + other, atol=1e-5) == (not l2)


def test_with_l2_the_length_of_the_history_does_not_scale_the_pool():
  random = np.random.default_rng(9)
  candidate, rows = random.normal(size=6), random.normal(size=[10, 6])
  once, often = (SDIM()(*_one_request(candidate, np.tile(rows, [times, 1]))).numpy() for times in (1, 7))
  np.testing.assert_allclose(often, once, rtol=1e-4, atol=1e-5)
  assert np.linalg.norm(once) <= 1.0 + 1e-5


@pytest.mark.parametrize("l2", [True, False])
def test_exactly_the_behaviours_that_collide_at_least_once_learn(l2):
  candidates, behaviours = random_inputs(10, L=30)
  layer = SDIM(hashes=3, width=3, l2=l2)
  layer(*tensors((candidates, behaviours)))
  search = _search(layer, candidates, behaviours)
  for b, n in [(0, 0), (1, 2), (2, 1)]:
    seen = np.flatnonzero(behaviours.visible[b, n])
    expected = {i for i in seen if search(b, n, i) is not None}
    assert 0 < len(expected) < len(seen)
    assert behaviours_read(layer, candidates, behaviours)[b, n] == expected


def test_a_round_of_unknown_items_alone_gives_nothing_and_no_gradient():
  """Their embeddings begin at zero, where a direction has no gradient."""
  candidates, behaviours = random_inputs(0, S=0, R=0)
  shape = behaviours.embedding.shape
  known = np.zeros(shape[1], bool)
  for some in (known, np.arange(shape[1]) % 2 == 0):
    rows = tf.constant(np.where(some[:, np.newaxis], behaviours.embedding, 0.0), tf.float32)
    layer, inputs = SDIM(hashes=8), tensors((candidates, behaviours))
    with tf.GradientTape() as tape:
      tape.watch(rows)
      result = layer(inputs[0], inputs[1]._replace(embedding=rows))
    gradient = tape.gradient(result, rows).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1e3
    if not some.any():
      assert not result.numpy().any()
      assert not gradient.any()


def test_attention_learns_from_those_with_most_collisions_ties_to_the_newer():
  candidates, behaviours = random_inputs(11, L=40)
  layer = SDIM(**TA)
  layer(*tensors((candidates, behaviours)))
  search = _search(layer, candidates, behaviours)
  for b, n in [(0, 0), (1, 2), (2, 1)]:
    expected = two_stage.kept(candidates, behaviours, search, b, n, 4)
    counts = [search(b, n, i) or 0 for i in np.flatnonzero(behaviours.visible[b, n])]
    assert counts.count(min(search(b, n, i) for i in expected)) > 1, "nothing ties"
    assert behaviours_read(layer, candidates, behaviours)[b, n] == set(expected)


def test_attention_leaves_out_what_never_collides_although_there_is_room():
  candidates, behaviours = random_inputs(12, L=30)
  layer = SDIM(**{**TA, "hashes": 2, "width": 4, "top_k": 30})
  layer(*tensors((candidates, behaviours)))
  search = _search(layer, candidates, behaviours)
  seen = np.flatnonzero(behaviours.visible[1, 0])
  expected = {i for i in seen if search(1, 0, i) is not None}
  assert 0 < len(expected) < len(seen)
  assert behaviours_read(layer, candidates, behaviours)[1, 0] == expected


@pytest.mark.parametrize("options", [POOL, TA])
def test_search_orders_by_collisions_and_puts_what_never_collides_last(options):
  candidates, behaviours = random_inputs(13, L=30)
  layer = SDIM(**{**options, "hashes": 3, "width": 3})
  layer(*tensors((candidates, behaviours)))
  scores = layer.search_scores(*tensors((candidates, behaviours))).numpy()
  search = _search(layer, candidates, behaviours)
  for b, n, i in np.argwhere(behaviours.visible):
    count = search(b, n, i)
    assert scores[b, n, i] == (np.finfo(np.float32).min if count is None else count)


@pytest.mark.parametrize("l2", [True, False])
def test_exact_scores_of_the_pool_are_the_factors_of_the_rows(l2):
  candidates, behaviours = random_inputs(14, L=30)
  layer = SDIM(**POOL, l2=l2)
  inputs = tensors((candidates, behaviours))
  interest = layer(*inputs).numpy()
  factors = layer.exact_scores(*inputs).numpy()
  rows = np.concatenate([behaviours.embedding, behaviours.side], axis=-1)
  np.testing.assert_allclose(factors @ rows, interest[..., : rows.shape[-1]], rtol=1e-4, atol=1e-5)
  assert (factors >= 0).all()
  assert (factors[~behaviours.visible] == 0).all()


def test_rows_that_a_round_adds_up_to_nothing_have_no_factor():
  candidates, behaviours = random_inputs(16, L=12, S=0, R=0)
  behaviours.embedding[:, ::2] = 0.0  # of unknown items
  layer = SDIM(**POOL)
  inputs = tensors((candidates, behaviours))
  interest = layer(*inputs).numpy()
  factors = layer.exact_scores(*inputs).numpy()
  assert factors.max() < 1e3
  np.testing.assert_allclose(factors @ behaviours.embedding, interest, rtol=1e-4, atol=1e-5)


def test_exact_scores_of_the_attention_are_those_of_the_esu():
  check_exact_scores(SDIM(**TA), *random_inputs(15))


def test_only_the_item_embedding_is_hashed():
  candidates, behaviours = random_inputs(16)
  layer = SDIM(**POOL)
  inputs = tensors((candidates, behaviours))
  layer(*inputs)
  other = tensors((candidates, behaviours._replace(side=-behaviours.side, times=behaviours.times // 2)))
  np.testing.assert_array_equal(layer.search_scores(*inputs), layer.search_scores(*other))


def test_pool_has_no_weights_but_the_fixed_hyperplanes():
  inputs = tensors(random_inputs(17))
  layer, again = SDIM(**POOL), SDIM(**POOL)
  expected = layer(*inputs)
  tf.keras.utils.set_random_seed(77)
  np.testing.assert_array_equal(layer(*inputs), expected)
  np.testing.assert_array_equal(again(*inputs), expected)
  assert not layer.trainable_weights
  assert [weight.shape for weight in layer.weights] == [(6, 12)]


def test_no_gradient_passes_the_hashing():
  for options in (POOL, TA):
    check_the_search_learns_nothing(SDIM(**options), *random_inputs(18))


def test_a_half_empty_batch_is_pooled_as_each_of_its_requests_alone():
  # offsets of one user's sums must not reach into another's
  candidates, behaviours = random_inputs(19, B=4, L=12)
  behaviours.visible[[0, 2]] = False
  layer = SDIM(**POOL)
  together = layer(*tensors((candidates, behaviours))).numpy()
  assert (together[[0, 2]] == 0).all()
  for b in (1, 3):
    alone = tf.nest.map_structure(lambda array, b=b: array[b : b + 1], (candidates, behaviours))
    alone = (alone[0], alone[1]._replace(recency=behaviours.recency))
    np.testing.assert_allclose(layer(*tensors(alone))[0], together[b], rtol=1e-5, atol=1e-6)
