"""Target attention against its definition, row by row."""

import numpy as np
import tensorflow as tf

from lcn_tf.layers.target_attention import target_attention


def test_it_is_the_projected_attention_of_its_docstring():
  rng = np.random.default_rng(0)
  candidates, rows = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 5, 6))
  query, key, value = (rng.normal(size=(2, width, 7)) for width in (4, 6, 6))
  valid = rng.random((2, 3, 5)) < 0.6
  valid[0, 0] = False
  arguments = [tf.constant(x, tf.float32) for x in (candidates, rows)] + [tf.constant(valid)]
  found = target_attention(*arguments, *(tf.constant(x, tf.float32) for x in (query, key, value))).numpy()
  for b in range(2):
    for n in range(3):
      seen = [k for k in range(5) if valid[b, n, k]]
      for h in range(2):
        expected = np.zeros(7)
        if seen:
          scores = [(rows[b, n, k] @ key[h]) @ (candidates[b, n] @ query[h]) / np.sqrt(7) for k in seen]
          weights = np.exp(scores - np.max(scores))
          weights /= weights.sum()
          expected = sum(w * (rows[b, n, k] @ value[h]) for w, k in zip(weights, seen, strict=True))
        np.testing.assert_allclose(found[b, n, 7 * h : 7 * h + 7], expected, rtol=1e-4, atol=1e-5)
