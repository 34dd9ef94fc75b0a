"""A seeded log with a planted cross-domain interest, whose best achievable AUC is known.

Items of both domains have topics; a user cares about a few of them. Either history shows some of these interests among
noise, the source history most of them; a few show in one history alone. An impression of item i to user u is clicked
with probability

    p(u, i) = sigmoid(base + match * [topic(i) is an interest of u] + popularity(i) + price_effect * sin(2 pi q))

where q is the quantile of the impression's price,

so no model ranks impressions better than p itself does (`oracle_auc`), one that knows nothing of the user ranks them by
popularity(i) (`blind_auc`), and one that knows exactly the interests that the target history shows, by E[p | those, i]
(`target_auc`; clicks on the other interests enter the target history and may lift a model above it).

With `taste_width` a vector of the user tells of all of them, and a model that reads it may be above `target_auc`
whatever it does with histories.

With `rare` items live for a few days (`lcn_tf.data.sources.lives`), so most ids that a model is asked about were hardly
met in training. What stays is a topic's authors, and its categories, which tell some topics apart from others.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats
from sklearn import metrics

from lcn_tf.config import Synthetic
from lcn_tf.data.build.tables import RawTables
from lcn_tf.data.sources import lives
from lcn_tf.data.sources.renewal import Renewal
from lcn_tf.errors import UserError
from lcn_tf.schema import DomainName

START = 1_600_000_000  # seconds
DAY = 86_400
DWELLS = 5
SEGMENTS = 4
COLUMNS = ("user_id", "item_id", "domain", "timestamp", "label", "probability", "dwell")


class _Items(NamedTuple):
  """The items of one domain, sorted by topic. `weight` is each one's share in what users meet while it lives."""

  topic: np.ndarray
  popularity: np.ndarray
  weight: np.ndarray
  lives: lives.Lives | None

  def draw(self, topics: np.ndarray, place: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """An item of each of the topics, alive at that time; `place` is random in [0, 1)."""
    if self.lives:
      return self.lives.draw(topics, (seconds - START) // DAY, place)
    edges = np.concatenate([[0.0], np.cumsum(self.weight)])
    first = np.searchsorted(self.topic, topics, "left")
    last = np.searchsorted(self.topic, topics, "right")
    wanted = edges[first] + place * (edges[last] - edges[first])
    return np.clip(np.searchsorted(edges, wanted, "right") - 1, first, last - 1)


def generate(options: Synthetic, seed: int = 0) -> RawTables:
  """The log, a function of its arguments.

      interactions  label (1, 0; null = a behaviour that was never a candidate), probability (of a click, of
                    impressions only: for `oracle`, no feature), dwell (0..4, longer where an interest is met), price if
                    `options.price_effect` (log-normal, of target impressions only)
      items         author (of `options.items_per_author` items of one topic), topic if `options.topic_field`, category
                    (of some topics) if `options.category_topics`, content if `options.content_width`, tags and
                    tag_weights if `options.tags`
      users         segment (means nothing), taste (of nine in ten) if `options.taste_width`
      notes         oracle_auc, blind_auc, target_auc over all target impressions; target_impressions, click_rate

  Impressions come in sessions spread over the time after the warm-up. Items of the two domains have ids of their own,
  't12' and 's7'; users are numbers. With `options.new_items` target items give way to new ones; see
  `lcn_tf.data.sources.renewal`.
  """
  random = np.random.default_rng(seed)
  interests, target, source = world(options, random, seed)
  in_target = interests[:, : options.interests - options.source_only]
  in_source = interests[:, options.target_only :]
  impressions = _impressions("target", options.target_impressions, target, interests, options, random, seed)
  parts = [
    _history("target", options.target_length, target, in_target, options, random),
    _history("source", options.source_length, source, in_source, options, random),
    impressions,
    _impressions("source", options.source_impressions, source, interests, options, random),
  ]
  target_items, own = _item_table("target", target, options, seed), target.popularity[impressions["index"].to_numpy()]
  if options.new_items:
    renewal = Renewal(target.popularity, options.new_items, options.days, options.popularity, START, seed)
    impressions, own = renewal.impressions(impressions)
    parts[0], parts[2], target_items = renewal.behaviours(parts[0]), impressions, renewal.items(target_items)
  users = pl.DataFrame({"user_id": np.arange(options.users), "segment": random.integers(SEGMENTS, size=options.users)})
  if options.taste_width:
    users = users.with_columns(_tastes(interests, options, seed))
  tables = RawTables(
    interactions=pl.concat(
      [part.select(*COLUMNS, *({"price"} & set(part.columns))) for part in parts], how="diagonal"
    ).sort("timestamp", maintain_order=True),
    items=pl.concat([target_items, _item_table("source", source, options, seed)]),
    users=users,
    notes={"data": "synthetic"},
  )
  label = impressions["label"].to_numpy()
  if label.min() == label.max():
    raise UserError("records.synthetic: all target impressions have one label; more users or impressions are needed")
  popularity = own + impressions["shift"].to_numpy()
  known = _seen_from_target(impressions["interest"].to_numpy(), popularity, options)
  tables.notes.update(
    target_impressions=impressions.height,
    click_rate=float(label.mean()),
    oracle_auc=oracle(tables),
    blind_auc=float(metrics.roc_auc_score(label, popularity)),
    target_auc=float(metrics.roc_auc_score(label, known)),
  )
  return tables


def oracle(tables: RawTables, first_time: int | None = None, last_time: int | None = None) -> float:
  """AUC of the generator's own probabilities against the sampled labels: no model's expected AUC is higher.

  Args:
    tables: Tables of `generate`.
    first_time, last_time: Only the target impressions within these seconds, both included; None = no bound.

  Raises:
    UserError: No clicked and unclicked target impressions there.
  """
  rows = tables.interactions.filter(pl.col("label").is_not_null() & (pl.col("domain") == "target"))
  if first_time is not None:
    rows = rows.filter(pl.col("timestamp") >= first_time)
  if last_time is not None:
    rows = rows.filter(pl.col("timestamp") <= last_time)
  if rows["label"].n_unique() < 2:
    raise UserError(
      f"synthetic: from {first_time} to {last_time} the target impressions are not both clicked and unclicked"
    )
  return float(metrics.roc_auc_score(rows["label"].to_numpy(), rows["probability"].to_numpy()))


def world(options: Synthetic, random: np.random.Generator, seed: int) -> tuple[np.ndarray, _Items, _Items]:
  """Interests of every user `[users, k]`, and the items of both domains."""
  interests = np.argsort(random.random((options.users, options.topics)), axis=1)[:, : options.interests]
  target = _items("target", options.target_items, options, random, seed)
  return interests, target, _items("source", options.source_items, options, random, seed)


def _items(domain: DomainName, count: int, options: Synthetic, random: np.random.Generator, seed: int) -> _Items:
  """With `sparse`, the second half of the items is of as many further topics, which no candidate has."""
  topics = options.topics * (2 if options.sparse else 1)
  topic = np.arange(count) * topics // count
  weight = random.lognormal(0.0, 0.5, count)
  alive = None
  if options.rare:
    own = np.random.default_rng([seed, 4, ord(domain[0])])
    alive = lives.make(topic, weight, options.days + 1, options.item_days, own)  # sessions may end after the last day
  return _Items(topic, random.normal(0.0, options.popularity, count), weight / weight.sum(), alive)


def _item_table(domain: DomainName, items: _Items, options: Synthetic, seed: int) -> pl.DataFrame:
  index = np.arange(len(items.topic))
  in_topic = index - np.searchsorted(items.topic, items.topic, "left")
  group = pl.Series(in_topic // options.items_per_author).cast(pl.String)
  author = domain[0] + pl.Series(items.topic).cast(pl.String) + "-" + group
  table = pl.DataFrame({"item_id": item_ids(domain, index), "author": author}).with_columns(
    pl.lit(domain).alias("domain")
  )
  if options.topic_field:
    table = table.with_columns(pl.Series("topic", items.topic))
  if options.category_topics:
    # the domains divide the topics in two ways, so a category of one is none of the other
    groups = -(-(int(items.topic[-1]) + 1) // options.category_topics)
    category = items.topic // options.category_topics if domain == "target" else items.topic % groups
    table = table.with_columns((domain[0] + pl.Series(category).cast(pl.String)).alias("category"))
  if options.content_width:
    of_topics = _topic_vectors(options.content_width, options, seed)
    noise = np.random.default_rng([seed, 2, ord(domain[0])]).normal(size=(len(index), options.content_width))
    content = (of_topics[items.topic] + noise).astype(np.float32)
    table = table.with_columns(pl.Series("content", content, pl.Array(pl.Float32, options.content_width)))
  if options.tags:
    random = np.random.default_rng([seed, 5, ord(domain[0])])
    others = random.integers(options.topics, size=(len(index), options.tags - 1))
    weights = np.append(np.ones((len(index), 1)), random.random(others.shape) / options.tags, axis=1).round(3)
    tags = np.append(items.topic[:, np.newaxis], others, axis=1)
    table = table.with_columns(
      pl.Series("tags", tags.tolist(), pl.List(pl.Int64)),
      pl.Series("tag_weights", weights.tolist(), pl.List(pl.Float64)),
    )
  return table


def _topic_vectors(width: int, options: Synthetic, seed: int) -> np.ndarray:
  """A vector of every topic, `[2 * topics, width]`."""
  return np.random.default_rng([seed, 1]).normal(size=(2 * options.topics, width))


def _tastes(interests: np.ndarray, options: Synthetic, seed: int) -> pl.Series:
  """Vectors of the users, null for a tenth of them; `interests` `[users, k]` are theirs.

  A vector is the sum of those of the user's topics over the root of k, plus noise of the same size.
  """
  random = np.random.default_rng([seed, 6])
  of_topics = _topic_vectors(options.taste_width, options, seed)[interests].sum(axis=1) / np.sqrt(interests.shape[1])
  vectors = (of_topics + random.normal(size=of_topics.shape)).astype(np.float32)
  has_one = random.random(len(vectors)) < 0.9
  taste = [vector if known else None for vector, known in zip(vectors.tolist(), has_one, strict=True)]
  return pl.Series("taste", taste, pl.List(pl.Float32))


def _history(
  domain: DomainName, length: int, items: _Items, interests: np.ndarray, options: Synthetic, random: np.random.Generator
) -> pl.DataFrame:
  """Behaviours of every user; `interests` `[users, k]` are those that this domain shows."""
  spread = options.length_spread
  lengths = length * random.lognormal(-(spread**2) / 2, spread, options.users)
  user = np.repeat(np.arange(options.users), np.maximum(1, lengths.round().astype(int)))
  follows = random.random(len(user)) >= options.noise
  wanted = interests[user, random.integers(interests.shape[1], size=len(user))]
  other = random.integers(options.topics, size=len(user)) + (options.topics if options.sparse else 0)
  place = random.random(len(user))
  moment = random.random(len(user)) * np.where(follows & options.sparse, 0.5, 1.0)
  seconds = _seconds(moment, options)
  index = items.draw(np.where(follows, wanted, other), place, seconds)
  return pl.DataFrame(
    {
      "user_id": user,
      "item_id": item_ids(domain, index),
      "timestamp": seconds,
      "dwell": _dwell(follows, random),
    }
  ).with_columns(
    pl.lit(domain).alias("domain"), pl.lit(None, pl.Int8).alias("label"), pl.lit(None, pl.Float64).alias("probability")
  )


def _impressions(
  domain: DomainName,
  count: int,
  items: _Items,
  interests: np.ndarray,
  options: Synthetic,
  random: np.random.Generator,
  priced: int | None = None,
) -> pl.DataFrame:
  """Candidates of one domain.

  Args:
    domain: Domain of the candidates.
    count: Number of candidates of a user, before it is made a whole number of sessions.
    items: Items of the domain.
    interests: Interests of every user `[users, k]`.
    options: Settings of the log.
    random: Source of everything but prices.
    priced: Seed of the prices; None = the candidates have none.

  Returns:
    `COLUMNS`, `price` if there are prices, `index` of the item, `interest` of the user that it meets (-1 = none), and
    `shift`, the log-odds that the price adds.
  """
  sessions = -(-count // options.session)
  user = np.repeat(np.arange(options.users), sessions * options.session)
  start = options.warm_up + (1 - options.warm_up) * random.random(options.users * sessions)
  steps = random.integers(5, 60, size=(len(start), options.session)).cumsum(axis=1)
  seconds = (_seconds(start, options)[:, None] + steps).ravel()
  wanted = interests[user, random.integers(interests.shape[1], size=len(user))]
  relevant = random.random(len(user)) < options.relevant
  topic = np.where(relevant, wanted, random.integers(options.topics, size=len(user)))
  index = items.draw(topic, random.random(len(user)), seconds)
  met = interests[user] == topic[:, None]
  interest = np.where(met.any(axis=1), met.argmax(axis=1), -1)
  quantile = None
  if priced is not None and options.price_effect:
    quantile = np.random.default_rng([priced, 3]).random(len(user))
  shift = np.zeros(len(user)) if quantile is None else price_shift(quantile, options)
  probability = click_probability(interest >= 0, items.popularity[index] + shift, options)
  label = random.random(len(user)) < probability
  dwell = np.where(label, _dwell(interest >= 0, random), 0)
  frame = pl.DataFrame(
    {
      "user_id": user,
      "item_id": item_ids(domain, index),
      "timestamp": seconds,
      "dwell": dwell,
      "label": label.astype(np.int8),
      "probability": probability,
      "index": index,
      "interest": interest,
      "shift": shift,
    }
  ).with_columns(pl.lit(domain).alias("domain"))
  if quantile is None:
    return frame
  return frame.with_columns(pl.Series("price", prices(quantile)))


def prices(quantile: np.ndarray) -> np.ndarray:
  """The price at each quantile of all prices."""
  return np.exp(3 + stats.norm.ppf(quantile))  # type: ignore[no-any-return]


def price_shift(quantile: np.ndarray, options: Synthetic) -> np.ndarray:
  """The log-odds that a price at a quantile adds."""
  return options.price_effect * np.sin(2 * np.pi * quantile)


def click_probability(cares: np.ndarray, popularity: np.ndarray, options: Synthetic) -> np.ndarray:
  """p(u, i) of items that meet an interest of the user or not; `popularity` is the log-odds of item and price."""
  return 1 / (1 + np.exp(-(options.base + options.match * cares + popularity)))


def _seen_from_target(interest: np.ndarray, popularity: np.ndarray, options: Synthetic) -> np.ndarray:
  """E[p | the interests that the target history shows, item]."""
  hidden = options.source_only * (options.relevant / options.interests + (1 - options.relevant) / options.topics)
  none = (1 - options.relevant) * (1 - options.interests / options.topics)
  share = hidden / (hidden + none) if hidden + none else 0.0
  cared, not_cared = (click_probability(np.array(cares), popularity, options) for cares in (True, False))
  seen = (interest >= 0) & (interest < options.interests - options.source_only)
  return np.where(seen, cared, share * cared + (1 - share) * not_cared)


def _seconds(moment: np.ndarray, options: Synthetic) -> np.ndarray:
  return START + (moment * options.days * DAY).astype(np.int64)


def _dwell(cares: np.ndarray, random: np.random.Generator) -> np.ndarray:
  return np.clip(random.normal(1.5 + cares, 1.0).round(), 0, DWELLS - 1).astype(np.int64)


def item_ids(domain: DomainName, items: np.ndarray) -> pl.Series:
  """The ids of items by their number."""
  return domain[0] + pl.Series(items).cast(pl.String)
