"""MiNet: mixed interest network, with the source domain's clicks as a second task."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.errors import positive
from lcn_tf.interest.base import Extractor, kept_recency, newest, static_rows
from lcn_tf.layers.masked import gather_rows, masked_softmax
from lcn_tf.layers.mlp import MLP
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.models.base import Batch, concat_per_candidate
from lcn_tf.models.embedder import Embedded
from lcn_tf.models.two_domain import TwoDomain
from lcn_tf.schema import DOMAINS, DomainName

GATES = ("user", *DOMAINS)


@keras.saving.register_keras_serializable("lcn_tf")
class ItemAttention(Extractor):
  """Item-level attention of MiNet: weighs the newest clicks of a domain against a candidate and its user.

      b_j = h . ReLU([x_j ; q ; p ; (r_j M) * q] V)
      a   = sum_j softmax(b)_j x_j

  r_j is the item of a behaviour, x_j = [r_j ; side information ; recency], q the candidate and p the profile. M is the
  identity, or a product H_a H_b of low rank that carries items of another domain to the candidate's domain for the
  comparison. The sum a has the behaviours themselves, without M.

  V is applied block by block, and q is folded into the block of the product: sum_d (r M)_d q_d V_d is r times the
  matrix M diag(q) V of the candidate. So a behaviour costs one product of its own width, and neither r M nor r * q is
  computed.

  Departures from the paper: clicks have side information and recency beside the item, as in all models here. Padding
  has no part in the softmax; the authors' program gives it weight.

  Args:
    recent: Number of behaviours that are read, the newest that a candidate sees.
    attention_units: Hidden width.
    transfer_rank: Rank of M; 0 = M is the identity.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, visible `[B, N | 1, L]`.
    profile: Embedded profile, `[B, P]`; P may be 0.

  Returns:
    Interest `[B, N, X]`. Zeros for a candidate that sees no behaviour. Padding never changes the result.

  Raises:
    ValueError: `recent` or `attention_units` is not positive, or `transfer_rank` is negative.

  Reference: Ouyang et al., "MiNet: Mixed Interest Network for Cross-Domain Click-Through Rate Prediction", CIKM 2020.
  """

  def __init__(self, recent: int = 100, attention_units: int = 64, transfer_rank: int = 0, **kwargs: Any):
    super().__init__(**kwargs)
    positive(recent=recent, attention_units=attention_units)
    if transfer_rank < 0:
      raise ValueError(f"transfer_rank must not be negative; found {transfer_rank}")
    self.recent = recent
    self.attention_units = attention_units
    self.transfer_rank = transfer_rank

  def __call__(self, candidates: Candidates, behaviours: Behaviours, **kwargs: Any) -> tf.Tensor:
    # Keras casts the first argument alone
    kwargs["profile"] = tf.cast(kwargs["profile"], self.compute_dtype)
    self._profile_width = kwargs["profile"].shape[-1]
    return super().__call__(candidates, behaviours, **kwargs)

  def make_weights(self, item_width: int, row_width: int) -> None:
    self._blocks = [row_width, item_width, self._profile_width, item_width]
    self.hidden = self.weight("hidden", [sum(self._blocks), self.attention_units])
    self.score = self.weight("score", [self.attention_units, 1])
    if self.transfer_rank:
      self.transfer_in = self.weight("transfer_in", [item_width, self.transfer_rank])
      self.transfer_out = self.weight("transfer_out", [self.transfer_rank, item_width])

  def call(self, candidates: Candidates, behaviours: Behaviours, profile: tf.Tensor) -> tf.Tensor:
    query = candidates.embedding
    indices_BNK, valid_BNK = newest(behaviours.visible, self.recent)
    rows_BNKX = gather_rows(static_rows(behaviours), indices_BNK)
    recency_BNKS = kept_recency(candidates, behaviours, indices_BNK)

    row_XH, query_DH, profile_PH, product_DH = tf.split(self.hidden, self._blocks)
    static_XH, recency_SH = row_XH[: rows_BNKX.shape[-1]], row_XH[rows_BNKX.shape[-1] :]
    once_BNH = tf.matmul(query, query_DH) + tf.matmul(profile, profile_PH)[:, tf.newaxis]
    product_BNDH = self._product(query, product_DH)
    side = static_XH.shape[0] - query.shape[-1]
    kernel_BNXH = static_XH + tf.pad(product_BNDH, [[0, 0], [0, 0], [0, side], [0, 0]])
    hidden_BNKH = tf.matmul(rows_BNKX, kernel_BNXH) + once_BNH[:, :, tf.newaxis]
    if recency_BNKS is not None:
      hidden_BNKH += tf.tensordot(recency_BNKS, recency_SH, 1)
    # no matmul: oneDNN writes outside of its memory for four axes times a matrix (TensorFlow 2.16)
    scores_BNK = tf.tensordot(tf.nn.relu(hidden_BNKH), self.score, 1)[..., 0]

    weights_BN1K = tf.cast(masked_softmax(scores_BNK, valid_BNK), query.dtype)[:, :, tf.newaxis]
    pooled = [tf.matmul(weights_BN1K, rows) for rows in (rows_BNKX, recency_BNKS) if rows is not None]
    return tf.concat(pooled, axis=-1)[:, :, 0]

  def _product(self, query: tf.Tensor, product_DH: tf.Tensor) -> tf.Tensor:
    """M diag(q) V of each candidate, `[B, N, D, H]`."""
    if not self.transfer_rank:
      return query[..., tf.newaxis] * product_DH
    # H_b diag(q) V for all candidates as one product
    width, units = product_DH.shape
    inner_DE = tf.reshape(self._inner(product_DH), [width, self.transfer_rank * units])
    shape = tf.concat([tf.shape(query)[:2], [self.transfer_rank, units]], axis=0)
    return tf.matmul(self.transfer_in, tf.reshape(tf.matmul(query, inner_DE), shape))

  def _inner(self, product_DH: tf.Tensor) -> tf.Tensor:
    """Tensor `[D, rank, H]` whose entry (d, r, h) is H_b[r, d] V[d, h]."""
    return tf.transpose(self.transfer_out)[..., tf.newaxis] * product_DH[:, tf.newaxis]

  def get_config(self) -> dict[str, Any]:
    names = ("recent", "attention_units", "transfer_rank")
    return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("lcn_tf")
class InterestGates(keras.layers.Layer):
  """Interest-level attention of MiNet: the weight of each interest for a candidate.

      v_k = exp(clip(g_k . ReLU(z W_k) + b_k, -limit, limit)),  k = user, target, source

  The gates are independent of each other and not normalised. b starts as (1, 0, 0).

  Departures from the paper: the clip, so that no gate can overflow.

  Args:
    attention_units: Hidden width of each gate.
    limit: Largest absolute value of a gate's logarithm.

  Call arguments:
    inputs: Inputs z, `[..., Z]`.

  Returns:
    Gates, float32 `[..., 3]`.

  Raises:
    ValueError: `attention_units` or `limit` is not positive.
  """

  def __init__(self, attention_units: int = 64, limit: float = 5.0, **kwargs: Any):
    super().__init__(**kwargs)
    positive(attention_units=attention_units, limit=limit)
    self.attention_units = attention_units
    self.limit = limit

  def build(self, shape: tf.TensorShape) -> None:
    # Glorot-uniform per gate
    limit = (6.0 / (shape[-1] + self.attention_units)) ** 0.5
    uniform = keras.initializers.RandomUniform(-limit, limit)
    self.hidden = self.add_weight("hidden", [shape[-1], len(GATES) * self.attention_units], initializer=uniform)
    self.score = self.add_weight("score", [len(GATES), self.attention_units], initializer="glorot_uniform")
    self.bias = self.add_weight("bias", [len(GATES)], initializer=lambda *_, **__: tf.constant([1.0, 0.0, 0.0]))
    super().build(shape)

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    hidden = tf.nn.relu(tf.matmul(inputs, self.hidden))
    shape = tf.concat([tf.shape(inputs)[:-1], [len(GATES), self.attention_units]], axis=0)
    scores = tf.reduce_sum(tf.reshape(hidden, shape) * self.score, axis=-1) + self.bias
    return tf.exp(tf.clip_by_value(tf.cast(scores, tf.float32), -self.limit, self.limit))

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"attention_units": self.attention_units, "limit": self.limit}


class MiNet(TwoDomain):
  """Mixed interest network: the long-term interest p and the short-term interests of both domains, gated per candidate.

      a_t, a_s = ItemAttention of the newest clicks of each domain; with a transfer matrix for the source domain
      v        = InterestGates([q ; p ; a_t ; a_s])
      logit_t  = w . MLP_t([v_u p ; context ; q ; v_t a_t ; v_s a_s]) + b
      logit_s  = w' . MLP_s([p ; context ; q_s]) + b'
      L        = L_t + gamma L_s

  The source task shares the tables of the profile and of the source items with the target task. It is not served.

  Departures from the paper:
  * The newest 100 clicks of each domain are read, not 10 and 20. `ItemAttention` has departures of its own.
  * The profile's fields stand for the user. A schema with the user's id among them is the paper's case.
  * Hidden layers have biases and the widths of `model.mlp`. The context of the candidate is an input of both tasks.
  * Tables start as in the rest of the project.

  Options:
    recent: Number of behaviours of each history that are read, the newest ones.
    attention_units: Hidden width of both attentions and of the gates.
    transfer_rank: Rank of the transfer matrix.
    gamma: Weight of the source task's loss.

  Reference: Ouyang et al., "MiNet: Mixed Interest Network for Cross-Domain Click-Through Rate Prediction", CIKM 2020,
    https://arxiv.org/abs/2008.02974
  """

  def make_layers(
    self, recent: int = 100, attention_units: int = 64, transfer_rank: int = 10, gamma: float = 1.0
  ) -> None:
    if gamma < 0:
      raise ValueError(f"gamma must not be negative; found {gamma}")
    positive(transfer_rank=transfer_rank)
    self.source_weight = gamma
    self.attentions = {
      "target": ItemAttention(recent, attention_units, name="attention_target"),
      "source": ItemAttention(recent, attention_units, transfer_rank, name="attention_source"),
    }
    self.gates = InterestGates(attention_units, name="gates")
    mlp = self.config.mlp
    self.mlp = MLP(mlp.units, mlp.activation, mlp.dropout, name="mlp")
    self.logit = keras.layers.Dense(1, name="logit", dtype="float32")
    self.source_mlp = MLP(mlp.units, mlp.activation, mlp.dropout, name="source_mlp")
    self.source_logit = keras.layers.Dense(1, name="source_logit", dtype="float32")

  def score(self, embedded: Embedded, training: bool) -> tf.Tensor:
    candidates, profile = embedded.candidates, embedded.profile
    query = candidates.embedding
    interests = [profile[:, tf.newaxis]]
    interests += [self.attentions[d](candidates, embedded.histories[d], profile=profile) for d in DOMAINS]
    gates = tf.cast(self.gates(concat_per_candidate([query, *interests], query)), query.dtype)
    gated = [gates[..., k : k + 1] * interest for k, interest in enumerate(interests)]
    hidden = self.mlp(concat_per_candidate([*gated, embedded.context, query], query), training=training)
    return self.logit(hidden)[..., 0]

  def score_source(self, embedded: Embedded, training: bool) -> tf.Tensor:
    query = embedded.candidates.embedding
    parts = [embedded.profile[:, tf.newaxis], embedded.context, query]
    return self.source_logit(self.source_mlp(concat_per_candidate(parts, query), training=training))[..., 0]

  def _embed(self, inputs: dict[DomainName, Batch]) -> dict[DomainName, Embedded]:
    # the source task reads no history, so none is looked up for it
    columns = [f"{d}_{part}" for d in DOMAINS for part in ("items", "times", "cross")]
    source = inputs["source"] | {name: inputs["source"][name][:, :0] for name in columns}
    return super()._embed(inputs | {"source": source})
