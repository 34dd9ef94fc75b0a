"""The search of TWIN: the behaviours that several heads find together.

The walk visits the rankings of the heads rank by rank: the best behaviour of every head, head by head, then the second
best of every head, and so on. It ends after `k` different behaviours. A behaviour of rank r_a in head a can be met at
step `H r_a + a`, and the walk meets it at the earliest of these steps. With

    key(l) = min_a (H r_a(l) + a),   a = 0..H-1, r_a(l) = 0, 1, ...

the walk meets behaviours by rising key, and no two keys are equal.

Reference: Chang et al., "TWIN: TWo-stage Interest Network for Lifelong User Behavior Modeling in CTR Prediction at
  Kuaishou", KDD 2023, https://arxiv.org/abs/2302.02352, section 4.2.2.
"""

import math

import tensorflow as tf

# Depths at which the rankings may end, as multiples of k / H. The first is enough for heads that disagree.
_DEPTHS = (1.25, 2.0)
# The depth is estimated from the first candidate of one request in four.
_SAMPLE = 4


def union_walk(scores_BNHL: tf.Tensor, visible: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
  """The first k different behaviours of the walk. No gradient passes.

  The walk ends between rank k / H (the heads agree on nothing) and rank k (the heads agree on everything). Ranking is
  the expensive part, so a sample of candidates is ranked to k first. The sample gives the depth to which all candidates
  are ranked. If some candidate needs more depth, all are ranked to k, so the result is always exact.

  Args:
    scores_BNHL: Scores of each head, finite. Ties go to the lower index.
    visible: Mask, bool `[B, N, L]` or `[B, 1, L]`.
    k: Static width of the result, also where L < k.

  Returns:
    indices: Positions of the behaviours, int64 `[B, N, K]`, rising; 0 where not valid.
    valid: Mask of the indices, bool `[B, N, K]`. Fewer than k visible behaviours are all returned.
  """
  scores_BNHL = tf.stop_gradient(scores_BNHL)
  # a candidate that sees at most k behaviours keeps all of them, met or not
  few = tf.reduce_sum(tf.cast(visible, tf.float32), axis=-1, keepdims=True) <= k
  depths = [depth for depth in (math.ceil(times * k / scores_BNHL.shape[2]) for times in _DEPTHS) if depth < k]

  def look(depths: list[int]) -> tuple[tf.Tensor, tf.Tensor]:
    if not depths:
      return _met(scores_BNHL, visible, k, k)
    return tf.cond(needed <= depths[0], lambda: _met(scores_BNHL, visible, k, depths[0]), lambda: look(depths[1:]))

  if depths:
    needed = 1.1 * _needed(scores_BNHL[::_SAMPLE, :1], visible[::_SAMPLE, :1], k)
  met_BNL, enough = look(depths)
  if depths:
    met_BNL = tf.cond(tf.reduce_all(enough | few), lambda: met_BNL, lambda: _met(scores_BNHL, visible, k, k)[0])
  return _places((met_BNL | few) & visible, k)


def _needed(scores_BNHL: tf.Tensor, visible: tf.Tensor, k: int) -> tf.Tensor:
  """Largest depth that a ranking needs, float32. Candidates that see at most k behaviours do not count."""
  keys_BNL = walk_keys(scores_BNHL, visible, k)
  last = -tf.math.top_k(-keys_BNL, tf.minimum(k, tf.shape(keys_BNL)[-1]))[0][..., -1]
  many = tf.reduce_sum(tf.cast(visible, tf.float32), axis=-1) > k
  return tf.reduce_max(tf.where(many, tf.floor(last / scores_BNHL.shape[2]) + 1.0, 0.0))


def walk_keys(scores_BNHL: tf.Tensor, visible: tf.Tensor, depth: int | tf.Tensor) -> tf.Tensor:
  """Step at which the walk meets each behaviour if it goes down to rank `depth` of each head.

  Args:
    scores_BNHL: Scores of each head, as in `union_walk`.
    visible: Mask, as in `union_walk`.
    depth: Depth of the rankings, positive; a depth above L is L.

  Returns:
    Keys `[B, N, L]` float32; the largest float for a behaviour that is not met. Visible behaviours come before
    invisible ones.
  """
  shape = tf.shape(scores_BNHL)
  keys, _, _ = _keys(scores_BNHL, visible, depth)
  return tf.reshape(keys, [shape[0], shape[1], shape[3]])


def walk_order(scores_BNHL: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
  """Minus the step at which the walk over the heads' rankings meets a behaviour, float32 `[B, N, L]`."""
  return -walk_keys(scores_BNHL, visible, tf.shape(scores_BNHL)[-1])


def _keys(scores_BNHL: tf.Tensor, visible: tf.Tensor, depth: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Keys of all behaviours, and the entries of the rankings.

  Returns:
    Keys `[B * N * L]`, and two tensors `[B * N, H, depth]` for each head and rank: the index of the behaviour among the
    keys, and the step of the walk.
  """
  scores_BNHL = tf.where(visible[:, :, tf.newaxis], tf.cast(scores_BNHL, tf.float32), tf.float32.min)
  heads = scores_BNHL.shape[2]
  _, ranked_BNHR = tf.math.top_k(scores_BNHL, tf.minimum(depth, tf.shape(scores_BNHL)[-1]))
  # int64: index arithmetic in int32 would be placed on the host
  shape = tf.shape(scores_BNHL, out_type=tf.int64)
  rows = shape[0] * shape[1]
  places = tf.reshape(tf.cast(ranked_BNHR, tf.int64), [rows, heads, -1])
  places += (tf.range(rows) * shape[3])[:, tf.newaxis, tf.newaxis]
  ranks = tf.range(tf.shape(places, out_type=tf.int64)[2])
  steps = tf.cast(ranks * heads + tf.range(heads, dtype=tf.int64)[:, tf.newaxis], tf.float32)
  steps = tf.broadcast_to(steps, tf.shape(places))
  return tf.math.unsorted_segment_min(steps, places, rows * shape[3]), places, steps


def _met(scores_BNHL: tf.Tensor, visible: tf.Tensor, k: int, depth: int) -> tuple[tf.Tensor, tf.Tensor]:
  """The behaviours among the first k of the walk down to `depth`.

  Returns:
    Mask of these behaviours, bool `[B, N, L]`, and whether there are k of them, bool `[B, N, 1]`.
  """
  keys, places, steps = _keys(scores_BNHL, visible, depth)
  shape = tf.shape(scores_BNHL)
  first = tf.cast(tf.gather(keys, places) == steps, tf.float32)
  in_order = tf.reshape(tf.transpose(first, [0, 2, 1]), [shape[0], shape[1], -1])
  so_far = tf.cumsum(in_order, axis=-1)
  last = tf.reduce_sum(tf.cast(so_far < k, tf.float32), axis=-1, keepdims=True)  # the step that meets the k-th
  return tf.reshape(keys, [shape[0], shape[1], shape[3]]) <= last, so_far[..., -1:] >= k


def _places(mask_BNL: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Positions of the True entries of a mask, at most k of a row: indices int64 and valid bool, `[B, N, K]` each."""
  shape = tf.shape(mask_BNL, out_type=tf.int64)
  rows = shape[0] * shape[1]
  # the last entry, a zero, is taken where nothing is found
  found = tf.concat([tf.where(tf.reshape(mask_BNL, [rows, shape[2]]))[:, 1], tf.zeros([1], tf.int64)], axis=0)
  counts = tf.cast(tf.reduce_sum(tf.cast(mask_BNL, tf.float32), axis=-1), tf.int64)
  begins = tf.reshape(tf.cumsum(tf.reshape(counts, [rows]), exclusive=True), shape[:2])
  slots = tf.range(k, dtype=tf.int64)
  valid = slots < counts[..., tf.newaxis]
  chosen = tf.where(valid, begins[..., tf.newaxis] + slots, tf.shape(found, out_type=tf.int64)[0] - 1)
  return tf.gather(found, chosen), valid
