"""What every click model shares: requests in, logits out, one training step."""

import concurrent.futures
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.layers.replicas import global_sum
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models.embedder import Embedded, RequestEmbedding
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DomainName, Schema

Batch = dict[str, tf.Tensor]
Terms = dict[str, tuple[float, tf.Tensor]]


class RequestModel(tfrs.Model):
  """A click-through-rate model of requests: `model(request)` gives logits `[B, N]`, float32.

  A model says how it scores an embedded batch (`score`) and, if it learns from more than the target domain's clicks,
  which records it reads besides (`domains`) and what they add to the loss (`extra_losses`).

  Args:
    schema: With sizes.
    config: What the model is made of.
    seed: Of everything random that a step does.
    deduplicate: See `lcn_tf.layers.tables.EmbeddingTables`.
    pretrained: Frozen item vectors, for models that search with them.
    name: Name of the Keras model.
    key_dim: Width of the learned keys of items, for models that search with them.
  """

  extra_names: tuple[str, ...] = ()

  def __init__(
    self,
    schema: Schema,
    config: Model,
    seed: int = 0,
    deduplicate: bool = True,
    pretrained: Pretrained | None = None,
    name: str = "model",
    key_dim: int = 0,
  ):
    super().__init__(name=name)
    self.schema = schema
    self.config = config
    self.seed = seed
    self.embedder = RequestEmbedding(
      schema,
      config.embedding,
      config.histories,
      config.item_dim,
      deduplicate,
      pretrained,
      config.max_length,
      key_dim,
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
    """Logits `[B, N]` of target-domain candidates; `request` as in `lcn_tf.data.records`."""
    return self.score(self.embedder([("target", request)])[0], training)

  def score(self, embedded: Embedded, training: bool) -> tf.Tensor:
    """Logits `[B, N]`, float32, of target-domain candidates."""
    raise NotImplementedError

  def extra_losses(
    self, embedded: dict[DomainName, Embedded], inputs: dict[DomainName, Batch], step: tf.Tensor, training: bool
  ) -> Terms:
    """What is learned besides the target domain's clicks: name in `extra_names` -> (weight, loss).

    Args:
      embedded, inputs: By the domain of the candidates.
      step: int32, for random choices.

    Returns:
      This replica's shares: summed over replicas they are losses of the global batch.
    """
    return {}

  def compute_loss(self, inputs: dict[DomainName, Batch], training: bool = False) -> dict[str, tf.Tensor]:
    """This replica's share of the losses of the global batch; the sum over replicas is the loss.

    Args:
      inputs: Batches by the domain of their candidates.

    Returns:
      `ctr_loss` (LCN, eq. 21), the extra losses by name, and `loss`, their weighted sum (eq. 22).
    """
    embedded = self._embed(inputs)
    losses = {"ctr_loss": click_loss(self.score(embedded["target"], training), inputs["target"])}
    losses["loss"] = losses["ctr_loss"]
    step = tf.cast(self.optimizer.iterations, tf.int32)
    for name, (weight, loss) in self.extra_losses(embedded, inputs, step, training).items():
      losses[name] = loss
      losses["loss"] += weight * loss
    return losses

  def _embed(self, inputs: dict[DomainName, Batch]) -> dict[DomainName, Embedded]:
    return dict(zip(self.domains, self.embedder([(d, inputs[d]) for d in self.domains]), strict=True))

  # AutoGraph would rewrite all of tf-keras (it knows `keras` only), with nothing here to convert.
  @tf.autograph.experimental.do_not_convert
  def train_step(self, inputs: dict[DomainName, Batch]) -> dict[str, Any]:
    with tf.GradientTape() as tape:
      losses = self.compute_loss(inputs, training=True)
    variables = self.trainable_variables
    gradients = tape.gradient(losses["loss"], variables)
    self.optimizer.apply_gradients([(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None])
    for name, tracker in self.trackers.items():
      tracker.update_state(global_sum(losses[name]))
    return {name: tracker.result() for name, tracker in self.trackers.items()}

  def build_from(self, example: Batch, training: bool = True) -> None:
    """Makes all weights; without `training` only those that serving needs."""
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

    # as replicas run: in a thread, where Keras draws initial values from a sequence of their own
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
      thread.submit(run).result()

  def table_variables(self) -> list[tf.Variable]:
    """The embedding tables, whoever made them; the embedder's come first.

    Their gradients bring each row once where the embedder deduplicates.
    """
    layers = [self.embedder.tables, *(part for part in self.submodules if isinstance(part, EmbeddingTables))]
    return list({v.ref(): v for layer in layers for v in layer.trainable_variables}.values())

  def age_variables(self) -> list[tf.Variable]:
    """The embeddings of ages, whose gradients bring a row as often as behaviours have that age."""
    return list(self.embedder.recency.values())

  def dense_variables(self) -> list[tf.Variable]:
    """All other weights."""
    tables = {v.ref() for v in self.table_variables()}
    return [v for v in self.trainable_variables if v.ref() not in tables]


def click_loss(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
  """Weighted mean of the sigmoid cross-entropy over the real candidates of the global batch.

  Args:
    logits: `[B, N]` float32.
    batch: Tensors of `lcn_tf.data.records`, with label, weight and candidate_mask.

  Returns:
    This replica's share; 0 without a candidate.
  """
  weight = batch["weight"] * tf.cast(batch["candidate_mask"], tf.float32)
  cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(batch["label"], logits)
  return tf.reduce_sum(weight * cross_entropy) / tf.maximum(global_sum(tf.reduce_sum(weight)), 1e-9)


def concat_per_candidate(parts: Sequence[tf.Tensor], candidates: tf.Tensor) -> tf.Tensor:
  """Parts `[B, N | 1, W]` side by side, `[B, N, sum of W]`: what is the same for all candidates comes with N = 1.

  Args:
    candidates: A tensor `[B, N, ...]` that gives the size. Parts of width 0 are left out.
  """
  size = tf.shape(candidates)[:2]
  wide = [tf.broadcast_to(part, tf.concat([size, [part.shape[-1]]], axis=0)) for part in parts if part.shape[-1]]
  return tf.concat(wide, axis=-1)
