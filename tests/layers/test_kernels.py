"""The audit of kernels, by which many tests say that a graph runs on GPUs, finds what does not."""

import pytest
import tensorflow as tf

from tests.support.layers import ops_without_gpu_kernel


@tf.function(autograph=False)
def on_the_host(x):
  return tf.strings.length(tf.as_string(x))


@pytest.mark.parametrize(
  "body",
  [
    lambda x: tf.strings.length(tf.as_string(x)),
    on_the_host,
    lambda x: tf.cond(x[0] > 0, lambda: x, lambda: on_the_host(x)),
    lambda x: tf.while_loop(lambda y: y[0] < 3, lambda y: [on_the_host(y)], [x])[0],
  ],
  ids=["in a graph", "in a call", "in a branch", "in a loop"],
)
def test_what_has_no_kernel_is_found(body):
  function = tf.function(body, autograph=False).get_concrete_function(tf.TensorSpec([2], tf.int32))
  assert any(found.startswith("StringLength(") for found in ops_without_gpu_kernel(function))


def test_what_would_be_on_the_host_is_found():
  function = tf.function(lambda x: tf.concat([x, x], axis=0), autograph=False)
  said = ops_without_gpu_kernel(function.get_concrete_function(tf.TensorSpec([None, 2], tf.int32)))
  assert any(found.endswith("on the host") for found in said)


def test_what_runs_on_gpus_is_not():
  function = tf.function(lambda x: tf.nn.softmax(2.0 * x), autograph=False)
  assert ops_without_gpu_kernel(function.get_concrete_function(tf.TensorSpec([2, 3]))) == set()
