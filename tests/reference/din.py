"""Twins of lcn_tf/layers/din_attention.py and lcn_tf/interest/din.py, MODELS 2: pair by pair, W_1 in one piece."""

import numpy as np

from tests.reference import masked
from tests.reference.behaviours import behaviour_row, side_width

ACTIVATIONS = {
  "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
  "relu": lambda x: np.maximum(x, 0.0),
  "tanh": np.tanh,
  "linear": lambda x: x,
}


def logit(candidate, row, weights, activation):
  """w of one pair; `weights`: kernel_1 [3D + X, U], bias_1, kernel_2 [U, V], bias_2, kernel_3 [V, 1], bias_3 [1] or
  none."""
  act = ACTIVATIONS[activation]
  item = row[: len(candidate)]
  pair = np.concatenate([candidate, row, candidate - item, candidate * item])
  hidden = act(pair @ weights["kernel_1"] + weights["bias_1"])
  hidden = act(hidden @ weights["kernel_2"] + weights["bias_2"])
  return float((hidden @ weights["kernel_3"])[0] + weights.get("bias_3", [0.0])[0])


def attention(candidate, rows, weights, activation="sigmoid", norm="softmax"):
  """g of the rows that one candidate sees."""
  logits = [logit(candidate, row, weights, activation) for row in rows]
  return masked.softmax([w / np.sqrt(len(candidate)) for w in logits]) if norm == "softmax" else np.array(logits)


def pooled(candidate, rows, weights, width, activation="sigmoid", norm="softmax"):
  """The interest `[width]` of one candidate."""
  total = np.zeros(width)
  for share, row in zip(attention(candidate, rows, weights, activation, norm), rows, strict=True):
    total += share * row
  return total


def din(candidates, behaviours, weights, *, recent=0, activation="sigmoid", norm="softmax"):
  width = behaviours.embedding.shape[-1] + side_width(behaviours)
  requests, count = candidates.times.shape
  output = np.zeros([requests, count, width])
  for b in range(requests):
    for n in range(count):
      seen = masked.visible(behaviours.visible[b, n])
      if recent:
        seen = seen[:recent]
      rows = [behaviour_row(candidates, behaviours, b, n, i) for i in seen]
      output[b, n] = pooled(candidates.embedding[b, n], rows, weights, width, activation, norm)
  return output
