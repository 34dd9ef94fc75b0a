"""Sampled negatives: items that the user never met, drawn by how popular they were at that moment."""

import dataclasses

import numpy as np

TRIES = 100
BLOCKS = 128
_MAX_CELLS = 20_000_000  # of the tables of item counts by block


@dataclasses.dataclass(frozen=True)
class ItemLog:
  """Interactions of one domain in the order of time.

  Attributes:
    users: `[E]`.
    items: `[E]`, catalogue rows below `num_items`.
    times: Seconds `[E]`, rising.
    num_items: Rows of the catalogue.
    earlier: Interactions of each item before the log `[num_items]` int64; None = there are none.
  """

  users: np.ndarray
  items: np.ndarray
  times: np.ndarray
  num_items: int
  earlier: np.ndarray | None = None


def sample_negatives(
  log: ItemLog,
  positives: np.ndarray,
  count: int,
  exponent: float,
  rng: np.random.Generator,
  allowed: np.ndarray | None = None,
  pool: np.ndarray | None = None,
  pool_earlier: np.ndarray | None = None,
  met: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
  """Draws `count` different negatives for each positive: `[P, count]` int32, 0 where none was found.

  An item is drawn with probability proportional to (its interactions strictly before the positive's moment) **
  exponent, among the items seen before that moment, without those that the user meets anywhere in the log (later, too)
  and without those drawn already for the same positive. Exact: proposals from an envelope are accepted at the rate that
  makes them so; after `TRIES` proposals that were all refused the negative is left out.

  Args:
    log: Every interaction of the domain.
    positives: Positions in the log `[P]`.
    count: Negatives per positive.
    exponent: 1: in proportion to popularity, 0: uniform over the items seen so far.
    rng: Source of randomness.
    allowed: Mask of the items that may be drawn, bool `[num_items]`; None = all.
    pool: Mask of the interactions that make an item seen and popular, bool `[E]`; None = all. What a user meets is
      never drawn, in the pool or not.
    pool_earlier: Interactions of each item before the log that belong to the pool, `[num_items]`.
    met: Users and items `[M]` of further interactions, whose items are never drawn for these users.
  """
  drawable = log
  if pool is not None:
    drawable = ItemLog(log.users[pool], log.items[pool], log.times[pool], log.num_items, pool_earlier)
  before = np.searchsorted(drawable.times, log.times[positives], "left")
  users = log.users[positives].astype(np.int64) * log.num_items
  pairs = [(log.users, log.items), *([met] if met else [])]
  keys = [owners.astype(np.int64) * log.num_items + items for owners, items in pairs]
  met_keys = np.unique(np.concatenate(keys))
  proposal = _Earlier(drawable) if exponent == 1 else _Envelope(drawable, exponent)
  something = before > 0 if drawable.earlier is None else before + drawable.earlier.sum() > 0
  drawn = np.zeros((len(positives), count), np.int32)
  for column in range(count):
    open_ = np.flatnonzero(something if column == 0 else drawn[:, column - 1] > 0)
    for _ in range(TRIES):
      if not len(open_):
        break
      items, accepted = proposal.draw(before[open_], rng)
      accepted &= ~_contains(met_keys, users[open_] + items)
      if allowed is not None:
        accepted &= allowed[items]
      accepted &= (drawn[open_, :column] != items[:, np.newaxis]).all(axis=1)
      drawn[open_[accepted], column] = items[accepted]
      open_ = open_[~accepted]
  return drawn


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
  found = np.searchsorted(ordered, values)
  return ordered[np.minimum(found, len(ordered) - 1)] == values


class _Earlier:
  """Exponent 1: the item of a uniformly random earlier interaction."""

  def __init__(self, log: ItemLog):
    self._items = log.items
    self._below = np.cumsum(log.earlier) if log.earlier is not None else np.zeros(1, np.int64)

  def draw(self, before: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    position = rng.integers(0, before + self._below[-1]) - self._below[-1]
    items = self._items[np.maximum(position, 0)] if len(self._items) else np.zeros(len(before), np.int32)
    old = position < 0
    items[old] = np.searchsorted(self._below, position[old] + self._below[-1], "right")
    return items, np.ones(len(before), bool)


class _Envelope:
  """Any exponent: draws by the counts when the moment's block of the log ends, accepts by those at the moment."""

  def __init__(self, log: ItemLog, exponent: float):
    self._exponent = exponent
    total = len(log.items)
    blocks = max(min(BLOCKS, total, _MAX_CELLS // log.num_items), 1)
    self._ends = np.unique(np.linspace(0, total, blocks + 1).astype(np.int64))[min(total, 1) :]
    self._cumulative = []
    self._counts = []
    self._earlier = np.zeros(log.num_items, np.int64) if log.earlier is None else log.earlier
    counts = self._earlier.copy()
    start = 0
    for end in self._ends:
      counts += np.bincount(log.items[start:end], minlength=log.num_items)
      start = end
      self._counts.append(counts.copy())
      weights = np.where(counts > 0, np.maximum(counts, 1).astype(np.float64) ** exponent, 0)
      self._cumulative.append(np.cumsum(weights))
    # Positions of the log ordered by (item, position), to count an item's interactions before a position.
    self._stride = total + 1
    order = np.argsort(log.items, kind="stable")
    self._keys = log.items[order].astype(np.int64) * self._stride + order
    self._first = np.searchsorted(log.items[order], np.arange(log.num_items))

  def draw(self, before: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    blocks = np.searchsorted(self._ends, before, "left")
    uniform = rng.random(len(before))
    items = np.empty(len(before), np.int32)
    envelope = np.empty(len(before), np.float64)
    order = np.argsort(blocks, kind="stable")
    cuts = np.searchsorted(blocks[order], np.arange(len(self._ends) + 1))
    for block in np.unique(blocks):
      rows = order[cuts[block] : cuts[block + 1]]
      cumulative = self._cumulative[block]
      drawn = np.searchsorted(cumulative, uniform[rows] * cumulative[-1], "right")
      items[rows] = np.minimum(drawn, len(cumulative) - 1)
      envelope[rows] = self._counts[block][items[rows]]
    counts = np.searchsorted(self._keys, items.astype(np.int64) * self._stride + before) - self._first[items]
    counts += self._earlier[items]
    rate = np.where(counts > 0, (np.maximum(counts, 1) / np.maximum(envelope, 1)) ** self._exponent, 0)
    return items, rng.random(len(before)) < rate
