"""The numbers of the table, the Parquet file and the page; the cells are stubs."""

import html.parser
import json
import math

import numpy as np
import polars as pl
import pytest

from lcn_tf.comparison.compare import compare
from lcn_tf.errors import UserError
from lcn_tf.evaluation import baselines, paired, predictions
from tests.comparison.stubs import NOISE, Stub, load, write_predictions
from tests.support.record_sets import small_schema, write_record_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("results")
  sizes = {"train": 4, "validation": 2, "test": 2}
  record_set = write_record_set(path / "records", small_schema(), records=sizes)
  compare(load(path), record_set, path / "out", runner=Stub())
  return path / "out"


@pytest.fixture(scope="module")
def table(folder):
  """The cells of table.md by row and column."""
  lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
  head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
  return {row[0]: dict(zip(head, row, strict=True)) for row in body}


def files(folder, label):
  return [folder / "cells" / label / f"seed_{seed}" / "predictions.parquet" for seed in (0, 1)]


def test_rows_are_in_the_order_of_the_config(table):
  assert list(table) == ["Bad", "Good", "Fair"]


def test_means_and_deviations_are_those_of_the_runs(folder, table):
  for label in ("Bad", "Good", "Fair"):
    runs = [folder / "cells" / label.lower() / f"seed_{seed}" / "metrics.json" for seed in (0, 1)]
    found = [json.loads(file.read_text()) for file in runs]
    for column, name in (("AUC", "auc"), ("GAUC", "gauc"), ("logloss", "logloss")):
      one, other = found[0][name], found[1][name]
      deviation = abs(one - other) / math.sqrt(2)
      assert table[label][column] == f"{(one + other) / 2:.4f} ± {deviation:.4f}"


def test_differences_are_those_of_the_paired_tool(folder, table):
  found = json.loads((folder / "paired.json").read_text())
  assert set(found) == {"Bad", "Fair"}
  for label in found:
    expected = paired.compare(files(folder, label.lower()), files(folder, "good"), replicates=40)
    for name in ("auc", "gauc", "logloss"):
      assert found[label][name] == expected[name]
    for column, name in (("AUC - Good", "auc"), ("GAUC - Good", "gauc")):
      low, high = expected[name]["interval"]
      mark = " *" if low > 0 or high < 0 else ""
      assert table[label][column] == f"{expected[name]['difference']:+.4f} [{low:+.4f}, {high:+.4f}]{mark}"
  assert table["Bad"]["AUC - Good"].endswith("*")
  assert table["Good"]["AUC - Good"] == "-"


def test_a_difference_that_is_none_has_no_mark(folder, tmp_path):
  sizes = {"train": 4, "validation": 2, "test": 2}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes)

  class Same(Stub):
    def train(self, cell, evaluate):
      super().train(cell, evaluate)
      # models alike but for noise of their own
      write_predictions(cell.predictions, 0.5, cell.seed + 10 * (cell.label == "Good"))

  compare(load(tmp_path), record_set, tmp_path / "out", runner=Same())
  row = next(line for line in (tmp_path / "out" / "table.md").read_text().splitlines() if line.startswith("| Fair"))
  found = json.loads((tmp_path / "out" / "paired.json").read_text())["Fair"]["auc"]
  assert found["interval"][0] < 0 < found["interval"][1]
  assert "*" not in row.split("|")[5]


def test_the_bootstrap_of_a_run_is_computed_once_and_anew_when_its_predictions_change(folder, tmp_path):
  sizes = {"train": 4, "validation": 2, "test": 2}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes)
  loaded = load(tmp_path)
  compare(loaded, record_set, tmp_path / "out", runner=Stub())
  caches = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out" / "bootstrap").iterdir()}
  assert len(caches) == 6
  compare(loaded, record_set, tmp_path / "out", runner=Stub())
  assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out" / "bootstrap").iterdir()} == caches
  changed = files(tmp_path / "out", "fair")
  write_predictions(changed[0], 3.0, 5)
  compare(loaded, record_set, tmp_path / "out", runner=Stub())
  found = json.loads((tmp_path / "out" / "paired.json").read_text())["Fair"]["auc"]
  expected = paired.compare(changed, files(tmp_path / "out", "good"), replicates=40)["auc"]
  assert found == expected


def test_a_model_with_a_missing_seed_is_paired_on_the_seeds_that_both_have(tmp_path):
  sizes = {"train": 4, "validation": 2, "test": 2}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes)
  out = tmp_path / "out"
  compare(load(tmp_path), record_set, out, runner=Stub())
  (out / "cells" / "fair" / "seed_0" / "metrics.json").unlink()
  compare(load(tmp_path), record_set, out, runner=Stub(), only=["Good"])
  found = json.loads((out / "paired.json").read_text())["Fair"]
  assert found["a"] == ["cells/fair/seed_1/predictions.parquet"]
  expected = paired.compare(files(out, "fair")[1:], files(out, "good")[1:], replicates=40)
  assert found["auc"] == expected["auc"]
  assert "| Fair (1 of 2 seeds) | 0." in (out / "table.md").read_text()


def test_costs_are_means_and_the_largest_memory(table):
  assert table["Good"]["training s"] == "10"  # 10 and 11
  assert table["Good"]["candidates/s"] == "1,000"
  assert table["Good"]["peak MB"] == "101"
  assert table["Good"]["parameters"] == "450"


def test_parquet_has_a_row_per_model_and_seed(folder):
  found = pl.read_parquet(folder / "results.parquet")
  assert found.select("model", "seed").rows() == [(m, s) for m in ("Bad", "Good", "Fair") for s in (0, 1)]
  row = found.row(3, named=True)
  saved = json.loads((folder / row["path"] / "metrics.json").read_text())
  assert (row["auc"], row["gauc"], row["logloss"]) == (saved["auc"], saved["gauc"], saved["logloss"])
  assert (row["seconds"], row["epochs"], row["best_epoch"], row["starts"]) == (11.0, 3, 2, 1)
  assert row["val_auc"] == pytest.approx(0.7 - abs(0.001 - 0.01) - 0.01)
  assert (row["parameters"], row["parameters_tables"], row["peak_memory_bytes"]) == (450, 400, 101 * 2**20)


def test_predictions_of_other_candidates_are_refused(folder, tmp_path):
  sizes = {"train": 4, "validation": 2, "test": 2}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes)
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  file = files(tmp_path / "out", "fair")[0]
  frame = predictions.read(file).with_columns(pl.col("item") + 1)
  frame.write_parquet(file)
  with pytest.raises(UserError, match=r"fair.*not the candidates of .*good.*item differs in 360 rows"):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())


def test_the_trivial_baselines_are_rows_without_seeds(tmp_path):
  sizes = {"train": 60, "validation": 30, "test": 30}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes)

  class Scores(Stub):
    def train(self, cell, evaluate):
      super().train(cell, evaluate)
      # the candidates of the records, which the baselines score
      frame = pl.read_parquet(tmp_path / "first" / "baselines" / "item_mean.parquet")
      noise = np.random.default_rng(cell.seed).uniform(0, 0.2, len(frame)).astype(np.float32)
      frame.with_columns(probability=0.7 * pl.col("label") + pl.Series(noise)).write_parquet(cell.predictions)

  baselines.run(record_set, tmp_path / "first" / "baselines", bootstrap=0)
  compare(load(tmp_path, baselines=True), record_set, tmp_path / "out", runner=Scores())
  found = pl.read_parquet(tmp_path / "out" / "results.parquet")
  assert found["model"].to_list()[:3] == ["item popularity", "item mean", "user mean item mean"]
  assert found["seed"].null_count() == 3
  saved = json.loads((tmp_path / "out" / "baselines" / "baselines.json").read_text())
  lines = (tmp_path / "out" / "table.md").read_text().splitlines()
  row = next(line for line in lines if line.startswith("| item popularity")).split("|")
  assert row[2].strip() == f"{saved['item_popularity']['auc']:.4f}"
  assert row[4].strip() == "-"
  difference = json.loads((tmp_path / "out" / "paired.json").read_text())["item popularity"]["auc"]
  assert difference["interval"][1] < 0
  assert len(difference["b_seeds"]) == 2


class _Page(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.tags = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_but_itself_and_shows_every_model(folder):
  text = (folder / "report" / "index.html").read_text()
  page = _Page(text)
  images = [attributes for tag, attributes in page.tags if tag == "img"]
  assert len(images) == 2 + 1 + 1  # AUC and GAUC, learning curves, target history
  assert all(image["src"].startswith("data:image/png;base64,") for image in images)
  for image in images:
    assert all(label in image["alt"] for label in ("Bad", "Good", "Fair"))
  assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
  assert "http" not in text
  assert "val. AUC" in text
  links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
  assert sorted(links) == sorted(
    f"../cells/{m}/seed_{s}/report/index.html" for m in ("bad", "good", "fair") for s in (0, 1)
  )


def test_rows_that_differ_in_the_number_at_their_end_are_a_line_and_gain_on_the_middle_one(tmp_path, monkeypatch):
  noise = {"Good 25": 2.0, "Good 50": 0.5, "Good 100": 0.2, "Fair 25": 2.0, "Fair 100": 0.5, "Bad 7": 2.0}
  for label, value in noise.items():
    monkeypatch.setitem(NOISE, label, value)
  models = {
    label: {"config": "lap.yaml", "set": {"train.learning_rate": 0.001 * (i + 1)}} for i, label in enumerate(noise)
  }
  sizes = {"train": 4, "validation": 2, "test": 2}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes)
  loaded = load(tmp_path, models=models, reference="Good 50")
  compare(loaded, record_set, tmp_path / "out", runner=Stub())
  page = (tmp_path / "out" / "report" / "index.html").read_text()
  assert "By length" in page
  gauc = {
    label: np.mean(
      [json.loads(file.read_text())["gauc"] for file in sorted(tmp_path.glob(f"out/cells/{label}/*/metrics.json"))]
    )
    for label in ("good_25", "good_50", "good_100", "fair_25", "fair_100")
  }
  assert f"{gauc['good_50']:.4f}<small>+0.0000</small>" in page
  assert f"{gauc['good_25']:.4f}<small>{gauc['good_25'] - gauc['good_50']:+.4f}</small>" in page
  assert f"Good 25: {gauc['good_25']:.4f}, 50: {gauc['good_50']:.4f}, 100: {gauc['good_100']:.4f}" in page
  assert f"Fair 25: {gauc['fair_25']:.4f}, 50: -, 100: {gauc['fair_100']:.4f}" in page
  assert "Bad 7: " not in page


def test_a_grid_of_which_nothing_is_finished_has_a_page_that_says_why(tmp_path):
  sizes = {"train": 4, "validation": 2, "test": 2}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes)
  with pytest.raises(UserError, match="6 cells failed"):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub(failing=("Good", "Bad", "Fair")))
  text = (tmp_path / "out" / "report" / "index.html").read_text()
  assert "Nothing is finished yet" in text
  assert text.count("out of memory") == 6
  assert len(pl.read_parquet(tmp_path / "out" / "results.parquet")) == 0


def test_no_half_written_files_are_left(folder):
  assert [path.name for path in folder.rglob(".*") if path.is_file()] == [".lock"]
