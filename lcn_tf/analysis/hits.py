"""Counts of how well one order of the behaviours finds the best of another order.

Ties go to the newer behaviour in both orders.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from lcn_tf.layers.masked import masked_top_k


@dataclasses.dataclass(frozen=True)
class Depths:
  """How far down the two orders are compared.

  Attributes:
    top: Size of the two sets whose overlap is the consistency.
    oracle: Number of the oracle's best behaviours that hits are counted of.
    sizes: Numbers of the search's best behaviours among which hits are counted, the axis S of the hits.
  """

  top: int
  oracle: int
  sizes: tuple[int, ...]


@dataclasses.dataclass
class Tally:
  """Sums over candidates.

  A candidate that sees no more than `Depths.top` behaviours is not counted, since any search finds all of them. The
  hits have the same rule with `Depths.oracle`.

  Attributes:
    counted: Number of candidates that see more than `top` behaviours.
    overlap: Sum over the counted candidates of the share of the oracle's `top` best among the search's `top` best.
    chance: Sum over the counted candidates of that share for a random order, top / visible behaviours.
    curve_counted: Number of candidates that see more than `oracle` behaviours.
    hits: Sum of the hits over these candidates, float64 `[S]`.
    moved: Sum of |search alpha - alpha| over the counted candidates; 0 for a search without alphas.
    alphas: Sum of |alpha| over the counted candidates; 0 for a search without alphas.
  """

  counted: int
  overlap: float
  chance: float
  curve_counted: int
  hits: np.ndarray
  moved: float = 0.0
  alphas: float = 0.0

  def __add__(self, other: "Tally") -> "Tally":
    return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))

  @property
  def consistency(self) -> float:
    """Mean share of the oracle's best that the search finds; NaN if no candidate is counted."""
    return self.overlap / self.counted if self.counted else math.nan

  @property
  def expected(self) -> float:
    """Mean share that a random order would find; NaN if no candidate is counted."""
    return self.chance / self.counted if self.counted else math.nan

  @property
  def drift(self) -> float | None:
    """Sum |search alpha - alpha| / sum |alpha|; None for a search without alphas."""
    return self.moved / self.alphas if self.alphas else None

  @property
  def curve(self) -> np.ndarray:
    """Mean hits by size, `[S]`; NaN if no candidate is counted."""
    return self.hits / self.curve_counted if self.curve_counted else np.full(len(self.hits), np.nan)


def tally(
  search_BNL: tf.Tensor,
  exact_BNL: tf.Tensor,
  visible: tf.Tensor,
  real_BN: tf.Tensor,
  depths: Depths,
  drift: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> Tally:
  """The sums of one batch.

  Args:
    search_BNL: Scores of the search, as in `hits_curve`.
    exact_BNL: Scores of the oracle, as in `hits_curve`.
    visible: Mask of the behaviours that each candidate sees, bool `[B, N | 1, L]`.
    real_BN: Mask of the candidates that are no padding.
    depths: Depths of the comparison.
    drift: Result of `drift_sums`; None for a search without alphas.
  """
  real = np.asarray(real_BN)
  seen = np.broadcast_to(np.asarray(visible).sum(-1), real.shape)
  counted, curve_counted = real & (seen > depths.top), real & (seen > depths.oracle)
  overlap = hits_curve(search_BNL, exact_BNL, visible, [depths.top], depths.top).numpy()[..., 0] / depths.top
  hits = hits_curve(search_BNL, exact_BNL, visible, depths.sizes, depths.oracle).numpy()
  moved, alphas = [float(np.asarray(one)[counted].sum()) for one in drift] if drift else (0.0, 0.0)
  return Tally(
    counted=int(counted.sum()),
    overlap=float(overlap[counted].sum()),
    chance=float((depths.top / np.maximum(seen, 1))[counted].sum()),
    curve_counted=int(curve_counted.sum()),
    hits=hits[curve_counted].sum(0).astype(np.float64),
    moved=moved,
    alphas=alphas,
  )


def hits_curve(
  search_BNL: tf.Tensor, exact_BNL: tf.Tensor, visible: tf.Tensor, sizes: Sequence[int], oracle: int
) -> tf.Tensor:
  """Number of the best behaviours by one score that are among the best by another score.

  Args:
    search_BNL: Scores of the search, higher first, ties to the lower index. Invisible behaviours may have any score.
    exact_BNL: Scores of the oracle, with the same rules.
    visible: Mask of the behaviours that each candidate sees, bool `[B, N | 1, L]`.
    sizes: Numbers of the best by `search_BNL` that are looked at, the axis S of the result.
    oracle: Number of the best by `exact_BNL` that are looked for.

  Returns:
    int64 `[B, N, S]`: at most min(size, oracle, visible behaviours).
  """
  search_BNL, exact_BNL = (_above_masked(scores) for scores in (search_BNL, exact_BNL))
  order_BNL = tf.argsort(tf.where(visible, search_BNL, tf.float32.min), direction="DESCENDING", stable=True)
  places_BNL = tf.argsort(order_BNL)
  best_BNK, valid_BNK = masked_top_k(exact_BNL, visible, oracle)
  places_BNK = tf.gather(places_BNL, tf.cast(best_BNK, tf.int64), batch_dims=2)
  found_BNSK = (places_BNK[:, :, tf.newaxis] < tf.reshape(tf.constant(sizes), [-1, 1])) & valid_BNK[:, :, tf.newaxis]
  return tf.math.count_nonzero(found_BNSK, axis=-1)


def _above_masked(scores: tf.Tensor) -> tf.Tensor:
  """Scores above the value that masks write: a behaviour that a hard filter left out is still visible."""
  return tf.maximum(tf.cast(scores, tf.float32), tf.float32.min / 2)


def drift_sums(alphas_BNHL: tf.Tensor, exact_BNHL: tf.Tensor, visible: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Sums of |search alpha - alpha| and of |alpha| over heads and visible behaviours, `[B, N]` each.

  Args:
    alphas_BNHL: Alphas of the search.
    exact_BNHL: Alphas of the final attention.
    visible: Mask of the behaviours that each candidate sees, bool `[B, N | 1, L]`.
  """

  def total(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.where(visible[:, :, tf.newaxis], tf.abs(values), 0.0), axis=[2, 3])

  return total(alphas_BNHL - exact_BNHL), total(exact_BNHL)
