"""Average pooling: an interest that does not depend on the candidate item."""

import tensorflow as tf
from tensorflow import keras

from lcn_tf.interest.base import Extractor
from lcn_tf.layers.masked import masked_mean
from lcn_tf.layers.structures import Behaviours, Candidates, age_buckets


@keras.saving.register_keras_serializable("lcn_tf")
class AveragePooling(Extractor):
  """Mean of the behaviours that a candidate sees: the baseline without attention.

  It reads the same features of a behaviour as the attention models, side information and recency included.

      a_j    = [e_j ; s_j ; r_bucket(j)]
      output = sum_{j visible} a_j / max(number visible, 1)

  Only recency depends on the candidate's time. It is pooled as the share of the visible behaviours in each age bucket,
  times the embedding of the bucket. No tensor of shape `[B, N, L, S]` is made.

  Departures from the paper: none; LCN compares with "Avg-Pooling" and gives no formula.

  Call arguments:
    candidates: `Candidates`; only `times [B, N]` is read.
    behaviours: `Behaviours`, embedding `[B, L, D]`, side `[B, L, S]`, recency `[R, S']`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[B, N, D + S + S']`. Without recency it is the same for all candidates that see the same behaviours, so
    its shape is `[B, N | 1, D + S]`, as `visible`. Zeros for a candidate that sees no behaviour. Padding never changes
    the result.

  Reference: Hou et al., "Cross-Domain LifeLong Sequential Modeling for Online Click-Through Rate Prediction",
    KDD 2024, https://arxiv.org/abs/2312.06424, table 4.
  """

  def call(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    parts = [tf.cast(part, self.compute_dtype) for part in (behaviours.embedding, behaviours.side)]
    pooled = masked_mean(tf.concat(parts, axis=-1), behaviours.visible)
    if not behaviours.recency.shape[0]:
      return pooled
    shares = age_bucket_shares(candidates.times, behaviours.times, behaviours.visible, behaviours.recency.shape[0])
    recency = tf.matmul(tf.cast(shares, pooled.dtype), tf.cast(behaviours.recency, pooled.dtype))
    pooled = tf.broadcast_to(pooled, tf.concat([tf.shape(recency)[:2], tf.shape(pooled)[2:]], axis=0))
    return tf.concat([pooled, recency], axis=-1)


def age_bucket_shares(
  candidate_times: tf.Tensor, behaviour_times: tf.Tensor, visible: tf.Tensor, buckets: int
) -> tf.Tensor:
  """Share of the behaviours that a candidate sees in each bucket of `age_buckets`.

  Args:
    candidate_times: Times of the candidates, seconds, `[B, N]` int64.
    behaviour_times: Times of the behaviours, seconds, `[B, L]` int64.
    visible: Mask of the behaviours, bool `[B, N | 1, L]`, or their weights.
    buckets: Number R of buckets.

  Returns:
    Shares, float32 `[B, N, R]`. Each row sums to 1, or is zero where nothing is visible.
  """
  bucket = age_buckets(candidate_times[:, :, tf.newaxis], behaviour_times[:, tf.newaxis, :], buckets)
  shape = tf.shape(bucket, out_type=tf.int64)
  rows = shape[0] * shape[1]
  # int64: index arithmetic in int32 would be placed on the host
  segment = tf.reshape(tf.range(rows), [shape[0], shape[1], 1]) * buckets + tf.cast(bucket, tf.int64)
  seen = tf.broadcast_to(tf.cast(visible, tf.float32), shape)
  counts = tf.math.unsorted_segment_sum(seen, segment, rows * buckets)
  counts = tf.reshape(counts, [shape[0], shape[1], buckets])
  return counts / tf.maximum(tf.reduce_sum(counts, axis=-1, keepdims=True), 1.0)
