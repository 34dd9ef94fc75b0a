"""Twin of the search of lcn_tf/interest/eta.py, MODELS 4: a `search` as tests/reference/two_stage.py takes it."""

from tests.reference import simhash


def by_distance(candidates, behaviours, hyperplanes):
  def search(b, n, i):
    own = simhash.bits(candidates.embedding[b, n], hyperplanes)
    return -simhash.distance(own, simhash.bits(behaviours.embedding[b, i], hyperplanes))

  return search
