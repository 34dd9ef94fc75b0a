import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.interest.dare import DARE
from tests.reference import masked
from tests.reference.dare import attention, dare, kept
from tests.support.layers import check_extractor, check_layer, random_inputs, tensors

SMALL = {"top_k": 4, "key_dim": 4}  # the keys of `random_inputs` are 4 wide


def _bias(layer):
  return np.zeros(0) if layer.bias is None else layer.bias.numpy()


def _twin(layer, candidates, behaviours):
  return dare(candidates, behaviours, _bias(layer), top_k=layer.top_k)


def _made(**options):
  candidates, behaviours = random_inputs(options.pop("seed", 0), **options.pop("shape", {}))
  layer = DARE(**{**SMALL, **options})
  layer(*tensors((candidates, behaviours)))
  return layer, candidates, behaviours


def test_survives_every_use_that_keras_makes_of_a_layer():
  check_layer(DARE, SMALL, random_inputs(0), bad={"top_k": 0, "key_dim": [0, -1]})


def test_shares_the_properties_of_all_extractors_and_equals_its_twin():
  check_extractor(lambda: DARE(**SMALL), _twin, all_visible_learn=False)


@pytest.mark.parametrize("top_k", [1, 11, 40])
def test_every_number_kept_equals_the_twin(top_k):
  layer, candidates, behaviours = _made(seed=top_k, top_k=top_k)
  actual = layer(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(actual, _twin(layer, candidates, behaviours), rtol=2e-4, atol=2e-5)


def test_a_worked_number():
  """The key (1, 0) finds the second behaviour, whose vector (2, 3) is multiplied by the candidate's, (5, 7)."""
  candidates, behaviours = random_inputs(0, B=1, N=1, L=2, D=2, S=0, R=0, A=2)
  candidates = candidates._replace(
    embedding=np.array([[[5.0, 7.0]]], np.float32), keys=np.array([[[1.0, 0.0]]], np.float32)
  )
  behaviours = behaviours._replace(
    embedding=np.array([[[9.0, 9.0], [2.0, 3.0]]], np.float32),
    keys=np.array([[[0.0, 1.0], [1.0, 0.0]]], np.float32),
    visible=np.ones([1, 1, 2], bool),
  )
  one = DARE(top_k=1, key_dim=2)(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(one[0, 0], [10.0, 21.0], rtol=1e-6)
  # both: weights 1 / (1 + e^(1 / sqrt 2)) = 0.33022 and 0.66978
  both = DARE(top_k=2, key_dim=2)(*tensors((candidates, behaviours)))
  np.testing.assert_allclose(both[0, 0], [45 * 0.33022 + 10 * 0.66978, 63 * 0.33022 + 21 * 0.66978], rtol=1e-4)


def test_item_embeddings_decide_nothing_that_is_found():
  layer, candidates, behaviours = _made(seed=3)
  before = layer.search_scores(*tensors((candidates, behaviours)))
  other = np.random.default_rng(7).normal(size=behaviours.embedding.shape).astype(np.float32)
  changed = candidates._replace(embedding=-candidates.embedding), behaviours._replace(embedding=other)
  np.testing.assert_array_equal(layer.search_scores(*tensors(changed)), before)


def test_search_and_attention_are_one_score():
  layer, candidates, behaviours = _made(seed=4)
  inputs = tensors((candidates, behaviours))
  scores, exact = layer.search_scores(*inputs).numpy(), layer.exact_scores(*inputs).numpy()
  assert scores.dtype == exact.dtype == np.float32
  for b, n in np.ndindex(*candidates.items.shape):
    seen = masked.visible(behaviours.visible[b, n])
    expected = [attention(candidates, behaviours, _bias(layer), b, n, i) for i in seen]
    np.testing.assert_allclose(scores[b, n, seen], expected, rtol=1e-4, atol=1e-5)
    if seen:
      np.testing.assert_allclose(exact[b, n, seen], masked.softmax(expected), rtol=1e-4, atol=1e-6)


def test_keys_of_what_is_kept_learn_and_no_others():
  layer, candidates, behaviours = _made(seed=5)
  inputs, past = tensors((candidates, behaviours))
  with tf.GradientTape() as tape:
    tape.watch([inputs.keys, past.keys])
    output = tf.reduce_sum(layer(inputs, past)[1, 2] ** 2)
  own, others = tape.gradient(output, [inputs.keys, past.keys])
  assert (own[1, 2].numpy() != 0).any()
  learns = set(np.flatnonzero((others[1].numpy() != 0).any(axis=-1)))
  assert learns == set(kept(candidates, behaviours, _bias(layer), 1, 2, 4))
