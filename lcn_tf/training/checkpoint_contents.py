"""What a checkpoint holds of a model, one tensor at a time, whatever the shapes of the model that reads it."""

from collections.abc import Hashable

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from lcn_tf.layers.parts import is_in_parts, reference

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class CheckpointContents:
  """The tensors of a job's checkpoint by the variables of a model of the same structure.

  TensorFlow finds the tensor of a variable by the path of attributes that leads to it, and refuses another shape. This
  class finds tensors in the same way, and gives them as they are.

  Args:
    checkpoint: Path of a checkpoint whose `model` is a compiled `RequestModel`.
    model: Model, whose variables are looked for.
  """

  def __init__(self, checkpoint: str, model: tf.keras.Model):
    self._reader = tf.train.load_checkpoint(checkpoint)
    self._graph = trackable_object_graph_pb2.TrackableObjectGraph()
    self._graph.ParseFromString(self._reader.get_tensor(_GRAPH))
    self._root = self._child(0, "model")
    self._nodes = self._matched(model)
    self._slots: dict[tuple[int, int, str], str] = {}
    for number, optimizer in self._optimizers().items():
      for slot in self._graph.nodes[optimizer].slot_variables:
        key = self._key(slot.slot_variable_node_id)
        self._slots[number, slot.original_variable_node_id, slot.slot_name] = key

  def weight(self, variable: tf.Variable) -> np.ndarray | None:
    """The value of a variable of the model; None if there is none."""
    return self._read(self._key(self._nodes.get(reference(variable))))

  def slot(self, optimizer: int, variable: tf.Variable, name: str) -> np.ndarray | None:
    """The value of a variable's slot, such as `m`, in the optimizer of that number; None if there is none."""
    return self._read(self._slots.get((optimizer, self._nodes.get(reference(variable), -1), name), ""))

  def iterations(self, optimizer: int) -> int:
    """The number of steps that an optimizer has done."""
    steps = self._read(self._key(self._child(self._optimizers().get(optimizer), "iter")))
    return 0 if steps is None else int(steps)

  def _optimizers(self) -> dict[int, int]:
    """The nodes of the optimizers of a composite one, by number."""
    found: dict[int, int] = {}
    composite = self._child(self._root, "optimizer")
    while (node := self._child(composite, f"Optimizer{len(found)}")) is not None:
      found[len(found)] = node
    return found

  def _matched(self, model: tf.keras.Model) -> dict[Hashable, int]:
    """The node of every variable that model and checkpoint both have, by its reference."""
    found: dict[Hashable, int] = {}
    view, seen = tf.train.TrackableView(model), {id(model)}
    left = [(model, self._root)]
    while left:
      trackable, node = left.pop()
      if (isinstance(trackable, tf.Variable) or is_in_parts(trackable)) and node is not None:
        found[reference(trackable)] = node
      for name, child in view.children(trackable).items():
        there = self._child(node, name)
        if there is not None and id(child) not in seen:
          seen.add(id(child))
          left.append((child, there))
    return found

  def _child(self, node: int | None, name: str) -> int | None:
    children = () if node is None else self._graph.nodes[node].children
    return next((child.node_id for child in children if child.local_name == name), None)

  def _key(self, node: int | None) -> str:
    attributes = () if node is None else self._graph.nodes[node].attributes
    return next((attribute.checkpoint_key for attribute in attributes), "")

  def _read(self, key: str) -> np.ndarray | None:
    return self._reader.get_tensor(key) if key else None
