"""The common part of all interest extractors."""

from typing import Any, ClassVar, Literal, NamedTuple, Self

import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.config.options import parameter_types
from lcn_tf.layers.masked import gather_rows, masked_top_k
from lcn_tf.layers.structures import Behaviours, Candidates, age_buckets
from lcn_tf.schema import DomainName, Schema


class SearchLevel(NamedTuple):
  """The result of one level of a search.

  Attributes:
    scores: The order of the behaviours after the level, float32 `[B, N, L]`, as `Extractor.search_scores` returns it.
    alphas: The scores by head, float32 `[B, N, H, L]`, of a search that approximates `Extractor.exact_alphas`; None for
      other searches.
  """

  scores: tf.Tensor
  alphas: tf.Tensor | None = None


class Extractor(keras.layers.Layer):
  """An extractor turns candidates and one history into an interest per candidate, `[B, N, W]`.

  Keras builds a layer from the shapes of its first argument alone. An extractor needs the shapes of both arguments, so
  it makes its weights in `make_weights(item_width, row_width)`, once, at the first call. `row_width` is the width of a
  behaviour with its side information and recency.

  Attributes:
    pretrained: Frozen item data that the extractor reads and that must be made before training: `vectors`, or the
      `clusters`, which are the last two columns of `fields`. What it does not name is not made.
  """

  pretrained: ClassVar[tuple[Literal["vectors", "clusters"], ...]] = ()

  @property
  def key_width(self) -> int:
    """Width A of the learned keys that it searches with, `keys` of candidates and behaviours; 0 = it reads none."""
    return 0

  def __init__(self, **kwargs: Any):
    # no autocast: frozen vectors keep their dtype, so that training searches as serving does
    super().__init__(autocast=False, **kwargs)

  @property
  def compiles(self) -> bool:
    """Whether XLA can compile the extractor with its options."""
    return True

  @classmethod
  def options(cls) -> dict[str, Any]:
    """Types of the options that `model.options` of an experiment may set, by name.

    They are the arguments of the constructor, then those of the extractors that it derives from.
    """
    found: dict[str, Any] = {}
    for owner in cls.__mro__[: cls.__mro__.index(Extractor)]:
      if "__init__" in vars(owner):
        found |= {name: kind for name, kind in parameter_types(owner).items() if name not in found}
    return found

  @classmethod
  def for_history(cls, config: Model, schema: Schema, domain: DomainName, name: str) -> Self | None:
    """The extractor of one domain's history for target-domain candidates; None if it cannot find anything there.

    An extractor that needs more than its options overrides this, to read columns of the catalogue or widths of cross
    fields.
    """
    return cls(**config.options, name=name)

  def make_weights(self, item_width: int, row_width: int) -> None:
    """Makes the layer's variables."""

  def __call__(self, candidates: Candidates, behaviours: Behaviours, **kwargs: Any) -> tf.Tensor:
    if not getattr(self, "_weights_made", False):
      item, side = behaviours.embedding.shape[-1], behaviours.side.shape[-1]
      recency = behaviours.recency.shape
      with tf.init_scope(), tf.name_scope(self.name):
        self.make_weights(item, item + side + (recency[1] if recency[0] else 0))
      self._weights_made = True
    candidates = candidates._replace(
      embedding=tf.cast(candidates.embedding, self.compute_dtype), keys=tf.cast(candidates.keys, self.compute_dtype)
    )
    # recency stays float32, because the gradient of each of its few rows is a sum of many terms
    floats = {name: tf.cast(getattr(behaviours, name), self.compute_dtype) for name in ("embedding", "side", "keys")}
    return super().__call__(candidates, behaviours._replace(**floats), **kwargs)

  def search_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """Order in which all stages before the final attention find the behaviours: float32 `[B, N, L]`, higher first.

    Only the order counts, and ties go to the newer behaviour. Invisible behaviours may have any score.
    """
    raise NotImplementedError(f"{type(self).__name__} does not search")

  def search_levels(
    self, candidates: Candidates, behaviours: Behaviours, projected: tf.Tensor | None = None
  ) -> dict[str, SearchLevel]:
    """The levels of the search, first to last, by the name that tables give to them.

    Args:
      candidates: Candidates, as in `call`.
      behaviours: Behaviours, as in `call`.
      projected: Projections of the behaviours by `stored_projections` of an older model; None: this model's own.
    """
    return {"search": SearchLevel(self.search_scores(candidates, behaviours))}

  def stored_projections(self, behaviours: Behaviours) -> tf.Tensor | None:
    """Projections of the behaviours that a system may store per item and search later; None if there are none."""
    return None

  def exact_alphas(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor | None:
    """Scores by head behind `exact_scores`, `[B, N, H, L]`; None unless the search computes the same scores."""
    return None

  def exact_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """Scores of the final attention if it read every behaviour: float32 `[B, N, L]`, higher first.

    Several heads are averaged after the softmax over the visible behaviours.
    """
    raise NotImplementedError(f"{type(self).__name__} does not search")

  def mult_adds(self, sizes: Any) -> tuple[int, int] | None:
    """Mult-adds of a request, as the paper's equations cost and as the graph must count; None = see the analysis.

    Args:
      sizes: `lcn_tf.analysis.formulas.Sizes`.
    """
    return None

  def weight(self, name: str, shape: list[int], initializer: str = "glorot_uniform") -> tf.Variable:
    return self.add_weight(name, shape, initializer=initializer)

  def head_weight(self, name: str, heads: int, width: int, head_dim: int) -> tf.Variable:
    """Weights `[heads, width, head_dim]`, Glorot-uniform as the one matrix `[width, heads * head_dim]` they replace."""
    limit = (6.0 / (width + heads * head_dim)) ** 0.5
    return self.add_weight(name, [heads, width, head_dim], initializer=keras.initializers.RandomUniform(-limit, limit))


def in_float32(candidates: Candidates, behaviours: Behaviours) -> tuple[Candidates, Behaviours]:
  """Both arguments with float32 numbers, for work outside of a layer's call, where weights are float32."""

  def cast(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor

  return tf.nest.map_structure(cast, (candidates, behaviours))


def constant(candidates: Candidates, behaviours: Behaviours) -> tuple[Candidates, Behaviours]:
  """Both arguments without gradients."""

  def stop(tensor: tf.Tensor) -> tf.Tensor:
    return tf.stop_gradient(tensor) if tensor.dtype.is_floating else tensor

  return tf.nest.map_structure(stop, (candidates, behaviours))


def static_rows(behaviours: Behaviours) -> tf.Tensor:
  """Stored part of each behaviour: item embedding and side information, `[B, L, D + S]`."""
  if behaviours.side.shape[-1] == 0:
    return behaviours.embedding
  return tf.concat([behaviours.embedding, behaviours.side], axis=-1)


def kept_buckets(candidates: Candidates, behaviours: Behaviours, indices: tf.Tensor) -> tf.Tensor:
  """Age bucket of each kept behaviour when its candidate is shown, `[B, N, K]` int64.

  Args:
    candidates: `Candidates`; only their times are read.
    behaviours: `Behaviours`; their times and the number of age buckets are read.
    indices: Kept behaviours, `[B, N, K]` in [0, L).
  """
  times = gather_rows(behaviours.times, indices)
  return age_buckets(candidates.times[..., tf.newaxis], times, behaviours.recency.shape[0])


def kept_recency(candidates: Candidates, behaviours: Behaviours, indices: tf.Tensor) -> tf.Tensor | None:
  """Embedded age of kept behaviours, `[B, N, K, d_s]`; None if age is no feature. Arguments as in `kept_buckets`."""
  if not behaviours.recency.shape[0]:
    return None
  buckets = kept_buckets(candidates, behaviours, indices)
  return tf.cast(tf.gather(behaviours.recency, buckets), behaviours.embedding.dtype)


def kept_rows(candidates: Candidates, behaviours: Behaviours, indices: tf.Tensor) -> tf.Tensor:
  """Item embedding, side information and recency of kept behaviours, `[B, N, K, X]`; arguments as in `kept_buckets`."""
  rows = gather_rows(static_rows(behaviours), indices)
  recency = kept_recency(candidates, behaviours, indices)
  return rows if recency is None else tf.concat([rows, recency], axis=-1)


def newest(visible: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
  """The newest behaviours that each candidate sees.

  Args:
    visible: Mask, bool `[B, N | 1, L]`.
    count: Largest number of behaviours. K = min(count, L), so short histories are not padded to it.

  Returns:
    Indices `[B, N | 1, K]` int64, 0 where there are no more behaviours, and the mask of the real ones, bool.
  """
  length = tf.shape(visible, out_type=tf.int64)[-1]
  indices, valid = masked_top_k(-tf.cast(tf.range(length), tf.float32), visible, count)
  kept = tf.minimum(tf.constant(count, tf.int64), length)
  return indices[..., :kept], valid[..., :kept]


def every_bucket(candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
  """Age bucket of every behaviour when each candidate is shown, `[B, N, L]` int64; only if age is a feature."""
  return age_buckets(candidates.times[..., tf.newaxis], behaviours.times[:, tf.newaxis], behaviours.recency.shape[0])


def every_recency(candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor] | None:
  """Embeddings of the age buckets `[R, d_s]`, and `every_bucket`; None if age is no feature."""
  return (behaviours.recency, every_bucket(candidates, behaviours)) if behaviours.recency.shape[0] else None
