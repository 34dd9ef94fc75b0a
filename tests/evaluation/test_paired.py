"""Paired comparison of predictions files, and its command."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from lcn_tf import metrics
from lcn_tf.errors import UserError
from lcn_tf.evaluation import paired, predictions


def _write(path, seed, noise, **changed):
  rng = np.random.default_rng(0)
  user = np.repeat(np.arange(100), 8)
  truth = rng.random(800)
  columns = {
    "user": user,
    "item": rng.integers(2, 50, 800),
    "timestamp": np.arange(800),
    "label": rng.random(800) < truth,
    "weight": np.ones(800),
    "probability": np.clip(truth + np.random.default_rng(seed).normal(0, noise, 800), 0, 1),
    "history_target": np.zeros(800),
    "history_source": np.zeros(800),
  }
  predictions.write(path, [columns | changed])
  return path


def test_mean_over_seeds_and_interval(tmp_path):
  a = [_write(tmp_path / f"a{seed}", seed, 0.1) for seed in (1, 2)]
  b = [_write(tmp_path / f"b{seed}", seed, 0.5) for seed in (3, 4)]
  found = paired.compare(a, b, replicates=100)
  own = [metrics.summary(predictions.scored(predictions.read(path)), replicates=0) for path in (*a, *b)]
  for name in ("auc", "gauc", "logloss"):
    values = [summary[name] for summary in own]
    assert found[name]["difference"] == pytest.approx(np.mean(values[:2]) - np.mean(values[2:]))
    low, high = found[name]["interval"]
    assert low < found[name]["difference"] < high
  assert found["auc"]["interval"][0] > 0 > found["logloss"]["interval"][1]
  assert (found["candidates"], found["users"]) == (800, 100)


def test_other_candidates_are_refused(tmp_path):
  a = _write(tmp_path / "a", 0, 0.1)
  times = np.arange(800)
  times[[5, 9]] = 0
  with pytest.raises(UserError, match=r"b: not the candidates of .*a: timestamp differs in 2 rows, first in row 5: 0"):
    paired.compare([a], [_write(tmp_path / "b", 0, 0.1, timestamp=times)])
  pl.read_parquet(a).head(10).write_parquet(tmp_path / "short")
  with pytest.raises(UserError, match=r"short: 10 candidates, but .*a has 800"):
    paired.compare([a], [tmp_path / "short"])


def test_what_is_no_predictions_file_is_named(tmp_path):
  a = _write(tmp_path / "a", 0, 0.1)
  (tmp_path / "text").write_text("no parquet")
  pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "other")
  for name, message in (
    ("missing", "missing: no such predictions file"),
    ("text", "text: damaged, or no Parquet file: "),
    ("other", "other: no predictions: the columns item, timestamp"),
  ):
    with pytest.raises(UserError, match=message):
      paired.compare([a], [tmp_path / name])
  with pytest.raises(UserError, match="as many files of A as of B, at least one of each; found 2 and 1"):
    paired.compare([a, a], [a])


def test_command_prints_one_json(tmp_path):
  a, b = _write(tmp_path / "a", 1, 0.1), _write(tmp_path / "b", 2, 0.5)
  command = [sys.executable, "-m", "tools.paired", "--a", str(a), "--b", str(b), "--bootstrap", "50"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["gauc"]["difference"] > 0
  assert (found["replicates"], found["a"]) == (50, [str(a)])
