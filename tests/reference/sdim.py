"""Twins of lcn_tf/interest/sdim.py, MODELS 5: candidate by candidate, round by round, every behaviour compared."""

import numpy as np

from tests.reference import masked, simhash
from tests.reference.behaviours import behaviour_row, side_information, side_width


def collisions(candidate, embedding, hyperplanes, width):
  """[m] of 0 and 1."""
  own, other = (simhash.signatures(simhash.bits(one, hyperplanes), width) for one in (candidate, embedding))
  return [int(a == b) for a, b in zip(own, other, strict=True)]


def by_collisions(candidates, behaviours, hyperplanes, width):
  """`search(b, n, i)` as tests/reference/two_stage.py takes it: found is what collides at least once."""

  def search(b, n, i):
    count = sum(collisions(candidates.embedding[b, n], behaviours.embedding[b, i], hyperplanes, width))
    return count if count else None

  return search


def pool(candidates, behaviours, hyperplanes, *, width, l2):
  """[B, N, D + S + S']."""
  stored = behaviours.embedding.shape[-1] + behaviours.side.shape[-1]
  requests, count = candidates.times.shape
  output = np.zeros([requests, count, behaviours.embedding.shape[-1] + side_width(behaviours)])
  for b in range(requests):
    for n in range(count):
      seen = masked.visible(behaviours.visible[b, n])
      hits = {i: collisions(candidates.embedding[b, n], behaviours.embedding[b, i], hyperplanes, width) for i in seen}
      rows = {i: behaviour_row(candidates, behaviours, b, n, i) for i in seen}
      rounds = hyperplanes.shape[1] // width
      if not l2:
        for i in seen:
          output[b, n] += sum(hits[i]) / rounds * rows[i]
        continue
      for r in range(rounds):
        total = np.zeros(stored)
        for i in seen:
          total += hits[i][r] * rows[i][:stored]
        output[b, n, :stored] += total / max(np.linalg.norm(total), 1e-9) / rounds
      for i in seen:
        share = sum(hits[i]) / max(sum(map(sum, hits.values())), 1)
        output[b, n, stored:] += share * side_information(candidates, behaviours, b, n, i)[behaviours.side.shape[-1] :]
  return output
