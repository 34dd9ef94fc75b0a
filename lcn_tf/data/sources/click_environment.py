"""Simulated users of a synthetic log after its end: what they are offered, what they click on, and how long they stay.

The environment knows what no model is told: the interests of the users. A request offers items as the log's impressions
do, a share `relevant` of them of an interest of the user. An item that is shown is clicked with the generator's own
probability p(u, i). Who clicks stays for

    10 s * exp(2 p(u, i) + z / 2),   z standard normal,

so that longer stays go to what the user prefers; who does not click stays for 0 s.

All random numbers are of a user, a request and an item (common random numbers): whoever is shown the same item there
clicks, or not, in the same way, whatever ranked it.
"""

import dataclasses

import numpy as np

from lcn_tf.config import Synthetic
from lcn_tf.data.sources import synthetic
from lcn_tf.errors import UserError

_STAY_SECONDS, _STAY_SLOPE, _STAY_SPREAD = 10.0, 2.0, 0.5


@dataclasses.dataclass(frozen=True)
class Offer:
  """The candidates of a request, in random order, with what happens if they are shown.

  Attributes:
    items: Item ids, `[N]`.
    probability: Probability of a click, `[N]`.
    clicked: True where the item is clicked if it is shown, bool `[N]`.
    stay: Seconds that the user stays if it is shown, `[N]`; 0 without a click.
    dwell: Value of the behaviour's field `dwell` after a click, `[N]`.
    price: Price of the item in this request, `[N]`; None if the log has no prices.
    chance: Uniform random numbers, `[N]`, for a ranking that knows nothing.
  """

  items: np.ndarray
  probability: np.ndarray
  clicked: np.ndarray
  stay: np.ndarray
  dwell: np.ndarray
  price: np.ndarray | None
  chance: np.ndarray


class ClickEnvironment:
  """The users of `synthetic.generate(options, log_seed)`, after the end of the log.

  Args:
    options: Settings of the log.
    log_seed: Seed of the log.
    seed: Seed of what happens after it.

  Raises:
    UserError: Items of the log give way to new ones.
  """

  def __init__(self, options: Synthetic, log_seed: int, seed: int):
    if options.new_items:
      raise UserError(
        f"records.synthetic.new_items {options.new_items}: the environment has users of items that stay; use records "
        "with new_items 0"
      )
    self._options, self._seed = options, seed
    self._interests, items, _ = synthetic.world(options, np.random.default_rng(log_seed), log_seed)
    self._topic, self._popularity = items.topic, items.popularity
    weight = items.weight
    if items.lives:
      weight = np.where(np.isin(np.arange(len(weight)), items.lives.on(options.days)), weight, 0.0)
    self._weight = weight / np.bincount(items.topic, weight)[items.topic]
    self._ids = synthetic.item_ids("target", np.arange(len(weight))).to_numpy()

  @property
  def users(self) -> int:
    """Number of users; they are 0, 1, ..."""
    return len(self._interests)

  def cares(self, user: int) -> np.ndarray:
    """Whether the user cares about each target item's topic, bool `[items]`."""
    return np.isin(self._topic, self._interests[user])

  def offer(self, user: int, request: int, count: int) -> Offer:
    """The candidates of a user's request.

    Args:
      user: Number of the user.
      request: Number of the request.
      count: Number of candidates N; fewer if there are fewer items.
    """
    options, items = self._options, len(self._topic)
    random = np.random.default_rng([self._seed, user, request])
    clock, place, chance, click, quantile = (random.random(items) for _ in range(5))
    z = random.normal(size=(2, items))
    cares = self.cares(user)
    share = options.relevant * cares / options.interests + (1 - options.relevant) / options.topics
    # without replacement: the first arrivals of independent exponential clocks
    arrival = -np.log1p(-clock) / np.maximum(share * self._weight, 1e-300)
    there = np.flatnonzero((self._weight > 0) & (self._topic < options.topics))
    chosen = there[np.argsort(arrival[there], kind="stable")[:count]]
    chosen = chosen[np.argsort(place[chosen], kind="stable")]
    popularity = self._popularity + synthetic.price_shift(quantile, options)
    probability = synthetic.click_probability(cares, popularity, options)
    clicked = click < probability
    stay = np.where(clicked, _STAY_SECONDS * np.exp(_STAY_SLOPE * probability + _STAY_SPREAD * z[0]), 0.0)
    dwell = np.clip(np.rint(1.5 + cares + z[1]), 0, synthetic.DWELLS - 1).astype(np.int64)
    return Offer(
      self._ids[chosen],
      probability[chosen],
      clicked[chosen],
      stay[chosen],
      dwell[chosen],
      synthetic.prices(quantile[chosen]) if options.price_effect else None,
      chance[chosen],
    )
