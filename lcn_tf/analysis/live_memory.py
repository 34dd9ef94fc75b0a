"""Memory that the tensors of a graph take at a time, found without running it."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from lcn_tf.models.graphs import BRANCHES, CALLS, LOOPS, Functions, branches, callee, turns

# outputs of these are their first input under another shape or name
_SAME = ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient", "EnsureShape", "Snapshot")
# outputs of these may take the place of an input that nothing else reads any more
_IN_PLACE = (
  *("Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "Square", "Sqrt", "Rsqrt", "Exp", "Neg", "Relu"),
  *("Sigmoid", "Tanh", "Softmax", "BiasAdd", "ReluGrad", "SigmoidGrad", "TanhGrad", "AddN", "LogicalAnd", "SelectV2"),
)
_HELD = ("Const", "ReadVariableOp", "VarHandleOp", "Placeholder", "Arg", "_Arg")  # by others than the step
_KEEP = ("TensorListPushBack", "TensorListSetItem", "StackPushV2")

Dims = tuple[int, ...]  # most entries of each axis of a tensor


@dataclasses.dataclass(frozen=True)
class LiveMemory:
  """Bytes of a graph.

  Attributes:
    peak: Most bytes that live at a time, without variables, constants and inputs.
    kept: Bytes that are appended to lists, which live until the caller drops them.
    rows: Most rows of a variable that are written, by the handle of the variable in the graph.
    read: Most bytes of rows of a variable that are gathered, by its handle; those that called functions gather by None.
  """

  peak: int
  kept: int = 0
  rows: Mapping[Any, int] = dataclasses.field(default_factory=dict)
  read: Mapping[Any, int] = dataclasses.field(default_factory=dict)


def live_memory(function: Any) -> LiveMemory:
  """The most memory that tensors take at a time, if operations run in the order in which they were traced.

  A tensor lives from the operation that makes it to the last one that reads it. Elementwise operations write in the
  place of an input that is read no more. Of a conditional the largest branch counts, and what the turns of a loop
  append to lists adds up. A size that depends on the data has its bound: distinct values are as many as all values.

  Args:
    function: A concrete function, traced with shapes that are known.
  """
  graph = function.graph
  outputs = [*graph.outputs, *graph.control_outputs]
  return _Walk(graph).function(graph, [_dims(x) for x in graph.inputs], outputs)


class _Walk:
  def __init__(self, outer: Any):
    self.functions = Functions(outer)

  def function(self, graph: Any, given: Iterable[Dims], outputs: Iterable[Any]) -> LiveMemory:
    """Memory of a graph whose inputs have `given` entries at most."""
    outputs = list(outputs)
    order = _needed(graph, outputs)
    return _Body(self, order, dict(zip((x.ref() for x in graph.inputs), given, strict=True)), outputs).run()

  def called(self, function: Any, inputs: Iterable[tf.Tensor], dims: Mapping[Any, Dims]) -> LiveMemory:
    inputs = list(inputs)
    inner = self.functions.graph(function, inputs)
    return self.function(inner, [dims.get(x.ref(), _dims(x)) for x in inputs], inner.outputs)


class _Body:
  """One graph, walked in order."""

  def __init__(self, walk: _Walk, order: list[Any], dims: dict[Any, Dims], outputs: list[Any]):
    self.walk = walk
    self.order = order
    self.dims = dims
    self.buffer: dict[Any, Any] = {}  # tensor -> the tensor whose memory it shares
    self.bytes: dict[Any, int] = {}  # of each buffer that lives
    self.readers: dict[Any, int] = {}
    self.rows: dict[Any, int] = {}
    self.gathered: dict[Any, int] = {}
    self.live = self.peak = self.kept = 0
    for tensor in [x for op in order for x in op.inputs] + [x for x in outputs if isinstance(x, tf.Tensor)]:
      self.readers[tensor.ref()] = self.readers.get(tensor.ref(), 0) + 1

  def run(self) -> LiveMemory:
    left: dict[Any, int] = {}  # readers of a buffer that are still to come
    for op in self.order:
      for x in op.outputs:
        shared = x.ref()
        if op.type in (*_SAME, "IdentityN"):
          source = op.inputs[x.value_index if op.type == "IdentityN" else 0].ref()
          shared = self.buffer.get(source, source)
        self.buffer[x.ref()] = shared
        left[shared] = left.get(shared, 0) + self.readers.get(x.ref(), 0)
    for op in self.order:
      self._step(op, left)
    return LiveMemory(self.peak, self.kept, self.rows, self.gathered)

  def _step(self, op: Any, left: dict[Any, int]) -> None:
    inner = self._inner(op)
    self.kept += inner.kept
    if within := sum(inner.read.values()):
      self._gathers(None, within)
    made = 0
    for x in op.outputs:
      self.dims[x.ref()] = _bounds(op, x, [self._dims(y) for y in op.inputs])
      if self.buffer[x.ref()] == x.ref() and op.type not in _HELD:
        self.bytes[x.ref()] = self._size(x) * _width(x)
        made += self.bytes[x.ref()]
    if op.outputs and op.type in (*LOOPS, *CALLS, *BRANCHES):
      self.bytes[op.outputs[0].ref()] = self.bytes.get(op.outputs[0].ref(), 0) + inner.kept
      made += inner.kept
    if op.type in _KEEP:
      item = op.inputs[-1]
      self.kept += self._size(item) * _width(item)
    if op.type.startswith(("ResourceScatter", "ResourceSparseApply")):
      self.rows[op.inputs[0].ref()] = max(self._size(x) for x in op.inputs[1:] if x.dtype.is_integer)
    if op.type == "ResourceGather":
      self._gathers(op.inputs[0].ref(), self._size(op.outputs[0]) * _width(op.outputs[0]))
    self.live += made
    dying = self._read(op, left)
    reused = made if op.type in _IN_PLACE and any(one >= made for one in dying) else 0
    self.peak = max(self.peak, self.live - reused + inner.peak)
    self.live -= sum(dying)
    for x in op.outputs:  # what nobody reads is gone at once
      if not left.get(self.buffer[x.ref()]):
        self.live -= self.bytes.pop(self.buffer[x.ref()], 0)

  def _gathers(self, handle: Any, size: int) -> None:
    self.gathered[handle] = self.gathered.get(handle, 0) + size

  def _dims(self, tensor: tf.Tensor) -> Dims:
    return self.dims.get(tensor.ref(), _dims(tensor))

  def _size(self, tensor: tf.Tensor) -> int:
    return math.prod(self._dims(tensor))

  def _read(self, op: Any, left: dict[Any, int]) -> list[int]:
    """Bytes of the buffers that this operation is the last to read."""
    dying = []
    for x in op.inputs:
      shared = self.buffer.get(x.ref(), x.ref())
      if shared in left:
        left[shared] -= 1
        if not left[shared]:
          dying.append(self.bytes.pop(shared, 0))
    return dying

  def _inner(self, op: Any) -> LiveMemory:
    """Memory inside of the functions that an operation calls; their outputs are the operation's."""
    if op.type in CALLS:
      return self.walk.called(callee(op), op.inputs, self.dims)
    if op.type in BRANCHES:
      found = [self.walk.called(one, op.inputs[1:], self.dims) for one in branches(op)]
      largest = max(found, key=lambda one: one.peak)
      return dataclasses.replace(largest, read={None: max(sum(one.read.values()) for one in found)})
    if op.type in LOOPS:
      body = self.walk.called(op.get_attr("body"), op.inputs, self.dims)
      count = turns(op) or 1
      return LiveMemory(body.peak, body.kept * count, read={None: sum(body.read.values()) * count})
    return LiveMemory(0)


def _needed(graph: Any, outputs: Iterable[Any]) -> list[Any]:
  """The operations that the outputs, and whatever has an effect, depend on, in the order of the graph."""
  effects = [op for op in graph.get_operations() if op.op_def is not None and op.op_def.is_stateful]
  todo = [x.op if isinstance(x, tf.Tensor) else x for x in outputs] + [
    op for op in effects if op.type not in ("Placeholder", "VarHandleOp", "ReadVariableOp", *CALLS)
  ]
  seen: set[Any] = set()
  while todo:
    op = todo.pop()
    if op in seen:
      continue
    seen.add(op)
    todo += [x.op for x in op.inputs] + list(op.control_inputs)
  return [op for op in graph.get_operations() if op in seen]


def _width(tensor: tf.Tensor) -> int:
  """Bytes of an element; 0 of strings, lists and handles."""
  return 0 if tensor.dtype in (tf.string, tf.variant, tf.resource) else tensor.dtype.size


def _dims(tensor: tf.Tensor) -> Dims:
  """Most entries of each axis, as far as the shape tells; one of an axis that it does not know."""
  return tuple(1 if size is None else size for size in tensor.shape.as_list()) if tensor.shape.rank else ()


def _bounds(op: Any, output: tf.Tensor, read: Sequence[Dims]) -> Dims:
  """Most entries of each axis of an output.

  Args:
    op: Operation.
    output: One of its outputs.
    read: Most entries of each axis of each input.
  """
  if output.shape.is_fully_defined() or not read:
    return _dims(output)
  if op.type == "ResourceGather" and (shape := _said(output)).rank is not None:
    return (*read[1], *(size or 1 for size in shape.as_list()[len(read[1]) :]))
  everything = max(math.prod(one) for one in read)
  if output.shape.rank is None:
    return (everything,)
  if op.type == "Where":
    return (math.prod(read[0]), len(read[0]))
  known = [size for size in output.shape.as_list() if size is not None]
  if op.type == "Reshape":
    return _first_unknown(output, math.prod(read[0]) // max(math.prod(known), 1))
  if op.type in ("Unique", "UniqueV2"):
    return _first_unknown(output, math.prod(read[0]))
  if op.type == "GatherV2" and op.inputs[0].shape.rank == len(read[0]):
    axis, shared = int(tf.get_static_value(op.inputs[2])), op.get_attr("batch_dims")
    return (*read[0][:axis], *read[1][shared:], *read[0][axis + 1 :])
  if op.type == "ConcatV2" and any(len(one) != output.shape.rank for one in read[:-1]):
    return (sum(math.prod(one) for one in read[:-1]),)
  if op.type == "ConcatV2":
    axis = int(tf.get_static_value(op.inputs[-1]) or 0)
    joined = [
      sum(one[i] for one in read[:-1]) if i == axis else max(one[i] for one in read[:-1]) for i in range(len(read[0]))
    ]
    return tuple(bound if size is None else size for size, bound in zip(output.shape.as_list(), joined, strict=True))
  order = tf.get_static_value(op.inputs[1]) if op.type == "Transpose" else None
  if order is not None and len(order) == len(read[0]):
    return tuple(read[0][axis] for axis in order)
  if op.type == "StridedSlice" and op.inputs[0].shape.rank == len(read[0]):
    return _sliced(op, read[0])
  rank = output.shape.rank
  wide = [one for one in read if len(one) >= rank]
  found = []
  for axis, size in enumerate(output.shape.as_list()):  # of as many axes as were dropped, any may have come here
    bound = max((max(one[axis : axis + 1 + len(one) - rank]) for one in wide), default=everything)
    found.append(bound if size is None else size)
  return tuple(found)


def _said(rows: tf.Tensor) -> tf.TensorShape:
  """The shape of rows, as `gather_rows` says it behind the look-up: within functions those of variables are unknown."""
  return next((op.outputs[0].shape for op in rows.consumers() if op.type == "EnsureShape"), rows.shape)


def _sliced(op: Any, read: Dims) -> Dims:
  """Most entries of each axis of a slice, where an axis may be new, dropped, or cut by any amount."""
  axes, found = list(read), []
  entries = op.inputs[1].shape[0]
  for index in range(entries):
    if op.get_attr("new_axis_mask") >> index & 1:
      found.append(1)
    elif op.get_attr("ellipsis_mask") >> index & 1:
      later = sum(not op.get_attr("new_axis_mask") >> i & 1 for i in range(index + 1, entries))
      found += [axes.pop(0) for _ in range(len(axes) - later)]
    else:
      bound = axes.pop(0)
      found += [] if op.get_attr("shrink_axis_mask") >> index & 1 else [bound]
  found += axes
  known = op.outputs[0].shape.as_list()
  return tuple(bound if size is None else size for size, bound in zip(known, found, strict=True))


def _first_unknown(output: tf.Tensor, bound: int) -> Dims:
  """The shape of an output whose first unknown axis has `bound` entries at most, and any other of them one."""
  found, left = [], bound
  for size in output.shape.as_list():
    found.append(left if size is None else size)
    left = 1 if size is None else left
  return tuple(found)
