"""Mult-adds of a graph, counted."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from lcn_tf.models.graphs import BRANCHES, CALLS, LOOPS, Functions, branches, callee, turns

_MATRIX_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "SparseTensorDenseMatMul")


@dataclasses.dataclass(frozen=True)
class MultAdds:
  """Mult-adds of a graph.

  Attributes:
    by_op: Mult-adds per kind of matrix product.
    unknown: Products whose size depends on the data, by name: they are not in `by_op`.
    loops: Names of loops whose number of turns is not in the graph; their bodies count once.
  """

  by_op: dict[str, int]
  unknown: tuple[str, ...] = ()
  loops: tuple[str, ...] = ()

  @property
  def total(self) -> int:
    return sum(self.by_op.values())


def count(function: Any) -> MultAdds:
  """The mult-adds of all matrix products of a graph: a product `[M, K] x [K, N]` has M * K * N.

  Counted are MatMul, BatchMatMul, Einsum (the product of the sizes of all its indices; an einsum of one operand has
  none) and products of sparse matrices (entries times columns), in called functions as well; of a conditional the
  dearest branch; of a loop its body as often as `maximum_iterations` says. Nothing else is: no elementwise arithmetic,
  reductions, softmax, sorting or gathering.

  Args:
    function: A concrete function, traced with shapes that are all known.
  """
  graph = function.graph
  counter = _Counter(graph)
  by_op = counter.graph(graph)
  return MultAdds(dict(by_op), tuple(counter.unknown), tuple(counter.loops))


def count_call(call: Callable[..., Any], *arguments: Any) -> MultAdds:
  """As `count`, of a call with tensors (or structures of them) of these shapes."""
  specs = tf.nest.map_structure(lambda x: tf.TensorSpec(np.shape(x), tf.convert_to_tensor(x).dtype), arguments)
  return count(tf.function(call, autograph=False).get_concrete_function(*specs))


class _Counter:
  """Walks a graph and the functions that it calls."""

  def __init__(self, outer: Any):
    self.functions = Functions(outer)
    self.unknown: list[str] = []
    self.loops: list[str] = []

  def graph(self, graph: Any) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for op in graph.get_operations():
      if op.type in _MATRIX_PRODUCTS:
        try:
          found[op.type] += _product(op)
        except _UnknownShape:
          self.unknown.append(op.name)
      elif op.type in CALLS:
        found.update(self.graph(self.functions.graph(callee(op), op.inputs)))
      elif op.type in BRANCHES:
        each = [self.graph(self.functions.graph(one, op.inputs[1:])) for one in branches(op)]
        found.update(max(each, key=lambda one: sum(one.values())))
      elif op.type in LOOPS:
        body, often = self.graph(self.functions.graph(op.get_attr("body"), op.inputs)), turns(op)
        if often is None and body:
          self.loops.append(op.name)
        found.update({kind: (1 if often is None else often) * number for kind, number in body.items()})
    return found


class _UnknownShape(Exception):
  pass


def _product(op: Any) -> int:
  if op.type == "Einsum":
    return _einsum(op)
  if op.type == "SparseTensorDenseMatMul":
    return _shape(op.inputs[0])[0] * _shape(op.outputs[0])[-1]
  left = _shape(op.inputs[0])
  transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
  return math.prod(_shape(op.outputs[0])) * left[-2 if transposed else -1]


def _einsum(op: Any) -> int:
  if len(op.inputs) < 2:
    return 0
  terms = op.get_attr("equation").decode().partition("->")[0].split(",")
  sizes: dict[Any, int] = {}
  for term, tensor in zip(terms, op.inputs, strict=True):
    shape = _shape(tensor)
    before, dots, after = term.partition("...")
    labels: list[Any] = list(before + after)
    if dots:  # broadcast axes, counted from the right
      broadcast = range(len(labels) - len(shape), 0)
      labels = [*before, *broadcast, *after]
    for label, size in zip(labels, shape, strict=True):
      sizes[label] = max(size, sizes.get(label, 1))
  return math.prod(sizes.values())


def _shape(tensor: tf.Tensor) -> list[int]:
  if not tensor.shape.is_fully_defined():
    raise _UnknownShape
  return tensor.shape.as_list()
