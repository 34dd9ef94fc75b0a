"""The common part of all click models: requests in, logits out, one training step."""

import concurrent.futures
import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.layers.lockstep import current_part
from lcn_tf.layers.narrow import Dtype
from lcn_tf.layers.parts import reference, wholes
from lcn_tf.layers.replicas import global_sum, replicas
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models.embedder import Embedded, RequestEmbedding
from lcn_tf.models.micro_batches import MicroBatch, in_turn, split
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DomainName, Schema

Batch = dict[str, tf.Tensor]
Terms = dict[str, tuple[float, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Blueprint:
  """Everything that a model is made of.

  Attributes:
    schema: Schema with sizes.
    config: `model` section of the experiment.
    seed: Seed of all random choices of a step.
    deduplicate: Switch of the look-up by distinct rows; see `lcn_tf.layers.tables.EmbeddingTables`.
    pretrained: Frozen item vectors, for models that search with them.
    starts: Initial values of tables, by vocabulary; see `lcn_tf.models.id_tables`.
  """

  schema: Schema
  config: Model
  seed: int = 0
  deduplicate: bool = True
  pretrained: Pretrained | None = None
  starts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class RequestModel(tfrs.Model):
  """A click-through-rate model of requests: `model(request)` gives logits `[B, N]`, float32.

  A subclass scores an embedded batch in `score`. If it learns from more than the target domain's clicks, it also names
  the domains whose records it reads (`domains`) and gives their losses (`extra_losses`).

  Args:
    blueprint: Schema, config and seeds.
    name: Name of the Keras model.
    key_dim: Width of the learned keys of items, for models that search with them.

  Attributes:
    extra_names: Names of the losses besides the one of the target domain's clicks.
    mean_over: Domain over whose candidates a loss is a weighted mean, by name, for those that are such means.
    micro_batches: Number of parts in which a training step reads its batch.
  """

  extra_names: tuple[str, ...] = ()
  mean_over: Mapping[str, DomainName] = MappingProxyType({"ctr_loss": "target"})
  micro_batches = 1
  table_dtype: Dtype = "float32"

  def __init__(self, blueprint: Blueprint, name: str = "model", key_dim: int = 0):
    super().__init__(name=name)
    schema, config = blueprint.schema, blueprint.config
    self.schema = schema
    self.config = config
    self.seed = blueprint.seed
    self.embedder = RequestEmbedding(
      schema,
      config.embedding,
      config.histories,
      config.item_dim,
      blueprint.deduplicate,
      blueprint.pretrained,
      config.max_length,
      key_dim,
      blueprint.starts,
      name="embedder",
    )
    self.trackers: dict[str, keras.metrics.Mean] = {}

  @property
  def domains(self) -> tuple[DomainName, ...]:
    """The domains whose records a training step reads."""
    return ("target",)

  @property
  def metrics(self) -> list[keras.metrics.Metric]:
    for name in ("loss", "ctr_loss", *self.extra_names):
      if name not in self.trackers:
        self.trackers[name] = keras.metrics.Mean(name=name)
    return list(self.trackers.values())

  def call(self, request: Batch, training: bool = False) -> tf.Tensor:
    """Logits `[B, N]` of target-domain candidates. `request` has the tensors of `lcn_tf.data.records`."""
    return self.score(self.embedder([("target", request)])[0], training)

  def score(self, embedded: Embedded, training: bool) -> tf.Tensor:
    """Logits `[B, N]`, float32, of target-domain candidates."""
    raise NotImplementedError

  def extra_losses(
    self, embedded: dict[DomainName, Embedded], inputs: dict[DomainName, Batch], step: tf.Tensor, training: bool
  ) -> Terms:
    """Losses besides the one of the target domain's clicks.

    Args:
      embedded: Embedded batches, by the domain of their candidates.
      inputs: Batches, by the domain of their candidates.
      step: Number of the step, int32, for random choices.
      training: Switch of dropout.

    Returns:
      (weight, loss) by the name in `extra_names`. A loss is this replica's share: the sum over replicas is the loss of
      the global batch.
    """
    return {}

  def compute_loss(
    self,
    inputs: dict[DomainName, Batch],
    training: bool = False,
    part: MicroBatch | None = None,
  ) -> dict[str, tf.Tensor]:
    """This replica's share of the losses of the global batch. The sum over replicas is the loss.

    Args:
      inputs: Batches, by the domain of their candidates.
      training: Switch of dropout.
      part: Part of the step that `inputs` is; the sum over parts is the loss then. None = the whole step.

    Returns:
      `ctr_loss` (LCN, eq. 21), the extra losses by name, and `loss`, their weighted sum (eq. 22).
    """
    embedded = self._embed(inputs)
    logits = self.score(embedded["target"], training)
    losses = {"ctr_loss": self._term("ctr_loss", click_loss(logits, inputs["target"]), part)}
    losses["loss"] = losses["ctr_loss"]
    step = tf.cast(self.optimizer.iterations, tf.int32)
    draw = step if part is None else part.draw(step)
    for name, (weight, loss) in self.extra_losses(embedded, inputs, draw, training).items():
      losses[name] = self._term(name, loss, part)
      losses["loss"] += weight * losses[name]
    return losses

  def _term(self, name: str, loss: tf.Tensor, part: MicroBatch | None) -> tf.Tensor:
    return loss if part is None else part.scaled(loss, self.mean_over.get(name))

  def _embed(self, inputs: dict[DomainName, Batch]) -> dict[DomainName, Embedded]:
    return dict(zip(self.domains, self.embedder([(d, inputs[d]) for d in self.domains]), strict=True))

  # AutoGraph would rewrite all of tf-keras (it exempts `keras` only), and nothing here needs it.
  @tf.autograph.experimental.do_not_convert
  def train_step(self, inputs: dict[DomainName, Batch]) -> dict[str, Any]:
    variables = self.trainable_variables
    losses, gradients = self.losses_and_gradients(inputs, variables)
    self.optimizer.apply_gradients([(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None])
    for name, tracker in self.trackers.items():
      tracker.update_state(global_sum(losses[name]))
    return {name: tracker.result() for name, tracker in self.trackers.items()}

  def losses_and_gradients(
    self, inputs: dict[DomainName, Batch], variables: list[tf.Variable]
  ) -> tuple[dict[str, tf.Tensor], list[Any]]:
    """This replica's share of the losses of a training step, and their gradients.

    Args:
      inputs: Batches, by the domain of their candidates.
      variables: Variables of the gradients.

    Returns:
      Losses by name, and a tensor, `tf.IndexedSlices` or None for each variable.
    """
    if self.micro_batches == 1:
      return self._gradients(inputs, variables)
    parts = split(inputs, self.micro_batches)
    step = lambda part: self._gradients(part[0], variables, part[1])  # noqa: E731
    # one trace for all parts; replicas cannot exchange anything in a function of their own
    alone = replicas()[0] == 1 and current_part() is None and not tf.executing_eagerly()
    return in_turn(parts, tf.function(step, autograph=False) if alone else step)

  def _gradients(
    self,
    inputs: dict[DomainName, Batch],
    variables: list[tf.Variable],
    part: MicroBatch | None = None,
  ) -> tuple[dict[str, tf.Tensor], list[Any]]:
    with tf.GradientTape() as tape:
      losses = self.compute_loss(inputs, training=True, part=part)
    return losses, tape.gradient(losses["loss"], variables)

  def build_from(self, example: Batch, training: bool = True) -> None:
    """Makes all weights, or only those that serving needs if `training` is False."""
    self(example)
    self.metrics  # noqa: B018 (makes the trackers, in the scope of the strategy)
    if not training:
      return

    strategy = tf.distribute.get_strategy()

    @tf.autograph.experimental.do_not_convert
    def run() -> None:
      with strategy.scope():
        inputs = dict.fromkeys(self.domains, example)
        self.extra_losses(self._embed(inputs), inputs, tf.constant(0), training=False)

    # in a thread, as replicas run: there Keras draws initial values from a separate sequence
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
      thread.submit(run).result()

  def table_variables(self) -> list[tf.Variable]:
    """The embedding tables, whoever made them; the embedder's come first.

    Their gradients have each row once if the embedder deduplicates.
    """
    layers = [self.embedder.tables, *(part for part in self.submodules if isinstance(part, EmbeddingTables))]
    return list({v.ref(): v for layer in layers for v in layer.trainable_variables}.values())

  def warm_variables(self) -> list[tf.Variable]:
    """What a job may take over from another one: all trainable weights, and the embedding tables that are frozen.

    Tables that servers hold in parts are whole here.
    """
    layers = [part for part in self.submodules if isinstance(part, EmbeddingTables) and part.trainable]
    frozen = [v for layer in layers for v in layer.non_trainable_variables]
    return wholes([*self.trainable_variables, *frozen])

  def vocabularies(self) -> dict[Hashable, str]:
    """The vocabulary of every variable that has a row per value of one, by the variable's `reference`.

    These are the embedding tables of all layers. Tables of vocabularies that the schema does not have are left out.
    """
    layers = [part for part in self.submodules if isinstance(part, EmbeddingTables)]
    named = ((reference(table), layer.vocabularies[name]) for layer in layers for name, table in layer.tables.items())
    return {table: vocabulary for table, vocabulary in named if vocabulary in self.schema.vocabularies}

  def make_narrow(self, dtype: Dtype) -> None:
    """Stores the embedding tables of all layers in a narrower type, for serving; see `EmbeddingTables.make_narrow`."""
    self.table_dtype = dtype
    for part in self.submodules:
      if isinstance(part, EmbeddingTables):
        part.make_narrow(dtype)

  def served_variables(self) -> list[tf.Variable]:
    """All variables but the tables that narrower ones stand for."""
    unread = {v.ref() for part in self.submodules if isinstance(part, EmbeddingTables) for v in part.unread()}
    return [v for v in self.variables if v.ref() not in unread]

  def age_variables(self) -> list[tf.Variable]:
    """The embeddings of ages. Their gradients have a row once for each behaviour of that age."""
    return list(self.embedder.recency.values())

  def dense_variables(self) -> list[tf.Variable]:
    """All trainable weights except the embedding tables."""
    tables = {v.ref() for v in self.table_variables()}
    return [v for v in self.trainable_variables if v.ref() not in tables]


def click_loss(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
  """Weighted mean of the sigmoid cross-entropy over the real candidates of the global batch.

  Args:
    logits: Logits, `[B, N]` float32.
    batch: Tensors of `lcn_tf.data.records`, with label, weight and candidate_mask.

  Returns:
    This replica's share of the mean; 0 without a candidate.
  """
  weight = batch["weight"] * tf.cast(batch["candidate_mask"], tf.float32)
  cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(batch["label"], logits)
  return tf.reduce_sum(weight * cross_entropy) / tf.maximum(global_sum(tf.reduce_sum(weight)), 1e-9)


def concat_per_candidate(parts: Sequence[tf.Tensor], candidates: tf.Tensor) -> tf.Tensor:
  """Parts `[B, N | 1, W]` side by side, `[B, N, sum of W]`. A part that all candidates share has N = 1.

  Args:
    parts: Tensors `[B, N | 1, W]`; those of width 0 are left out.
    candidates: Tensor `[B, N, ...]` whose shape gives B and N.
  """
  size = tf.shape(candidates)[:2]
  wide = [tf.broadcast_to(part, tf.concat([size, [part.shape[-1]]], axis=0)) for part in parts if part.shape[-1]]
  return tf.concat(wide, axis=-1)
