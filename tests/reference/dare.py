"""Twin of lcn_tf/interest/dare.py."""

import numpy as np

from tests.reference import masked
from tests.reference.behaviours import behaviour_row


def attention(candidates, behaviours, bias, b, n, i):
  """Unnormalised: products of the keys, and what side information and age add."""
  key, other = candidates.keys[b, n], behaviours.keys[b, i]
  width = candidates.embedding.shape[-1]
  beside = behaviour_row(candidates, behaviours, b, n, i)[width:]
  return key @ other / np.sqrt(len(key)) + (beside @ bias if len(beside) else 0.0)


def kept(candidates, behaviours, bias, b, n, top_k):
  """The behaviours that candidate n of request b keeps, the best first."""
  seen = masked.visible(behaviours.visible[b, n])
  scores = [attention(candidates, behaviours, bias, b, n, i) for i in seen]
  return [seen[position] for position in masked.top_k(scores, top_k)]


def dare(candidates, behaviours, bias, *, top_k):
  requests, count, width = candidates.embedding.shape
  output = []
  for b in range(requests):
    for n in range(count):
      chosen = kept(candidates, behaviours, bias, b, n, top_k)
      shares = masked.softmax([attention(candidates, behaviours, bias, b, n, i) for i in chosen])
      total = np.zeros(len(behaviour_row(candidates, behaviours, b, n, 0)))
      for share, i in zip(shares, chosen, strict=True):
        row = behaviour_row(candidates, behaviours, b, n, i)
        total += share * np.concatenate([row[:width] * candidates.embedding[b, n], row[width:]])
      output.append(total)
  return np.array(output).reshape(requests, count, -1)
