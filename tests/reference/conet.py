"""Twin of lcn_tf/models/conet.py."""

import numpy as np

from tests.reference.average_pooling import average_pooling


def cross_towers(own, other, own_weights, other_weights, cross):
  """Both towers of one row, layer by layer.

  Args:
    own, other: Inputs `[W]`.
    own_weights, other_weights: (W, b) per layer.
    cross: H of the first layers.

  Returns:
    The last layers of both.
  """
  for level, ((own_kernel, own_bias), (other_kernel, other_bias)) in enumerate(
    zip(own_weights, other_weights, strict=True)
  ):
    next_own = own @ own_kernel + own_bias
    next_other = other @ other_kernel + other_bias
    if level < len(cross):
      next_own = next_own + other @ cross[level]
      next_other = next_other + own @ cross[level]
    own, other = np.maximum(next_own, 0), np.maximum(next_other, 0)
  return own, other


def conet(embedded, domain, weights):
  """Logits of candidates of `domain`.

  Args:
    weights: "user" and "candidate" by domain: (U, b) and C; "towers" by domain; "cross"; "logit" by domain: (w, b).
  """
  other_domain = "source" if domain == "target" else "target"
  means = {d: average_pooling(embedded.candidates, embedded.histories[d]) for d in ("target", "source")}
  candidates = embedded.candidates.embedding
  logits = np.zeros(embedded.candidates.items.shape)
  for b, n in np.ndindex(*logits.shape):
    start = {}
    for d in (domain, other_domain):
      kernel, bias = weights["user"][d]
      start[d] = np.concatenate([embedded.profile[b], means[d][b, n]]) @ kernel + bias
    start[domain] += np.concatenate([embedded.context[b, n], candidates[b, n]]) @ weights["candidate"][domain]
    towers = weights["towers"]
    own, _ = cross_towers(start[domain], start[other_domain], towers[domain], towers[other_domain], weights["cross"])
    kernel, bias = weights["logit"][domain]
    logits[b, n] = own @ kernel[:, 0] + bias[0]
  return logits
