"""A simulated online comparison: equal models are equal, better ones better, and no arm sees the clicks of another."""

import dataclasses
import itertools
import json
import pathlib

import numpy as np
import pytest

from lcn_tf import config
from lcn_tf.analysis import online, online_results
from lcn_tf.analysis.online import Settings
from lcn_tf.analysis.online_results import Sums, measured
from lcn_tf.config import Synthetic
from lcn_tf.data.build.builder import build
from lcn_tf.data.sources import synthetic
from lcn_tf.errors import UserError
from lcn_tf.training.export_run import export_run
from tests.support.record_sets import tiny_schema, write_record_set
from tests.support.runs import write_run
from tools import simulate_online as command

pytestmark = pytest.mark.job

PLANTED = {"users": 40, "target_items": 30, "source_items": 30, "topics": 5, "interests": 2, "source_only": 1}
PLANTED |= {"target_length": 10, "source_length": 12, "price_effect": 1.0, "taste_width": 3}
SMALL = Settings(users=30, requests=3, candidates=12, shown=3, replicates=200)
FIELDS = {"item_fields": ["author"], "cross_fields": ["dwell"], "max_length": 16}


def experiment(seed=1, **planted):
  tree = {
    "name": "planted",
    "schema": {
      "user_fields": ["segment"],
      "user_vectors": [{"name": "taste", "width": 3}],
      "context_fields": [{"name": "price", "kind": "numeric", "buckets": 4}],
      "target": FIELDS,
      "source": FIELDS,
      "candidates": 4,
    },
    "records": {
      "interactions": "synthetic",
      "labels": {"kind": "given", "column": "label"},
      "synthetic": PLANTED | planted,
      "shards": 1,
      "seed": seed,
    },
    "model": {"extractor": "average_pooling", "embedding": {"dim": 4}, "mlp": {"units": [4]}},
    "train": {"global_batch_size": 64},
  }
  return config.from_tree(tree, "planted")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  made = experiment()
  return build(made, synthetic.generate(made.records.synthetic, 1), tmp_path_factory.mktemp("planted") / "records")


@pytest.fixture(scope="module")
def served(records, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  write_run(folder / "run", experiment(), records)
  return export_run(folder / "run", folder / "served").parent


class Stub:
  """A model that ranks by the truth, or by chance, and keeps what it was asked."""

  asked = []

  def __init__(self, path, users, records, flag):
    self.by, self.version = str(path), pathlib.Path(path)

  def rank(self, user, moment, offer, histories):
    scores = {"truth": offer.probability, "inverse": -offer.probability, "chance": offer.chance[::-1]}[self.by]
    target = histories["target"]
    self.asked.append((self.by, user, moment, target.items[:], target.times[:], target.dwell[:], offer))
    return scores, 0.001


@pytest.fixture
def asked(monkeypatch):
  monkeypatch.setattr(online, "Model", Stub)
  monkeypatch.setattr(Stub, "asked", [])
  return Stub.asked


def difference(found, a, b, metric="ctr"):
  return next(row[metric] for row in found["differences"] if (row["a"], row["b"]) == (a, b))


def change(settings, **changes):
  return dataclasses.replace(settings, **changes)


@pytest.mark.parametrize("metric", ["ctr", "stay_seconds"])
def test_a_model_that_knows_the_truth_beats_chance_and_is_the_oracle(asked, records, metric):
  found = online.compare("chance", "truth", records, SMALL)
  low, high = difference(found, "treatment", "control", metric)["interval"]
  assert 0 < low < difference(found, "treatment", "control", metric)["difference"] < high
  arms = {row["arm"]: row for row in found["arms"]}
  assert arms["treatment"][metric] == arms["oracle"][metric]
  assert arms["random"][metric]["value"] < arms["oracle"][metric]["value"]
  assert found["a_a"] == {"passed": True, "ctr": True, "stay_seconds": True}
  assert arms["treatment"]["latency_ms"] == {"p50": pytest.approx(1), "p99": pytest.approx(1)}
  assert arms["oracle"]["latency_ms"] == {"p50": None, "p99": None}


def test_the_same_model_in_both_arms_is_equal_when_paired_and_near_when_split(asked, records):
  paired = online.compare("truth", "truth", records, SMALL)
  assert paired["same_model"]
  for metric in online_results.METRICS:
    assert difference(paired, "treatment", "control", metric) == {"difference": 0, "relative": 0, "interval": [0, 0]}
  split = online.compare("chance", "chance", records, change(SMALL, design="split"))
  arms = {row["arm"]: row for row in split["arms"]}
  assert arms["control"]["users"] + arms["treatment"]["users"] == 30 == arms["oracle"]["users"]
  assert difference(split, "treatment", "control")["difference"]


def test_an_a_a_test_of_halves_fails_as_rarely_as_the_level_of_its_intervals_says(asked, records):
  missed = dict.fromkeys(online_results.METRICS, 0)
  for seed in range(30):
    found = online.compare("chance", "chance", records, change(SMALL, design="split", seed=seed, replicates=100))
    for metric in missed:
      low, high = difference(found, "control again", "control", metric)["interval"]
      missed[metric] += not low <= 0 <= high
      assert found["a_a"][metric] == (low <= 0 <= high)
  assert all(1 <= count <= 5 for count in missed.values())


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(asked, records):
  first, again, other = (
    online.compare("chance", "truth", records, change(SMALL, seed=seed, users=10)) for seed in (3, 3, 4)
  )
  assert first == again
  assert first["arms"] != other["arms"]


def test_clicks_become_behaviours_of_the_arm_that_got_them(asked, records):
  online.compare("inverse", "truth", records, change(SMALL, users=5))
  by_user = {}
  for by, user, moment, items, times, dwell, offer in asked[3:]:
    by_user.setdefault((by, user), []).append((moment, items, times, dwell, offer))
  assert len(by_user) == 10
  grown = 0
  for (by, _), calls in by_user.items():
    calls = calls[::2] if by == "inverse" else calls  # the control's model is asked again for the A/A check
    for before, after in itertools.pairwise(calls):
      order = np.argsort(-before[4].probability if by == "truth" else before[4].probability, kind="stable")[:3]
      clicked = order[before[4].clicked[order]]
      assert after[1] == before[1] + before[4].items[clicked].tolist()
      assert after[3] == before[3] + before[4].dwell[clicked].tolist()
      assert sorted(after[2]) == after[2]
      assert all(time > before[0] for time in after[2][len(before[2]) :])
      assert after[2][-1] < after[0]
      grown += len(clicked)
  assert grown > 5
  asked.clear()
  online.compare("inverse", "truth", records, change(SMALL, users=5, grow=False))
  lengths = {}
  for _, user, _, items, *_ in asked[3:]:
    lengths.setdefault(user, set()).add(len(items))
  assert all(len(found) == 1 for found in lengths.values())


def test_histories_are_the_behaviours_of_the_log(asked, records):
  log = synthetic.generate(Synthetic(**PLANTED), 1).interactions
  online.compare("truth", "truth", records, change(SMALL, users=4, requests=1))
  user, items, times = next((user, items, times) for _, user, _, items, times, *_ in asked[3:])
  own = log.filter((log["user_id"] == user) & (log["domain"] == "target") & (log["label"].fill_null(1) == 1))
  assert items == own["item_id"].to_list()
  assert times == own["timestamp"].to_list()


def test_rates_are_of_shown_items_and_of_requests_and_an_a_a_check_can_fail():
  arms = {name: Sums.zeros(4) for name in ("control", "treatment", "control again", "oracle", "random")}
  for name, sums in arms.items():
    for user in range(4):
      sums.add(user, 5, 1 + (name == "control again"), 3.0 + user, float("nan"))
      sums.add(user, 5, 0, 0.0, 0.002 * (1 + user))
  found = measured(arms, np.zeros(4, int), 50, 0.9, 0)
  first = found["arms"][0]
  assert (first["shown"], first["clicks"], first["requests"]) == (40, 4, 8)
  assert first["ctr"] == {"value": 0.1, "interval": [0.1, 0.1]}
  assert first["stay_seconds"]["value"] == pytest.approx((3 + 4 + 5 + 6) / 8)
  assert first["latency_ms"]["p50"] == pytest.approx(5.0)
  assert found["a_a"] == {"passed": False, "ctr": False, "stay_seconds": True}
  # resampling stays within the groups: with a user in each, nothing varies
  alone = measured(arms, np.arange(4), 50, 0.9, 0)["arms"][0]["stay_seconds"]
  assert alone["interval"] == [pytest.approx(alone["value"])] * 2
  low, high = first["stay_seconds"]["interval"]
  assert low < high


def test_the_command_compares_exports_and_says_that_it_is_simulated(served, records, tmp_path, capsys):
  flags = [f"--control={served}", f"--treatment={served}", f"--records={records.path}", "--users=6", "--requests=2"]
  more = [f"--output={tmp_path}", "--candidates=8", "--shown=2", "--bootstrap=20"]
  command.main(["simulate_online", *flags, *more])
  found = json.loads((tmp_path / "simulated_online.json").read_text(), parse_constant=pytest.fail)
  assert found["simulated"]
  assert found["same_model"]
  assert difference(found, "treatment", "control")["interval"] == [0, 0]
  for row in found["arms"]:
    assert (row["latency_ms"]["p50"] is None) == (row["arm"] in ("oracle", "random"))
  said = capsys.readouterr().out
  page = (tmp_path / "index.html").read_text()
  for text in (said, page, (tmp_path / "simulated_online.md").read_text()):
    for part in ("Simulated online comparison", "Simulated arms", "Simulated differences", "A/A check: passed"):
      assert part in text


def test_wrong_input_is_told(asked, served, records, tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"^shown 20: expected at most as many as there are candidates, 12$"):
    change(SMALL, shown=20)
  with pytest.raises(UserError, match=r"^users 1: expected at least 2$"):
    change(SMALL, users=1)
  with pytest.raises(UserError, match=r"^level 1\.5: expected a number between 0 and 1$"):
    change(SMALL, level=1.5)
  flags = [f"--control={served}", f"--treatment={served}", f"--output={tmp_path / 'out'}"]
  plain = write_record_set(tmp_path / "plain", tiny_schema())
  with pytest.raises(UserError, match=r"plain: records of .*only users of a synthetic log"):
    command.main(["simulate_online", *flags, f"--records={plain.path}"])
  monkeypatch.undo()
  other = records.model_copy(update={"records": records.records | {"seed": 2}})
  with pytest.raises(UserError, match=r"^--control .*: trained with another log than that of --records"):
    online.compare(served, served, other, SMALL)
  fields = records.record_schema.target.model_copy(update={"cross_fields": records.record_schema.context_fields})
  strange = records.record_schema.model_copy(update={"target": fields})
  users = synthetic.generate(Synthetic(**PLANTED), 1).users
  with pytest.raises(
    UserError, match=r"^--control x: target field 'price' has no value in simulated requests; they have dwell$"
  ):
    online._check_fields(strange, users, experiment().records, "--control x")
  assert not (tmp_path / "out").exists()
