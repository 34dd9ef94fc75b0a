"""Mult-adds of a graph, counted."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph

_MATRIX_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "SparseTensorDenseMatMul")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall", "XlaLaunch")
_BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
_LOOPS = ("While", "StatelessWhile")


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
    self.outer = outer
    self.library = {f.signature.name: _without_vague_shapes(f) for f in outer.as_graph_def().library.function}
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
      elif op.type in _CALLS:
        found.update(self._function(op.get_attr("function" if op.type == "XlaLaunch" else "f"), op.inputs))
      elif op.type in _BRANCHES:
        keys = ("then_branch", "else_branch")
        branches = op.get_attr("branches") if "Case" in op.type else [op.get_attr(key) for key in keys]
        found.update(max((self._function(one, op.inputs[1:]) for one in branches), key=lambda one: sum(one.values())))
      elif op.type in _LOOPS:
        body, turns = self._function(op.get_attr("body"), op.inputs), _turns(op)
        if turns is None and body:
          self.loops.append(op.name)
        found.update({kind: (1 if turns is None else turns) * number for kind, number in body.items()})
    return found

  def _function(self, function: Any, inputs: Iterable[tf.Tensor]) -> collections.Counter[str]:
    """Of a function of the library, with the shapes that it is called with."""
    shapes = [None if x.dtype == tf.resource else x.shape for x in inputs]
    definition = self.library[function.name]
    with self.outer.as_default():
      return self.graph(function_def_to_graph.function_def_to_graph(definition, input_shapes=shapes))


class _UnknownShape(Exception):
  pass


def _without_vague_shapes(function: Any) -> Any:
  """A function of the library without the noted shapes that are not fully known: they would hide those of a call."""
  for attributes in [node.attr for node in function.node_def] + [each.attr for each in function.arg_attr.values()]:
    shapes = attributes["_output_shapes"].list.shape if "_output_shapes" in attributes else []
    if any(shape.unknown_rank or any(axis.size < 0 for axis in shape.dim) for shape in shapes):
      del attributes["_output_shapes"]
  return function


def _turns(op: Any) -> int | None:
  """`maximum_iterations` of a loop, None if it has none. TensorFlow's loops carry it behind their counter."""
  if len(op.inputs) < 2:
    return None
  limit = tf.get_static_value(op.inputs[1])
  return int(limit) if limit is not None and np.ndim(limit) == 0 and int(limit) >= 0 else None


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
