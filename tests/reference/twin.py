"""Twin of lcn_tf/interest/twin.py and lcn_tf/layers/union_walk.py: TWIN, MODELS 6, candidate by candidate."""

import numpy as np

from tests.reference import masked
from tests.reference.behaviours import side_information


def ranking(scores):
  """Positions by falling score, the lower position first among equals."""
  return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def walk(head_scores):
  """Every behaviour in the order in which it is first met, when the heads' rankings are walked rank by rank."""
  rankings = [ranking(scores) for scores in head_scores]
  met = []
  for rank in range(len(rankings[0])):
    for ranked in rankings:
      if ranked[rank] not in met:
        met.append(ranked[rank])
  return met


def alphas(candidate, embeddings, sides, weights, widths, *, bias=True, key="split", projections=None):
  """By head, alpha of each behaviour, eq. 4 to 6.

  Args:
    candidate: `[D]`.
    embeddings, sides: Of each behaviour, `[D]` and the cross fields side by side.
    weights: query [H, D, E], key [H, D, E] (raw: [H, X, E]), cross [C, H], beta [J, H].
    widths: Of the cross fields.
    projections: Of each behaviour K_h W_h of all heads `[H * E]`, instead of making them from `embeddings`.
  """
  result = []
  for head in range(len(weights["query"])):
    query = candidate @ weights["query"][head]
    scores = []
    for i in range(len(embeddings)):
      if key == "raw":
        projected = np.concatenate([embeddings[i], sides[i]]) @ weights["key"][head]
      elif projections is not None:
        projected = projections[i][head * len(query) : (head + 1) * len(query)]
      else:
        projected = embeddings[i] @ weights["key"][head]
      alpha = float(projected @ query) / np.sqrt(len(query))
      if bias and key == "split":
        column = 0
        for j, width in enumerate(widths):
          feature = sides[i][column : column + width]
          alpha += float(feature @ weights["cross"][column : column + width, head]) * float(weights["beta"][j, head])
          column += width
      scores.append(alpha)
    result.append(scores)
  return result


def twin(candidates, behaviours, weights, widths, *, top_k, bias=True, key="split", cache=None):
  """[B, N, W]; `weights` as of `alphas`, and value [H, X, E], output [H * E, W]. `cache`: item -> its projections."""
  requests, count = candidates.times.shape
  output = np.zeros([requests, count, weights["output"].shape[1]])
  for b in range(requests):
    for n in range(count):
      seen = masked.visible(behaviours.visible[b, n])
      candidate = candidates.embedding[b, n]
      embeddings = [behaviours.embedding[b, i] for i in seen]
      sides = [side_information(candidates, behaviours, b, n, i) for i in seen]
      options = {"bias": bias, "key": key}
      projections = None if cache is None else [cache[behaviours.items[b, i]] for i in seen]
      found = alphas(candidate, embeddings, sides, weights, widths, **options, projections=projections)
      exact = alphas(candidate, embeddings, sides, weights, widths, **options)
      kept = walk(found)[:top_k] if seen else []
      heads = []
      for head in range(len(weights["query"])):
        pooled = np.zeros(weights["value"].shape[-1])
        for share, i in zip(masked.softmax([exact[head][i] for i in kept]), kept, strict=True):
          pooled += share * (np.concatenate([embeddings[i], sides[i]]) @ weights["value"][head])
        heads.append(pooled)
      output[b, n] = np.concatenate(heads) @ weights["output"]
  return output
