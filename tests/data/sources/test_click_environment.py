"""Simulated users prefer what the log's users do, and do the same whatever has ranked it."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from lcn_tf.config import Synthetic
from lcn_tf.data.sources import synthetic
from lcn_tf.data.sources.click_environment import ClickEnvironment
from lcn_tf.errors import UserError

SMALL = {"users": 60, "target_items": 60, "source_items": 60, "topics": 6, "interests": 3, "source_only": 1}
PRICED = Synthetic(**SMALL, price_effect=1.5)


def log_of(options, seed=2):
  rows = synthetic.generate(options, seed).interactions
  return rows.filter(pl.col("label").is_not_null() & (pl.col("domain") == "target"))


@pytest.mark.parametrize("options", [Synthetic(**SMALL), PRICED], ids=["plain", "priced"])
def test_the_probabilities_are_those_of_the_logs_users(options):
  environment, log = ClickEnvironment(options, 2, seed=0), log_of(options)
  assert environment.users == 60
  checked = 0
  for user in (0, 31):
    offer = environment.offer(user, 0, 1000)
    assert sorted(offer.items) == sorted(set(offer.items))
    assert len(offer.items) == 60
    of_item = {}
    for item, probability, price in (
      log.filter(pl.col("user_id") == user)
      .select("item_id", "probability", "price" if options.price_effect else pl.lit(1.0))
      .iter_rows()
    ):
      shift = options.price_effect * np.sin(2 * np.pi * stats.norm.cdf(np.log(price) - 3))
      of_item[item] = np.log(probability / (1 - probability)) - shift
    prices = offer.price if options.price_effect else np.ones(60)
    for item, probability, price in zip(offer.items, offer.probability, prices, strict=True):
      shift = options.price_effect * np.sin(2 * np.pi * stats.norm.cdf(np.log(price) - 3))
      if item in of_item:
        assert np.log(probability / (1 - probability)) - shift == pytest.approx(of_item[item], abs=1e-6)
        checked += 1
  assert checked > 20


def test_candidates_are_offered_as_impressions_were():
  options = Synthetic(**SMALL)
  environment, log = ClickEnvironment(options, 2, seed=0), log_of(options)
  offers = [environment.offer(user, request, 1) for user in range(60) for request in range(25)]
  assert np.mean([offer.probability for offer in offers]) == pytest.approx(log["probability"].mean(), abs=0.02)
  met = pl.Series([offer.items[0] for offer in offers]).value_counts().rename({"": "item_id"})
  shown = log["item_id"].value_counts(name="times").join(met, on="item_id", how="left").fill_null(0)
  assert np.corrcoef(shown["times"], shown["count"])[0, 1] > 0.8


def test_the_order_of_the_candidates_says_nothing():
  environment = ClickEnvironment(Synthetic(**SMALL), 2, seed=0)
  offers = [environment.offer(user, request, 50).probability for user in range(60) for request in range(25)]
  first, last = np.mean(offers, axis=0)[[0, -1]]
  assert first == pytest.approx(last, abs=0.04)


def test_clicks_and_stays_follow_the_probabilities():
  environment = ClickEnvironment(Synthetic(**SMALL), 2, seed=0)
  offers = [environment.offer(user, request, 60) for user in range(60) for request in range(20)]
  p, clicked, stay = (
    np.concatenate([getattr(offer, name) for offer in offers]) for name in ("probability", "clicked", "stay")
  )
  for low, high in ((0.0, 0.2), (0.2, 0.7), (0.7, 1.0)):
    there = (p >= low) & (p < high)
    assert there.sum() > 500
    assert clicked[there].mean() == pytest.approx(p[there].mean(), abs=4 * np.std(clicked[there]) / there.sum() ** 0.5)
    expected = 10 * np.exp(2 * p[there & clicked] + 1 / 8)  # the mean of a log-normal number
    assert stay[there & clicked].mean() == pytest.approx(expected.mean(), rel=0.03)
  assert not stay[~clicked].any()


def test_a_user_does_the_same_with_an_item_whatever_else_is_offered():
  def outcomes(offer):
    columns = (offer.items, offer.clicked, offer.stay, offer.probability, offer.dwell, offer.price, offer.chance)
    return {row[0]: row[1:] for row in zip(*columns, strict=True)}

  def offered(seed, user=4, request=1, count=60):
    return outcomes(ClickEnvironment(PRICED, 2, seed).offer(user, request, count))

  few, all_of_them = offered(0, count=7), offered(0)
  assert len(few) == 7
  assert few == {item: all_of_them[item] for item in few}
  assert offered(0) == all_of_them
  for other in (offered(1), offered(0, user=5), offered(0, request=2)):
    assert sum(other[item][0] != all_of_them[item][0] for item in other) > 5


def test_items_are_offered_that_a_candidate_can_be_on_the_last_day():
  rare = Synthetic(**SMALL | {"target_items": 300}, rare=True, item_days=2.0)
  offered = set(ClickEnvironment(rare, 2, 0).offer(3, 0, 1000).items)
  _, items, _ = synthetic.world(rare, random := np.random.default_rng(2), 2)
  moments = np.full(6000, synthetic.START + rare.days * synthetic.DAY)
  alive = items.draw(random.integers(rare.topics, size=6000), random.random(6000), moments)
  assert {f"t{item}" for item in alive} == offered
  assert 6 < len(offered) < 150
  sparse = Synthetic(**SMALL, sparse=True)
  offered = set(ClickEnvironment(sparse, 2, 0).offer(3, 0, 1000).items)
  assert set(log_of(sparse)["item_id"]) <= offered
  assert len(offered) == 30


def test_items_that_give_way_to_new_ones_are_refused():
  with pytest.raises(UserError, match=r"^records\.synthetic\.new_items 0\.1: .* use records with new_items 0$"):
    ClickEnvironment(Synthetic(**SMALL, new_items=0.1), 2, 0)
