"""Twin of lcn_tf/interest/lap.py: Lifelong Attention Pyramid, MODELS 7.3, candidate by candidate."""

import numpy as np

from tests.reference import masked
from tests.reference.behaviours import side_information


def _sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def _gelu(x):
  from math import erf, sqrt

  return np.array([value * 0.5 * (1.0 + erf(value / sqrt(2.0))) for value in x])


ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0.0), "gelu": _gelu, "linear": lambda x: x}


def lap(
  candidates,
  behaviours,
  weights,
  *,
  levels=("csa", "msa", "fsa"),
  top_k=(200, 50),
  csa_norm="softmax",
  fsa_side=True,
  activation="relu",
):
  """[B, N, W]; `weights[level][name]` in the shapes msa: query [D, dm], key [D+S, dm], value [D+S, dv]; fsa: query
  [H, D, dh], key and value [H, D+S, dh], output [H*dh, do], ffn_in [do, dff], ffn_in_bias, ffn_out, ffn_out_bias."""
  requests, count = candidates.times.shape
  output = []
  for b in range(requests):
    for n in range(count):
      seen = masked.visible(behaviours.visible[b, n])
      output.append(
        one_candidate(
          candidates.embedding[b, n],
          [behaviours.embedding[b, i] for i in seen],
          [side_information(candidates, behaviours, b, n, i) for i in seen],
          weights,
          levels=levels,
          top_k=top_k,
          csa_norm=csa_norm,
          fsa_side=fsa_side,
          activation=activation,
        )
      )
  return np.array(output).reshape(requests, count, -1)


def one_candidate(candidate, embeddings, sides, weights, *, levels, top_k, csa_norm, fsa_side, activation):
  """The candidate `[D]`, and of each behaviour that it sees the embedding `[D]` and the side information `[S]`."""
  interests = []

  # Level 1, eq. 3 and 4
  scores = [float(candidate @ embedding) for embedding in embeddings]
  if "csa" in levels:
    if csa_norm == "softmax":
      attention = masked.softmax(scores)
    elif csa_norm == "sigmoid":
      attention = [_sigmoid(score) for score in scores]
    else:
      attention = scores
    interest = np.zeros(len(candidate))
    for share, embedding in zip(attention, embeddings, strict=True):
      interest += share * embedding
    interests.append(interest)
  kept = masked.top_k(scores, top_k[0])

  # Level 2, eq. 5 to 8
  if "msa" in levels:
    msa = weights["msa"]
    query = candidate @ msa["query"]
    rows = [np.concatenate([embeddings[i], sides[i]]) for i in kept]
    scores_2 = [float(query @ (row @ msa["key"])) / np.sqrt(len(query)) for row in rows]
    interest = np.zeros(msa["value"].shape[1])
    for share, row in zip(masked.softmax(scores_2), rows, strict=True):
      interest += share * (row @ msa["value"])
    interests.append(interest)
    kept = [kept[position] for position in masked.top_k(scores_2, top_k[1])]
  else:
    kept = masked.top_k(scores, top_k[1])

  # Level 3, eq. 9 to 15
  if "fsa" in levels:
    fsa = weights["fsa"]
    rows = [np.concatenate([embeddings[i], sides[i]]) if fsa_side else embeddings[i] for i in kept]
    heads = []
    for head in range(len(fsa["query"])):
      query = candidate @ fsa["query"][head]
      scores_3 = [float(query @ (row @ fsa["key"][head])) / np.sqrt(len(query)) for row in rows]
      pooled = np.zeros(fsa["value"].shape[-1])
      for share, row in zip(masked.softmax(scores_3), rows, strict=True):
        pooled += share * (row @ fsa["value"][head])
      heads.append(pooled)
    attended = np.concatenate(heads) @ fsa["output"]
    hidden = ACTIVATIONS[activation](attended @ fsa["ffn_in"] + fsa["ffn_in_bias"])
    interest = hidden @ fsa["ffn_out"] + fsa["ffn_out_bias"]
    interests.append(interest if rows else np.zeros_like(interest))

  return np.concatenate(interests)


def search_scores(candidates, behaviours, weights, *, level, top_k):
  """[B, N, L]: minus the place of each behaviour in the order after CSA or MSA; minus infinity where invisible."""
  requests, count = candidates.times.shape
  output = np.full((requests, count, behaviours.items.shape[1]), -np.inf)
  for b in range(requests):
    for n in range(count):
      seen = masked.visible(behaviours.visible[b, n])
      candidate = candidates.embedding[b, n]
      scores = [float(candidate @ behaviours.embedding[b, i]) for i in seen]
      order = [seen[position] for position in masked.top_k(scores, len(seen))]
      if level == "msa":
        msa = weights["msa"]
        best = order[: top_k[0]]
        rows = [_row(candidates, behaviours, b, n, i, True) for i in best]
        again = [float((candidate @ msa["query"]) @ (row @ msa["key"])) for row in rows]
        order = [best[position] for position in masked.top_k(again, len(best))] + order[top_k[0] :]
      for place, i in enumerate(order):
        output[b, n, i] = -place
  return output


def exact_scores(candidates, behaviours, weights, *, fsa_side=True):
  """[B, N, L]: FSA's attention had it read every visible behaviour, heads averaged; 0 where invisible."""
  requests, count = candidates.times.shape
  fsa = weights["fsa"]
  output = np.zeros((requests, count, behaviours.items.shape[1]))
  for b in range(requests):
    for n in range(count):
      seen = masked.visible(behaviours.visible[b, n])
      for head in range(len(fsa["query"])):
        query = candidates.embedding[b, n] @ fsa["query"][head]
        rows = [_row(candidates, behaviours, b, n, i, fsa_side) for i in seen]
        scores = [float(query @ (row @ fsa["key"][head])) / np.sqrt(len(query)) for row in rows]
        for i, share in zip(seen, masked.softmax(scores), strict=True):
          output[b, n, i] += share / len(fsa["query"])
  return output


def _row(candidates, behaviours, b, n, i, with_side):
  if not with_side:
    return behaviours.embedding[b, i]
  return np.concatenate([behaviours.embedding[b, i], side_information(candidates, behaviours, b, n, i)])
