"""Twin of lcn_tf/models/minet.py."""

import numpy as np

from tests.reference import masked
from tests.reference.behaviours import behaviour_row, side_width
from tests.reference.mlp import mlp

GATES = ("user", "target", "source")


def item_attention(candidates, behaviours, profile, weights, recent):
  """`weights`: V, h and, for items of another domain, M."""
  requests, count = candidates.items.shape
  output = np.zeros([requests, count, behaviours.embedding.shape[-1] + side_width(behaviours)])
  visible = np.broadcast_to(behaviours.visible, [requests, count, behaviours.visible.shape[-1]])
  for b in range(requests):
    for n in range(count):
      newest = masked.visible(visible[b, n])[:recent]
      query, rows, scores = candidates.embedding[b, n], [], []
      for i in newest:
        item = behaviours.embedding[b, i]
        row = behaviour_row(candidates, behaviours, b, n, i)
        carried = item @ weights["M"] if "M" in weights else item
        hidden = np.concatenate([row, query, profile[b], carried * query]) @ weights["V"]
        scores.append(np.maximum(hidden, 0) @ weights["h"])
        rows.append(row)
      for i, weight in enumerate(masked.softmax(scores) if scores else []):
        output[b, n] += weight * rows[i]
  return output


def interest_gates(z, weights, limit):
  """`weights`: W [Z, 3, units], g [3, units], b [3]; one row z."""
  gates = np.zeros(len(GATES))
  for k in range(len(GATES)):
    score = np.maximum(z @ weights["W"][:, k], 0) @ weights["g"][k] + weights["b"][k]
    gates[k] = np.exp(min(max(score, -limit), limit))
  return gates


def minet(embedded, weights, recent, limit):
  """Logits of the target task."""
  candidates, profile = embedded.candidates, embedded.profile
  clicks = {
    d: item_attention(candidates, embedded.histories[d], profile, weights[d], recent) for d in ("target", "source")
  }
  logits = np.zeros(candidates.items.shape)
  for b, n in np.ndindex(*logits.shape):
    query = candidates.embedding[b, n]
    interests = [profile[b], clicks["target"][b, n], clicks["source"][b, n]]
    gates = interest_gates(np.concatenate([query, *interests]), weights["gates"], limit)
    gated = [gate * interest for gate, interest in zip(gates, interests, strict=True)]
    kernel, bias = weights["logit"]
    logits[b, n] = mlp(np.concatenate([*gated, embedded.context[b, n], query]), weights["mlp"]) @ kernel[:, 0] + bias[0]
  return logits


def source_task(embedded, weights):
  """Logits of the source task: `weights` of its MLP and its logit."""
  candidates = embedded.candidates
  logits = np.zeros(candidates.items.shape)
  for b, n in np.ndindex(*logits.shape):
    row = np.concatenate([embedded.profile[b], embedded.context[b, n], candidates.embedding[b, n]])
    kernel, bias = weights["logit"]
    logits[b, n] = mlp(row, weights["mlp"]) @ kernel[:, 0] + bias[0]
  return logits
