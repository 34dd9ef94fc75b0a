"""The two kinds of losses in CRP, float32 under every dtype policy."""

import tensorflow as tf

from lcn_tf.layers.normalize import l2_normalize


def cosines(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
  """Cosines `[A, M]` of vectors `[A, D]` and `[M, D]`; 0 for a zero vector."""
  return tf.matmul(l2_normalize(queries), l2_normalize(keys), transpose_b=True)


def info_nce(
  queries: tf.Tensor, positives: tf.Tensor, negatives: tf.Tensor, keep: tf.Tensor, temperature: float
) -> tf.Tensor:
  """InfoNCE loss of each query and positive: small if the query is closer to the positive than to its negatives.

      l_ip = -log( exp(c(x_i, h_ip) / tau) / (exp(c(x_i, h_ip) / tau) + sum_{j in N_i} exp(c(x_i, x_j) / tau)) )

  c is the cosine, as in NT-Xent of SimCLR.

  Args:
    queries: Queries x, `[A, D]`.
    positives: Positives h of each query, `[A, P, D]`.
    negatives: Negatives of all queries, `[M, D]`.
    keep: Mask of the negatives N_i of each query, bool `[A, M]`.
    temperature: Temperature tau.

  Returns:
    Losses, float32 `[A, P]`; 0 where no negative is kept.

  Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
    https://arxiv.org/abs/2002.05709, Eq. (1).
  """
  positive = tf.reduce_sum(l2_normalize(queries)[:, tf.newaxis] * l2_normalize(positives), axis=-1) / temperature
  logits = cosines(queries, negatives) / temperature + tf.where(keep, 0.0, -1e30)
  return tf.nn.softplus(tf.reduce_logsumexp(logits, axis=-1, keepdims=True) - positive)


def click_losses(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
  """Weighted sigmoid cross entropy of each candidate, `[B, N]` float32; 0 where `mask` is False."""
  losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), tf.cast(logits, tf.float32))
  return tf.where(mask, losses * tf.cast(weights, tf.float32), 0.0)
