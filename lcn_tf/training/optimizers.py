"""Optimizers: row-wise ones for the tables, Adam for the rest."""

from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow import keras

from lcn_tf.config import Train
from lcn_tf.layers.replicas import on_replica
from lcn_tf.models.base import RequestModel
from lcn_tf.training.averages import SLOT, decay_of
from lcn_tf.training.gauges import Gauges, Measured
from lcn_tf.training.schedules import learning_rate


class DenseAdam(Measured, keras.optimizers.legacy.Adam):
  """Adam that keeps moving averages of the weights, in the slot `average`.

      average += (1 - d_t) * (weight - average),  d_t = min(ema_decay, (1 + t) / (10 + t))

  t is the number of steps that it has done before. The average begins as the weight.

  Args:
    learning_rate: Learning rate.
    ema_decay: Largest decay; 0 = no averages.
  """

  def __init__(self, learning_rate: Any = 1e-3, ema_decay: float = 0.0, name: str = "Adam", **kwargs: Any):
    super().__init__(learning_rate, name=name, **kwargs)
    self.ema_decay = ema_decay

  def _create_slots(self, var_list: list[tf.Variable]) -> None:
    super()._create_slots(var_list)
    for var in var_list if self.ema_decay else ():
      self.add_slot(var, SLOT, tf.convert_to_tensor(var))

  def _prepare_local(self, var_device: Any, var_dtype: Any, apply_state: Any) -> None:
    super()._prepare_local(var_device, var_dtype, apply_state)
    if self.ema_decay:
      apply_state[var_device, var_dtype]["follows"] = tf.cast(1 - decay_of(self.iterations, self.ema_decay), var_dtype)

  def _applied(self, applied: tf.Operation, grad: tf.Tensor, var: tf.Variable, apply_state: Any) -> tf.Operation:
    applied = super()._applied(applied, grad, var, apply_state)
    if not self.ema_decay:
      return applied
    average = on_replica(self.get_slot(var, SLOT))
    with tf.control_dependencies([applied]):
      change = apply_state[var.device, var.dtype.base_dtype]["follows"] * (var.read_value() - average)
      return average.assign_add(change, read_value=False)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "ema_decay": self.ema_decay}


class Adagrad(Measured, keras.optimizers.legacy.Adagrad):
  """AdaGrad of Keras, measured."""


@keras.utils.register_keras_serializable("lcn_tf")
class RowwiseAdam(Measured, keras.optimizers.legacy.Adam):
  """Adam that, of a table, updates only the rows that the batch read, moments included.

  Keras' Adam decays the moments of the whole table at every step, whatever the batch read: many times slower on a large
  table. This is a slightly different optimizer: the moments of a row decay by the steps that read it, not by all.

  Args:
    learning_rate, beta_1, beta_2, epsilon: Arguments of Adam.
    row_decay: Decoupled weight decay of the rows that are read: w -= learning_rate * row_decay * w.
    unique_rows: True if the gradients of a step have each row once per replica, so that one replica needs no
      deduplication.
  """

  def __init__(
    self,
    learning_rate: Any = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    row_decay: float = 0.0,
    unique_rows: bool = False,
    name: str = "RowwiseAdam",
    **kwargs: Any,
  ):
    super().__init__(learning_rate, beta_1, beta_2, epsilon, name=name, **kwargs)
    self.unique_rows = unique_rows
    self.row_decay = row_decay

  def _resource_apply_sparse(
    self, grad: tf.Tensor, var: tf.Variable, indices: tf.Tensor, apply_state: Any = None
  ) -> tf.Operation:
    state = (apply_state or {}).get((var.device, var.dtype.base_dtype)) or self._fallback_apply_state(
      var.device, var.dtype.base_dtype
    )
    first, second = (on_replica(self.get_slot(var, name)) for name in ("m", "v"))
    beta_1, beta_2 = state["beta_1_t"], state["beta_2_t"]
    m = tf.gather(first, indices) * beta_1 + grad * (1 - beta_1)
    v = tf.gather(second, indices) * beta_2 + tf.square(grad) * (1 - beta_2)
    # state["lr"] holds the bias correction
    change = state["lr"] * m / (tf.sqrt(v) + state["epsilon"])
    if self.row_decay:
      change += state["lr_t"] * self.row_decay * tf.gather(var, indices)
    updated = tf.group(
      # not Keras' own helpers, which read the whole variable again to return it
      tf.raw_ops.ResourceScatterUpdate(resource=first.handle, indices=indices, updates=m),
      tf.raw_ops.ResourceScatterUpdate(resource=second.handle, indices=indices, updates=v),
      tf.raw_ops.ResourceScatterAdd(resource=var.handle, indices=indices, updates=-change),
    )
    return self._applied(updated, grad, var, apply_state)

  def _resource_apply_sparse_duplicate_indices(
    self, grad: tf.Tensor, handle: tf.Variable, indices: tf.Tensor, **kwargs: Any
  ) -> tf.Operation:
    if self.unique_rows and tf.distribute.get_strategy().num_replicas_in_sync == 1:
      return self._resource_apply_sparse(grad, handle, indices, **kwargs)
    return super()._resource_apply_sparse_duplicate_indices(grad, handle, indices, **kwargs)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), "row_decay": self.row_decay, "unique_rows": self.unique_rows}


class CompositeOptimizer(tfrs.experimental.optimizers.CompositeOptimizer):
  """Optimizers of disjoint groups of variables, of which the gradients of the first group may be clipped.

  Args:
    optimizers_and_vars: Optimizers, and functions that return their variables.
    clip_norm: Largest global norm of the first optimizer's gradients, summed over replicas; 0 = any.
    gauges: Gauges that see the gradients; None = nothing is measured.
  """

  def __init__(self, optimizers_and_vars: Any, clip_norm: float = 0.0, gauges: Gauges | None = None):
    super().__init__(optimizers_and_vars)
    self._clip_norm = clip_norm
    self.gauges = gauges
    for optimizer, _ in optimizers_and_vars if gauges else ():
      optimizer.gauges = gauges

  def apply_gradients(
    self, grads_and_vars: Any, name: str | None = None, experimental_aggregate_gradients: bool = True
  ) -> None:
    if not self._clip_norm:
      super().apply_gradients(grads_and_vars, name, experimental_aggregate_gradients)
      return
    mine = {v.ref() for v in self._optimizers_and_vars[0][1]()}
    first = [(g, v) for g, v in grads_and_vars if v.ref() in mine]
    # of each replica's share, which are summed: the few rows of ages are dense here
    summed = tf.distribute.get_replica_context().all_reduce("SUM", [tf.convert_to_tensor(g) for g, _ in first])
    clipped, norm = tf.clip_by_global_norm(summed, self._clip_norm)
    if self.gauges:
      self.gauges.unclipped(norm)
    self.optimizers[0].apply_gradients(
      zip(clipped, [v for _, v in first], strict=True), name=name, experimental_aggregate_gradients=False
    )
    rest = [(g, v) for g, v in grads_and_vars if v.ref() not in mine]
    super().apply_gradients(rest, name, experimental_aggregate_gradients)


def make_optimizer(model: RequestModel, config: Train) -> CompositeOptimizer:
  """The preset's optimizers: one for the embedding tables, one for all other weights.

  `lcn` (LCN, section 4.1): Adam 1e-3 on both, row-wise on the tables. `twin` (TWIN, section 4.1): AdaGrad 0.05 on the
  tables, ages among them (its accumulators start at 0.1), Adam on the rest. Both rates follow `train.schedule`.
  With `train.ema_decay` the optimizer of all other weights averages them. With `train.log_every` all gradients are
  measured.
  """
  ages = model.age_variables if config.preset == "twin" else list
  dense = DenseAdam(learning_rate(config.learning_rate, config), ema_decay=config.ema_decay)
  if config.preset == "twin":
    rate = learning_rate(config.table_learning_rate or 0.05, config)
    tables = Adagrad(rate, initial_accumulator_value=0.1)
  else:
    tables = RowwiseAdam(
      learning_rate(config.table_learning_rate or config.learning_rate, config),
      row_decay=config.row_decay,
      unique_rows=model.embedder.deduplicate and config.micro_batches == 1 and config.strategy != "parameter_server",
    )

  def of_tables() -> list[tf.Variable]:
    return [*model.table_variables(), *ages()]

  def others() -> list[tf.Variable]:
    mine = {v.ref() for v in of_tables()}
    return [v for v in model.trainable_variables if v.ref() not in mine]

  optimizers = [(dense, others), (tables, of_tables)]
  slots = []
  for optimizer, variables in optimizers:
    mine = variables()
    # now: had the first step to make its slots, TensorFlow would trace that step twice
    optimizer._create_all_weights(mine)
    slots.append([optimizer.get_slot(variable, optimizer.get_slot_names()[0]) for variable in mine])
  return CompositeOptimizer(optimizers, config.clip_norm, Gauges(slots) if config.log_every else None)
