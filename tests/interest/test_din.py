import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.interest.din import DIN
from tests.reference import din as twin
from tests.support.layers import check_extractor, check_layer, far_from_zero, random_inputs, tensors
from tests.support.reading import behaviours_read

WEIGHTS = ("kernel_1", "bias_1", "kernel_2", "bias_2", "kernel_3", "bias_3")


def _din(**options):
  """A small layer whose weights are all far from zero."""
  return far_from_zero(DIN(**{"units": (5, 4), **options}), 0.7)


def _twin(layer, candidates, behaviours):
  weights = {name: getattr(layer._attention, name).numpy() for name in WEIGHTS if hasattr(layer._attention, name)}
  options = {name: getattr(layer, name) for name in ("recent", "activation", "norm")}
  return twin.din(candidates, behaviours, weights, **options)


def _take(behaviours, order):
  """The behaviours at the given positions, with all that belongs to them."""
  parts = {
    name: np.take(getattr(behaviours, name), order, axis=1)
    for name in ("embedding", "items", "fields", "times", "side", "vectors", "keys")
  }
  return behaviours._replace(**parts, visible=np.take(behaviours.visible, order, axis=2))


def test_survives_every_use_that_keras_makes_of_a_layer():
  bad = {"recent": -1, "units": [[3], [0, 3]], "norm": "sum"}
  options = {"recent": 4, "units": (5, 4), "activation": "relu", "norm": "none"}
  check_layer(DIN, options, random_inputs(0), bad=bad)
  check_layer(DIN, {"units": (5, 4)}, random_inputs(0))


def test_shares_the_properties_of_all_extractors_and_equals_its_twin():
  check_extractor(_din, _twin)


@pytest.mark.parametrize("options", [{"norm": "none", "activation": "relu"}, {"recent": 3}, {"recent": 30}], ids=str)
def test_variants_share_the_properties_and_equal_their_twins(options):
  recent = options.get("recent", 0)
  check_extractor(
    lambda: _din(**options),
    _twin,
    order_free=recent != 3,
    all_visible_learn=recent != 3 and options.get("activation") != "relu",
    shapes=({}, {"N": 1, "L": 4, "R": 0}),
  )


@pytest.mark.parametrize("recent", [1, 3])
def test_recent_reads_the_newest_behaviours_that_each_candidate_sees_and_no_others(recent):
  candidates, behaviours = random_inputs(1, L=12)
  behaviours.visible[1, 0, 4:6] = False  # also with holes
  layer = _din(recent=recent)
  read = behaviours_read(layer, candidates, behaviours)
  firsts = set()
  for b, n in np.ndindex(3, 4):
    seen = np.flatnonzero(behaviours.visible[b, n])[:recent]
    assert read[b, n] == set(seen)
    firsts |= set(seen[:1])
  assert len(firsts) > 1, "all candidates see the same"


def test_candidates_that_see_the_same_may_share_one_row_of_visibility_with_recent():
  candidates, behaviours = random_inputs(2)
  layer = _din(recent=3)
  shared = behaviours._replace(visible=behaviours.visible[:, :1])
  copied = behaviours._replace(visible=np.repeat(behaviours.visible[:, :1], 4, axis=1))
  np.testing.assert_allclose(
    layer(*tensors((candidates, shared))), layer(*tensors((candidates, copied))), rtol=1e-5, atol=1e-6
  )


def test_a_history_told_twice_counts_twice_without_softmax_and_once_with_it():
  candidates, behaviours = random_inputs(3)
  twice = _take(behaviours, np.concatenate([np.arange(11), np.arange(11)]))
  for norm, factor in (("none", 2.0), ("softmax", 1.0)):
    layer = _din(norm=norm)
    once = layer(*tensors((candidates, behaviours))).numpy()
    np.testing.assert_allclose(layer(*tensors((candidates, twice))), factor * once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recent", [0, 1])
def test_of_one_behaviour_softmax_gives_the_behaviour_whatever_the_candidate(recent):
  candidates, behaviours = random_inputs(4, R=0)
  behaviours.visible[:] = False
  behaviours.visible[:, :, 2] = True
  output = _din(recent=recent)(*tensors((candidates, behaviours))).numpy()
  row = np.concatenate([behaviours.embedding[:, 2], behaviours.side[:, 2]], axis=-1)
  np.testing.assert_allclose(output, np.repeat(row[:, np.newaxis], 4, axis=1), rtol=1e-6)
  one_of_many = _din(norm="none")(*tensors((candidates, behaviours))).numpy()
  assert np.abs(one_of_many - output).max() > 0.01


def test_attention_tells_candidates_apart():
  candidates, behaviours = random_inputs(5)
  behaviours.visible[:] = behaviours.visible[:, :1]
  output = _din()(*tensors((candidates, behaviours))).numpy()
  assert np.abs(output[0, 0] - output[0, 1]).max() > 1e-3


def _largest_tensors(layer, L=600):
  """Elements of the largest tensors of a forward and backward pass, by the graph's static shapes."""
  candidates, behaviours = tensors(random_inputs(6, B=2, N=3, L=L, D=16, S=0, R=0))

  @tf.function(autograph=False)
  def step():
    with tf.GradientTape() as tape:
      tape.watch(behaviours.embedding)
      loss = tf.reduce_sum(layer(candidates, behaviours))
    return tape.gradient(loss, [behaviours.embedding, *layer.trainable_variables])

  shapes = [tensor.shape for op in step.get_concrete_function().graph.get_operations() for tensor in op.outputs]
  return max(shape.num_elements() or 0 for shape in shapes if shape.rank is not None)


def test_the_history_is_never_copied_for_each_candidate():
  """The copies would be [2, 3, 600, 16], the pairs 4 times that; the hidden layers here are narrower."""
  assert 2 * 3 * 600 * 5 <= _largest_tensors(DIN(units=(5, 4))) <= 2 * 3 * 600 * 5 * 2
