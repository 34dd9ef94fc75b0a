"""Graphs, and the functions that their operations call."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph

CALLS = ("PartitionedCall", "StatefulPartitionedCall", "XlaLaunch")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
LOOPS = ("While", "StatelessWhile")


class Functions:
  """The functions that a graph may call.

  Args:
    outer: Graph with its library of functions.
  """

  def __init__(self, outer: Any):
    self._outer = outer
    self._library = {f.signature.name: _without_vague_shapes(f) for f in outer.as_graph_def().library.function}

  def graph(self, function: Any, inputs: Iterable[tf.Tensor]) -> Any:
    """The graph of a function, with the shapes that it is called with."""
    shapes = [None if x.dtype == tf.resource else x.shape for x in inputs]
    with self._outer.as_default():
      return function_def_to_graph.function_def_to_graph(self._library[function.name], input_shapes=shapes)


def callee(op: Any) -> Any:
  """The function that an operation of `CALLS` calls."""
  return op.get_attr("function" if op.type == "XlaLaunch" else "f")


def branches(op: Any) -> list[Any]:
  """The functions of which an operation of `BRANCHES` calls one, with its inputs from the second on."""
  if "Case" in op.type:
    return list(op.get_attr("branches"))
  return [op.get_attr(key) for key in ("then_branch", "else_branch")]


def turns(op: Any) -> int | None:
  """`maximum_iterations` of a loop, None if it has none. TensorFlow's loops carry it behind their counter."""
  if len(op.inputs) < 2:
    return None
  limit = tf.get_static_value(op.inputs[1])
  return int(limit) if limit is not None and np.ndim(limit) == 0 and int(limit) >= 0 else None


def _without_vague_shapes(function: Any) -> Any:
  """A function of the library without the noted shapes that are not fully known: they would hide those of a call."""
  for attributes in [node.attr for node in function.node_def] + [each.attr for each in function.arg_attr.values()]:
    shapes = attributes["_output_shapes"].list.shape if "_output_shapes" in attributes else []
    if any(shape.unknown_rank or any(axis.size < 0 for axis in shape.dim) for shape in shapes):
      del attributes["_output_shapes"]
  return function
