"""ETA: search by Hamming distance of hashed embeddings, end to end (Chen et al., 2021)."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.interest.two_stage import TwoStage
from lcn_tf.layers.simhash import SimHash, signs
from lcn_tf.layers.structures import Behaviours, Candidates


@keras.saving.register_keras_serializable("lcn_tf")
class ETA(TwoStage):
  """Keeps the behaviours whose hashed embeddings differ least from the candidate's, then attends to them.

      bit_b(x) = [(x R)_b >= 0],   R [D, m] fixed
      dist_j   = sum_b |bit_b(e_v) - bit_b(e_j)|,   E[dist_j] = m theta_j / pi
      kept     = the K visible behaviours of smallest distance, ties to the newer

  What is hashed are the embeddings as they are now, so what is found changes as they learn. Behaviours are hashed once
  for all candidates of a request; all distances are one matrix product of signs, dist = (m - sign_v . sign_j) / 2,
  which was measured to be as fast as counting the differing bits of packed words, and needs no packing.

  Departures from the paper: the ESU is either of the two of `TwoStage`, so that two-stage models differ in their search
  alone ("mha" is ETA's own); only the item embedding is hashed, not the side information. All-zero embeddings, as
  unknown items begin, have one code in common: an unknown candidate finds the unknown behaviours first.

  Args:
    bits: Length m of a code.
    seed: Of R.
    top_k, esu, num_heads, head_dim, output_dim: See `TwoStage`.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[B, N, W]` of the ESU. Zeros for a candidate that sees no behaviour. Padding never changes the result;
    fewer than `top_k` visible behaviours are all used.

  Raises:
    ValueError: A size is not positive, or `esu` is unknown.

  Reference: Chen et al., "End-to-End User Behavior Retrieval in Click-Through Rate Prediction Model", arXiv 2108.04468.
  """

  def __init__(
    self,
    bits: int = 64,
    seed: int = 0,
    top_k: int = 100,
    esu: str = "din",
    num_heads: int = 4,
    head_dim: int = 16,
    output_dim: int = 64,
    **kwargs: Any,
  ):
    super().__init__(top_k, esu, num_heads, head_dim, output_dim, **kwargs)
    self.bits = bits
    self.seed = seed
    self._simhash = SimHash(bits, seed, name="simhash")

  def make_weights(self, item_width: int, row_width: int) -> None:
    super().make_weights(item_width, row_width)
    with tf.name_scope(self._simhash.name):
      self._simhash.build(tf.TensorShape([None, None, item_width]))

  def search(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor]:
    """m - 2 dist, `[B, N, L]`, and what is visible."""
    asked_BNM = signs(self._simhash(candidates.embedding))
    past_BLM = signs(self._simhash(behaviours.embedding))
    return tf.matmul(asked_BNM, past_BLM, transpose_b=True), behaviours.visible

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"bits": self.bits, "seed": self.seed}
