"""What a training step measures of itself: norms of gradients, waits for input, widths of histories."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.parts import is_in_parts
from lcn_tf.layers.replicas import on_replica
from lcn_tf.models.base import Batch, RequestModel
from lcn_tf.schema import DOMAINS, DomainName


class Gauges:
  """Variables that a step writes. No checkpoint holds them.

  It is made in the scope of the strategy.

  Args:
    slots: One slot of each weight, by optimizer. It names the weight on every replica.
  """

  def __init__(self, slots: Sequence[Sequence[tf.Variable]]):
    self._slots = slots
    self._squares = {id(slot): _beside(slot) for group in slots for slot in group}
    self._norm = tf.Variable(0.0, trainable=False)
    self._waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    self._widths: dict[tuple[DomainName, DomainName], tf.Variable] = {}
    self._clipped = False

  def gradient(self, slot: tf.Variable, gradient: tf.Tensor) -> tf.Operation:
    """Notes the norm of a weight's gradient; within the update of the weight on a replica.

    Args:
      slot: Slot of the weight.
      gradient: Gradient, summed over replicas, or its distinct rows.
    """
    return on_replica(self._squares[id(slot)]).assign(2 * tf.nn.l2_loss(gradient), read_value=False)

  def unclipped(self, norm: tf.Tensor) -> None:
    """Notes the norm of the gradients of all dense weights before they are clipped; on a replica."""
    self._clipped = True
    on_replica(self._norm).assign(norm)

  def norms(self) -> list[float]:
    """The norm of the gradients of each optimizer's weights in the last step; of the first one's before clipping."""
    found = [math.sqrt(sum(float(self._squares[id(slot)].numpy()) for slot in group)) for group in self._slots]
    return [float(self._norm.numpy()), *found[1:]] if self._clipped else found

  def waited(self) -> float:
    """Seconds, up to now, that steps have waited for their batches."""
    return float(self._waited.numpy())

  def widths(self) -> dict[tuple[DomainName, DomainName], float]:
    """Sums of the widths of all batches up to now, by the domains of candidates and history."""
    return {which: float(width.numpy()) for which, width in self._widths.items()}

  def prepare(self, model: RequestModel, strategy: tf.distribute.Strategy) -> None:
    """Makes what a step of a model notes in."""
    with strategy.scope():
      for of in model.domains:
        for d in DOMAINS:
          self._widths[of, d] = tf.Variable(0.0, dtype=tf.float64, trainable=False)

  def watch(self, model: RequestModel, strategy: tf.distribute.Strategy) -> None:
    """Lets the training function of a compiled model note waits and widths."""
    self.prepare(model, strategy)
    model.make_train_function()
    function = model.train_tf_function.python_function

    def train_function(iterator: Any) -> Any:
      return function(_Watched(iterator, self, strategy))

    model.train_function = tf.function(train_function, reduce_retracing=True)

  def next(self, iterator: Iterator[Any], strategy: tf.distribute.Strategy) -> Any:
    """The next batches of an iterator, noted."""
    batches, first, seconds = timed_next(iterator, strategy)
    self.note(first, seconds)
    return batches

  def note(self, batches: dict[DomainName, Batch], seconds: tf.Tensor) -> None:
    """Notes the widths of batches, by the domain of their candidates, and the seconds that the step waited for them."""
    self._waited.assign_add(seconds)
    for (of, d), width in self._widths.items():
      width.assign_add(tf.cast(tf.shape(batches[of][f"{d}_items"])[1], tf.float64))


def timed_next(
  iterator: Iterator[Any], strategy: tf.distribute.Strategy
) -> tuple[Any, dict[DomainName, Batch], tf.Tensor]:
  """The next batches of an iterator, those of its first replica alone, and the seconds that they took, float64."""
  began = tf.timestamp()
  with tf.control_dependencies([began]):
    batches = next(iterator)
  first = {
    d: {name: strategy.experimental_local_results(tensor)[0] for name, tensor in batch.items()}
    for d, batch in batches.items()
  }
  with tf.control_dependencies(tf.nest.flatten(first)):
    return batches, first, tf.timestamp() - began


def _beside(slot: tf.Variable) -> tf.Variable:
  """A scalar where a slot is."""
  with tf.distribute.get_strategy().extended.colocate_vars_with(slot):
    return tf.Variable(0.0, trainable=False)


class _Watched:
  """An iterator whose batches are noted."""

  def __init__(self, iterator: Iterator[Any], gauges: Gauges, strategy: tf.distribute.Strategy):
    self._iterator = iterator
    self._gauges = gauges
    self._strategy = strategy

  def __next__(self) -> Any:
    return self._gauges.next(self._iterator, self._strategy)


class Measured(keras.optimizers.legacy.Optimizer):
  """A mixin for legacy optimizers: gauges see the gradients that are applied.

  Whatever follows the update of a weight has its place in `_applied`.

  Attributes:
    gauges: Gauges; None = nothing is measured.
  """

  gauges: Gauges | None = None
  _whole: dict[tuple[int, str], Any] | None = None

  def get_slot(self, var: tf.Variable, slot_name: str) -> tf.Variable:
    """The slot of a variable. That of one in parts is the same object always, as checkpoints need it."""
    if not is_in_parts(var):
      return super().get_slot(var, slot_name)
    self._whole = self._whole or {}
    key = (id(var), slot_name)
    if key not in self._whole:
      self._whole[key] = super().get_slot(var, slot_name)
    return self._whole[key]

  def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: Any = None) -> tf.Operation:
    return self._applied(super()._resource_apply_dense(grad, var, apply_state=apply_state), grad, var, apply_state)

  def _resource_apply_sparse(
    self, grad: tf.Tensor, var: tf.Variable, indices: tf.Tensor, apply_state: Any = None
  ) -> tf.Operation:
    updated = super()._resource_apply_sparse(grad, var, indices, apply_state=apply_state)
    return self._applied(updated, grad, var, apply_state)

  def _applied(self, applied: tf.Operation, grad: tf.Tensor, var: tf.Variable, apply_state: Any) -> tf.Operation:
    """Goes on after the update of a weight.

    Args:
      applied: Update.
      grad: Gradient, or its rows.
      var: Weight.
      apply_state: State of the step, as of `_prepare_local`.
    """
    if self.gauges is None:
      return applied
    return tf.group(applied, self.gauges.gradient(self.get_slot(var, self.get_slot_names()[0]), grad))
