"""The cut of a log: every interaction in one part, candidates in every period, items where they are met first."""

import numpy as np
import polars as pl
import pytest

from lcn_tf.config import Labels, Walk
from lcn_tf.data.build.tables import RawTables
from lcn_tf.errors import UserError
from lcn_tf.walk.periods import cut, part_of
from tests.data import logs


def random_tables(seed):
  """A log with pauses, a part of whose rows has no label; some items and users appear late, some never."""
  rng = np.random.default_rng(seed)
  rows = [
    (
      user,
      int(rng.integers(0, 2 + time // 60)),
      str(rng.choice(["target", "source"])),
      time,
      rng.choice([0.0, 1.0, None]),
    )
    for time in sorted(int(t) for t in rng.integers(0, 1000, 60) if not 600 <= t < 700)
    for user in [int(rng.integers(0, 2 + time // 100))]
  ]
  interactions = logs.interactions(rows)
  return RawTables(interactions, logs.items(30), pl.DataFrame({"user_id": range(20)}))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("domains", [("target",), ("target", "source")])
def test_the_parts_of_a_log_are_the_log(seed, domains):
  tables, settings = random_tables(seed), Walk(start=0.4, period=50, periods=0)
  found = cut(tables, settings, Labels(), domains)
  rows = tables.interactions.rows(named=True)
  times = [row["timestamp"] for row in rows]
  assert found.starts[0] in times
  assert 0.2 < sum(time < found.starts[0] for time in times) / len(times) < 0.5
  bounds = [-1, *found.starts, found.end]
  assert all((one - found.starts[0]) % 50 == 0 for one in bounds[1:])
  for row, part in zip(rows, found.part, strict=True):
    if part >= 0:
      assert bounds[part] <= row["timestamp"] < bounds[part + 1]
    else:
      assert row["timestamp"] >= found.end
  for number in range(1, len(bounds) - 1):
    mine = [row for row, part in zip(rows, found.part, strict=True) if part == number and row["label"] is not None]
    assert {row["domain"] for row in mine} >= set(domains)
    # not a stretch more than it needs
    shorter = [row for row in mine if row["timestamp"] < bounds[number + 1] - 50]
    assert not {row["domain"] for row in shorter} >= set(domains)
  # behind the last one there is not enough for a period
  rest = {row["domain"] for row, part in zip(rows, found.part, strict=True) if part < 0 and row["label"] is not None}
  assert not rest >= set(domains)
  parts = [part_of(tables, found, number) for number in range(len(bounds) - 1)]
  assert sum(len(part.interactions) for part in parts) == sum(found.part >= 0)
  assert [found.rows(number) for number in range(len(parts))] == [len(part.interactions) for part in parts]


@pytest.mark.parametrize("seed", range(3))
def test_an_item_and_a_user_come_with_the_part_that_meets_them_first(seed):
  tables = random_tables(seed)
  found = cut(tables, Walk(start=0.4, period=50, periods=4), Labels(), ("target",))
  first = {}
  for row, part in zip(tables.interactions.rows(named=True), found.part, strict=True):
    part = part if part >= 0 else 99
    for key in ((row["domain"], row["item_id"]), row["user_id"]):
      first[key] = min(first.get(key, 99), part)
  assert {0, 1, 99} <= set(first.values())
  for number in range(5):
    part = part_of(tables, found, number)
    for table, keys in ((part.items, ["domain", "item_id"]), (part.users, ["user_id"])):
      there = set() if table is None else {row if len(row) > 1 else row[0] for row in table.select(keys).iter_rows()}
      whole = tables.items if len(keys) > 1 else tables.users
      known = {row if len(row) > 1 else row[0] for row in whole.select(keys).iter_rows()}
      assert there == {key for key in known if first.get(key, 0) == number}
      assert table is None or number == 0 or len(table)


def test_as_many_periods_are_made_as_are_asked_for_and_the_cut_stays_where_it_was():
  tables = random_tables(0)
  two = cut(tables, Walk(start=0.4, period=50, periods=2), Labels(), ("target",))
  every = cut(tables, Walk(start=0.9, period=50, periods=0), Labels(), ("target",), start=two.starts[0])
  assert len(two.starts) == 2
  assert every.starts[:2] == two.starts
  assert len(every.starts) > 2


def test_sampled_labels_make_every_interaction_a_candidate():
  tables = random_tables(0)
  unlabelled = RawTables(tables.interactions.with_columns(label=pl.lit(None, pl.Float64)), tables.items)
  assert len(cut(unlabelled, Walk(start=0.4, period=50), Labels(kind="sampled"), ("target",)).starts) > 1
  with pytest.raises(UserError, match=r"and 0 periods with candidates of the target domain from there on; both are"):
    cut(unlabelled, Walk(start=0.4, period=50), Labels(), ("target",))


def test_what_cannot_be_cut_is_told():
  tables = random_tables(0)
  for frame, message in (
    (tables.interactions.drop("timestamp"), r"^interactions: no column 'timestamp' "),
    (
      tables.interactions.with_columns(timestamp=pl.lit("today")),
      r"^interactions: column 'timestamp' holds String, exp",
    ),
    (tables.interactions.with_columns(timestamp=pl.lit(None, pl.Int64)), r"^interactions: no interaction has a time$"),
    (tables.interactions.with_columns(timestamp=pl.lit(7)), r"^walk\.start: interactions has 0 interactions before "),
  ):
    with pytest.raises(UserError, match=message):
      cut(RawTables(frame, tables.items), Walk(start=0.4, period=50), Labels(), ("target",))
