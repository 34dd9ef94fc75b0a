import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers.recurrence import newest, states_at
from lcn_tf.layers.shared_filter import SharedFilter, align
from tests.reference.pi_net import last_not_younger, shared_filter
from tests.support.layers import check_layer, ops_without_gpu_kernel


def inputs(seed=0, L=7, B=4, X=3, Y=6):
  """States of both domains, the newest step first, and a mask with holes; request 0 has no step."""
  random = np.random.default_rng(seed)
  mask = random.random((L, B)) < 0.7
  mask[:, 0] = False
  own, other = random.normal(size=(L, B, X)), random.normal(size=(L, B, Y))
  return own.astype(np.float32), other.astype(np.float32), mask


def built(units=5, scale=0.7, seed=0, **options):
  layer = SharedFilter(units, **options)
  layer(*inputs())
  random = np.random.default_rng(seed)
  layer.set_weights([random.normal(size=weight.shape) * scale for weight in layer.get_weights()])
  return layer


def test_survives_every_use_that_keras_makes_of_a_layer():
  options = {"units": 5, "members": 3, "official_bug": True}
  check_layer(SharedFilter, options, inputs(), bad={"units": [0, -3], "members": [0]})


@pytest.mark.parametrize(("members", "official_bug"), [(1, False), (3, False), (4, False), (3, True)])
def test_equals_its_twin(members, official_bug):
  layer = built(members=members, official_bug=official_bug)
  own, other, mask = inputs()
  actual = layer(own, other, mask).numpy()
  for b in range(4):
    steps = np.flatnonzero(mask[:, b])[::-1]
    expected = shared_filter(layer, [own[i, b] for i in steps], [other[i, b] for i in steps])
    for i, state in zip(steps, expected, strict=True):
      np.testing.assert_allclose(actual[i, b], state, rtol=1e-5, atol=1e-6)
  assert np.abs(actual).max() > 0.3


@pytest.mark.parametrize("official_bug", [False, True])
def test_gradients_are_those_of_the_formulas(official_bug):
  """TensorFlow's own derivative of the recurrence written step by step."""
  layer = built(members=3, official_bug=official_bug)
  own, other, mask = inputs(L=6)
  weighting = np.random.default_rng(1).normal(size=(6, 4, 5)).astype(np.float32)

  def plain(own, other):
    own_gate, own_new = tf.split(layer.own_kernel, 2, axis=-1)
    past_gate, past_new = tf.split(layer.recurrent, 2, axis=-1)
    bias_gate, bias_new = tf.split(layer.bias, 2)
    gates = tf.unstack(layer.member_vectors @ layer.member_gate)
    news = gates if official_bug else tf.unstack(layer.member_vectors @ layer.member_new)
    state, states = tf.zeros([4, 5]), []
    for i in reversed(range(6)):
      shared = own[i] @ own_gate + other[i] @ layer.other.kernel + state @ past_gate + bias_gate
      new = own[i] @ own_new + state @ past_new + bias_new
      members = []
      for member_gate, member_new in zip(gates, news, strict=True):
        f = tf.sigmoid(shared + member_gate)
        members.append(f * state + (1 - f) * tf.tanh(new + member_new))
      state = tf.where(mask[i][:, np.newaxis], tf.add_n(members) / 3, state)
      states.insert(0, state)
    return tf.stack(states)

  results = []
  for run in (lambda own, other: layer(own, other, mask), plain):
    watched = [tf.constant(own), tf.constant(other)]
    with tf.GradientTape() as tape:
      tape.watch(watched)
      states = run(*watched)
      loss = tf.reduce_sum(states * weighting)
    results.append([states, *tape.gradient(loss, watched + layer.trainable_weights)])
  assert len(layer.trainable_weights) == (6 if official_bug else 7)
  for actual, expected in zip(*results, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("members", [1, 3, 4])
def test_one_step_of_zero_weights_and_biases_that_start_at_one(members):
  layer = SharedFilter(2, members)
  own, other, mask = inputs(L=1)
  layer(own, other, mask)
  np.testing.assert_array_equal(layer.bias, np.ones(4))
  layer.set_weights([w if w.shape == (4,) else np.zeros_like(w) for w in layer.get_weights()])
  f, c = 0.7310586, 0.7615942
  assert (1 - f) * c == pytest.approx(0.2048, abs=5e-5)
  np.testing.assert_allclose(layer(own, other, mask).numpy()[mask], (1 - f) * c, rtol=1e-6)


def test_identical_members_are_one():
  one, four = built(members=1), built(members=4)
  for weight, copied in zip(four.weights, one.weights, strict=True):
    weight.assign(tf.broadcast_to(copied, weight.shape))
  np.testing.assert_allclose(four(*inputs()), one(*inputs()), rtol=1e-5, atol=1e-6)


def test_members_that_differ_are_not_one():
  layer = built(members=4)
  before = layer(*inputs()).numpy()
  layer.member_vectors.assign(tf.reduce_mean(layer.member_vectors, axis=0, keepdims=True) * tf.ones([4, 1]))
  assert np.abs(layer(*inputs()) - before).max() > 1e-3


def test_a_gate_held_at_one_passes_nothing_on():
  layer = built()
  layer.bias.assign(tf.concat([tf.fill([5], 1e4), tf.ones([5])], axis=0))
  np.testing.assert_array_equal(layer(*inputs()), np.zeros([7, 4, 5]))


def test_the_other_domain_acts_through_the_gate_alone():
  layer = built()
  own, other, mask = inputs()
  assert np.abs(layer(own, -other, mask) - layer(own, other, mask)).max() > 1e-3
  layer.bias.assign(tf.concat([tf.fill([5], -1e4), tf.ones([5])], axis=0))  # g_i = mean_k c_ik
  np.testing.assert_array_equal(layer(own, -other, mask), layer(own, other, mask))


def test_only_the_intended_form_learns_a_projection_of_members_for_the_new_state():
  assert not hasattr(built(official_bug=True), "member_new")
  layer = built()
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.square(layer(*inputs())))
  assert np.abs(tape.gradient(loss, layer.member_new)).max() > 1e-3


def test_masked_steps_leave_the_state_as_it_is():
  layer = built()
  own, other, mask = inputs()
  states = layer(own, other, mask).numpy()
  for i, b in np.argwhere(~mask):
    np.testing.assert_array_equal(states[i, b], states[i + 1, b] if i < 6 else 0)


def test_later_steps_never_change_an_earlier_state():
  layer = built()
  own, other, mask = inputs()
  states = layer(own, other, mask).numpy()
  for i in range(1, 7):
    later = [part.copy() for part in (own, other, mask)]
    later[0][:i], later[1][:i], later[2][:i] = 50.0, -50.0, True
    changed = layer(*later).numpy()
    np.testing.assert_array_equal(changed[i:], states[i:])
    assert np.abs(changed[:i] - states[:i]).max() > 1e-3


def test_reading_the_steps_in_reverse_gives_another_state():
  layer = built()
  own, other, mask = inputs()
  mask[:, 1:] = True
  reversed_states = layer(own[::-1], other[::-1], mask)
  assert (np.abs(reversed_states[0, 1:] - layer(own, other, mask)[0, 1:]) > 1e-3).any(axis=-1).all()


def timed(seed, B=5, L_A=9, L_B=8):
  """Falling times, many of them shared, and the real steps of B, which begin and end anywhere."""
  random = np.random.default_rng(seed)
  times, other_times = (-np.sort(-random.integers(10, 30, (B, length)), axis=1) for length in (L_A, L_B))
  first, length = random.integers(0, 3, (B, 1)), random.integers(0, L_B + 1, (B, 1))
  return times, other_times, (np.arange(L_B) >= first) & (np.arange(L_B) < length)


@pytest.mark.parametrize("seed", range(5))
def test_steps_are_aligned_with_the_newest_step_that_is_not_younger(seed):
  times, other_times, mask = timed(seed)
  actual = align(times, other_times, mask).numpy()
  for b, a in np.ndindex(times.shape):
    real = np.flatnonzero(mask[b])[::-1]
    j = last_not_younger(times[b, a], other_times[b, real])
    assert actual[a, b] == (8 if j is None else real[j]), (b, a)


def test_alignment_follows_the_rows_when_they_are_shuffled():
  times, other_times, mask = timed(0)
  order = np.array([3, 0, 4, 2, 1])
  states = np.random.default_rng(1).normal(size=(8, 5, 2)).astype(np.float32)
  aligned = states_at(states, align(times, other_times, mask)).numpy()
  again = states_at(states[:, order], align(times[order], other_times[order], mask[order]))
  np.testing.assert_array_equal(again, aligned[:, order])


def test_before_the_other_domain_has_a_step_its_states_do_not_matter():
  layer = built()
  own, other, mask = inputs()
  times = np.arange(60, 53, -1) * np.ones([4, 1], np.int64)
  # newest first: steps 0 to 3 of A (times 60 to 57) know something of B, steps 4 to 6 nothing
  other_times = np.array([59, 58, 57]) * np.ones([4, 1], np.int64)
  steps = align(times, other_times, np.ones([4, 3], bool))
  np.testing.assert_array_equal(steps, np.array([[0], [0], [1], [2], [3], [3], [3]]) * np.ones([1, 4]))
  first, second = (layer(own, states_at(states, steps), mask).numpy() for states in (other[:3], -other[:3]))
  np.testing.assert_array_equal(first[4:], second[4:])
  assert np.abs(first[:4] - second[:4]).max() > 1e-3


def test_the_newest_of_a_mask_is_its_first_entry():
  mask = np.array([[False, True, False, True], [True, True, True, True], [False] * 4])
  np.testing.assert_array_equal(newest(mask), [1, 0, 4])
  np.testing.assert_array_equal(newest(mask[:, :0]), [0, 0, 0])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_in_a_graph_are_those_of_eager_and_run_on_gpus(jit_compile):
  layer = built()
  own, other, mask = inputs()
  times = np.arange(7, 0, -1) * np.ones([4, 1], np.int64)

  def gradients(own, other):
    with tf.GradientTape() as tape:
      tape.watch([own, other])
      known = states_at(other, align(times, times, mask.T))
      loss = tf.reduce_sum(tf.square(layer(own, known, mask)))
    return tape.gradient(loss, [own, other, *layer.trainable_weights])

  arguments = tf.constant(own), tf.constant(other)
  graph = tf.function(gradients, autograph=False, jit_compile=jit_compile)
  for one, expected in zip(graph(*arguments), gradients(*arguments), strict=True):
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)
  assert ops_without_gpu_kernel(graph.get_concrete_function(*arguments)) == set()
