"""That what is measured is what is said, on requests too small to tell anything about speed."""

import json
import time

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.analysis import latency, synthetic
from lcn_tf.errors import UserError
from pipelines import latency as command


def test_variants_take_turns_and_every_run_is_timed():
  order = []

  def call(name, seconds):
    def run():
      order.append(name)
      time.sleep(seconds)

    return run

  found = latency.times([call("a", 0.001), call("b", 0.01)], runs=7, warm_up=2)
  assert found.shape == (2, 7)
  assert "".join(order) == "aabb" + "aaaaabbbbb" + "aabb"
  assert (found[0] >= 1).all()
  assert (found[1] >= 10).all()


@pytest.mark.job
def test_what_is_timed_is_the_models_probability():
  model = synthetic.build("lap", 30, items=50)
  request = synthetic.requests(model.schema, 2, 3, 30)
  expected = tf.sigmoid(model(request))
  assert expected.shape == (2, 3)
  np.testing.assert_allclose(latency.serve(model, request)(), expected, rtol=1e-5)
  model.embedder.tables.deduplicate = model.embedder.deduplicate = False
  np.testing.assert_allclose(latency.serve(model, request, xla=True)(), expected, rtol=1e-4)


def test_all_candidates_see_the_whole_history():
  model = synthetic.build("average_pooling", 30, items=50)
  embedded = model.embedder([("target", synthetic.requests(model.schema, 1, 4, 30))])[0]
  for behaviours in embedded.histories.values():
    assert behaviours.visible.shape == (1, 1, 30)
    assert behaviours.visible.numpy().all()
    assert (behaviours.times.numpy() < embedded.candidates.times.numpy().min()).all()


def test_lap_is_timed_against_full_attention_in_all_its_ways():
  rows = latency.against_full_attention(40, [(3, 2)], runs=2, warm_up=1)
  assert [(row["model"], row["N"]) for row in rows] == [("lap", 2), ("lap_five_percent", 2)]
  for row in rows:
    assert row["LAP / shared, %"] == pytest.approx(100 * row["LAP"] / row["shared"])


@pytest.mark.job
def test_the_command_leaves_a_table_and_a_page(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(latency, "_ITEMS", 100)
  monkeypatch.setattr(latency, "against_full_attention", lambda *_, **__: [{"model": "lap", "N": 1}])
  flags = ["--models=average_pooling", "--lengths=20", "--candidates=3", "--runs=3", "--warm_up=1", "--xla"]
  command.main(["latency", f"--output={tmp_path}", *flags])
  found = json.loads((tmp_path / "latency.json").read_text(), parse_constant=pytest.fail)
  rows = found["tables"][0]["rows"]
  assert [row["way"] for row in rows] == ["one request", "two users merged", "XLA"]
  for row in rows:
    assert 0 < row["min"] <= row["p50"] <= row["p99"]
    assert row["p50 per request"] == row["p50"] / (2 if row["way"] == "two users merged" else 1)
  assert "<img" in (tmp_path / "index.html").read_text()
  assert "two users merged" in capsys.readouterr().out


def test_memory_and_growth_are_tables_of_their_own(tmp_path, monkeypatch):
  monkeypatch.setattr(latency, "memory", lambda models, length: [{"model": m, "length": length} for m in models])
  grown = [{"model": "lcn", "length": n, "times the first": n / 10} for n in (10, 20)]
  monkeypatch.setattr(latency, "growth", lambda: grown)
  command.main(["latency", f"--output={tmp_path}", "--lengths=", "--memory", "--growth"])
  memory, growth = json.loads((tmp_path / "latency.json").read_text())["tables"]
  assert memory["rows"] == [{"model": name, "length": 100_000} for name in ("lap", "twin")]
  assert growth["rows"] == grown


@pytest.mark.job
def test_sizes_of_a_call_are_compared_by_the_cost_of_a_candidate(tmp_path, monkeypatch):
  monkeypatch.setattr(latency, "_ITEMS", 100)
  costs = {(1, 1): 2.0, (1, 200): 100.0, (2, 100): 400.0}
  asked = []

  def times(calls, runs, warm_up, clock):
    asked.append((runs, warm_up, clock))
    assert [call().shape for call in calls] == list(costs)
    return np.array([[cost, cost + 1] for cost in costs.values()])

  monkeypatch.setattr(latency, "times", times)
  (row,) = latency.by_size(["average_pooling"], 20, tuple(costs), runs=2)
  assert asked == [(2, 1, time.process_time)]
  assert row == {"model": "average_pooling", "us of 1 x 200": 500.0, "1 x 1": 4.0, "1 x 200": 1.0, "2 x 100": 4.0}
  measured = []
  monkeypatch.setattr(latency, "by_size", lambda models, length: measured.append((models, length)) or [row])
  command.main(["latency", f"--output={tmp_path}", "--lengths=", "--sizes", "--models=average_pooling"])
  assert measured == [(["average_pooling"], 2000)]
  (table,) = json.loads((tmp_path / "latency.json").read_text())["tables"]
  assert table["rows"] == [row]


@pytest.mark.slow
def test_a_request_of_a_hundred_thousand_behaviours_fits_into_two_gigabytes():
  for row in latency.memory(["lap", "twin"]):
    assert row["peak memory, GB"] < 2, row


@pytest.mark.slow
def test_training_cost_grows_no_faster_than_the_history():
  rows = latency.growth(lengths=[250, 2000], steps=5)
  for row in rows:
    # what else the machine does may not be taken for growth
    assert row["times the first"] <= 1.2 * row["length, times the first"], row


def test_wrong_names_and_sizes_are_told(tmp_path):
  with pytest.raises(UserError, match=r"unknown model 'twim'\. Did you mean 'twin'"):
    command.main(["latency", f"--output={tmp_path}", "--models=lap,twim"])
  with pytest.raises(UserError, match="--lengths 5,many: expected whole numbers"):
    command.main(["latency", f"--output={tmp_path}", "--lengths=5,many"])
  with pytest.raises(UserError, match="at least 1"):
    command.main(["latency", f"--output={tmp_path}", "--lengths=0"])
