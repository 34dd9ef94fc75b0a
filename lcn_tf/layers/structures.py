"""What an interest extractor reads. Axis letters: B requests, N candidates, L behaviours, D width, F fields,
P width of the frozen vectors, A width of the keys."""

from typing import NamedTuple

import tensorflow as tf


class Candidates(NamedTuple):
  """The items to be scored.

  Attributes:
    embedding: `[B, N, D]` float.
    items: Catalogue rows `[B, N]` int32; 0 = padding.
    fields: Catalogue columns (id, inherent fields, then the clusters where there are pre-trained vectors)
      `[B, N, F]` int64.
    times: When each is shown, seconds `[B, N]` int64.
    vectors: Frozen pre-trained item vectors `[B, N, P]` float; P = 0: there are none.
    keys: Learned second vectors of the items, to search with, `[B, N, A]` float; A = 0: the extractor asks for none.
  """

  embedding: tf.Tensor
  items: tf.Tensor
  fields: tf.Tensor
  times: tf.Tensor
  vectors: tf.Tensor
  keys: tf.Tensor


class Behaviours(NamedTuple):
  """One history of each user, newest first, shared by the user's candidates.

  Attributes:
    embedding: `[B, L, D]` float.
    items: Catalogue rows `[B, L]` int32; 0 = padding.
    fields: Catalogue columns `[B, L, F]` int64, as the candidates' (F may differ between domains).
    times: Seconds `[B, L]` int64.
    side: Embedded cross fields, concatenated, `[B, L, S]` float; S may be 0.
    recency: Embedding per bucket of `age_buckets` `[R, d_s]` float; R = 0: age is no feature.
    visible: `[B, N, L]` bool, or `[B, 1, L]` when all candidates see the same.
    vectors: Frozen pre-trained item vectors `[B, L, P]` float, comparable with the candidates'; P may be 0.
    keys: Learned second vectors of the items `[B, L, A]` float, as the candidates'; A may be 0.
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
  """How old a behaviour is when its candidate is shown, in factors of two from a minute on.

  Args:
    candidate_times, behaviour_times: Seconds, int64, broadcast against each other.
    buckets: R. Bucket 0 is younger than a minute, bucket r at least 60 * 2 ** (r - 1) seconds, the last is open.

  Returns:
    int64 in [0, R).
  """
  # The exponent of age / 60 is the rounded-down logarithm: half the time of a search among boundaries.
  age = tf.cast(candidate_times - behaviour_times, tf.float32)
  ratio = tf.clip_by_value(age / 60.0, 0.5, 2.0 ** (buckets - 2))
  return tf.cast(tf.bitwise.right_shift(tf.bitcast(ratio, tf.int32), 23), tf.int64) - 126
