"""TWIN: one target attention that both searches a lifelong history and pools what it found."""

from collections.abc import Sequence
from typing import Any, Self

import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.errors import positive
from lcn_tf.interest.base import Extractor, SearchLevel, every_bucket, in_float32, kept_rows, static_rows
from lcn_tf.layers.pooling import attend_and_pool
from lcn_tf.layers.replicas import on_replica
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.layers.union_walk import union_walk, walk_keys
from lcn_tf.schema import DomainName, Schema

KEYS = ("split", "raw")
PROJECTIONS = ("live", "cached")

_AT_ONCE = 2**24  # alphas, of which the search has a few copies


@keras.saving.register_keras_serializable("lcn_tf")
class TWIN(Extractor):
  """Lifelong interest by one target attention used twice: to search all behaviours, and to pool those that it found.

  Both stages score a behaviour by the same numbers, so the search (CP-GSU) hands the pooling (ESU) exactly what the
  pooling would have found most relevant itself. To be that cheap, a behaviour's features are split: the projection of
  what an item inherently is (K_h) can be kept per item, and each cross field (K_c) becomes one number per behaviour.

      alpha_a = (K_h W_h_a)(q W_q_a)^T / sqrt(E) + sum_j (K_c_j w_aj) beta_aj       Eq. (4)-(6)
      kept    = the first `top_k` behaviours that the heads' rankings, walked rank by rank, meet
      out     = concat_a(softmax(alpha_a[kept]) [K_h, K_c][kept] W_v_a) W_o         Eq. (7), (8)

  Recency is one more cross field; its embedding depends on when the candidate is shown. Nothing is projected row by
  row: the query is carried through W_h^T (with w_a beta_a as its entries for the cross fields) and the pooled row
  through W_v. The search passes no gradient, only kept behaviours learn. Without cross fields there is no bias.

  Departures from the paper: it leaves open how ranks are broken up (head by head here), all widths and initialisations.

  Args:
    top_k: Behaviours K that the search keeps.
    num_heads, head_dim: Of the attention; `head_dim` is the width of queries, keys and values.
    output_dim: Width of the interest.
    bias: Whether cross fields count in alpha ("w/o bias" is False; they are pooled all the same).
    key: "split" as above, or "raw": plain multi-head target attention, key = [K_h, K_c] W_k_a and no bias. Its
      projections cannot be kept per item.
    projections: What the search reads of K_h W_h. "live": this moment's weights. "cached": a table of all items
      that `lcn_tf.training.projections.refresh` fills now and then; the pooling reads this moment's weights always.
    cross_widths: Widths of the cross fields in `Behaviours.side`, recency not among them; None: it is one field.
    items: Rows of the history's item catalogue; only cached projections need it.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.
    kept: `(indices, valid)` `[B, N, K]`, to pool what something else found; None: search.
    pool: Off: only search.

  Returns:
    Interest `[B, N, output_dim]`, or without `pool` what the search kept: indices int64 `[B, N, top_k]`, rising, and
    which of them are valid. Zeros for a candidate that sees no behaviour. Padding never changes the result; at
    most `top_k` visible behaviours are all used, which makes it plain multi-head target attention.

  Raises:
    ValueError: A size is not positive, an unknown `key` or `projections`, cached projections of raw keys or without
      `items`, or `cross_widths` that do not add up to the width of `side`.

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
  def options(cls) -> list[str]:
    return [name for name in super().options() if name not in ("cross_widths", "items")]

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
    if self.projections == "cached":
      self.cached = self.add_weight("projections", [self.items, heads * head], initializer="zeros", trainable=False)

  def _cross_initializer(self, shape: Sequence[int], dtype: Any = None, **kwargs: Any) -> tf.Tensor:
    """Glorot-uniform per field and head, as the `[width, 1]` kernel that each of them is."""
    glorot = keras.initializers.GlorotUniform
    heads = [
      tf.concat([glorot()([width, 1], dtype, **kwargs) for width in self._fields], axis=0) for _ in range(shape[1])
    ]
    return tf.concat(heads, axis=1)

  def call(
    self,
    candidates: Candidates,
    behaviours: Behaviours,
    kept: tuple[tf.Tensor, tf.Tensor] | None = None,
    pool: bool = True,
  ) -> Any:
    query_BNHX = self._query(candidates)
    if kept is None:
      kept = self._search(candidates, behaviours, query_BNHX)
    if not pool:
      return kept
    indices_BNK, valid_BNK = kept
    pooled_BNHX = attend_and_pool(query_BNHX, kept_rows(candidates, behaviours, indices_BNK), valid_BNK)
    heads_BNHE = tf.einsum("bnhx,hxe->bnhe", pooled_BNHX, self.value_weight)
    size = tf.shape(candidates.items)
    flat = tf.reshape(heads_BNHE, [size[0], size[1], self.num_heads * self.head_dim])
    return tf.matmul(flat, self.output_weight)

  def _search(
    self, candidates: Candidates, behaviours: Behaviours, query_BNHX: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """What the search unit keeps; one candidate of each request after the other where all alphas would be too many."""
    # nothing of the search has a gradient
    query_BNHX = tf.stop_gradient(query_BNHX)
    candidates, behaviours = tf.nest.map_structure(_constant, (candidates, behaviours))
    keys = self._search_keys(behaviours)

    def at_once() -> tuple[tf.Tensor, tf.Tensor]:
      return union_walk(self._alphas(candidates, behaviours, query_BNHX, keys), behaviours.visible, self.top_k)

    def one(n: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      # a slice from a running n has no static size for XLA
      candidate = tf.nest.map_structure(lambda part: tf.gather(part, n[tf.newaxis], axis=1), candidates)
      query_B1HX = tf.gather(query_BNHX, n[tf.newaxis], axis=1)
      seen = tf.minimum(n, tf.shape(behaviours.visible, out_type=tf.int64)[1] - 1)
      visible_B1L = tf.gather(behaviours.visible, seen[tf.newaxis], axis=1)
      alphas_B1HL = self._alphas(candidate, behaviours, query_B1HX, keys)
      return tuple(part[:, 0] for part in union_walk(alphas_B1HL, visible_B1L, self.top_k))

    def one_by_one() -> tuple[tf.Tensor, tf.Tensor]:
      found = tf.map_fn(
        one, tf.range(tf.shape(query_BNHX, out_type=tf.int64)[1]), fn_output_signature=(tf.int64, tf.bool)
      )
      return tuple(tf.transpose(part, [1, 0, 2]) for part in found)

    shape = tf.shape(query_BNHX, out_type=tf.int64)
    alphas = tf.reduce_prod(shape[:3]) * tf.shape(behaviours.items, out_type=tf.int64)[1]
    indices, valid = tf.cond(alphas <= _AT_ONCE, at_once, one_by_one)
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
    """Minus the step at which the same walk over the final attention's rankings of all behaviours meets one."""
    return walk_order(self.exact_alphas(*in_float32(candidates, behaviours)), behaviours.visible)

  def project(self, items: tf.Tensor) -> tf.Tensor:
    """What is kept of items: their embeddings `[..., D]` through W_h, `[..., H * E]`."""
    key_DHE = tf.transpose(tf.cast(self.key_weight, items.dtype), [1, 0, 2])
    return tf.matmul(items, tf.reshape(key_DHE, [-1, self.num_heads * self.head_dim]))

  def _queries(self, candidates: Candidates) -> tf.Tensor:
    """q W_q / sqrt(E), `[B, N, H, E]`."""
    return tf.einsum("bnd,hde->bnhe", candidates.embedding, self.query_weight) * self.head_dim**-0.5

  def _cross_query(self) -> tf.Tensor:
    """w beta, so that one product with a behaviour's cross fields gives its bias, `[H, C]`."""
    scale_CH = tf.repeat(self.cross_scale, self._fields, axis=0)
    return tf.transpose(self.cross_weight * scale_CH)

  def _query(self, candidates: Candidates) -> tf.Tensor:
    """What gives alpha as its product with a behaviour's row [K_h, K_c], recency last: `[B, N, H, X]`."""
    query_BNHX = tf.einsum("bnhe,hxe->bnhx", self._queries(candidates), self.key_weight)
    if self.key == "raw" or not self._fields:
      return query_BNHX
    if not self._biased:
      return tf.pad(query_BNHX, [[0, 0]] * 3 + [[0, sum(self._fields)]])
    cross_HC = tf.cast(self._cross_query(), query_BNHX.dtype)
    shape = tf.concat([tf.shape(query_BNHX)[:2], cross_HC.shape], axis=0)
    return tf.concat([query_BNHX, tf.broadcast_to(cross_HC, shape)], axis=-1)

  def alphas(self, candidates: Candidates, behaviours: Behaviours, projected: tf.Tensor | None = None) -> tf.Tensor:
    """What the search unit scores all behaviours with, `[B, N, H, L]`.

    Args:
      projected: `project` of the behaviours' embeddings `[B, L, H * E]`, if the caller kept them; None: what
        `projections` says.
    """
    keys = self._search_keys(behaviours, projected)
    return self._alphas(candidates, behaviours, self._query(candidates), keys)

  def exact_alphas(self, candidates: Candidates, behaviours: Behaviours) -> tf.Tensor:
    """What the final attention scores all behaviours with, `[B, N, H, L]`: by this moment's weights, always."""
    return self._alphas(candidates, behaviours, self._query(candidates), static_rows(behaviours))

  def _search_keys(self, behaviours: Behaviours, projected: tf.Tensor | None = None) -> tf.Tensor:
    """What the search unit holds queries against: rows `[B, L, X]` of live weights, or by head, `[B, H, L, E + 1]`, the
    projections and, as one more entry, the bias of the stored cross fields."""
    if projected is None and self.cached is None:
      return static_rows(behaviours)
    if projected is None:
      projected = tf.gather(on_replica(self.cached), tf.cast(behaviours.items, tf.int64))
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
    """Alpha by `_search_keys`, `[B, N, H, L]`."""
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
    """The bias of the stored cross fields, the same for all candidates: `[B, L, H]`."""
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
    # no matmul: [B, 1, H, S] times [R, S] corrupts memory (TensorFlow 2.16, oneDNN)
    bucket_alphas_BNHR = tf.einsum("bnhs,rs->bnhr", query_BNHX[..., -recency_RS.shape[1] :], recency_RS)
    return alphas_BNHL + tf.gather(bucket_alphas_BNHR, bucket_BNL, axis=3, batch_dims=2)

  def get_config(self) -> dict[str, Any]:
    names = ("top_k", "num_heads", "head_dim", "output_dim", "bias", "key", "projections", "cross_widths", "items")
    return super().get_config() | {name: getattr(self, name) for name in names}


def walk_order(alphas_BNHL: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
  """Minus the step at which the walk over the heads' rankings meets a behaviour, float32 `[B, N, L]`."""
  return -walk_keys(alphas_BNHL, visible, tf.shape(alphas_BNHL)[-1])


def _constant(tensor: tf.Tensor) -> tf.Tensor:
  return tf.stop_gradient(tensor) if tensor.dtype.is_floating else tensor
