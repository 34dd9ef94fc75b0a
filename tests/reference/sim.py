"""Twins of the searches of lcn_tf/interest/sim.py, MODELS 3: `search(b, n, i)` of tests/reference/two_stage.py."""


def by_value(candidates, behaviours, candidate_columns, columns, first_value=1):
  """Equal score for all that share a real value, so the newest are kept; nothing else is found."""

  def search(b, n, i):
    own = {int(candidates.fields[b, n, column]) for column in candidate_columns}
    others = {int(behaviours.fields[b, i, column]) for column in columns}
    return 0.0 if any(value >= first_value for value in own & others) else None

  return search


def by_vector(candidates, behaviours):
  return lambda b, n, i: float(candidates.vectors[b, n] @ behaviours.vectors[b, i])
