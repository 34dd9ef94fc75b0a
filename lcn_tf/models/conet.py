"""CoNet: two towers, one per domain, that exchange their hidden layers."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.interest.average_pooling import AveragePooling
from lcn_tf.layers.dropout import Dropout
from lcn_tf.layers.replicas import replicas
from lcn_tf.models.base import Batch, Terms, concat_per_candidate
from lcn_tf.models.embedder import Embedded
from lcn_tf.models.two_domain import TwoDomain
from lcn_tf.schema import DOMAINS, DomainName, other_domain

INITS = ("glorot", "paper")


@keras.saving.register_keras_serializable("lcn_tf")
class CrossTowers(keras.layers.Layer):
  """Hidden layers of two towers with cross connections; the result is that of one of the towers.

      own_{l+1}   = act(own_l   W_own^l   + b_own^l   + other_l H^l)
      other_{l+1} = act(other_l W_other^l + b_other^l + own_l   H^l)

  H^l is the same in both directions and exists on the first `cross_layers` layers. Both towers move at once, from the
  activations of the layer before. The other tower is computed only as far as the own tower reads it.

  Args:
    units: Widths of the layers.
    cross_layers: Number of connected layers, from the first on.
    activation: Name of a Keras activation.
    dropout: Share of each layer's outputs that training drops.
    init: Initial weights: "glorot", Glorot-uniform, or "paper", normal with standard deviation 0.01. Biases start at
      zero in both.

  Call arguments:
    own: Input of the own tower, `[B, N | 1, W]`.
    other: Input of the other tower, `[B, N | 1, W]`.
    domain: Domain of the own tower.
    training: Switch of dropout.

  Returns:
    Last layer of the own tower, `[B, N, units[-1]]`.

  Raises:
    ValueError: A width is not positive, `cross_layers` is negative or larger than the number of layers, `dropout` is
      not in [0, 1), or `init` is unknown.
  """

  def __init__(
    self,
    units: Sequence[int] = (32, 16, 8),
    cross_layers: int = 2,
    activation: str = "relu",
    dropout: float = 0.0,
    init: str = "glorot",
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    if any(width < 1 for width in units):
      raise ValueError(f"units: expected positive widths, found {list(units)}")
    if not 0 <= cross_layers <= len(units):
      raise ValueError(f"cross_layers: expected 0 to {len(units)}, the number of hidden layers, found {cross_layers}")
    self.units = tuple(units)
    self.cross_layers = cross_layers
    self.activation = activation
    self.dropout = dropout
    self.init = init
    self._activation = keras.activations.get(activation)
    self._dropout = Dropout(dropout, name="dropout", dtype=self.dtype_policy)
    policy = self.dtype_policy
    self.towers = {
      d: [dense(width, init, name=f"{d}_{level}", dtype=policy) for level, width in enumerate(units)] for d in DOMAINS
    }
    self.cross = [
      dense(width, init, use_bias=False, name=f"cross_{level}", dtype=policy)
      for level, width in enumerate(self.units[:cross_layers])
    ]

  def call(
    self, own: tf.Tensor, other: tf.Tensor, domain: DomainName = "target", training: bool | None = None
  ) -> tf.Tensor:
    own_tower, other_tower = self.towers[domain], self.towers[other_domain(domain)]
    for level, own_dense in enumerate(own_tower):
      if level >= self.cross_layers:
        own = self._finish(own_dense(own), training)
        continue
      cross, before = self.cross[level], own
      own = self._finish(own_dense(own) + cross(other), training)
      if level + 1 < self.cross_layers:
        other = self._finish(other_tower[level](other) + cross(before), training)
    return own

  def cross_weights(self) -> list[tf.Variable]:
    """Matrices H of the connected layers, `[in, out]` each."""
    return [dense.kernel for dense in self.cross]

  def _finish(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
    x = self._activation(x)
    return self._dropout(x, training=training)

  def get_config(self) -> dict[str, Any]:
    names = ("units", "cross_layers", "activation", "dropout", "init")
    return super().get_config() | {name: getattr(self, name) for name in names}


class CoNet(TwoDomain):
  """Collaborative cross networks: a tower per domain, both about the same user, with shared cross connections.

      a_own^0   = [profile ; mean(own history)]   U_own   + b_own + [context ; candidate] C_own
      a_other^0 = [profile ; mean(other history)] U_other + b_other
      logit     = w_own . CrossTowers(a_own^0, a_other^0) + c_own
      L         = L_target + L_source + lasso * sum |H|

  "Own" is the domain of the candidates. `model.mlp.units` are the widths, the first one that of a^0: 64, 32, 16, 8 in
  the paper.

  Departures from the paper:
  * The paper pairs an item of each domain and has no histories. Here both towers always describe the user of the row.
    The mean of a history, with side information and recency, replaces the missing item. So cross connections carry
    related information and work in serving as in training. The authors' program joins rows of unrelated users, and
    evaluates without connections.
  * Both towers share the user's profile, as its tables are shared. Logits have biases.
  * Dense weights start Glorot-uniform. With the paper's N(0, 0.01^2), `init: paper`, the same AUC takes about three
    times as many epochs on synthetic data. Tables start as in the rest of the project.
  * Gradients are not clipped, because those of a mean loss stay below a norm of 10, to which the authors' program clips
    the gradient of each variable.

  Options:
    cross_layers: Number of connected layers, from the first on. Null = two, or all if there are fewer.
    lasso: Weight of the sum of |H| (SCoNet; 0.01 to 0.5 in the paper).
    init: Initial dense weights: "glorot", or "paper", normal with standard deviation 0.01.

  Reference: Hu et al., "CoNet: Collaborative Cross Networks for Cross-Domain Recommendation", CIKM 2018,
    https://arxiv.org/abs/1804.06769
  """

  def make_layers(self, cross_layers: int | None = None, lasso: float = 0.0, init: str = "glorot") -> None:
    if lasso < 0:
      raise ValueError(f"lasso must not be negative; found {lasso}")
    mlp = self.config.mlp
    if not mlp.units:
      raise ValueError("model.mlp.units must not be empty: the first is the width of the towers' inputs")
    if cross_layers is None:
      cross_layers = min(2, len(mlp.units) - 1)
    if lasso and not cross_layers:
      raise ValueError(f"lasso is of cross connections, but cross_layers is 0; found {lasso}")
    self.lasso = lasso
    if lasso:
      self.extra_names = (*self.extra_names, "lasso")
    self.pooling = AveragePooling(name="pooling")
    self.user_inputs = {d: dense(mlp.units[0], init, name=f"user_{d}") for d in DOMAINS}
    self.candidate_inputs = {d: dense(mlp.units[0], init, use_bias=False, name=f"candidate_{d}") for d in DOMAINS}
    self.towers = CrossTowers(mlp.units[1:], cross_layers, mlp.activation, mlp.dropout, init, name="towers")
    self.logits = {d: dense(1, init, name=f"logit_{d}", dtype="float32") for d in DOMAINS}

  def score(self, embedded: Embedded, training: bool) -> tf.Tensor:
    return self._score("target", embedded, training)

  def score_source(self, embedded: Embedded, training: bool) -> tf.Tensor:
    return self._score("source", embedded, training)

  def extra_losses(
    self, embedded: dict[DomainName, Embedded], inputs: dict[DomainName, Batch], step: tf.Tensor, training: bool
  ) -> Terms:
    terms = super().extra_losses(embedded, inputs, step, training)
    if self.lasso:
      total = tf.add_n([tf.reduce_sum(tf.abs(cross)) for cross in self.towers.cross_weights()])
      terms["lasso"] = (self.lasso, total / replicas()[0])
    return terms

  def _score(self, domain: DomainName, embedded: Embedded, training: bool) -> tf.Tensor:
    candidate = concat_per_candidate([embedded.context, embedded.candidates.embedding], embedded.candidates.embedding)
    own = self._user_input(domain, embedded) + self.candidate_inputs[domain](candidate)
    other = self._user_input(other_domain(domain), embedded) if self.towers.cross_layers else own
    hidden = self.towers(own, other, domain=domain, training=training)
    return self.logits[domain](hidden)[..., 0]

  def _user_input(self, domain: DomainName, embedded: Embedded) -> tf.Tensor:
    """Input of a tower from the profile and the mean of one history, `[B, N | 1, W]`."""
    pooled = self.pooling(embedded.candidates, embedded.histories[domain])
    return self.user_inputs[domain](concat_per_candidate([embedded.profile[:, tf.newaxis], pooled], pooled))


def dense(units: int, init: str, **arguments: Any) -> keras.layers.Dense:
  """Linear layer with the initial weights that `init` names.

  Raises:
    ValueError: `init` is unknown.
  """
  if init not in INITS:
    raise ValueError(f"init must be one of {list(INITS)}; found {init!r}")
  # a new one for each layer: Keras warns that an initializer in its second use gives the same values again
  paper = init == "paper"
  initializer = keras.initializers.RandomNormal(stddev=0.01) if paper else keras.initializers.GlorotUniform()
  return keras.layers.Dense(units, kernel_initializer=initializer, **arguments)
