"""TWIN: one target attention that searches a lifelong history and pools the behaviours that it found."""

from collections.abc import Sequence
from typing import Any, Self

import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.errors import positive
from lcn_tf.interest.base import Extractor, SearchLevel, constant, every_bucket, in_float32, kept_rows, static_rows
from lcn_tf.layers.parts import frozen_zeros
from lcn_tf.layers.pooling import attend_and_pool
from lcn_tf.layers.replicas import gather_rows
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.layers.union_walk import union_walk, walk_order
from lcn_tf.schema import DomainName, Schema

KEYS = ("split", "raw")
PROJECTIONS = ("live", "cached")

_AT_ONCE = 2**24  # largest number of alphas at once; the search holds a few copies


@keras.saving.register_keras_serializable("lcn_tf")
class TWIN(Extractor):
  """Lifelong interest from one target attention used twice: to search all behaviours, and to pool those that it found.

  Both stages score a behaviour by the same numbers. So the search (CP-GSU) hands the pooling (ESU) exactly the
  behaviours that the pooling finds most relevant. To make the search cheap, the features of a behaviour are split. The
  projection of the inherent features of an item (K_h) can be kept per item. Each cross field (K_c) becomes one number
  per behaviour.

      alpha_a = (K_h W_h_a)(q W_q_a)^T / sqrt(E) + sum_j (K_c_j w_aj) beta_aj       Eq. (4)-(6)
      kept    = the first `top_k` behaviours that the heads' rankings, walked rank by rank, meet
      out     = concat_a(softmax(alpha_a[kept]) [K_h, K_c][kept] W_v_a) W_o         Eq. (7), (8)

  Recency is one more cross field, whose embedding depends on the moment of the candidate. Without cross fields there is
  no bias. Nothing is projected row by row: the query is carried through W_h^T, with w_a beta_a as its entries for the
  cross fields, and the pooled row through W_v. The search passes no gradient, so only kept behaviours learn.

  Departures from the paper: it leaves open how equal ranks of several heads are ordered (here head by head), all widths
  and all initial values.

  Args:
    top_k: Behaviours K that the search keeps.
    num_heads: Number H of heads.
    head_dim: Width E of queries, keys and values of a head.
    output_dim: Width of the interest.
    bias: Switch of the cross fields in alpha. False is the ablation "w/o bias"; cross fields are pooled all the same.
    key: Form of the keys: "split" as above, or "raw", plain multi-head target attention with the key [K_h, K_c] W_k_a
      and no bias. Projections of raw keys cannot be kept per item.
    projections: Source of K_h W_h in the search. "live": the current weights. "cached": a table of all items, which
      `lcn_tf.training.projections.refresh` fills now and then. The pooling always reads the current weights.
    cross_widths: Widths of the cross fields in `Behaviours.side`, without recency. None = one field of the full width.
    items: Rows of the history's item catalogue; only cached projections need it.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.
    kept: Behaviours to pool, `(indices, valid)` `[B, N, K]`, from another search. None = the own search.
    pool: Switch of the pooling. False = only the search.
    projected: Projections of the behaviours for the own search, as in `alphas`.

  Returns:
    Interest `[B, N, output_dim]`. Without `pool` the kept behaviours: indices int64 `[B, N, top_k]`, rising, and the
    mask of the valid ones. Zeros for a candidate that sees no behaviour. Padding never changes the result. If a
    candidate sees at most `top_k` behaviours, all are used, as in plain multi-head target attention.

  Raises:
    ValueError: A size is not positive; `key` or `projections` is unknown; cached projections have raw keys or no
      `items`; or `cross_widths` do not add up to the width of `side`.

  Reference: Chang et al., "TWIN: TWo-stage Interest Network for Lifelong User Behavior Modeling in CTR Prediction at
    Kuaishou", KDD 2023, https://arxiv.org/abs/2302.02352
  """

  def __init__(
    self,
    top_k: int = 100,
    num_heads: int = 4,
    head_dim: int = 32,
    output_dim: int = 64,
    bias: bool = True,
    key: str = "split",
    projections: str = "live",
    cross_widths: Sequence[int] | None = None,
    items: int = 0,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    positive(top_k=top_k, num_heads=num_heads, head_dim=head_dim, output_dim=output_dim)
    if key not in KEYS:
      raise ValueError(f"key must be one of {list(KEYS)}; found {key!r}")
    if projections not in PROJECTIONS:
      raise ValueError(f"projections must be one of {list(PROJECTIONS)}; found {projections!r}")
    if projections == "cached" and key == "raw":
      raise ValueError("projections of raw keys depend on cross fields and cannot be 'cached'; set key: split")
    if projections == "cached" and items < 1:
      raise ValueError(f"projections 'cached' need the number of items; found items {items}")
    if cross_widths is not None and any(width < 1 for width in cross_widths):
      raise ValueError(f"cross_widths must be positive; found {list(cross_widths)}")
    self.top_k = top_k
    self.num_heads = num_heads
    self.head_dim = head_dim
    self.output_dim = output_dim
    self.bias = bias
    self.key = key
    self.projections = projections
    self.cross_widths = None if cross_widths is None else list(cross_widths)
    self.items = items
    self.cached: tf.Variable | None = None

  @classmethod
  def options(cls) -> dict[str, Any]:
    return {name: kind for name, kind in super().options().items() if name not in ("cross_widths", "items")}

  @classmethod
  def for_history(cls, config: Model, schema: Schema, domain: DomainName, name: str) -> Self:
    fields = schema.domain(domain).cross_fields
    widths = [config.embedding.dims.get(field.vocabulary, config.embedding.cross_dim) for field in fields]
    return cls(**config.options, cross_widths=widths, items=schema.domain(domain).items, name=name)

  def __call__(self, candidates: Candidates, behaviours: Behaviours, **kwargs: Any) -> tf.Tensor:
    self._side_width = behaviours.side.shape[-1]
    return super().__call__(candidates, behaviours, **kwargs)

  def make_weights(self, item_width: int, row_width: int) -> None:
    heads, head, side = self.num_heads, self.head_dim, self._side_width
    self.query_weight = self.head_weight("query", heads, item_width, head)
    self.key_weight = self.head_weight("key", heads, row_width if self.key == "raw" else item_width, head)
    self.value_weight = self.head_weight("value", heads, row_width, head)
    self.output_weight = self.weight("output", [heads * head, self.output_dim])
    fields = [side] * (side > 0) if self.cross_widths is None else list(self.cross_widths)
    if sum(fields) != side:
      raise ValueError(f"cross_widths must add up to the width {side} of side information; found {fields}")
    self._fields = fields + [row_width - item_width - side] * (row_width > item_width + side)
    self._biased = self.bias and self.key == "split" and bool(self._fields)
    if self._biased:
      self.cross_weight = self.add_weight("cross", [sum(self._fields), heads], initializer=self._cross_initializer)
      self.cross_scale = self.weight("beta", [len(self._fields), heads], "ones")
    self.search_with(self.projections)

  def search_with(self, projections: str) -> None:
    """Sets `projections`. A new table for the cached ones has zeros."""
    self.projections, self.cached = projections, None
    if projections == "cached":
      self.cached = frozen_zeros(self.add_weight, "projections", [self.items, self.num_heads * self.head_dim])

  def _cross_initializer(self, shape: Sequence[int], dtype: Any = None, **kwargs: Any) -> tf.Tensor:
    """Glorot-uniform values per field and head, each initialised as a kernel `[width, 1]` of its own."""
    draw = keras.initializers.GlorotUniform
    heads = [tf.concat([draw()([width, 1], dtype, **kwargs) for width in self._fields], 0) for _ in range(shape[1])]
    return tf.concat(heads, axis=1)

  def call(
    self,
    candidates: Candidates,
    behaviours: Behaviours,
    kept: tuple[tf.Tensor, tf.Tensor] | None = None,
    pool: bool = True,
    projected: tf.Tensor | None = None,
  ) -> Any:
    query_BNHX = self._query(candidates)
    if kept is None:
      kept = self._search(candidates, behaviours, query_BNHX, projected)
    if not pool:
      return kept
    indices_BNK, valid_BNK = kept
    pooled_BNHX = attend_and_pool(query_BNHX, kept_rows(candidates, behaviours, indices_BNK), valid_BNK)
    heads_BNHE = tf.einsum("bnhx,hxe->bnhe", pooled_BNHX, self.value_weight)
    size = tf.shape(candidates.items)
    flat = tf.reshape(heads_BNHE, [size[0], size[1], self.num_heads * self.head_dim])
    return tf.matmul(flat, self.output_weight)

  def _search(
    self, candidates: Candidates, behaviours: Behaviours, query_BNHX: tf.Tensor, projected: tf.Tensor | None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Behaviours that the search unit keeps.

    All candidates are searched at once, or the same number of candidates of every request after another if there would
    be more than `_AT_ONCE` alphas.
    """
    # the search has no gradient
    query_BNHX = tf.stop_gradient(query_BNHX)
    candidates, behaviours = constant(candidates, behaviours)
    keys = self._search_keys(behaviours, projected)
    shape, seen = tf.shape(query_BNHX, out_type=tf.int64), tf.shape(behaviours.visible, out_type=tf.int64)[1]
    total = query_BNHX.shape[1] or shape[1]
    # sizes that are known before the call choose the way there
    alphas = _product(query_BNHX.shape[:3], behaviours.items.shape[1])
    if alphas is None:
      alphas = tf.reduce_prod(shape[:3]) * tf.shape(behaviours.items, out_type=tf.int64)[1]
    chunks = -(-alphas // _AT_ONCE)

    def at_once() -> tuple[tf.Tensor, tf.Tensor]:
      return union_walk(self._alphas(candidates, behaviours, query_BNHX, keys), behaviours.visible, self.top_k)

    def some(places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      # a gather, because a slice at a variable place has no static size for XLA
      chosen = tf.nest.map_structure(lambda part: tf.gather(part, places, axis=1), candidates)
      visible = tf.gather(behaviours.visible, tf.minimum(places, seen - 1), axis=1)
      alphas = self._alphas(chosen, behaviours, tf.gather(query_BNHX, places, axis=1), keys)
      return union_walk(alphas, visible, self.top_k)

    def in_chunks() -> tuple[tf.Tensor, tf.Tensor]:
      least = min if isinstance(chunks, int) else tf.minimum
      size = -(-total // least(chunks, total))
      # the last chunk repeats the last candidate
      places = tf.minimum(tf.range(-(-total // size) * size, dtype=tf.int64), total - 1)
      # chunks beside each other would need the memory that they are to save
      kinds = (tf.int64, tf.bool)
      found = tf.map_fn(some, tf.reshape(places, [-1, size]), parallel_iterations=1, fn_output_signature=kinds)
      joined = (tf.reshape(tf.transpose(part, [1, 0, 2, 3]), [shape[0], -1, self.top_k]) for part in found)
      return tuple(part[:, :total] for part in joined)

    if isinstance(chunks, int):
      indices, valid = at_once() if chunks <= 1 else in_chunks()
    else:
      indices, valid = tf.cond(chunks <= 1, at_once, in_chunks)
    for part in (indices, valid):
      part.set_shape([*query_BNHX.shape[:2], self.top_k])
    return indices, valid

  def search_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """Minus the step at which the walk over the search unit's rankings meets a behaviour."""
    return walk_order(self.alphas(*in_float32(candidates, behaviours)), behaviours.visible)

  def search_levels(
    self, candidates: Candidates, behaviours: Behaviours, projected: tf.Tensor | None = None
  ) -> dict[str, SearchLevel]:
    """As `Extractor.search_levels`: one level, with its alphas."""
    alphas = self.alphas(*in_float32(candidates, behaviours), projected)
    return {"search": SearchLevel(walk_order(alphas, behaviours.visible), alphas)}

  def stored_projections(self, behaviours: Behaviours) -> tf.Tensor | None:
    """As `Extractor.stored_projections`, `[B, L, H * E]`; None for raw keys, which depend on the cross fields."""
    return self.project(tf.cast(behaviours.embedding, tf.float32)) if self.key == "split" else None

  def exact_scores(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """Minus the step at which the same walk over the final attention's rankings of all behaviours meets a behaviour."""
    return walk_order(self.exact_alphas(*in_float32(candidates, behaviours)), behaviours.visible)

  def project(self, items: tf.Tensor) -> tf.Tensor:
    """Projections of item embeddings `[..., D]` through W_h, `[..., H * E]`: the entries of the cached table."""
    key_DHE = tf.transpose(tf.cast(self.key_weight, items.dtype), [1, 0, 2])
    return tf.matmul(items, tf.reshape(key_DHE, [-1, self.num_heads * self.head_dim]))

  def _queries(self, candidates: Candidates) -> tf.Tensor:
    """q W_q / sqrt(E), `[B, N, H, E]`."""
    return tf.einsum("bnd,hde->bnhe", candidates.embedding, self.query_weight) * self.head_dim**-0.5

  def _cross_query(self) -> tf.Tensor:
    """w beta, `[H, C]`: its product with a behaviour's cross fields is the bias."""
    scale_CH = tf.repeat(self.cross_scale, self._fields, axis=0)
    return tf.transpose(self.cross_weight * scale_CH)

  def _query(self, candidates: Candidates) -> tf.Tensor:
    """Queries `[B, N, H, X]`, whose products with rows [K_h, K_c] are the alphas; the part for recency comes last."""
    query_BNHX = tf.einsum("bnhe,hxe->bnhx", self._queries(candidates), self.key_weight)
    if self.key == "raw" or not self._fields:
      return query_BNHX
    if not self._biased:
      return tf.pad(query_BNHX, [[0, 0]] * 3 + [[0, sum(self._fields)]])
    cross_HC = tf.cast(self._cross_query(), query_BNHX.dtype)
    shape = tf.concat([tf.shape(query_BNHX)[:2], cross_HC.shape], axis=0)
    return tf.concat([query_BNHX, tf.broadcast_to(cross_HC, shape)], axis=-1)

  def alphas(self, candidates: Candidates, behaviours: Behaviours, projected: tf.Tensor | None = None) -> tf.Tensor:
    """Scores of all behaviours in the search unit, `[B, N, H, L]`.

    Args:
      candidates: `Candidates`, as in the call.
      behaviours: `Behaviours`, as in the call.
      projected: Result of `project` for the behaviours' embeddings, `[B, L, H * E]`, kept by the caller. None = the
        source that `projections` names.
    """
    keys = self._search_keys(behaviours, projected)
    return self._alphas(candidates, behaviours, self._query(candidates), keys)

  def exact_alphas(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """Scores of all behaviours in the final attention, `[B, N, H, L]`, always by the current weights."""
    return self._alphas(candidates, behaviours, self._query(candidates), static_rows(behaviours))

  def _search_keys(self, behaviours: Behaviours, projected: tf.Tensor | None = None) -> tf.Tensor:
    """Keys of the search unit.

    Returns:
      Live weights: rows `[B, L, X]`. Kept projections: keys by head, `[B, H, L, E + 1]`, the projections and the bias
      of the stored cross fields as the last entry.
    """
    if projected is None and self.cached is None:
      return static_rows(behaviours)
    if projected is None:
      projected = gather_rows(self.cached, tf.cast(behaviours.items, tf.int64))
    projected = tf.cast(projected, behaviours.embedding.dtype)
    keys_BLHE = tf.reshape(projected, tf.concat([tf.shape(projected)[:2], [self.num_heads, self.head_dim]], axis=0))
    if self._biased and self._side_width:
      bias_BLH1 = self.side_bias(behaviours)[..., tf.newaxis]
    else:
      bias_BLH1 = tf.zeros_like(keys_BLHE[..., :1])
    return tf.transpose(tf.concat([keys_BLHE, bias_BLH1], axis=-1), [0, 2, 1, 3])

  def _alphas(
    self, candidates: Candidates, behaviours: Behaviours, query_BNHX: tf.Tensor, keys: tf.Tensor
  ) -> tf.Tensor:
    """Alpha `[B, N, H, L]` from the keys of `_search_keys`."""
    if keys.shape.rank == 3:
      width, shape = keys.shape[-1], tf.shape(query_BNHX)
      query_BMX = tf.reshape(query_BNHX[..., :width], [shape[0], -1, width])
      alphas_BML = tf.matmul(query_BMX, keys, transpose_b=True)
      alphas_BNHL = tf.reshape(alphas_BML, [shape[0], shape[1], self.num_heads, tf.shape(keys)[1]])
    else:
      query_BNHE = self._queries(candidates)
      query_BNHE = tf.concat([query_BNHE, tf.ones_like(query_BNHE[..., :1])], axis=-1)
      alphas_BNHL = tf.einsum("bnhe,bhle->bnhl", query_BNHE, keys)
    return self._with_recency(candidates, behaviours, query_BNHX, alphas_BNHL)

  def side_bias(self, behaviours: Behaviours) -> tf.Tensor:
    """Bias of the stored cross fields, the same for all candidates: `[B, L, H]`."""
    cross_CH = tf.transpose(self._cross_query()[:, : self._side_width])
    return tf.matmul(behaviours.side, tf.cast(cross_CH, behaviours.side.dtype))

  def _with_recency(
    self, candidates: Candidates, behaviours: Behaviours, query_BNHX: tf.Tensor, alphas_BNHL: tf.Tensor
  ) -> tf.Tensor:
    """Adds the part of alpha that depends on a behaviour's age."""
    recency_RS = tf.cast(behaviours.recency, query_BNHX.dtype)
    if not recency_RS.shape[0] or not (self._biased or self.key == "raw"):
      return alphas_BNHL
    bucket_BNL = every_bucket(candidates, behaviours)
    if self._biased:
      cross_HS = tf.cast(self._cross_query()[:, self._side_width :], recency_RS.dtype)
      bias_RH = tf.matmul(recency_RS, cross_HS, transpose_b=True)
      return alphas_BNHL + tf.transpose(tf.gather(bias_RH, bucket_BNL), [0, 1, 3, 2])
    # no matmul: oneDNN writes outside of its memory for [B, 1, H, S] times [R, S] (TensorFlow 2.16)
    bucket_alphas_BNHR = tf.einsum("bnhs,rs->bnhr", query_BNHX[..., -recency_RS.shape[1] :], recency_RS)
    return alphas_BNHL + tf.gather(bucket_alphas_BNHR, bucket_BNL, axis=3, batch_dims=2)

  def get_config(self) -> dict[str, Any]:
    names = ("top_k", "num_heads", "head_dim", "output_dim", "bias", "key", "projections", "cross_widths", "items")
    return super().get_config() | {name: getattr(self, name) for name in names}


def _product(sizes: tf.TensorShape, last: int | None) -> int | None:
  """The product of all sizes; None if one is not known before the call."""
  return None if last is None or not sizes.is_fully_defined() else sizes.num_elements() * last
