"""Random batches for CRP."""

import numpy as np

from lcn_tf.crossdomain.pairs import DomainBatch
from tests.support.layers import random_inputs


def random_batch(seed, requests=6, candidates=4, length=9, width=6, profile=3, users=4) -> DomainBatch:
  """Few users and items, so that every reason to drop an anchor or a negative occurs."""
  random = np.random.default_rng(seed)
  shown, own = random_inputs(seed, requests, candidates, length, width)
  _, other = random_inputs(seed + 1000, requests, candidates, length + 2, width)
  shape = (requests, candidates)
  few = random.integers(1, 9, size=40).astype(np.int32)
  return DomainBatch(
    user=random.integers(1, users + 1, size=requests),
    profile=random.normal(size=(requests, profile)).astype(np.float32),
    candidates=shown._replace(items=few[shown.items]),
    mask=random.random(shape) < 0.9,
    label=(random.random(shape) < 0.5).astype(np.float32),
    weight=random.uniform(0.5, 2.0, size=shape).astype(np.float32),
    own=own._replace(items=few[own.items]),
    other=other,
  )
