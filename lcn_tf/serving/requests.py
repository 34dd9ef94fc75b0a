"""What a service knows of a request: one user, a moment, items to rank, and the user's behaviours."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcn_tf.schema import DomainName


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """One behaviour of a user.

  Attributes:
    item_id: Item id as in the interactions that the records were built from.
    timestamp: Seconds; fractions are cut off, as in records.
    fields: Values of the domain's cross fields by name; a missing one is out of vocabulary.
  """

  item_id: int | str
  timestamp: float
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BehaviourColumns:
  """Behaviours of a user in one domain, column by column. A long history is read faster like this.

  Columns are read by position, whatever labels they have. What is masked is missing.

  Attributes:
    item_ids: Item ids `[L]`, as those of `Behaviour`.
    timestamps: Seconds `[L]`; an array of numbers is fastest.
    fields: Values `[L]` of the domain's cross fields by name; a field that is missing is out of vocabulary.
  """

  item_ids: Sequence[int | str] | np.ndarray
  timestamps: Sequence[float] | np.ndarray
  fields: Mapping[str, Sequence[Any] | np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RankRequest:
  """One user and the items to rank for them at one moment.

  Attributes:
    time: Unix time of the request, seconds; fractions are cut off. Only strictly older behaviours are seen.
    candidates: Item ids of the target domain `[N]`.
    user: Values of the user fields by name, `user_id` among them if it is one, and weights by the name of their column.
    context: Values of the context fields by name, the same for all candidates, or a mapping for each candidate `[N]`.
    target: Behaviours of the user in the target domain, in any order and number. The newest ones are kept. Of two in
      one second the later one of the list is newer.
    source: Behaviours of the user in the source domain, with the same rules.
  """

  time: float
  candidates: Sequence[int | str]
  user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  context: Mapping[str, Any] | Sequence[Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  target: Sequence[Behaviour] | BehaviourColumns = ()
  source: Sequence[Behaviour] | BehaviourColumns = ()

  def history(self, domain: DomainName) -> Sequence[Behaviour] | BehaviourColumns:
    return self.target if domain == "target" else self.source
