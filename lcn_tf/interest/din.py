"""DIN over the whole history or over its newest behaviours."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.interest.base import Extractor, every_recency, kept_rows, newest, static_rows
from lcn_tf.layers.din_attention import DINAttention
from lcn_tf.layers.structures import Behaviours, Candidates


@keras.utils.register_keras_serializable("lcn_tf")
class DIN(Extractor):
  """Deep interest network: a small MLP weighs every behaviour against the candidate.

  With z_j = [e_j ; s_j ; r_bucket(j)], the item, side information and recency of behaviour j,

      w_j    = MLP([e_v ; z_j ; e_v - e_j ; e_v * e_j])
      output = sum_{j visible} g_j z_j,   g = softmax(w / sqrt(D)), or g = w

  The candidates of a request share the history, and it is never copied for each of them; see `DINAttention`.

  Departures from the paper: the softmax and the activation; see `DINAttention`.

  Args:
    recent: Number of behaviours that are read, the newest that the candidate sees; 0 = the whole history. The LCN paper
      compares with DIN on whole lifelong histories, the TWIN paper on the newest 100.
    units: Widths of the two hidden layers of `DINAttention`.
    activation: Activation of `DINAttention`.
    norm: Normalisation of the weights in `DINAttention`, "softmax" or "none".

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, side `[B, L, S]`, recency `[R, S']`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[B, N, D + S + S']`. Zeros for a candidate that sees no behaviour. Padding never changes the result.

  Raises:
    ValueError: `recent` is negative, or `DINAttention` refuses an argument.

  Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018,
    https://arxiv.org/abs/1706.06978.
  """

  def __init__(
    self,
    recent: int = 0,
    units: Sequence[int] = (80, 40),
    activation: str = "sigmoid",
    norm: str = "softmax",
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    if recent < 0:
      raise ValueError(f"recent must not be negative; found {recent}")
    self.recent = recent
    self.units = tuple(units)
    self.activation = activation
    self.norm = norm
    self._attention = DINAttention(units, activation, norm, name="attention", dtype=self.dtype_policy)

  def make_weights(self, item_width: int, row_width: int) -> None:
    with tf.name_scope(self._attention.name):
      self._attention.make_weights(item_width, row_width)

  def call(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    if self.recent:
      kept = newest(behaviours.visible, self.recent)
      shape = tf.concat([tf.shape(candidates.times), tf.shape(kept[0])[2:]], axis=0)
      indices_BNK, valid_BNK = (tf.broadcast_to(part, shape) for part in kept)
      return self._attention(candidates.embedding, kept_rows(candidates, behaviours, indices_BNK), valid_BNK)
    recency = every_recency(candidates, behaviours)
    return self._attention(candidates.embedding, static_rows(behaviours), behaviours.visible, recency)

  def get_config(self) -> dict[str, Any]:
    names = ("recent", "units", "activation", "norm")
    return super().get_config() | {name: getattr(self, name) for name in names}
