"""Strategies of several logical CPU devices in one process (tests/conftest.py makes four)."""

import functools

import tensorflow as tf


@functools.cache
def mirrored(replicas: int) -> tf.distribute.Strategy:
  """`MirroredStrategy` over the first logical CPUs; the default strategy for one.

  Every MirroredStrategy numbers its collectives from 1, so two that span different devices clash in one process and
  abort every later collective; here each number of replicas has its own range.
  """
  if replicas == 1:
    return tf.distribute.get_strategy()

  class Mirrored(tf.distribute.MirroredStrategy):
    _collective_key_base = 1_000_000 * replicas

  return Mirrored([f"CPU:{i}" for i in range(replicas)])
