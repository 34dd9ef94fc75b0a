"""Micro-batches: a step that reads its batch in parts, one after another, so that fewer activations are alive."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from lcn_tf.layers.replicas import global_sum
from lcn_tf.schema import DomainName

Batch = dict[str, tf.Tensor]
Inputs = Mapping[DomainName, Batch]


class MicroBatch(NamedTuple):
  """A part of a step's batch.

  Attributes:
    number: Number of the part, from 0; int32.
    parts: Number of parts.
    shares: Share of the part in the weight of all candidates of the step, by domain; a scalar each.
  """

  number: tf.Tensor
  parts: int
  shares: dict[DomainName, tf.Tensor]

  def draw(self, step: tf.Tensor) -> tf.Tensor:
    """A number for the random choices of this part, which no other part and no other step has."""
    return step * self.parts + self.number

  def scaled(self, loss: tf.Tensor, over: DomainName | None) -> tf.Tensor:
    """The part's term of a loss of the whole step.

    Args:
      loss: Loss of the part.
      over: Domain over whose candidates the loss is a weighted mean. None = a mean over the parts is taken.
    """
    return loss / self.parts if over is None else loss * self.shares[over]


def split(inputs: Inputs, count: int) -> list[tuple[dict[DomainName, Batch], MicroBatch]]:
  """The parts of this replica's share of a batch.

  Part i has the requests i, i + count, i + 2 count and so on. So the replicas' parts of one number hold the same
  requests of the global batch, in the same order, whatever the number of replicas.

  Args:
    inputs: Batches by the domain of their candidates. Their numbers of requests are multiples of `count`.
    count: Number of parts.
  """
  weights = {d: [_weight(_part(batch, i, count)) for i in range(count)] for d, batch in inputs.items()}
  sums = {d: global_sum(tf.stack(parts)) for d, parts in weights.items()}
  shares = {d: _shares_of(each, count) for d, each in sums.items()}
  return [
    (
      {d: _part(batch, number, count) for d, batch in inputs.items()},
      MicroBatch(tf.constant(number), count, {d: each[number] for d, each in shares.items()}),
    )
    for number in range(count)
  ]


def _part(batch: Batch, number: int, count: int) -> Batch:
  # as int64: int32 would be cut on the host
  wide = {n: tf.cast(x, tf.int64) if x.dtype == tf.int32 else x for n, x in batch.items()}
  return {name: tf.cast(tensor[number::count], batch[name].dtype) for name, tensor in wide.items()}


def _shares_of(weights: tf.Tensor, count: int) -> list[tf.Tensor]:
  """The share of each part in the weight of all; 0 if nothing has any.

  Args:
    weights: Weight of each part, `[count]`.
    count: Number of parts.
  """
  return tf.unstack(weights / tf.maximum(tf.reduce_sum(weights), 1e-9), count)


def _weight(batch: Batch) -> tf.Tensor:
  """The weight of all candidates of a batch, a scalar."""
  return tf.reduce_sum(batch["weight"] * tf.cast(batch["candidate_mask"], tf.float32))


def in_turn(
  parts: Sequence[Any], step: Callable[[Any], tuple[dict[str, tf.Tensor], list[Any]]]
) -> tuple[dict[str, tf.Tensor], list[Any]]:
  """The sums of losses and gradients over parts, each of which begins when the gradients of the one before are there.

  Args:
    parts: Arguments of `step`.
    step: Function that returns losses by name, and gradients: tensors, `tf.IndexedSlices` or None.
  """
  losses: list[dict[str, tf.Tensor]] = []
  dense: list[Any] = []
  rows: list[list[tf.IndexedSlices]] = []
  before: list[tf.Tensor] = []
  for part in parts:
    # TensorFlow would run all parts at a time
    with tf.control_dependencies(before):
      found, gradients = step(part)
      losses.append(found)
      sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in gradients]
      rows.append([gradient for gradient, is_rows in zip(gradients, sparse, strict=True) if is_rows])
      whole = [gradient for gradient, is_rows in zip(gradients, sparse, strict=True) if not is_rows]
      dense = [_plus(one, other) for one, other in zip(dense, whole, strict=True)] if dense else whole
    before = [tensor for tensor in dense if tensor is not None] + [one.values for one in rows[-1]]
  sums_of_rows = iter([joined(one) for one in zip(*rows, strict=True)])
  summed = iter(dense)
  gradients = [next(sums_of_rows) if is_rows else next(summed) for is_rows in sparse]
  return {name: tf.add_n([found[name] for found in losses]) for name in losses[0]}, gradients


def _plus(one: tf.Tensor | None, other: tf.Tensor | None) -> tf.Tensor | None:
  return None if one is None else one + other


def joined(parts: Sequence[tf.IndexedSlices]) -> tf.IndexedSlices:
  """The sum of gradients of rows; rows of several parts are there several times."""
  values, indices = (tf.concat([getattr(part, name) for part in parts], axis=0) for name in ("values", "indices"))
  return tf.IndexedSlices(values, indices, parts[0].dense_shape)
