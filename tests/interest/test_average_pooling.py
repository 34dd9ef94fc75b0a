import numpy as np
import pytest

from lcn_tf.interest.average_pooling import AveragePooling, age_bucket_shares
from tests.reference.average_pooling import average_pooling
from tests.reference.behaviours import age_bucket
from tests.support.layers import check_extractor, check_layer, random_inputs, tensors


def test_survives_every_use_that_keras_makes_of_a_layer():
  check_layer(AveragePooling, {"name": "pooling"}, random_inputs(0))


def test_shares_the_properties_of_all_extractors_and_equals_its_twin():
  check_extractor(AveragePooling, lambda layer, candidates, behaviours: average_pooling(candidates, behaviours))


def test_ignores_the_candidates_embedding():
  candidates, behaviours = tensors(random_inputs(1))
  other = candidates._replace(embedding=candidates.embedding * -3.0, items=candidates.items + 1)
  np.testing.assert_array_equal(AveragePooling()(candidates, behaviours), AveragePooling()(other, behaviours))


def test_reads_side_information_and_age():
  candidates, behaviours = random_inputs(2)
  base = AveragePooling()(*tensors((candidates, behaviours))).numpy()
  assert base.shape[-1] == 6 + 3 + 2
  side = AveragePooling()(*tensors((candidates, behaviours._replace(side=behaviours.side + 1)))).numpy()
  later = AveragePooling()(*tensors((candidates._replace(times=candidates.times + 10**6), behaviours))).numpy()
  assert (side != base)[1:, :, 6:9].all()
  assert (side == base)[..., :6].all()
  assert (later != base)[1:, :, 9:].any()
  assert (later == base)[..., :9].all()


def test_without_recency_candidates_that_see_the_same_share_one_row():
  candidates, behaviours = random_inputs(3, R=0)
  shared = behaviours._replace(visible=behaviours.visible[:, :1])
  assert AveragePooling()(*tensors((candidates, shared))).shape == (3, 1, 9)


@pytest.mark.parametrize("buckets", [1, 2, 6, 20])
def test_age_shares_count_visible_behaviours_per_bucket(buckets):
  candidates, behaviours = random_inputs(4, L=30)
  shares = age_bucket_shares(candidates.times, behaviours.times, behaviours.visible, buckets).numpy()
  for b, n in np.ndindex(shares.shape[:2]):
    expected = np.zeros(buckets)
    seen = np.flatnonzero(behaviours.visible[b, n])
    for i in seen:
      expected[age_bucket(candidates.times[b, n] - behaviours.times[b, i], buckets)] += 1 / len(seen)
    np.testing.assert_allclose(shares[b, n], expected, rtol=1e-5, atol=1e-7)
