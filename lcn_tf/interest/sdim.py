"""SDIM: attention by counting hash collisions (Cao et al., CIKM 2022)."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.errors import positive
from lcn_tf.interest.average_pooling import age_bucket_shares
from lcn_tf.interest.base import static_rows
from lcn_tf.interest.two_stage import TwoStage
from lcn_tf.layers.normalize import inverse_length, l2_normalize
from lcn_tf.layers.simhash import SimHash, bucket_sums, signatures
from lcn_tf.layers.structures import Behaviours, Candidates

MODES = ("pool", "ta")
_WIDEST = 8  # the table has 2 ** width sums of each round


@keras.saving.register_keras_serializable("lcn_tf")
class SDIM(TwoStage):
  """Weighs a behaviour by the number of rounds in which it gets the candidate's hash signature.

      sig_r(x) = sum_t 2^t [(x R)_{r, t} >= 0],   R [D, m, tau] fixed, r = 1 .. m
      p_j^(r)  = [sig_r(e_v) = sig_r(e_j)],   P(p_j^(r) = 1) = (1 - theta_j / pi)^tau
      c_j      = sum_r p_j^(r)

      pool:    (1 / m) sum_r l2norm(sum_j p_j^(r) [e_j ; s_j]),   and recency averaged with the weights c_j
      ta:      target attention over the `top_k` behaviours of largest c_j >= 1, ties to the newer

  j runs over the visible behaviours, and s_j are their cross fields. The current embeddings are hashed. l2norm divides
  a vector by its length and makes it 0 if it is shorter than 1e-6. So a round adds nothing without a collision, or if
  all colliding rows are zero, as those of unknown items start.

  With `l2` the pool of items and cross fields needs no work per pair of candidate and behaviour. Behaviours are added
  up once per user, round and signature, and a candidate looks its m sums up. The sums hold the behaviours that all
  candidates of a request see. The others are compared with each candidate one by one, so the result is exact for any
  visibility. In serving there are no others, because all candidates share a moment.

  Recency (`recency_buckets` > 0) does need work per pair, with or without `l2`: the collision counts c `[B, N, L]`, at
  m 2^tau multiply-adds each. The pool without `l2` needs these counts too.

  XLA cannot compile "pool" with `l2` (sparse products).

  Departures from the paper: recency depends on the candidate's time, which a table per user cannot hold. With `l2` it
  is averaged over all collisions, not round by round. Without `l2` its pool is exact, sum_j (c_j / m) recency_j. Only
  the item embedding is hashed. All-zero embeddings, as those of unknown items start, collide in every round.

  Args:
    hashes: Number m of rounds.
    width: Bits tau of a signature, 1 to 8. Recency, `l2` = False and "ta" make m 2^tau numbers for each behaviour: 384
      by default.
    mode: Use of the collisions: "pool", the paper's, or "ta", target attention in the place of the pool, as in TWIN's
      table.
    l2: Normalisation of each round's sum in "pool", which gives all rounds the same weight. False = the result grows
      with the number of collisions.
    seed: Seed of R.
    **kwargs: Arguments of `TwoStage` (`top_k`, `esu`, ...), which "ta" reads, and of a Keras layer.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[B, N, D + S + S']` of "pool", or the ESU's of "ta". Zeros for a candidate without a collision. Padding
    never changes the result.

  Raises:
    ValueError: A size is not positive, `width` is above 8, or `mode` or `esu` is unknown.

  Reference: Cao et al., "Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR Prediction", CIKM 2022,
    arXiv 2205.10249; "ta": Chang et al., "TWIN", KDD 2023, arXiv 2302.02352, section 5.
  """

  def __init__(
    self,
    hashes: int = 48,
    width: int = 3,
    mode: str = "pool",
    l2: bool = True,
    seed: int = 0,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    positive(hashes=hashes)
    if not 1 <= width <= _WIDEST:
      raise ValueError(f"width must be 1 to {_WIDEST} bits; found {width}")
    if mode not in MODES:
      raise ValueError(f"mode must be one of {list(MODES)}; found {mode!r}")
    self.hashes = hashes
    self.width = width
    self.mode = mode
    self.l2 = l2
    self.seed = seed
    self._simhash = SimHash(hashes * width, seed, name="simhash")

  @property
  def compiles(self) -> bool:
    return self.mode == "ta" or not self.l2

  def make_weights(self, item_width: int, row_width: int) -> None:
    if self.mode == "ta":
      super().make_weights(item_width, row_width)
    with tf.name_scope(self._simhash.name):
      self._simhash.build(tf.TensorShape([None, None, item_width]))

  def search(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor]:
    """Collision counts c, `[B, N, L]`, and the mask of the visible behaviours that collide at least once."""
    counts_BNL = self._counts(self._simhash(candidates.embedding), self._simhash(behaviours.embedding))
    return counts_BNL, behaviours.visible & (counts_BNL > 0.5)

  def call(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    if self.mode == "ta":
      return super().call(candidates, behaviours)
    rows_BLX = tf.cast(static_rows(behaviours), tf.float32)
    own, past = self._simhash(candidates.embedding), self._simhash(behaviours.embedding)
    recency = tf.cast(behaviours.recency, tf.float32)
    parts = []
    if recency.shape[0] or not self.l2:
      counts_BNL = self._counts(own, past) * tf.cast(behaviours.visible, tf.float32)
    if self.l2:
      parts.append(self._pool(own, past, rows_BLX, behaviours.visible))
    else:
      parts.append(tf.matmul(counts_BNL, rows_BLX) / self.hashes)
    if recency.shape[0]:
      # collision counts in the place of the mask
      shares_BNR = age_bucket_shares(candidates.times, behaviours.times, counts_BNL, recency.shape[0])
      if not self.l2:
        shares_BNR *= tf.reduce_sum(counts_BNL, axis=-1, keepdims=True) / self.hashes
      parts.append(tf.matmul(shares_BNR, recency))
    return tf.cast(tf.concat(parts, axis=-1), self.compute_dtype)

  def exact_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """Scores of the ESU for "ta", or the factor of each behaviour's row in the result of "pool".

    The factor is (1 / m) sum_r p_j^(r) / |sum_r| with `l2`, where sum_r is the sum of round r, and c_j / m without
    `l2`.
    """
    if self.mode == "ta":
      return super().exact_scores(candidates, behaviours)
    own, past = self._simhash(candidates.embedding), self._simhash(behaviours.embedding)
    visible = tf.cast(behaviours.visible, tf.float32)
    if not self.l2:
      return self._counts(own, past) * visible / self.hashes
    rows_BLX = tf.cast(static_rows(behaviours), tf.float32)
    sums_BMNX = self._sums(own, past, rows_BLX, behaviours.visible, *_who_sees(behaviours.visible))
    factors_BMN = inverse_length(sums_BMNX)[..., 0]
    weighted_BNMC = self._one_hot(own) * tf.transpose(factors_BMN, [0, 2, 1])[..., tf.newaxis]
    return tf.matmul(_flat(weighted_BNMC), _flat(self._one_hot(past)), transpose_b=True) * visible / self.hashes

  def _one_hot(self, bits: tf.Tensor) -> tf.Tensor:
    """Signatures of bits `[B, L, m * tau]`, as one-hot float32 `[B, L, m, 2 ** tau]`."""
    return tf.one_hot(signatures(bits, self.width), 2**self.width)

  def _counts(self, own: tf.Tensor, past: tf.Tensor) -> tf.Tensor:
    """Collision counts c, `[B, N, L]` float32, of visible and invisible behaviours.

    Args:
      own: Bits of the candidates, `[B, N, m * tau]`.
      past: Bits of the behaviours, `[B, L, m * tau]`.
    """
    return tf.matmul(_flat(self._one_hot(own)), _flat(self._one_hot(past)), transpose_b=True)

  def _pool(self, own: tf.Tensor, past: tf.Tensor, rows_BLX: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """Mean over the rounds of the round's sum at unit length, `[B, N, X]`.

    Args:
      own: Bits of the candidates, `[B, N, m * tau]`.
      past: Bits of the behaviours, `[B, L, m * tau]`.
      rows_BLX: Rows of the behaviours, float32.
      visible: Mask, bool `[B, N | 1, L]`.
    """
    by_all_BL, by_some_BL = _who_sees(visible)

    def all_see_the_same() -> tf.Tensor:
      unit_BMCX = l2_normalize(bucket_sums(past, self.width, rows_BLX, by_all_BL))
      table = tf.reshape(unit_BMCX, [tf.shape(unit_BMCX)[0], self.hashes * 2**self.width, unit_BMCX.shape[-1]])
      return tf.matmul(_flat(self._one_hot(own)), table) * _sees(visible) / self.hashes

    def some_see_more() -> tf.Tensor:
      return tf.reduce_mean(l2_normalize(self._sums(own, past, rows_BLX, visible, by_all_BL, by_some_BL)), axis=1)

    return tf.cond(tf.reduce_any(by_some_BL > 0.0), some_see_more, all_see_the_same)

  def _sums(
    self,
    own: tf.Tensor,
    past: tf.Tensor,
    rows_BLX: tf.Tensor,
    visible: tf.Tensor,
    by_all_BL: tf.Tensor,
    by_some_BL: tf.Tensor,
  ) -> tf.Tensor:
    """Sum of each round, `[B, m, N, X]`.

    Args:
      own: Bits of the candidates, `[B, N, m * tau]`.
      past: Bits of the behaviours, `[B, L, m * tau]`.
      rows_BLX: Rows of the behaviours, float32.
      visible: Mask, bool `[B, N | 1, L]`.
      by_all_BL: First result of `_who_sees`.
      by_some_BL: Second result of `_who_sees`.
    """
    table_BMCX = bucket_sums(past, self.width, rows_BLX, by_all_BL)
    asked_BMNC = tf.transpose(self._one_hot(own), [0, 2, 1, 3]) * _sees(visible)[:, tf.newaxis]

    # the behaviours that only some candidates see, padded to the largest number of them in a request
    most = tf.cast(tf.reduce_max(tf.reduce_sum(by_some_BL, axis=1)), tf.int32)
    chosen_BK, indices_BK = tf.math.top_k(by_some_BL, most)
    indices_BK = tf.cast(indices_BK, tf.int64)
    rows_BKX, past = (tf.gather(every, indices_BK, batch_dims=1) for every in (rows_BLX, past))
    seen_BNK = tf.gather(visible, indices_BK, axis=2, batch_dims=1) & (chosen_BK[:, tf.newaxis] > 0.0)
    own_BMN, past_BMK = (tf.transpose(signatures(bits, self.width), [0, 2, 1]) for bits in (own, past))
    collide_BMNK = (own_BMN[..., tf.newaxis] == past_BMK[:, :, tf.newaxis]) & seen_BNK[:, tf.newaxis]
    shape = tf.shape(collide_BMNK)
    collide = tf.reshape(tf.cast(collide_BMNK, tf.float32), [shape[0], self.hashes * shape[2], shape[3]])
    others = tf.reshape(tf.matmul(collide, rows_BKX), [shape[0], self.hashes, shape[2], rows_BLX.shape[-1]])
    return tf.matmul(asked_BMNC, table_BMCX) + others

  def get_config(self) -> dict[str, Any]:
    names = ("hashes", "width", "mode", "l2", "seed")
    return super().get_config() | {name: getattr(self, name) for name in names}


def _flat(one_hot_BLMC: tf.Tensor) -> tf.Tensor:
  """One-hot signatures as `[B, L, m * 2 ** tau]`."""
  shape, (rounds, size) = tf.shape(one_hot_BLMC), one_hot_BLMC.shape[2:]
  return tf.reshape(one_hot_BLMC, [shape[0], shape[1], rounds * size])


def _sees(visible: tf.Tensor) -> tf.Tensor:
  """1 for candidates that see any behaviour, else 0: `[B, N | 1, 1]`."""
  return tf.cast(tf.reduce_any(visible, axis=-1, keepdims=True), tf.float32)


def _who_sees(visible: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Behaviours that all candidates of a request see, and behaviours that only some of them see: 0 or 1, `[B, L]` each.

  Candidates that see nothing, as padded ones may, do not count, so the others still share a table.
  """
  readers_B1 = tf.reduce_sum(_sees(visible), axis=1)
  count_BL = tf.reduce_sum(tf.cast(visible, tf.float32), axis=1)
  seen_BL = count_BL > 0.0
  by_all_BL = count_BL >= readers_B1
  return tf.cast(seen_BL & by_all_BL, tf.float32), tf.cast(seen_BL & ~by_all_BL, tf.float32)
