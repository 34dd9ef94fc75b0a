"""Synthetic logs of rare ids: items come and go, and what stays tells what they are."""

import hashlib

import numpy as np
import polars as pl
import pydantic
import pytest
from sklearn.metrics import roc_auc_score

from lcn_tf import config
from lcn_tf.config import Synthetic
from lcn_tf.data.sources import lives, synthetic
from lcn_tf.schema import DOMAINS
from tests.support.forks import ROOT

IMPRESSION = pl.col("label").is_not_null()


@pytest.fixture(scope="module")
def options():
  return config.load(str(ROOT / "configs" / "rare" / "lcn.yaml")).records.synthetic


@pytest.fixture(scope="module")
def tables(options):
  return synthetic.generate(options)


@pytest.fixture(scope="module")
def parts(tables):
  """The interactions of training, and the impressions of the test split, as the config splits them."""
  first, last = np.quantile(tables.interactions["timestamp"].to_numpy(), [0.8, 0.9])
  rows = tables.interactions
  return rows.filter(pl.col("timestamp") < first), rows.filter((pl.col("timestamp") >= last) & IMPRESSION)


def met(train, candidates):
  """How often training meets the item of each candidate."""
  counts = train.group_by("item_id").len("met")
  return candidates.join(counts, on="item_id", how="left", maintain_order="left")["met"].fill_null(0)


@pytest.mark.parametrize("domain", DOMAINS)
def test_training_hardly_meets_the_items_of_the_test(domain, parts):
  train, test = (part.filter(pl.col("domain") == domain) for part in parts)
  items = test.unique("item_id")
  assert 0.5 < (met(train, items) < 2).mean() < 0.9
  assert (met(train, test) < 2).mean() > 0.5
  assert 3 <= train.group_by("item_id").len()["len"].median() <= 12


def test_most_items_live_for_a_few_days_and_some_for_months(tables):
  day = (pl.col("timestamp") - synthetic.START) // synthetic.DAY
  spans = tables.interactions.group_by("item_id").agg(days=day.max() - day.min() + 1, met=pl.len())
  often = spans.filter(pl.col("met") >= 20)["days"]
  assert 3 < spans["days"].median() <= 8
  assert often.quantile(0.9) < 60 <= often.max()


def test_the_authors_of_the_test_are_known(tables, parts):
  train, test = (part.join(tables.items, on=["item_id", "domain"]) for part in parts)
  assert test["author"].is_in(train["author"].unique().implode()).mean() > 0.99


def test_the_oracle_is_far_above_popularity(tables, parts):
  train, test = (part.filter((pl.col("domain") == "target") & IMPRESSION) for part in parts)
  oracle = synthetic.oracle(tables, int(test["timestamp"].min()))
  rates = train.group_by("item_id").agg(clicks=(pl.col("label").sum() + 1) / (pl.len() + 2))
  rate = test.join(rates, on="item_id", how="left", maintain_order="left")["clicks"].fill_null(0.5)
  assert roc_auc_score(test["label"], rate) + 0.25 < oracle
  assert 0.85 < oracle < 0.92
  assert tables.notes["blind_auc"] + 0.1 < tables.notes["target_auc"] < tables.notes["oracle_auc"] - 0.1


def test_the_log_is_a_function_of_options_and_seed():
  small = Synthetic(users=30, rare=True, category_topics=4)
  first, again, other = (synthetic.generate(small, seed) for seed in (5, 5, 6))
  for name in ("interactions", "items", "users"):
    assert getattr(first, name).equals(getattr(again, name))
  assert first.notes == again.notes
  assert not first.interactions["item_id"].equals(other.interactions["item_id"])


def test_lives_change_which_item_of_a_topic_is_met_and_nothing_else():
  stay, go = (synthetic.generate(Synthetic(users=40, topic_field=True, rare=rare), seed=1) for rare in (False, True))
  assert stay.items.equals(go.items)
  assert stay.users.equals(go.users)
  columns = ["user_id", "domain", "timestamp", "topic"]
  before, after = (t.interactions.join(t.items, on=["item_id", "domain"], maintain_order="left") for t in (stay, go))
  assert before.select(columns).equals(after.select(columns))
  assert (before["item_id"] != after["item_id"]).mean() > 0.5


def test_logs_of_items_that_stay_are_the_ones_they_always_were():
  """So record sets of an older version and of this one compare."""
  log = synthetic.generate(Synthetic(users=30), seed=3)
  parts = [log.interactions.select("user_id", "item_id", "domain", "timestamp", "label"), log.items]
  digest = hashlib.sha256("".join(part.write_csv() for part in parts).encode()).hexdigest()
  assert digest == "0103912549690a34f67c7f5dd16ca6bb05f119220bdf78c9e9fb470291d3aae0"
  assert synthetic.generate(Synthetic(users=30, item_days=1), seed=3).interactions.equals(log.interactions)


def test_a_category_tells_a_part_of_the_topic_and_the_domains_divide_topics_in_two_ways():
  items = synthetic.generate(Synthetic(users=5, topics=12, topic_field=True, category_topics=3)).items
  topics = items.group_by("domain", "category").agg(pl.col("topic").unique().sort())
  by_domain = {d: sorted(part["topic"].to_list()) for (d,), part in topics.partition_by("domain", as_dict=True).items()}
  assert by_domain["target"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
  assert by_domain["source"] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
  assert items.group_by("category").agg(pl.col("domain").n_unique())["domain"].to_list() == [1] * 8


def test_authors_have_as_many_items_as_asked():
  items = synthetic.generate(Synthetic(users=5, topics=10, target_items=200, items_per_author=7)).items
  sizes = items.filter(pl.col("domain") == "target").group_by("author").len()["len"]
  assert sorted(sizes.unique()) == [6, 7]


class TestLives:
  DAYS, TOPICS, ITEMS = 30, 4, 2000

  @pytest.fixture(scope="class")
  def made(self):
    random = np.random.default_rng(0)
    topic = np.arange(self.ITEMS) * self.TOPICS // self.ITEMS
    weight = random.random(self.ITEMS) + 0.1
    return topic, weight, lives.make(topic, weight, self.DAYS, 3.0, random)

  def alive(self, made, day, topic):
    cell = day * self.TOPICS + topic
    return made.item[made.first[cell] : made.first[cell + 1]]

  def test_every_item_lives_on_neighbouring_days_of_its_topic(self, made):
    topic, _, lived = made
    days = [[] for _ in topic]
    for day in range(self.DAYS):
      for k in range(self.TOPICS):
        for item in self.alive(lived, day, k):
          assert topic[item] == k
          days[item].append(day)
    assert all(there == list(range(there[0], there[0] + len(there))) for there in days)

  def test_the_median_of_the_lives_is_as_asked(self):
    topic = np.zeros(self.ITEMS, int)
    for median in (1.0, 5.0, 20.0):
      lived = lives.make(topic, np.ones(self.ITEMS), 10_000, median, np.random.default_rng(0))
      assert np.median(np.bincount(lived.item)) == pytest.approx(median, rel=0.1)

  def test_one_item_of_each_topic_stays(self, made):
    topic, _, lived = made
    for k in range(self.TOPICS):
      first = np.flatnonzero(topic == k)[0]
      assert all(first in self.alive(lived, day, k) for day in range(self.DAYS))

  def test_as_many_items_live_on_the_first_day_as_on_any_other(self, made):
    counts = np.diff(made[2].first).reshape(self.DAYS, self.TOPICS).sum(axis=1)
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()

  def test_items_are_drawn_by_their_weights_among_those_that_live(self, made):
    _, weight, lived = made
    events = 40_000
    drawn = lived.draw(np.full(events, 2), np.full(events, 7), np.random.default_rng(1).random(events))
    there = self.alive(lived, 7, 2)
    assert set(drawn) == set(there)
    shares = np.bincount(drawn, minlength=self.ITEMS)[there] / events
    np.testing.assert_allclose(shares, weight[there] / weight[there].sum(), atol=0.004)

  def test_the_ends_of_the_random_numbers_are_of_the_cell(self, made):
    lived = made[2]
    cells = [(day, k) for day in range(self.DAYS) for k in range(self.TOPICS)]
    for place in (0.0, np.nextafter(1.0, 0.0)):
      drawn = lived.draw(
        np.array([k for _, k in cells]), np.array([day for day, _ in cells]), np.full(len(cells), place)
      )
      assert all(item in self.alive(lived, day, k) for item, (day, k) in zip(drawn, cells, strict=True))


@pytest.mark.parametrize("wrong", [{"item_days": 0}, {"category_topics": -1}, {"items_per_author": 0}])
def test_impossible_options_are_refused(wrong):
  with pytest.raises(pydantic.ValidationError, match=next(iter(wrong))):
    Synthetic(rare=True, **wrong)


@pytest.mark.parametrize("other", [("target", 2), ("source", 1)])
def test_lives_differ_between_domains_and_seeds(other):
  sizes = {"users": 100, "target_items": 400, "source_items": 400, "rare": True}

  def first_met(domain, seed):
    rows = synthetic.generate(Synthetic(**sizes), seed).interactions.filter(pl.col("domain") == domain)
    firsts = rows.with_columns(pl.col("item_id").str.slice(1).cast(pl.Int64)).group_by("item_id")
    return firsts.agg(first=pl.col("timestamp").min())

  pairs = first_met("target", 1).join(first_met(*other), on="item_id", suffix="_other")
  assert len(pairs) > 200
  assert abs(np.corrcoef(pairs["first"], pairs["first_other"])[0, 1]) < 0.3
