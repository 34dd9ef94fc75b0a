"""Parts of one graph that exchange tensors."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.layers.lockstep import current_part, in_lockstep, one_of
from lcn_tf.layers.replicas import global_rows, global_sum, own_rows, replicas
from lcn_tf.training.servers import _but_resources_on

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
SIZES = [2, 3, 1]


def compared(rows, weight):
  """A loss of own rows that all rows are part of, as a contrastive loss is; and how many rows there are."""
  everything = global_rows(rows * weight)
  total = global_sum(tf.reduce_sum(rows * weight))
  loss = tf.reduce_sum(tf.nn.softmax(rows @ tf.transpose(everything)) * tf.range(6.0)) * total
  return loss, tf.shape(everything)[0]


def gradient(rows, weight):
  with tf.GradientTape() as tape:
    loss, count = compared(rows, weight)
  return loss, tape.gradient(loss, weight), count


def test_parts_have_the_losses_and_gradients_of_the_whole():
  weight, rows = tf.Variable([0.5, -1.0, 2.0]), tf.split(ROWS, SIZES)
  found = tf.function(lambda: in_lockstep(lambda i: gradient(rows[i], weight), 3), autograph=False)()
  # a loss in which each part's sum of losses is multiplied by the sum of all, as with replicas
  losses, gradients, counts = zip(*found, strict=True)
  loss, whole, _ = gradient(tf.constant(ROWS), weight)
  np.testing.assert_allclose(tf.add_n(losses), loss, rtol=1e-5)
  np.testing.assert_allclose(tf.add_n(gradients), whole, rtol=1e-5)
  assert [int(count) for count in counts] == [6, 6, 6]
  assert float(tf.reduce_sum(tf.abs(whole))) > 0.1


def test_parts_are_replicas_to_those_that_ask():
  assert current_part() is None

  def asked(index):
    return replicas(), own_rows(tf.range(6), tf.constant(2))

  @tf.function(autograph=False)
  def run():
    found = in_lockstep(asked, 3)
    assert [one for one, _ in found] == [(3, 0), (3, 1), (3, 2)]
    return [rows for _, rows in found]

  np.testing.assert_array_equal(run(), [[0, 1], [2, 3], [4, 5]])
  assert current_part() is None
  assert replicas() == (1, 0)


def test_one_of_several_parts_is_traced_with_the_shapes_that_all_of_them_have():
  weight = tf.Variable([0.5, -1.0, 2.0])
  with one_of(3):
    (loss, _, count), own = tf.function(
      lambda: (gradient(tf.constant(ROWS[:2]), weight), own_rows(tf.range(6), tf.constant(2))), autograph=False
    )()
    assert replicas() == (3, 0)
  # the loss of three parts with the same rows
  parts = tf.function(lambda: in_lockstep(lambda i: gradient(tf.constant(ROWS[:2]), weight), 3), autograph=False)()
  np.testing.assert_allclose(loss, parts[0][0], rtol=1e-5)
  assert count == 6
  np.testing.assert_array_equal(own, [0, 1])
  with one_of(1):
    assert current_part() is None


def test_each_part_has_devices_of_its_own_and_ops_come_in_one_order():
  @tf.function(autograph=False)
  def run():
    def part(index):
      with tf.device(f"CPU:{index}"):
        one = tf.constant(1.0, name=f"before_{index}")
        both = global_sum(one)
        return tf.identity(both, name=f"after_{index}")

    return in_lockstep(part, 2)

  graph = run.get_concrete_function().graph
  for index in range(2):
    for name in (f"before_{index}", f"after_{index}"):
      assert graph.get_operation_by_name(name).device.endswith(f"CPU:{index}")
  again = tf.function(run.python_function, autograph=False).get_concrete_function().graph
  assert [op.name for op in graph.get_operations()] == [op.name for op in again.get_operations()]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_in_a_part_is_that_of_the_whole_and_leaves_no_thread(when):
  threads = threading.active_count()

  def part(index):
    if when == "before" and index == 1:
      raise ValueError("part 1 has failed")
    total = global_sum(tf.constant(1.0))
    if index == 1:
      raise ValueError("part 1 has failed")
    return global_sum(total)

  with pytest.raises(ValueError, match="part 1 has failed"):
    tf.function(lambda: in_lockstep(part, 3), autograph=False)()
  assert threading.active_count() == threads


def test_branches_and_loops_are_on_the_device_of_their_part_and_reads_where_the_variable_is():
  weight = tf.Variable(2.0)

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.bool)])
  def run(yes):
    with _but_resources_on("/job:localhost/device:CPU:1"):
      looped = tf.while_loop(lambda x: x < 9.0, lambda x: x + tf.abs(weight), [1.0])
      return tf.cond(yes, lambda: tf.square(weight), lambda: 1.0), 3 * weight, looped

  graph = run.get_concrete_function().graph
  ops = {op.type: op for op in graph.get_operations()}
  assert ops["ReadVariableOp"].device == ""
  inner = [op for function in graph.as_graph_def().library.function for op in function.node_def]
  assert {op.device for op in inner if op.op == "ReadVariableOp"} == {""}
  computing = [ops["If"], ops["While"], ops["Mul"], *(op for op in inner if op.op in ("Abs", "Square"))]
  assert len(computing) == 5
  assert all(op.device.endswith("CPU:1") for op in computing)


def test_parts_that_exchange_different_things_are_an_error():
  def part(index):
    return global_sum(tf.constant(1.0)) if index else tf.constant(1.0)

  with pytest.raises(RuntimeError, match="exchange different things"):
    tf.function(lambda: in_lockstep(part, 2), autograph=False)()
