"""The skeleton: embed, extract an interest per history, score. A paper is what fills the slot."""

import inspect
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.crossdomain.crp import CrossRepresentationProduction, DomainBatch
from lcn_tf.errors import UserError, unknown
from lcn_tf.interest import EXTRACTORS
from lcn_tf.layers.embedding import Embedded, RequestEmbedding
from lcn_tf.layers.mlp import MLP
from lcn_tf.layers.replicas import global_sum
from lcn_tf.schema import DomainName, Schema

Batch = dict[str, tf.Tensor]

_KERAS_ARGUMENTS = ("trainable", "name", "dtype", "dynamic", "args", "kwargs")


class CTR(tfrs.Model):
  """A click-through-rate model of requests: `model(request)` gives logits `[B, N]`, float32.

      logit = w . MLP([profile ; context ; candidate ; interest_target ; interest_source]) + b

  Args:
    schema: With sizes.
    config: What fills the slots.
    seed: Of everything random that a step does.
    deduplicate: See `lcn_tf.layers.embedding.Tables`.

  Raises:
    UserError: No such extractor, or options that it does not take or accept.
  """

  def __init__(self, schema: Schema, config: Model, seed: int = 0, deduplicate: bool = True):
    super().__init__(name="ctr")
    self.schema = schema
    self.config = config
    self.seed = seed
    self.embedder = RequestEmbedding(
      schema, config.embedding, config.histories, config.item_dim, deduplicate, name="embedder"
    )
    self.extractors = {d: make_extractor(config, d) for d in config.histories} if config.extractor != "none" else {}
    self.mlp = MLP(config.mlp.units, config.mlp.activation, config.mlp.dropout, name="mlp")
    self.logit = keras.layers.Dense(1, name="logit", dtype="float32")
    self.crp: CrossRepresentationProduction | None = None
    self.crp_weight = config.crp.weight if config.crp else 0.0
    if config.crp:
      if set(config.histories) != {"target", "source"}:
        raise UserError(f"model.crp reads both histories, but model.histories is {list(config.histories)}")
      self.crp = CrossRepresentationProduction(**config.crp.model_dump(exclude={"weight"}), name="crp")
    self.trackers: dict[str, keras.metrics.Mean] = {
      name: keras.metrics.Mean(name=name) for name in ("loss", "ctr_loss", *(["crp_loss"] if self.crp else []))
    }

  @property
  def domains(self) -> tuple[DomainName, ...]:
    """The domains whose records a training step reads."""
    return ("target", "source") if self.crp else ("target",)

  @property
  def metrics(self) -> list[keras.metrics.Metric]:
    return list(self.trackers.values())

  def call(self, request: Batch, training: bool = False) -> tf.Tensor:
    """Logits `[B, N]` of target-domain candidates; `request` as in `lcn_tf.data.records`."""
    return self._score(self.embedder([("target", request)])[0], training)

  def _score(self, embedded: Embedded, training: bool) -> tf.Tensor:
    candidates = embedded.candidates
    size = tf.shape(candidates.embedding)[:2]
    parts = [embedded.profile[:, tf.newaxis], embedded.context, candidates.embedding]
    parts += [extract(candidates, embedded.histories[d]) for d, extract in self.extractors.items()]
    # what is the same for all candidates comes with N = 1
    parts = [tf.broadcast_to(part, tf.concat([size, [part.shape[-1]]], axis=0)) for part in parts if part.shape[-1]]
    hidden = self.mlp(tf.concat(parts, axis=-1), training=training)
    return self.logit(hidden)[..., 0]

  def compute_loss(self, inputs: dict[str, Batch], training: bool = False) -> dict[str, tf.Tensor]:
    """This replica's share of the losses of the global batch; the sum over replicas is the loss.

    Args:
      inputs: Batches by the domain of their candidates.

    Returns:
      `ctr_loss` (weighted mean of the sigmoid cross-entropy over the real candidates of the global batch, eq. 21),
      `crp_loss` where there is CRP, and `loss`, their weighted sum (eq. 22).
    """
    embedded = dict(zip(self.domains, self.embedder([(d, inputs[d]) for d in self.domains]), strict=True))
    target = inputs["target"]
    logits = self._score(embedded["target"], training)
    weight = target["weight"] * tf.cast(target["candidate_mask"], tf.float32)
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(target["label"], logits)
    losses = {"ctr_loss": tf.reduce_sum(weight * cross_entropy) / tf.maximum(global_sum(tf.reduce_sum(weight)), 1e-9)}
    losses["loss"] = losses["ctr_loss"]
    if self.crp:
      batches = [domain_batch(d, inputs[d], embedded[d]) for d in self.domains]
      step = tf.cast(self.optimizer.iterations, tf.int32)
      losses["crp_loss"] = self.crp(*batches, seed=tf.stack([tf.constant(self.seed, tf.int32), step]))["total"]
      losses["loss"] += self.crp_weight * losses["crp_loss"]
    return losses

  # AutoGraph would rewrite all of tf-keras (it knows `keras` only), with nothing here to convert.
  @tf.autograph.experimental.do_not_convert
  def train_step(self, inputs: dict[str, Batch]) -> dict[str, Any]:
    with tf.GradientTape() as tape:
      losses = self.compute_loss(inputs, training=True)
    variables = self.trainable_variables
    gradients = tape.gradient(losses["loss"], variables)
    self.optimizer.apply_gradients([(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None])
    for name, tracker in self.trackers.items():
      tracker.update_state(global_sum(losses[name]))
    return {name: tracker.result() for name, tracker in self.trackers.items()}

  def build_crp(self, example: Batch) -> None:
    """Makes the weights of CRP's heads, if the model has CRP."""
    crp = self.crp
    if crp is None:
      return

    def run() -> tf.Tensor:
      embedded = dict(zip(self.domains, self.embedder([(d, example) for d in self.domains]), strict=True))
      batches = [domain_batch(d, example, embedded[d]) for d in self.domains]
      return crp(*batches, seed=tf.zeros([2], tf.int32))["total"]

    tf.function(tf.distribute.get_strategy().run, autograph=False)(run)

  def table_variables(self) -> list[tf.Variable]:
    """What row-wise optimizers update: the embedding tables."""
    return self.embedder.tables.trainable_variables

  def dense_variables(self) -> list[tf.Variable]:
    """All other weights."""
    tables = {v.ref() for v in self.table_variables()}
    return [v for v in self.trainable_variables if v.ref() not in tables]


def make_extractor(config: Model, domain: DomainName) -> keras.layers.Layer:
  """The extractor of one history, from `config.extractor` and `config.options`."""
  if config.extractor not in EXTRACTORS:
    raise unknown("model.extractor", "extractor", config.extractor, EXTRACTORS)
  make = EXTRACTORS[config.extractor]
  known = [name for name in inspect.signature(make).parameters if name not in _KERAS_ARGUMENTS]
  for option in config.options:
    if option not in known:
      raise unknown(f"model.options of {config.extractor!r}", "option", option, known)
  try:
    return make(**config.options, name=f"interest_{domain}")
  except (ValueError, TypeError) as error:
    raise UserError(f"model.options of {config.extractor!r}: {error}") from None


def domain_batch(domain: DomainName, batch: Batch, embedded: Embedded) -> DomainBatch:
  """One domain's batch as CRP reads it."""
  other: DomainName = "source" if domain == "target" else "target"
  return DomainBatch(
    user=batch["user"],
    profile=embedded.profile,
    candidates=embedded.candidates,
    mask=batch["candidate_mask"],
    label=batch["label"],
    weight=batch["weight"],
    own=embedded.histories[domain],
    other=embedded.histories[other],
  )
