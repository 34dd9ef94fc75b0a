"""Large calls are scored in blocks of candidates.

A processor has the tensors of a block in its caches, and gets no new memory from the system for each of them. So a
candidate costs the same whatever the size of the call, and the memory of a call is that of a block.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from lcn_tf.data.request_spec import traced

Tensors = dict[str, tf.Tensor]
AT_ONCE = 512


def at_once_here() -> int:
  """Candidates that are best scored at once by the devices of this process; 0 = all of a call, for a GPU."""
  return 0 if tf.config.list_physical_devices("GPU") else AT_ONCE


def blocked(score: Callable[..., tf.Tensor], specs: Mapping[str, tf.TensorSpec], at_once: int) -> Any:
  """The graph of a function as of `in_blocks`, which is in it once.

  Args:
    score: Function.
    specs: Shapes and types of its tensors, for calls and blocks of any size.
    at_once: Most candidates of a block; 0 = a call is one block.
  """
  block = traced(score, specs, inline=False)
  return traced(lambda **request: in_blocks(block, request, at_once), specs) if at_once else block


def in_blocks(score: Callable[..., tf.Tensor], request: Mapping[str, tf.Tensor], at_once: int) -> tf.Tensor:
  """The scores `[B, N]` of a valid request.

  A block has several users with all of their candidates, or some candidates of one user, whose side is computed again
  for each block.

  Args:
    score: Function that takes the tensors of a request by name and returns its scores `[B, N]`.
    request: Tensors, with `candidate_items` `[B, N]`. All of them begin with the axis B. Those of candidates and
      `*_first_visible` have the axis N next, or one column for all candidates.
    at_once: Most candidates of a block.
  """
  size = tf.shape(request["candidate_items"])
  return tf.cond(
    size[0] * size[1] <= at_once, lambda: score(**request), lambda: _one_by_one(score, request, size, at_once)
  )


def _one_by_one(
  score: Callable[..., tf.Tensor], request: Mapping[str, tf.Tensor], size: tf.Tensor, at_once: int
) -> tf.Tensor:
  users = tf.maximum(at_once // size[1], 1)
  # parts of a user's candidates are of about one size
  candidates = -(-size[1] // -(-size[1] // at_once))
  parts = -(-size[1] // candidates)
  blocks = -(-size[0] // users) * parts

  def block(number: tf.Tensor, done: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
    user, first = number // parts * users, number % parts * candidates
    found = {}
    for name, tensor in request.items():
      found[name] = tensor[user : user + users]
      if is_of_candidates(name):
        columns = tf.range(first, tf.minimum(first + candidates, size[1]))
        # a gather, so that one column stands for all
        found[name] = tf.gather(found[name], tf.minimum(columns, tf.shape(tensor)[1] - 1), axis=1)
    return number + 1, done.write(number, tf.reshape(score(**found), [-1]))

  done = tf.TensorArray(tf.float32, size=blocks, infer_shape=False, element_shape=[None])
  # blocks beside each other would need the memory that they are to save
  _, done = tf.while_loop(lambda number, _: number < blocks, block, (tf.constant(0), done), parallel_iterations=1)
  return tf.reshape(done.concat(), size)


def is_of_candidates(name: str) -> bool:
  """Whether a tensor of a request has the axis N of candidates, or one column for all of them."""
  return name.startswith("candidate_") or name.endswith("_first_visible")
