"""Twin of lcn_tf/interest/two_stage.py: any search, then an exact attention over what it kept."""

import numpy as np

from tests.reference import din, masked
from tests.reference.behaviours import behaviour_row, side_width


def kept(candidates, behaviours, search, b, n, top_k):
  """The behaviours that candidate n of request b keeps, the best first.

  `search(b, n, i)` is the score of behaviour i, or None if a filter leaves it out.
  """
  seen = masked.visible(behaviours.visible[b, n])
  scores = {i: search(b, n, i) for i in seen}
  found = [i for i in seen if scores[i] is not None]
  return [found[position] for position in masked.top_k([scores[i] for i in found], top_k)]


def mha(candidate, rows, weights):
  """`weights`: query [H, D, E], key and value [H, X, E], output [H * E, W]."""
  heads = []
  for query, key, value in zip(weights["query"], weights["key"], weights["value"], strict=True):
    pooled = np.zeros(value.shape[-1])
    for share, row in zip(head_attention(candidate, rows, query, key), rows, strict=True):
      pooled += share * (row @ value)
    heads.append(pooled)
  return np.concatenate(heads) @ weights["output"]


def head_attention(candidate, rows, query, key):
  return masked.softmax([(row @ key) @ (candidate @ query) / np.sqrt(key.shape[-1]) for row in rows])


def two_stage(candidates, behaviours, search, weights, *, top_k, esu):
  requests, count = candidates.times.shape
  output = []
  for b in range(requests):
    for n in range(count):
      candidate = candidates.embedding[b, n]
      chosen = kept(candidates, behaviours, search, b, n, top_k)
      rows = [behaviour_row(candidates, behaviours, b, n, i) for i in chosen]
      if esu == "mha":
        output.append(mha(candidate, rows, weights))
      else:
        output.append(din.pooled(candidate, rows, weights, len(candidate) + side_width(behaviours)))
  return np.array(output).reshape(requests, count, -1)


def exact_scores(candidates, behaviours, weights, *, esu):
  """What the exact attention gives each behaviour, had it read all visible ones; 0 for the others."""
  output = np.zeros(behaviours.visible.shape)
  for b, n in np.ndindex(*candidates.times.shape):
    candidate, seen = candidates.embedding[b, n], masked.visible(behaviours.visible[b, n])
    rows = [behaviour_row(candidates, behaviours, b, n, i) for i in seen]
    if esu == "mha":
      pairs = zip(weights["query"], weights["key"], strict=True)
      output[b, n, seen] = np.mean([head_attention(candidate, rows, query, key) for query, key in pairs], axis=0)
    else:
      output[b, n, seen] = din.attention(candidate, rows, weights)
  return output
