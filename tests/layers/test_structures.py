import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers.structures import age_buckets
from tests.reference.behaviours import age_bucket


@pytest.mark.parametrize("buckets", [1, 2, 5, 20])
def test_age_buckets_double_from_a_minute_on(buckets):
  boundaries = [60 * 2**r for r in range(16)]
  ages = [-100, 0, 1, *(b + d for b in boundaries for d in (-1, 0, 1)), 10**9]
  now = 1_500_000_000
  actual = age_buckets(
    tf.constant([now] * len(ages), tf.int64), tf.constant([now - a for a in ages], tf.int64), buckets
  )
  np.testing.assert_array_equal(actual, [age_bucket(age, buckets) for age in ages])
