import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers.simhash import SimHash, bucket_sums, signatures, signs
from tests.reference import simhash as twin
from tests.support.layers import check_layer, ops_without_gpu_kernel


def _vectors(seed=0, B=2, L=5, D=6):
  """Exact in float16, so that no projection changes its sign under mixed precision."""
  return np.random.default_rng(seed).normal(size=(B, L, D)).astype(np.float16).astype(np.float32)


def _at(degrees):
  """Unit vectors [1, 2, 2] at an angle."""
  angle = np.radians(degrees)
  return tf.constant([[[1.0, 0.0], [np.cos(angle), np.sin(angle)]]], tf.float32)


def _distance(bits):
  """Hamming distance of the first two vectors."""
  return int(tf.reduce_sum(tf.cast(bits[0, 0] != bits[0, 1], tf.int32)))


def test_survives_every_use_that_keras_makes_of_a_layer():
  check_layer(SimHash, {"bits": 12, "seed": 3}, (_vectors(),), bad={"bits": [0, -4]})


def test_bits_equal_their_twin():
  vectors = _vectors()
  layer = SimHash(12)
  bits = layer(vectors).numpy()
  assert bits.shape == (2, 5, 12)
  for b, i in np.ndindex(2, 5):
    assert list(bits[b, i]) == twin.bits(vectors[b, i], layer.hyperplanes.numpy())


def test_hyperplanes_depend_on_the_seed_and_on_nothing_else():
  def draw(seed, global_seed):
    tf.keras.utils.set_random_seed(global_seed)
    tf.random.normal([global_seed])
    layer = SimHash(64, seed)
    layer.build(tf.TensorShape([None, None, 16]))
    return layer.hyperplanes.numpy()

  np.testing.assert_array_equal(draw(0, 1), draw(0, 2))
  assert (draw(0, 1) != draw(1, 1)).mean() > 0.99


def test_hyperplanes_are_standard_normal():
  layer = SimHash(1000)
  layer.build(tf.TensorShape([None, None, 100]))
  sample = layer.hyperplanes.numpy().ravel()
  assert abs(sample.mean()) < 0.01
  assert abs(sample.std() - 1.0) < 0.01
  assert abs((np.abs(sample) < 1.0).mean() - 0.6827) < 0.005


def test_hyperplanes_never_learn_but_are_stored(tmp_path):
  layer, other = SimHash(8, seed=0), SimHash(8, seed=1)
  before = layer(_vectors()).numpy()
  assert not layer.trainable_weights
  assert len(layer.non_trainable_weights) == 1
  assert (other(_vectors()).numpy() != before).any()
  path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "weights"))
  tf.train.Checkpoint(layer=other).read(path).assert_consumed()
  np.testing.assert_array_equal(other(_vectors()), before)


def test_no_gradient_passes():
  vectors = tf.constant(_vectors())
  layer = SimHash(8)
  with tf.GradientTape() as tape:
    tape.watch(vectors)
    result = tf.reduce_sum(signs(layer(vectors)))
  assert tape.gradient(result, [vectors, layer.hyperplanes]) == [None, None]


def test_no_projection_is_rounded_to_half_precision():
  vectors = _vectors(L=400)
  layer = SimHash(32, dtype="mixed_float16")
  np.testing.assert_array_equal(layer(tf.cast(vectors, tf.float16)), SimHash(32)(vectors))


@pytest.mark.parametrize(("degrees", "expected"), [(30, 5.33), (60, 10.67), (90, 16.0), (180, 32.0)])
def test_distance_of_32_bits_grows_with_the_angle(degrees, expected):
  count = 64_000
  distance = _distance(SimHash(count)(_at(degrees))) / count * 32
  share = degrees / 180
  assert abs(distance - expected) < 0.005 + 4 * 32 * np.sqrt(share * (1 - share) / count)


def test_distance_of_32_bits_scatters_as_a_binomial():
  bits = SimHash(32 * 4000)(_at(60)).numpy().reshape(2, 4000, 32)
  distances = (bits[0] != bits[1]).sum(axis=-1)
  assert abs(distances.std() - 2.67) < 4 * 2.67 / np.sqrt(2 * 4000)


def test_a_vector_is_nowhere_from_itself_or_any_multiple_and_everywhere_from_its_opposite():
  x = _vectors(B=1, L=1)
  layer = SimHash(64)
  for other, expected in [(x, 0), (100 * x, 0), (1e-3 * x, 0), (-x, 64)]:
    assert _distance(layer(np.concatenate([x, other], axis=1))) == expected


def test_distances_keep_the_triangle_inequality():
  bits = SimHash(64)(_vectors(B=1, L=12)).numpy()[0]
  distances = (bits[:, np.newaxis] != bits).sum(axis=-1)
  assert (distances[:, np.newaxis] <= distances[:, :, np.newaxis] + distances[np.newaxis]).all()


def test_zeros_hash_to_ones():
  np.testing.assert_array_equal(SimHash(16)(np.zeros([1, 1, 4], np.float32)), np.ones([1, 1, 16]))


def test_products_of_signs_are_hamming_distances():
  bits = SimHash(31)(_vectors(B=1, L=7))
  products = tf.matmul(signs(bits), signs(bits), transpose_b=True).numpy()[0]
  for i, j in np.ndindex(7, 7):
    assert products[i, j] == 31 - 2 * twin.distance(bits[0, i].numpy(), bits[0, j].numpy())


@pytest.mark.parametrize(("count", "width"), [(1, 1), (4, 3), (2, 12), (1, 24)])
def test_signatures_equal_their_twin(count, width):
  bits = SimHash(count * width)(_vectors())
  actual = signatures(bits, width)
  assert actual.dtype == tf.int64
  for b, i in np.ndindex(2, 5):
    assert list(actual[b, i].numpy()) == twin.signatures([int(bit) for bit in bits[b, i]], width)
  assert signatures(tf.ones([1, 1, count * width]), width).numpy().tolist() == [[[2**width - 1] * count]]


@pytest.mark.parametrize(("count", "width"), [(6, 3), (5, 3), (12, 1), (9, 2), (2, 4), (3, 7)])
def test_bucket_sums_add_the_rows_of_each_signature(count, width):
  vectors = _vectors(L=9)
  rows = np.random.default_rng(1).normal(size=(2, 9, 4)).astype(np.float32)
  weights = np.random.default_rng(2).integers(0, 3, size=(2, 9)).astype(np.float32)
  bits = SimHash(count * width)(vectors)
  expected = np.zeros([2, count, 2**width, 4])
  for b, i in np.ndindex(2, 9):
    for r, signature in enumerate(twin.signatures([int(bit) for bit in bits[b, i]], width)):
      expected[b, r, signature] += weights[b, i] * rows[b, i]
  actual = bucket_sums(bits, width, tf.constant(rows), tf.constant(weights)).numpy()
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
  assert ((actual == 0) == (expected == 0)).all()


def test_the_gradient_of_bucket_sums_goes_to_the_rows_of_the_buckets_used_and_to_no_other():
  bits = SimHash(4 * 3)(_vectors(L=30))
  used = np.random.default_rng(2).normal(size=(2, 4, 8, 3)).astype(np.float32)
  used[:, :, 1:] = 0.0
  rows = tf.ones([2, 30, 3])
  with tf.GradientTape() as tape:
    tape.watch(rows)
    loss = tf.reduce_sum(bucket_sums(bits, 3, rows, tf.fill([2, 30], 2.0)) * used)
  gradient = tape.gradient(loss, rows).numpy()
  for b, i in np.ndindex(2, 30):
    found = twin.signatures([int(bit) for bit in bits[b, i]], 3)
    expected = 2 * sum((used[b, r, signature] for r, signature in enumerate(found)), np.zeros(3))
    np.testing.assert_allclose(gradient[b, i], expected, rtol=1e-5, atol=1e-6)
    assert (gradient[b, i] == 0).all() == all(signature > 0 for signature in found)


def test_bucket_sums_of_unknown_shapes_run_on_a_gpu():
  layer = SimHash(12)
  layer.build(tf.TensorShape([None, None, 6]))

  @tf.function(input_signature=[tf.TensorSpec([None, None, 6])], autograph=False)
  def step(vectors):
    with tf.GradientTape() as tape:
      tape.watch(vectors)
      loss = tf.reduce_sum(bucket_sums(layer(vectors), 3, vectors, tf.ones_like(vectors[..., 0])) ** 2)
    return tape.gradient(loss, vectors)

  assert ops_without_gpu_kernel(step.get_concrete_function()) == set()
  assert step(tf.zeros([0, 5, 6])).shape == (0, 5, 6)
  assert step(tf.zeros([2, 0, 6])).shape == (2, 0, 6)
