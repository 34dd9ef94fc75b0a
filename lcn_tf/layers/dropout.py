"""Dropout whose random state is part of a checkpoint."""

import contextvars
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import tensorflow as tf
from tensorflow import keras

_GIVEN: contextvars.ContextVar[Mapping[int, tf.Tensor]] = contextvars.ContextVar("given", default=MappingProxyType({}))


@keras.saving.register_keras_serializable("lcn_tf")
class Dropout(keras.layers.Layer):
  """Dropout whose random state is a variable, so that checkpoints hold it.

  In training it drops a share of the numbers and scales the others so that the mean stays. A job that was interrupted
  drops the same numbers as an unbroken job; Keras' own layer would start its random numbers anew. Replicas drop
  different numbers. The seed comes from Python's `random`, which `build_model` seeds.

  Args:
    rate: Share of the numbers that are dropped, in [0, 1).

  Call arguments:
    inputs: Tensor of any shape.
    training: Switch of the dropout. False or None returns the inputs.

  Raises:
    ValueError: `rate` is not in [0, 1).
  """

  def __init__(self, rate: float, **kwargs: Any):
    super().__init__(**kwargs)
    if not 0 <= rate < 1:
      raise ValueError(f"dropout: expected a number in [0, 1), found {rate}")
    self.rate = rate

  def give(self, seed: tf.Tensor) -> None:
    """Lets the layer drop by this seed, `[2]` int64, wherever this context calls it.

    Parts of a step that share one variable would wait for one another.
    """
    _GIVEN.set({**_GIVEN.get(), id(self): seed})

  def build(self, input_shape: tf.TensorShape) -> None:
    if self.rate:
      self.generator = tf.random.Generator.from_seed(random.randrange(2**31), alg="philox")
    super().build(input_shape)

  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    if not training or not self.rate:
      return inputs
    seed = _GIVEN.get().get(id(self))
    if seed is None:
      seed = self.generator.make_seeds()[:, 0]
    else:
      self.give(tf.random.experimental.stateless_fold_in(seed, 1))
    return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed, rng_alg="philox")

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | {"rate": self.rate}
