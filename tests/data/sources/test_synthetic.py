"""The generator: what it promises about its AUCs, its lengths and its labels."""

import sys

import numpy as np
import polars as pl
import pydantic
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lcn_tf.config import Synthetic
from lcn_tf.data.sources import synthetic
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS


@pytest.fixture(scope="module")
def tables():
  return synthetic.generate(Synthetic(users=800, topic_field=True), seed=1)


def with_topic(tables):
  rows = tables.interactions.join(tables.items.select("item_id", "topic", "author"), on="item_id", how="left")
  return rows.sort("timestamp")


def split_times(tables):
  return np.quantile(tables.interactions["timestamp"].to_numpy(), [0.8, 0.9])


def topic_shares(tables, newest=None):
  """Target impressions with the share and the count of older behaviours of their topic, per domain."""
  rows = with_topic(tables)
  impressions = rows.filter((pl.col("domain") == "target") & pl.col("label").is_not_null())
  features = {}
  for domain in DOMAINS:
    behaviours = rows.filter((pl.col("domain") == domain) & (pl.col("label").is_null() | (pl.col("label") == 1)))
    past = {
      user[0]: (part["timestamp"].to_numpy(), part["topic"].to_numpy())
      for user, part in behaviours.partition_by("user_id", as_dict=True).items()
    }
    columns = []
    for user, topic, moment in impressions.select("user_id", "topic", "timestamp").iter_rows():
      times, topics = past.get(user, (np.zeros(0), np.zeros(0)))
      seen = topics[: np.searchsorted(times, moment)][-newest if newest else None :]
      columns.append(((seen == topic).sum(), max(1, len(seen))))
    count, length = np.array(columns, float).T
    features[domain] = np.stack(
      [np.log1p(count), np.log1p(length), count / length, np.sqrt(count / length)]
      + [count / length > bound for bound in (0.05, 0.08, 0.1, 0.13, 0.16)]
      + [count > bound for bound in (0, 1, 2, 3, 5, 8)],
      axis=1,
    )
  return impressions, features


def proxy_auc(tables, shares, domains):
  """Test AUC of a logistic regression that knows topics and click rates of items, and counts in these histories."""
  impressions, features = shares
  label = impressions["label"].to_numpy()
  moment = impressions["timestamp"].to_numpy()
  first, second = split_times(tables)
  train, test = moment < first, moment >= second
  rates = impressions.filter(pl.Series(train)).group_by("item_id").agg(rate=pl.col("label").mean())
  rate = impressions.join(rates, on="item_id", how="left", maintain_order="left")["rate"].fill_null(0.5).to_numpy()
  inputs = np.concatenate([rate[:, None], *[features[domain] for domain in domains]], axis=1)
  model = LogisticRegression(max_iter=300, C=10).fit(inputs[train], label[train])
  return roc_auc_score(label[test], model.predict_proba(inputs[test])[:, 1])


def test_the_gap_between_blind_and_oracle_is_wide(tables):
  assert 0.54 < tables.notes["blind_auc"] < 0.62
  assert tables.notes["blind_auc"] + 0.08 < tables.notes["target_auc"] < tables.notes["oracle_auc"] - 0.12
  assert 0.85 < tables.notes["oracle_auc"] < 0.90


def test_histories_of_both_domains_are_worth_reading(tables):
  oracle = synthetic.oracle(tables, first_time=int(split_times(tables)[1]))
  shares = topic_shares(tables)
  auc = {domains: proxy_auc(tables, shares, domains) for domains in ((), ("target",), ("source",), DOMAINS)}
  print(f"oracle {oracle:.3f}, proxies " + ", ".join(f"{'+'.join(d) or 'blind'} {a:.3f}" for d, a in auc.items()))
  closed = (auc[DOMAINS] - auc[()]) / (oracle - auc[()])
  assert closed > 0.9
  assert auc[()] + 0.1 < auc[("target",)] < auc[DOMAINS] - 0.08
  assert auc[("source",)] < auc[DOMAINS] - 0.03


def test_sparse_interests_are_out_of_sight_of_the_newest_behaviours():
  options = Synthetic(
    users=200, topic_field=True, sparse=True, source_length=2000, target_length=400, noise=0.98, warm_up=0.5
  )
  tables = synthetic.generate(options, seed=2)
  everything, newest = (proxy_auc(tables, topic_shares(tables, newest), DOMAINS) for newest in (None, 100))
  assert everything > newest + 0.1
  behaviours = with_topic(tables).filter(pl.col("label").is_null() & (pl.col("domain") == "source"))
  telling = behaviours.filter(pl.col("topic") < options.topics)
  assert 0.01 < len(telling) / len(behaviours) < 0.03
  assert telling["timestamp"].max() <= synthetic.START + options.days * synthetic.DAY / 2


def test_the_log_is_a_function_of_options_and_seed():
  options = Synthetic(users=30)
  first, again, other = (synthetic.generate(options, seed) for seed in (5, 5, 6))
  for name in ("interactions", "items", "users"):
    assert getattr(first, name).equals(getattr(again, name))
  assert first.notes == again.notes
  assert not first.interactions.equals(other.interactions)


def test_impressions_have_a_label_and_a_probability_and_behaviours_have_neither(tables):
  rows = tables.interactions
  impressions = rows.filter(pl.col("label").is_not_null())
  assert set(impressions["label"].unique()) == {0, 1}
  assert impressions["probability"].is_between(0, 1).all()
  assert rows.filter(pl.col("label").is_null())["probability"].null_count() == len(rows) - len(impressions)
  assert impressions["label"].mean() == pytest.approx(impressions["probability"].mean(), abs=0.02)


def test_labels_follow_the_probabilities(tables):
  impressions = tables.interactions.filter(pl.col("label").is_not_null())
  tenth = (pl.col("probability") * 10).floor().alias("tenth")
  by_tenth = (
    impressions.group_by(tenth).agg(pl.col("label", "probability").mean(), pl.len()).filter(pl.col("len") > 500)
  )
  assert len(by_tenth) > 5
  assert (by_tenth["label"] - by_tenth["probability"]).abs().max() < 0.05


def test_a_chronological_split_leaves_training_impressions(tables):
  moment = tables.interactions.filter((pl.col("domain") == "target") & pl.col("label").is_not_null())["timestamp"]
  first, second = split_times(tables)
  assert moment.min() > tables.interactions["timestamp"].min()
  assert (moment < first).mean() > 0.65
  assert (moment >= second).mean() > 0.1


def test_every_domain_knows_its_items_only(tables):
  pairs = tables.interactions.select("item_id", "domain").unique()
  assert pairs.join(tables.items, on=["item_id", "domain"], how="anti").is_empty()
  assert tables.items["item_id"].n_unique() == len(tables.items) == 800


def test_an_author_is_of_one_topic(tables):
  authors = tables.items.group_by("author").agg(pl.col("topic").n_unique(), pl.col("domain").n_unique(), pl.len())
  assert authors["topic"].max() == authors["domain"].max() == 1
  assert authors["len"].max() == Synthetic().items_per_author


def test_topics_are_hidden_unless_asked_for():
  assert synthetic.generate(Synthetic(users=10)).items.columns == ["item_id", "author", "domain"]


def test_interests_of_one_history_do_not_show_in_the_other(tables):
  rows = with_topic(tables).filter(pl.col("label").is_null())
  shares = rows.group_by("user_id", "domain", "topic").len()
  often = shares.with_columns(share=pl.col("len") / pl.col("len").sum().over("user_id", "domain"))
  shown = often.filter(pl.col("share") > 0.1).group_by("user_id", "domain").len()
  mean = dict(shown.group_by("domain").agg(pl.col("len").mean()).iter_rows())
  assert mean["target"] == pytest.approx(2, abs=0.2)
  assert mean["source"] == pytest.approx(4, abs=0.4)


def test_lengths_are_as_asked(tables):
  lengths = tables.interactions.filter(pl.col("label").is_null()).group_by("user_id", "domain").len()
  mean = dict(lengths.group_by("domain").agg(pl.col("len").mean()).iter_rows())
  assert mean == pytest.approx({"target": 120, "source": 200}, rel=0.05)
  assert lengths["len"].std() > 30


def test_lifelong_histories_cost_no_call_of_their_own_per_behaviour():
  calls = []

  def count(frame, event, argument):
    calls[-1] += event in ("call", "c_call")

  for length in (10_000, 100_000):
    options = Synthetic(
      users=5, source_length=length, target_length=length // 5, length_spread=0, target_impressions=400
    )
    calls.append(0)
    sys.setprofile(count)
    try:
      tables = synthetic.generate(options)
    finally:
      sys.setprofile(None)
    behaviours = tables.interactions.filter(pl.col("label").is_null() & (pl.col("domain") == "source"))
    assert behaviours.group_by("user_id").len()["len"].to_list() == [length] * 5
  assert 0 < calls[1] < 2 * calls[0]


def test_no_source_impressions_on_request():
  rows = synthetic.generate(Synthetic(users=20, source_impressions=0)).interactions
  assert rows.filter(pl.col("label").is_not_null())["domain"].unique().to_list() == ["target"]


def test_the_oracle_of_a_time_range_counts_its_impressions_only(tables):
  rows = tables.interactions.filter(pl.col("label").is_not_null() & (pl.col("domain") == "target"))
  first = int(rows["timestamp"].quantile(0.9))
  part = rows.filter(pl.col("timestamp") >= first)
  assert synthetic.oracle(tables, first) == roc_auc_score(part["label"], part["probability"])
  assert synthetic.oracle(tables) == tables.notes["oracle_auc"]
  with pytest.raises(UserError, match="clicked and unclicked"):
    synthetic.oracle(tables, 0, 1)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"interests": 30}, r"target_only 1 < interests 30 <= topics"),
    ({"interests": 3, "source_only": 3}, r"source_only 3 and target_only 1 < interests 3 <= topics"),
    ({"interests": 3, "source_only": 2, "target_only": 2}, r"source_only 2 \+ target_only 2 exceed interests 3"),
    ({"target_items": 10}, r"target_items 10 and source_items \d+: at least \d+ each"),
    ({"sparse": True, "source_items": 30}, r"target_items \d+ and source_items 30: at least \d+ each"),
  ],
)
def test_impossible_options_are_refused(options, said):
  with pytest.raises(pydantic.ValidationError, match=said):
    Synthetic(**options)


def test_tags_of_an_item_are_its_topic_and_others_of_less_weight(tables):
  options = Synthetic(users=800, topic_field=True, tags=3)
  tagged = synthetic.generate(options, seed=1)
  assert tagged.interactions.equals(tables.interactions)
  assert tagged.items.drop("tags", "tag_weights").equals(tables.items)
  assert tagged.items["tags"].list.first().equals(tables.items["topic"], check_names=False)
  weights = np.array(tagged.items["tag_weights"].to_list())
  assert weights.shape == (800, 3)
  assert (weights[:, 0] == 1).all()
  assert 0 <= weights[:, 1:].min() < weights[:, 1:].max() < 0.5


def test_every_day_a_share_of_the_target_items_is_new():
  new, still = (synthetic.generate(Synthetic(users=60, days=40, new_items=share), 3) for share in (0.1, 0.0))
  # who meets which place when is the same
  place = pl.col("item_id").str.split(".").list.first()
  keys = ["user_id", "domain", "timestamp", place]
  assert new.interactions.select(keys).equals(still.interactions.select(keys))
  assert set(new.interactions["item_id"]) <= set(new.items["item_id"])
  assert new.items["item_id"].is_unique().all()
  turns = new.items.filter(pl.col("domain") == "target").group_by(place).len()["len"].to_numpy() - 1
  assert turns.sum() == pytest.approx(0.1 * 40 * len(turns), rel=0.2)
  assert new.items.filter(pl.col("domain") == "source").equals(still.items.filter(pl.col("domain") == "source"))
  # an item comes once, and stays until the next one of its place comes
  target = new.interactions.filter(pl.col("domain") == "target").with_columns(place.alias("place"))
  days = target.group_by("place", "item_id").agg(first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
  for (_,), items in days.group_by(["place"]):
    items = items.sort("first")
    assert (items["last"][:-1].to_numpy() < items["first"][1:].to_numpy()).all()
  # fields are those of the place
  fields = new.items.with_columns(place.alias("place")).group_by("place").agg(pl.col("author").n_unique())
  assert (fields["author"] == 1).all()


def test_a_new_item_has_a_popularity_of_its_own_which_its_clicks_follow():
  new, still = (synthetic.generate(Synthetic(users=200, popularity=2.0, new_items=share), 3) for share in (0.2, 0.0))
  shown = pl.col("label").is_not_null() & (pl.col("domain") == "target")
  ours, theirs = (tables.interactions.filter(shown) for tables in (new, still))
  assert np.abs(ours["probability"] - theirs["probability"]).mean() > 0.1
  assert abs((ours["label"] - ours["probability"]).mean()) < 0.02
  assert roc_auc_score(ours["label"], ours["probability"]) > roc_auc_score(ours["label"], theirs["probability"]) + 0.05
  # in the place of the first one's, not on top of it
  one, other = (np.log(rows["probability"] / (1 - rows["probability"])).std() for rows in (ours, theirs))
  assert one == pytest.approx(other, rel=0.1)


def test_the_taste_of_a_user_is_near_the_topics_that_he_cares_about(tables):
  options = Synthetic(users=800, topic_field=True, content_width=16, taste_width=16)
  told = synthetic.generate(options, seed=1)
  assert told.users.drop("taste").equals(tables.users)
  assert told.interactions.equals(tables.interactions)
  assert 0.07 < told.users["taste"].null_count() / 800 < 0.13
  content = np.array(told.items["content"].to_list())
  topics = np.array([content[(told.items["topic"] == topic).to_numpy()].mean(axis=0) for topic in range(20)])
  rows = with_topic(told).filter(pl.col("label").is_not_null()).join(told.users.drop_nulls("taste"), on="user_id")
  near = (np.array(rows["taste"].to_list()) * topics[rows["topic"].to_numpy()]).sum(axis=1)
  assert roc_auc_score(rows["label"].to_numpy(), near) > 0.65
