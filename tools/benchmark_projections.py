"""Measures what cached item projections save TWIN's search at request time.

The command builds one request of one user with a long history, on random items, and reads no files. It times the key
side of the search (CP-GSU) in three parts, each with plain multi-head attention (mha), with TWIN's live projections
(uncached), and with cached projections (cached):

    projection  The matrix product from the gathered item embeddings [L, H_in] to the keys of all heads [L, H * E].
                Cached projections need no product, so their time is 0.
    keys        All that makes the keys and the bias of a request. mha: a gather of L rows [H_in] and the product with
                [H_in + C, H * E]. Uncached: the gather, the product with W_h, and the bias. Cached: a gather of L rows
                [H * E] by item, and L x C products for the bias.
    search      The keys, the products with N queries, and the walk to the top K. `projected_rows` and `carried_query`
                are the two ways without a cache: lcn_tf carries the queries through W_h^T instead of projecting rows,
                which costs less the fewer queries there are.

The product [L, H_in + C] x [H_in + C, H * E] of plain multi-head attention costs L (H_in + C) H E multiplications and
additions. With cached projections L C of them remain for all heads together, as the paper counts them (one number per
cross feature).

It leaves no files. It prints one JSON line. Each time is the fastest of --repeats calls of a graph, and includes the
time of a call itself (`empty_call_seconds`). The JSON also compares the scores with and without the cache.

Example:

    python -m tools.benchmark_projections --seq_len 10000 --candidates 1
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from lcn_tf import entry

if TYPE_CHECKING:
  import tensorflow as tf

  from lcn_tf.interest.twin import TWIN
  from lcn_tf.layers.structures import Behaviours, Candidates

_FLAGS = flags.FlagValues()
_SEQ_LEN = entry.define_seq_len(_FLAGS, 10_000)
_CANDIDATES = entry.define_candidates(_FLAGS, 1)
_ITEMS = flags.DEFINE_integer("items", 200_000, "Items with cached projections.", lower_bound=2, flag_values=_FLAGS)
_WIDTH = flags.DEFINE_integer("width", 160, "Width H_in of the inherent features of an item.", 1, flag_values=_FLAGS)
_FIELDS = flags.DEFINE_integer("fields", 4, "Cross fields J, each 8 wide. 0 = no bias.", 0, flag_values=_FLAGS)
_HEADS = flags.DEFINE_integer("heads", 4, "Heads H.", lower_bound=1, flag_values=_FLAGS)
_HEAD_DIM = flags.DEFINE_integer("head_dim", 32, "Width E of a head.", lower_bound=1, flag_values=_FLAGS)
_TOPK = flags.DEFINE_integer("topk", 100, "Behaviours K that the search keeps.", lower_bound=1, flag_values=_FLAGS)
_REPEATS = flags.DEFINE_integer(
  "repeats", 100, "Calls of each graph, of which the fastest counts.", lower_bound=1, flag_values=_FLAGS
)
_CROSS = 8


class Request(NamedTuple):
  """One request, and the embedding table that it reads.

  Attributes:
    table: Embeddings of all items, `[items, H_in]`.
    history: Rows of the table, int `[1, L]`.
    candidates: Candidates of the request, `[1, N]`.
    behaviours: Behaviours with the embeddings of the history, `[1, L]`.
  """

  table: "tf.Variable"
  history: "tf.Tensor"
  candidates: "Candidates"
  behaviours: "Behaviours"

  def gathered(self) -> "Behaviours":
    """The behaviours, with embeddings that a graph gathers anew."""
    import tensorflow as tf

    return self.behaviours._replace(embedding=tf.gather(self.table, self.history))


class Layers(NamedTuple):
  """The three searches.

  Attributes:
    raw: Plain multi-head attention.
    live: TWIN without a cache.
    cached: TWIN with the weights of `live` and a cache of its projections.
  """

  raw: "TWIN"
  live: "TWIN"
  cached: "TWIN"


def random_request() -> Request:
  """The request that the flags describe."""
  import tensorflow as tf

  from lcn_tf.layers.structures import Behaviours, Candidates

  length, count, width = _SEQ_LEN.value, _CANDIDATES.value, _WIDTH.value
  rng = np.random.default_rng(0)
  normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)  # noqa: E731
  table = tf.Variable(normal(_ITEMS.value, width))
  history = tf.constant(rng.integers(1, _ITEMS.value, (1, length)), tf.int32)
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
    normal(1, length, _FIELDS.value * _CROSS),
    tf.zeros([0, _CROSS]),
    tf.ones([1, 1, length], tf.bool),
    tf.zeros([1, length, 0]),
    tf.zeros([1, length, 0]),
  )
  return Request(table, history, candidates, behaviours)


def make_layers(request: Request) -> Layers:
  """The three searches with their weights; the cache holds the projections of all items of the request's table."""
  from lcn_tf.interest.twin import TWIN

  options: dict[str, Any] = {
    "top_k": _TOPK.value,
    "num_heads": _HEADS.value,
    "head_dim": _HEAD_DIM.value,
    "cross_widths": [_CROSS] * _FIELDS.value,
  }
  raw = TWIN(**options, key="raw", name="raw")
  live = TWIN(**options, name="live")
  cached = TWIN(**options, projections="cached", items=_ITEMS.value, name="cached")
  for layer in (raw, live, cached):
    layer(request.candidates, request.behaviours)
  for name in ("query_weight", "key_weight") + (("cross_weight", "cross_scale") if _FIELDS.value else ()):
    getattr(cached, name).assign(getattr(live, name))
  assert cached.cached is not None
  cached.cached.assign(cached.project(request.table))
  return Layers(raw, live, cached)


def fastest(function: Callable[[], Any]) -> float:
  """Seconds of the fastest call of a function as a graph. The results stay unread."""
  import tensorflow as tf

  graph = tf.function(function, autograph=False)
  graph()
  seconds = []
  for _ in range(_REPEATS.value):
    began = time.perf_counter()
    graph()
    seconds.append(time.perf_counter() - began)
  return min(seconds)


def key_side(request: Request, layers: Layers) -> tuple[dict[str, float], dict[str, float]]:
  """Seconds of the projections, and of all that makes the keys, by the way they are made."""
  import tensorflow as tf

  raw, live, cached = layers
  behaviours = request.behaviours
  raw_key = tf.reshape(tf.transpose(raw.key_weight, [1, 0, 2]), [1, -1, _HEADS.value * _HEAD_DIM.value])
  both = tf.concat([behaviours.embedding, behaviours.side], axis=-1)

  def mha_keys() -> "tf.Tensor":
    return tf.matmul(tf.concat([request.gathered().embedding, behaviours.side], axis=-1), raw_key)

  def bias(layer: "TWIN") -> "tf.Tensor":
    return layer.side_bias(behaviours) if _FIELDS.value else tf.zeros([1, _SEQ_LEN.value, _HEADS.value])

  def cached_rows() -> "tf.Tensor":
    return tf.gather(cached.cached, request.history)

  projection = {
    "mha": fastest(lambda: tf.matmul(both, raw_key)),
    "uncached": fastest(lambda: live.project(behaviours.embedding)),
    "cached": 0.0,
  }
  keys = {
    "mha": fastest(mha_keys),
    "uncached": fastest(lambda: (live.project(request.gathered().embedding), bias(live))),
    "cached": fastest(lambda: (cached_rows(), bias(cached))),
    "cached_gather_alone": fastest(cached_rows),
    "cached_bias_alone": fastest(lambda: bias(cached)),
  }
  return projection, keys


def search(request: Request, layers: Layers) -> dict[str, float]:
  """Seconds of the whole search, by the way the keys are made."""
  from lcn_tf.layers.union_walk import union_walk

  candidates, behaviours = request.candidates, request.behaviours
  live, cached = layers.live, layers.cached

  def walk(alphas: "tf.Tensor") -> "tf.Tensor":
    return union_walk(alphas, behaviours.visible, _TOPK.value)[0]

  def projected_rows() -> "tf.Tensor":
    return walk(live.alphas(candidates, request.gathered(), live.project(request.gathered().embedding)))

  return {
    "projected_rows": fastest(projected_rows),
    "carried_query": fastest(lambda: walk(live.alphas(candidates, request.gathered()))),
    "cached": fastest(lambda: walk(cached.alphas(candidates, behaviours))),
  }


def mult_adds() -> dict[str, int]:
  """Multiplications and additions of the key side, by the way the keys are made."""
  length, width, cross = _SEQ_LEN.value, _WIDTH.value, _FIELDS.value * _CROSS
  heads, head = _HEADS.value, _HEAD_DIM.value
  return {
    "mha": length * (width + cross) * heads * head,
    "uncached": length * width * heads * head + length * cross * heads,
    "cached": length * cross * heads,
    "cached_as_the_paper_counts": length * cross,
  }


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  with entry.loading():
    import tensorflow as tf

  request = random_request()
  candidates, behaviours = request.candidates, request.behaviours
  layers = make_layers(request)
  projection, keys = key_side(request, layers)
  both = (layers.live, layers.cached)
  found = [layer.alphas(candidates, behaviours).numpy() for layer in both]
  kept = [set(layer(candidates, behaviours, pool=False)[0].numpy()[0, 0]) for layer in both]
  result = {
    "seq_len": _SEQ_LEN.value,
    "candidates": _CANDIDATES.value,
    "width": _WIDTH.value,
    "cross_width": _FIELDS.value * _CROSS,
    "heads": _HEADS.value,
    "head_dim": _HEAD_DIM.value,
    "mult_adds": mult_adds(),
    "empty_call_seconds": fastest(lambda: tf.identity(candidates.items)),
    "projection_seconds": projection,
    "key_seconds": keys,
    "search_seconds": search(request, layers),
    "largest_difference_of_scores": float(np.abs(found[0] - found[1]).max()),
    "same_kept": kept[0] == kept[1],
  }
  json.dump(result, sys.stdout)
  print()


if __name__ == "__main__":
  entry.run(main)
