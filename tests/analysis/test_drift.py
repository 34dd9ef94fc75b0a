"""Drift between record sets: the formulas by hand, a planted drift found, none where there is none."""

import json
import math

import numpy as np
import polars as pl
import pytest

from lcn_tf.analysis import drift
from lcn_tf.data.build import builder, tables
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.statistics import Categories, Numbers
from lcn_tf.errors import UserError
from tests.data import logs
from tools import compare_records

SCHEMA = {
  "context_fields": ["device"],
  "target": {"item_fields": ["category"], "cross_fields": [{"name": "watched", "kind": "numeric"}]},
  "candidates": 4,
}
SPAN = 20 * 86_400


def values(counts, rest=0, unknown=0, missing=0):
  rows = sum(counts.values()) + rest + unknown + missing
  return Categories(
    rows=rows,
    missing=missing,
    unknown=unknown,
    distinct=len(counts),
    values=tuple(counts),
    counts=tuple(counts.values()),
    rest=rest,
  )


def test_psi_and_js_of_an_example_by_hand():
  """Counts 2, 1, 1 and 1, 1, 2: with 1/2 more per cell, shares 5/11, 3/11, 3/11 and 3/11, 3/11, 5/11."""
  psi, sampling, js = drift.divergence(np.array([2.0, 1, 0, 1]), np.array([1.0, 1, 0, 2]), (4, 8))
  assert psi == pytest.approx(2 * (5 - 3) / 11 * math.log(5 / 3))
  assert sampling == pytest.approx(2 * (1 / 4 + 1 / 8))
  # the middle is 3/8, 1/4, 3/8; both sides are alike
  assert js == pytest.approx(0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3))


def test_what_shares_nothing_is_at_distance_one_and_what_is_equal_at_none():
  apart = drift.divergence(np.array([3.0, 0]), np.array([0.0, 5]), (3, 5))
  assert apart[2] == pytest.approx(1)
  assert apart[0] > 1
  psi, _, js = drift.divergence(np.array([30.0, 10]), np.array([3.0, 1]), (40, 4))
  assert js == pytest.approx(0)
  assert psi < 0.2


def test_psi_of_samples_of_one_distribution_is_about_what_is_said_of_sampling():
  rng = np.random.default_rng(0)
  share = rng.dirichlet(np.full(50, 5.0))
  pairs = [(rng.multinomial(2000, share), rng.multinomial(1000, share)) for _ in range(200)]
  found = [drift.divergence(a.astype(float), b.astype(float), (2000, 1000)) for a, b in pairs]
  assert np.mean([psi for psi, _, _ in found]) == pytest.approx(found[0][1], rel=0.1)


def test_a_value_that_one_side_lists_is_looked_for_in_the_rest_of_the_other():
  a = values({"x": 50, "y": 20, "z": 10}, rest=15, missing=5)
  b = values({"x": 25, "w": 15}, rest=8, unknown=2)
  cells = drift.cells_of_values(a, b, one_mapping=True)
  # w: b's share .3 of a's 100 are 30, at most the least of a's list, 10; y, z: at most a's shares of b's 50, 10 and 5,
  # which are more than b's rest of 8
  np.testing.assert_allclose(cells[0], [50, 20, 10, 10, 5, 0, 5])
  np.testing.assert_allclose(cells[1], [25, 8 * 10 / 15, 8 * 5 / 15, 15, 0, 2, 0])
  for counts, side in zip(cells, (a, b), strict=True):
    assert counts.sum() == pytest.approx(side.total)
  complete = drift.cells_of_values(values({"x": 4}), values({"w": 4}), one_mapping=True)
  assert drift.divergence(*complete, (4, 4))[2] == pytest.approx(1)
  unknown = drift.cells_of_values(values({"x": 4}, unknown=4), values({"x": 4, "w": 4}), one_mapping=False)
  np.testing.assert_allclose(unknown, [[4, 4, 0, 0, 0], [4, 4, 0, 0, 0]])


def test_shares_of_cells_sum_to_one_whatever_is_listed():
  rng = np.random.default_rng(0)
  for _ in range(50):
    sides = []
    for _ in range(2):
      names = rng.choice(30, rng.integers(1, 20), replace=False)
      counts = np.sort(rng.integers(1, 50, len(names)))[::-1]
      listed = {f"v{name}": int(count) for name, count in zip(names, counts, strict=True)}
      sides.append(values(listed, *rng.integers(0, 40, 3).tolist()))
    for one_mapping in (True, False):
      cells = drift.cells_of_values(*sides, one_mapping)
      assert len(cells[0]) == len(cells[1])
      assert min(cells[0].min(), cells[1].min()) >= 0
      assert [counts.sum() for counts in cells] == pytest.approx([side.total for side in sides])
    same = drift.cells_of_values(sides[0], sides[0], one_mapping=True)
    assert drift.divergence(*same, (1, 1))[0] == pytest.approx(0)


def test_numbers_compare_by_the_edges_of_their_bins():
  a = Numbers(rows=7, missing=1, mean=1.0, quantiles=(), edges=(0.0, 2.0), counts=(4, 2))
  b = Numbers(rows=3, missing=0, mean=1.0, quantiles=(), edges=(-1.0, 2.0), counts=(1, 2))
  np.testing.assert_array_equal(drift.cells_of_numbers(a, b), [[0, 4, 2, 1], [1, 0, 2, 0]])


def build(folder, seed, like=None, boundaries=None, change=None):
  """Records of a stationary log, in which `change` may plant a drift."""
  rng = np.random.default_rng(seed)
  log = logs.random_log(rng, 4000, users=60, span=SPAN)
  log = log.with_columns(
    device=pl.Series(rng.choice(["phone", "tv", "web"], len(log))), watched=pl.Series(rng.exponential(10, len(log)))
  )
  log = change(log) if change else log
  split = {"split": {"boundaries": boundaries}} if boundaries else {}
  experiment = logs.experiment(SCHEMA, shards=1, **split)
  return builder.build(experiment, tables.RawTables(log, logs.items(30)), folder, like=like)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  return build(tmp_path_factory.mktemp("drift") / "a", 0)


PHONES = pl.when(pl.int_range(pl.len()) % 4 > 0).then(pl.lit("phone")).otherwise("device")
NEW = pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("watch")).otherwise("device")
CLICKS = pl.when(pl.int_range(pl.len()) % 3 == 0).then(1.0).otherwise("label")
PLANTED = {
  "shares": (lambda log: log.with_columns(device=PHONES), {("device", "PSI")}),
  "new ids": (lambda log: log.with_columns(device=NEW), {("device", "PSI"), ("device", "new ids")}),
  "rate": (lambda log: log.with_columns(label=CLICKS), {("positive rate", "rate")}),
  "numbers": (lambda log: log.with_columns(watched=pl.col("watched") * 3), {("watched", "PSI")}),
  "items": (lambda log: log.with_columns(item_id=pl.col("item_id") + 9), {("item_id", "PSI"), ("item_id", "new ids")}),
  "hours": (lambda log: log.with_columns(timestamp=pl.col("timestamp") // 7200 * 7200), {("hour of day", "PSI")}),
}


@pytest.mark.parametrize("like", [True, False])
def test_two_stationary_logs_do_not_drift(first, tmp_path, capsys, like):
  other = build(tmp_path / "b", 1, first if like else None)
  assert (other.fingerprint == first.fingerprint) is like
  compare_records.main(["compare_records", f"--a={first.path}", f"--b={other.path}"])
  said = capsys.readouterr().out.splitlines()
  assert said[:2] == [f"A: {first.path}, train split", f"B: {other.path}, train split"]
  assert said[-1] == "no drift"
  lines = drift.compare(first, other, "train", "train", drift.Limits(psi=0.05)).lines
  assert [line.field for line in lines if line.drift] == []
  assert any(line.psi > 0.05 for line in lines), "what sampling leaves"


@pytest.mark.parametrize("like", [True, False])
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_drift_is_found_in_its_lines_alone(first, tmp_path, capsys, name, like):
  change, expected = PLANTED[name]
  other = build(tmp_path / "b", 1, first if like else None, change=change)
  with pytest.raises(SystemExit) as ended:
    compare_records.main(["compare_records", f"--a={first.path}", f"--b={other.path}", "--json"])
  assert ended.value.code == 2
  (line,) = capsys.readouterr().out.splitlines()
  tree = json.loads(line)
  found = {(line["field"], limit) for line in tree["lines"] for limit in line["drift"]}
  histories = {("target history", "PSI"), ("source history", "PSI")}
  assert expected <= found <= expected | histories
  assert tree["drift"] is True
  limits = ["--psi=100", "--new_ids=1", "--positive_rate=100"]
  compare_records.main(["compare_records", f"--a={first.path}", f"--b={other.path}", *limits])
  assert capsys.readouterr().out.splitlines()[-1] == "no drift"


def test_the_newest_split_of_records_built_like_others_is_compared(first, tmp_path):
  other = build(tmp_path / "b", 1, first, boundaries=[0, SPAN // 2])
  assert drift.default_split(first) == "train"
  assert drift.default_split(other) == "test"
  found = drift.compare(first, other, "train", "test")
  assert {line.domain for line in found.lines if line.of != "behaviours"} == {"target"}
  device = next(line for line in found.lines if line.field == "device")
  assert device.new_ids == 0
  assert not device.drift
  with pytest.raises(UserError, match="no records of the train split; there are those of: validation, test"):
    drift.compare(first, other, "train", "train")


def test_a_field_of_one_side_alone_is_told(first, tmp_path, capsys):
  log = logs.random_log(np.random.default_rng(2), 1000, users=60, span=SPAN)
  log = log.with_columns(page=pl.lit("home"), watched=pl.lit("long"))
  schema = {"context_fields": ["page"], "target": {"cross_fields": ["watched"]}, "candidates": 4}
  other = builder.build(logs.experiment(schema), tables.RawTables(log, logs.items(12)), tmp_path / "b")
  found = drift.compare(first, other, "train", "train")
  lacking = [f"{name} of {d} candidates" for d, names in DIFFERENT.items() for name in names]
  lacking += ["category of target behaviours", "watched of target behaviours"]
  assert list(found.not_in_both) == lacking
  assert "Not in both: device of target candidates" not in (text := drift.table(found))
  assert f"\nNot in both: {', '.join(lacking)}\n" in text


DIFFERENT = {"target": ["category", "device", "page"], "source": ["device", "page"]}


def test_the_table_is_aligned(first):
  lines = drift.table(drift.compare(first, first, "train", "test")).splitlines()
  head, *rows = lines[: lines.index("")]
  assert len(rows) > 10
  for name in ("PSI", "JS", "new ids"):
    end = head.index(name) + len(name)
    assert all(row[end - 1] in "0123456789-%" and row[end : end + 1] in " " for row in rows)


def test_records_without_statistics_are_one_message(first, tmp_path):
  first.save_id_mapping(tmp_path / "mapping")
  with pytest.raises(UserError, match=r"mapping: an id mapping, no records$"):
    compare_records.main(["compare_records", f"--a={first.path}", f"--b={tmp_path / 'mapping'}"])
  with pytest.raises(UserError, match=r"no record set here \(dataset.json is missing\)"):
    compare_records.main(["compare_records", f"--a={tmp_path / 'nowhere'}", f"--b={first.path}"])
  assert RecordSet.open(first.path).verify_tables() == []
