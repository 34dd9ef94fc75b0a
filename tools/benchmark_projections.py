"""What cached item projections save TWIN's search at request time. One JSON line on stdout.

    python -m tools.benchmark_projections --seq_len 10000 --candidates 1

One request of one user with a long history, and the key side of its search (CP-GSU), read three ways:

  projection  from the gathered item embeddings [L, H_in] to the keys of all heads [L, H * E]: the matrix product that
              cached projections do away with; with them there is nothing left to time, so they show 0
  keys        all that makes the keys and the bias of a request: with cached projections a gather of L rows
              [H * E] by item and L x C products for the bias; without, a gather of L rows [H_in], the product
              with W_h, and the bias; and plain multi-head attention's product with [H_in + C, H * E]
  search      the keys, the products with N queries, and the walk to the top K

A product [L, H_in + C] x [H_in + C, H * E] of plain multi-head attention costs L (H_in + C) H E multiplications and
additions; cached, L C of them remain for every head together as the paper counts them (one number per cross feature).
Every reading is the fastest of `--repeats`, and holds the call of a graph (`empty_call_seconds`). `carried_query` is
what the program does without a cache: it never projects rows, it carries the queries through W_h^T, which costs less
the fewer queries there are. The scores of the ways are compared.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from lcn_tf import entry

_FLAGS = flags.FlagValues()
_SEQ_LEN = flags.DEFINE_integer("seq_len", 10_000, "Behaviours L of the history.", 1, flag_values=_FLAGS)
_CANDIDATES = flags.DEFINE_integer("candidates", 1, "Candidates N of the request.", 1, flag_values=_FLAGS)
_ITEMS = flags.DEFINE_integer("items", 200_000, "Items, each with cached projections.", 2, flag_values=_FLAGS)
_WIDTH = flags.DEFINE_integer("width", 160, "Width H_in of the inherent features.", 1, flag_values=_FLAGS)
_FIELDS = flags.DEFINE_integer("fields", 4, "Cross fields J, 8 wide each.", 0, flag_values=_FLAGS)
_HEADS = flags.DEFINE_integer("heads", 4, "Heads H.", 1, flag_values=_FLAGS)
_HEAD_DIM = flags.DEFINE_integer("head_dim", 32, "Width E of a head.", 1, flag_values=_FLAGS)
_TOPK = flags.DEFINE_integer("topk", 100, "Behaviours K that the search keeps.", 1, flag_values=_FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", 100, "Runs of which the fastest counts.", 1, flag_values=_FLAGS)
_CROSS = 8


def fastest(function: Callable[[], Any]) -> float:
  """Seconds of the fastest call; what is computed is kept from being read."""
  function()
  seconds = []
  for _ in range(_REPEATS.value):
    began = time.perf_counter()
    function()
    seconds.append(time.perf_counter() - began)
  return min(seconds)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  import tensorflow as tf

  from lcn_tf.interest.twin import TWIN
  from lcn_tf.layers.structures import Behaviours, Candidates
  from lcn_tf.layers.union_walk import union_walk

  length, count, items, width = _SEQ_LEN.value, _CANDIDATES.value, _ITEMS.value, _WIDTH.value
  heads, head, cross = _HEADS.value, _HEAD_DIM.value, _FIELDS.value * _CROSS
  rng = np.random.default_rng(0)
  normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)  # noqa: E731
  table = tf.Variable(normal(items, width))
  history = tf.constant(rng.integers(1, items, (1, length)), tf.int32)
  candidates = Candidates(
    normal(1, count, width),
    tf.ones([1, count], tf.int32),
    tf.ones([1, count, 1], tf.int64),
    tf.ones([1, count], tf.int64),
    tf.zeros([1, count, 0]),
    tf.zeros([1, count, 0]),
  )
  behaviours = Behaviours(
    tf.gather(table, history),
    history,
    tf.ones([1, length, 1], tf.int64),
    tf.zeros([1, length], tf.int64),
    normal(1, length, cross),
    tf.zeros([0, _CROSS]),
    tf.ones([1, 1, length], tf.bool),
    tf.zeros([1, length, 0]),
    tf.zeros([1, length, 0]),
  )
  options: dict[str, Any] = {
    "top_k": _TOPK.value,
    "num_heads": heads,
    "head_dim": head,
    "cross_widths": [_CROSS] * _FIELDS.value,
  }
  raw = TWIN(**options, key="raw", name="raw")
  live = TWIN(**options, name="live")
  cached = TWIN(**options, projections="cached", items=items, name="cached")
  for layer in (raw, live, cached):
    layer(candidates, behaviours)
  for name in ("query_weight", "key_weight") + (("cross_weight", "cross_scale") if cross else ()):
    getattr(cached, name).assign(getattr(live, name))
  assert cached.cached is not None
  cached.cached.assign(cached.project(table))

  raw_key = tf.reshape(tf.transpose(raw.key_weight, [1, 0, 2]), [width + cross, heads * head])
  rows = behaviours.embedding
  both = tf.concat([rows, behaviours.side], axis=-1)

  def graph(function: Callable[[], Any]) -> Callable[[], Any]:
    return tf.function(function, autograph=False)

  def gathered() -> Behaviours:
    return behaviours._replace(embedding=tf.gather(table, history))

  def walk(alphas: tf.Tensor) -> tf.Tensor:
    return union_walk(alphas, behaviours.visible, _TOPK.value)[0]

  def mha_keys() -> tf.Tensor:
    return tf.matmul(tf.concat([tf.gather(table, history), behaviours.side], axis=-1), raw_key[tf.newaxis])

  def live_keys() -> tuple[tf.Tensor, tf.Tensor]:
    return live.project(tf.gather(table, history)), live.side_bias(behaviours)

  def cached_keys() -> tuple[tf.Tensor, tf.Tensor]:
    return tf.gather(cached.cached, history), cached.side_bias(behaviours)

  projection = {
    "mha": fastest(graph(lambda: tf.matmul(both, raw_key[tf.newaxis]))),
    "uncached": fastest(graph(lambda: live.project(rows))),
    "cached": 0.0,
  }
  keys = {
    "mha": fastest(graph(mha_keys)),
    "uncached": fastest(graph(live_keys)),
    "cached": fastest(graph(cached_keys)),
    "cached_gather_alone": fastest(graph(lambda: tf.gather(cached.cached, history))),
    "cached_bias_alone": fastest(graph(lambda: cached.side_bias(behaviours))),
  }
  search = {
    "projected_rows": fastest(
      graph(lambda: walk(live.alphas(candidates, gathered(), live.project(gathered().embedding))))
    ),
    "carried_query": fastest(graph(lambda: walk(live.alphas(candidates, gathered())))),
    "cached": fastest(graph(lambda: walk(cached.alphas(candidates, behaviours)))),
  }
  found = [layer.alphas(candidates, behaviours).numpy() for layer in (live, cached)]
  kept = [set(layer(candidates, behaviours, pool=False)[0].numpy()[0, 0]) for layer in (live, cached)]
  result = {
    "seq_len": length,
    "candidates": count,
    "width": width,
    "cross_width": cross,
    "heads": heads,
    "head_dim": head,
    "mult_adds": {
      "mha": length * (width + cross) * heads * head,
      "uncached": length * width * heads * head + length * cross * heads,
      "cached": length * cross * heads,
      "cached_as_the_paper_counts": length * cross,
    },
    "empty_call_seconds": fastest(graph(lambda: tf.identity(candidates.items))),
    "projection_seconds": projection,
    "key_seconds": keys,
    "search_seconds": search,
    "largest_difference_of_scores": float(np.abs(found[0] - found[1]).max()),
    "same_kept": kept[0] == kept[1],
  }
  json.dump(result, sys.stdout)
  print()


if __name__ == "__main__":
  entry.run(main)
