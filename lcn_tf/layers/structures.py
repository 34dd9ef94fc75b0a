"""Inputs of the interest extractors.

Axis letters: B requests, N candidates, L behaviours, D width, F fields, P width of the frozen vectors,
A width of the keys.
"""

from typing import NamedTuple

import tensorflow as tf


class Candidates(NamedTuple):
  """The items to be scored.

  Attributes:
    embedding: Item embeddings, `[B, N, D]` float.
    items: Catalogue rows, `[B, N]` int32; 0 = padding.
    fields: Catalogue columns, `[B, N, F]` int64: the id, the inherent fields, then the clusters if the model reads
      pre-trained clusters.
    times: Moments at which the candidates are shown, seconds, `[B, N]` int64.
    vectors: Frozen pre-trained item vectors, `[B, N, P]` float; P = 0 if there are none.
    keys: Learned second vectors of the items, to search with, `[B, N, A]` float; A = 0 if the extractor asks for none.
  """

  embedding: tf.Tensor
  items: tf.Tensor
  fields: tf.Tensor
  times: tf.Tensor
  vectors: tf.Tensor
  keys: tf.Tensor


class Behaviours(NamedTuple):
  """One history of each user, newest first, shared by the candidates of a request.

  Attributes:
    embedding: Item embeddings, `[B, L, D]` float.
    items: Catalogue rows, `[B, L]` int32; 0 = padding.
    fields: Catalogue columns, `[B, L, F]` int64, as those of the candidates. F may differ between domains.
    times: Times of the behaviours, seconds, `[B, L]` int64.
    side: Embedded cross fields side by side, `[B, L, S]` float; S may be 0.
    recency: Embedding of each bucket of `age_buckets`, `[R, d_s]` float; R = 0 if age is no feature.
    visible: Mask of the behaviours that a candidate sees, bool `[B, N, L]`, or `[B, 1, L]` if all candidates see the
      same.
    vectors: Frozen pre-trained item vectors, `[B, L, P]` float, of the same space as the candidates'; P may be 0.
    keys: Learned second vectors of the items, `[B, L, A]` float, of the same space as the candidates'; A may be 0.
  """

  embedding: tf.Tensor
  items: tf.Tensor
  fields: tf.Tensor
  times: tf.Tensor
  side: tf.Tensor
  recency: tf.Tensor
  visible: tf.Tensor
  vectors: tf.Tensor
  keys: tf.Tensor


def age_buckets(candidate_times: tf.Tensor, behaviour_times: tf.Tensor, buckets: int) -> tf.Tensor:
  """Bucket of a behaviour's age when its candidate is shown, in factors of two from a minute on.

  Args:
    candidate_times: Times of the candidates, seconds, int64, broadcast against `behaviour_times`.
    behaviour_times: Times of the behaviours, seconds, int64, broadcast against `candidate_times`.
    buckets: Number R of buckets. Bucket 0 is below a minute, bucket r starts at 60 * 2 ** (r - 1) seconds, and the last
      bucket is open.

  Returns:
    Buckets, int64 in [0, R).
  """
  # The exponent of age / 60 is the rounded-down logarithm: half the time of a search among boundaries.
  age = tf.cast(candidate_times - behaviour_times, tf.float32)
  ratio = tf.clip_by_value(age / 60.0, 0.5, 2.0 ** (buckets - 2))
  return tf.cast(tf.bitwise.right_shift(tf.bitcast(ratio, tf.int32), 23), tf.int64) - 126
