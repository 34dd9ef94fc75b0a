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

  The current embeddings are hashed, so the search follows them as they learn. Behaviours are hashed once for all
  candidates of a request. All distances are one matrix product of signs, dist = (m - sign_v . sign_j) / 2. In
  measurements this was as fast as counting the differing bits of packed words, and it needs no packing.

  Departures from the paper: the ESU is either of the two of `TwoStage`, so that two-stage models differ in their search
  alone; "mha" is ETA's own. Only the item embedding is hashed, not the side information. Unknown items start with
  all-zero embeddings, which have one code in common, so an unknown candidate finds the unknown behaviours first.

  Args:
    bits: Length m of a code.
    seed: Seed of R.
    **kwargs: Arguments of `TwoStage` (`top_k`, `esu`, ...) and of a Keras layer.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.

  Returns:
    Interest `[B, N, W]` of the ESU. Zeros for a candidate that sees no behaviour. Padding never changes the result.
    Fewer than `top_k` visible behaviours are all used.

  Raises:
    ValueError: A size is not positive, or `esu` is unknown.

  Reference: Chen et al., "End-to-End User Behavior Retrieval in Click-Through Rate Prediction Model", arXiv 2108.04468.
  """

  def __init__(
    self,
    bits: int = 64,
    seed: int = 0,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    self.bits = bits
    self.seed = seed
    self._simhash = SimHash(bits, seed, name="simhash")

  def make_weights(self, item_width: int, row_width: int) -> None:
    super().make_weights(item_width, row_width)
    with tf.name_scope(self._simhash.name):
      self._simhash.build(tf.TensorShape([None, None, item_width]))

  def search(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores m - 2 dist, `[B, N, L]`, and the mask of the visible behaviours."""
    asked_BNM = signs(self._simhash(candidates.embedding))
    past_BLM = signs(self._simhash(behaviours.embedding))
    return tf.matmul(asked_BNM, past_BLM, transpose_b=True), behaviours.visible

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"bits": self.bits, "seed": self.seed}
