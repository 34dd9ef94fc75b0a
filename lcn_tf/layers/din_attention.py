"""DIN's attention: a small network weighs each behaviour against the candidate."""

from collections.abc import Sequence
from typing import Any

from tensorflow import keras

NORMS = ("softmax", "none")


@keras.saving.register_keras_serializable("lcn_tf")
class DINAttention(keras.layers.Layer):
  """Weighs what a candidate kept of its history by an MLP over pairs, and sums it.

      w_j = W_3 act(W_2 act(W_1 [e_v ; z_j ; e_v - e_j ; e_v * e_j] + b_1) + b_2) + b_3
      out = sum_j g_j z_j,   g = softmax(w / sqrt(D)), or g = w

  where e_j, the item, is the first D columns of z_j. W_1 is applied block by block: what depends on the candidate alone
  and on the behaviour alone is not repeated for each pair.

  Args:
    units: Widths of the two hidden layers.
    activation: "sigmoid", "relu", or any other that keeps no statistics of the batch (padding would be among them).
    norm: "softmax", or "none": the raw intensities of the DIN paper.

  Call arguments:
    candidates: `[B, N, D]`.
    rows: `[B, N, K, X]`, X >= D; the first D columns are the item embedding.
    valid: bool `[B, N, K]`.

  Returns:
    `[B, N, X]`; zeros for a candidate without a valid behaviour.

  Raises:
    ValueError: A width is not positive, or `norm` is unknown.

  Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, section 4.3.
  """

  def __init__(
    self, units: Sequence[int] = (80, 40), activation: str = "sigmoid", norm: str = "softmax", **kwargs: Any
  ):
    super().__init__(**kwargs)
    if len(units) != 2 or min(units) < 1:
      raise ValueError(f"units: expected two positive widths, found {list(units)}")
    if norm not in NORMS:
      raise ValueError(f"norm must be one of {list(NORMS)}; found {norm!r}")
    self.units = tuple(units)
    self.activation = activation
    self.norm = norm
    self._activation = keras.activations.get(activation)
