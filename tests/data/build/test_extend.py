"""Logs that go on: parts that are built one after the other hold what the log as a whole holds."""

import collections
import itertools
import pathlib
import tempfile

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import strategies as st

from lcn_tf import formats
from lcn_tf.data.build import builder, tables
from lcn_tf.data.record_set import SPLITS, RecordSet
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.schema import DOMAINS
from tests.data import logs

ITEMS = 7
row = st.tuples(
  st.integers(0, 3),
  st.integers(0, ITEMS - 1),
  st.sampled_from(DOMAINS),
  st.integers(0, 39),
  st.sampled_from([0.0, 1.0, 1.0, None]),
)
# target candidates of the first part's splits, something to train on in the source domain, and a newest moment
ANCHORS = [(9, i, "target", time, 1.0) for i, time in enumerate((2, 5, 8))] + [(9, 0, "source", 1, 1.0)]
ANCHORS += [(9, 3, "target", 39, 1.0)]
ALL = {"kind": "all_train"}
FIRST = {"boundaries": [4, 7]}


def experiment(split, kind="given", **schema):
  base = {
    "user_fields": ["user_id"],
    "context_fields": ["event"],
    "target": {"item_fields": ["category"], "cross_fields": ["event"]},
    "source": {"item_fields": ["category"]},
  }
  base |= schema
  return logs.experiment(base, labels={"kind": kind}, split=split, shards=2, compression="none")


def parts_of(log, items, cuts):
  """The log cut at the times `cuts`, each part with the items that it is the first to have, and no others."""
  edges = [-1, *cuts, 10**12]
  known = pl.DataFrame(schema={"domain": pl.String, "item_id": items["item_id"].dtype})
  for start, stop in itertools.pairwise(edges):
    part = log.filter((pl.col("timestamp") >= start) & (pl.col("timestamp") < stop))
    if part.is_empty():
      continue
    fresh = items.join(part.select("domain", "item_id").unique(), on=["domain", "item_id"], how="semi")
    fresh = fresh.join(known, on=["domain", "item_id"], how="anti")
    known = pl.concat([known, fresh.select("domain", "item_id")])
    yield tables.RawTables(part, fresh if len(fresh) else None)


def build_parts(folder, parts, **kinds):
  """The record sets of consecutive parts."""
  found = []
  for number, part in enumerate(parts):
    split = ALL if number else FIRST
    extend = found[-1] if found else None
    found.append(builder.build(experiment(split, **kinds), part, folder / str(number), extend=extend))
  return found


def visible(records):
  """How often each candidate (domain, user, item, time, label) occurs, with what it sees in both domains."""
  users = dict(pl.read_parquet(records.path / "users.parquet").select("user", "user_id").iter_rows())
  names = {
    d: dict(pl.read_parquet(records.path / "items" / f"{d}.parquet").select("row", "item_id").iter_rows())
    for d in DOMAINS
  }
  found = collections.Counter()
  for split in SPLITS:
    for domain in DOMAINS:
      if split not in records.splits:
        continue
      for request in logs.requests(records, split, domain):
        for n, (item, time, label) in enumerate(
          zip(request.items.tolist(), request.times.tolist(), request.labels.tolist(), strict=True)
        ):
          sees = tuple(_seen(records, request, d, n, names[d]) for d in DOMAINS)
          found[domain, str(users[request.user]), str(names[domain].get(item)), time, label, sees] += 1
  return found


def _seen(records, request, d, n, names):
  history, length = request.history(d), records.record_schema.domain(d).max_length
  first = int(history.first_visible[n])
  shown = slice(first, first + length)
  rows = zip(history.items[shown].tolist(), history.times[shown].tolist(), strict=True)
  return tuple((str(names.get(item)), time) for item, time in rows)


@pytest.mark.job
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True, phases=[hypothesis.Phase.generate])
@hypothesis.given(
  rows=st.lists(row, max_size=12) | st.lists(row, min_size=40, max_size=90),
  kind=st.sampled_from(["given", "threshold"]),
  cuts=st.lists(st.integers(9, 39), min_size=1, max_size=4, unique=True).map(sorted),
  candidates=st.integers(1, 7),
  target_length=st.integers(1, 4),
  source_length=st.integers(1, 4),
  extra_length=st.sampled_from([0.0, 0.34, 1.0]),
)
def test_parts_hold_the_candidates_and_histories_of_the_whole_log(
  rows, kind, cuts, candidates, target_length, source_length, extra_length
):
  log = logs.interactions(ANCHORS + rows + [(9, 3, "target", cut, 1.0) for cut in cuts])
  items = logs.items(ITEMS)
  schema = {
    "target": {"item_fields": ["category"], "cross_fields": ["event"], "max_length": target_length},
    "source": {"item_fields": ["category"], "max_length": source_length},
    "candidates": candidates,
    "extra_length": extra_length,
  }
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    parts = build_parts(folder, parts_of(log, items, cuts), kind=kind, **schema)
    whole = builder.build(experiment(FIRST, kind, **schema), tables.RawTables(log, items), folder / "whole")
    found = sum((visible(part) for part in parts), collections.Counter())
    # source candidates train, and later parts train alone
    targets = {key: count for key, count in found.items() if key[0] == "target"}
    assert targets == {key: count for key, count in visible(whole).items() if key[0] == "target"}
    for before, after in itertools.pairwise(parts):
      _check_rows_stay(before, after)


def _check_rows_stay(before, after):
  for d in DOMAINS:
    old, new = (pl.read_parquet(r.path / "items" / f"{d}.parquet") for r in (before, after))
    assert new["item_id"].head(len(old)).equals(old["item_id"])
    assert (after.catalogue(d)[: len(before.catalogue(d)), 0] >= before.catalogue(d)[:, 0]).all()
  for name in before.record_schema.vocabularies:
    old, new = (pl.read_parquet(r.path / "vocabularies" / f"{name}.parquet") for r in (before, after))
    assert new["value"].head(len(old)).equals(old["value"])
  assert (
    pl.read_parquet(after.path / "users.parquet")
    .head(len(pl.read_parquet(before.path / "users.parquet")))
    .equals(pl.read_parquet(before.path / "users.parquet"))
  )


FIELDS = {
  "user_fields": ["user_id", "city"],
  "context_fields": ["event", {"name": "price", "kind": "numeric", "buckets": 3}],
  "target": {
    "item_fields": [{"name": "tags", "max_values": 2}],
    "item_vectors": [{"name": "text", "width": 2}],
    "cross_fields": ["event"],
  },
  "source": {"item_fields": ["tags"], "cross_fields": ["event"]},
}


def rows(*of):
  """Interactions (user, item, domain, time, label, event)."""
  names = ("user_id", "item_id", "domain", "timestamp", "label", "event")
  frame = pl.DataFrame(of, schema=list(names), orient="row").with_columns(pl.col("label").cast(pl.Float64))
  return frame.with_columns(price=pl.col("timestamp") * 1.0)


def items(*of):
  """Items (item, domain, tags), with a vector."""
  frame = pl.DataFrame(
    of, schema=["item_id", "domain", "tags"], orient="row", schema_overrides={"tags": pl.List(pl.String)}
  )
  return frame.with_columns(text=pl.concat_list(pl.col("item_id").cast(pl.Float64), pl.lit(1.0)))


def users(*of):
  return pl.DataFrame(of, schema=["user_id", "city"], orient="row")


BASE = tables.RawTables(
  rows(
    (1, 10, "target", 1, 1, "e"),
    (1, 11, "target", 2, 0, "e"),
    (2, 10, "target", 5, 1, "f"),
    (2, 11, "target", 8, 1, "f"),
    (1, 20, "source", 1, 1, "e"),
  ),
  items((10, "target", ["a", "b"]), (11, "target", ["a"]), (20, "source", ["a"])),
  users((1, "x"), (2, "y")),
)


@pytest.fixture
def base(tmp_path):
  return builder.build(experiment(FIRST, **FIELDS), BASE, tmp_path / "base")


def extend(records, name, interactions, items=None, users=None, split=ALL, strict=False, records_keys=None, **schema):
  keys = {"labels": {"kind": "given"}, "split": split, "shards": 2, "compression": "none"} | (records_keys or {})
  asked = logs.experiment({"user_fields": ["user_id"], "target": {}, "source": {}} | FIELDS | schema, **keys)
  made = tables.RawTables(interactions, items, users)
  return builder.build(asked, made, records.path.parent / name, strict, extend=records)


def row_of(records, table, value):
  """The index of a value in a vocabulary; 1 if it is unknown."""
  frame = pl.read_parquet(records.path / "vocabularies" / f"{table}.parquet")
  found = frame.filter(pl.col("value") == str(value))["index"]
  return found[0] if len(found) else 1


def test_items_users_and_values_of_before_are_known_without_being_brought_again(base):
  day = extend(base, "day", rows((2, 10, "target", 9, 1, "e"), (3, 11, "target", 9, 1, "g")))
  (old,) = [r for r in logs.requests(day, "train") if len(r.target.items)]
  assert old.user == 2
  assert old.user_fields.tolist() == [row_of(day, "user_id", 2), row_of(day, "city", "y")]
  assert old.target.times.tolist() == [8, 5]
  assert pl.read_parquet(day.path / "users.parquet").rows() == [(1, 1), (2, 2), (3, 3)]
  # user 2 trains for the first time
  assert (row_of(base, "city", "x"), row_of(base, "city", "y")) == (2, 1)
  assert (row_of(day, "city", "x"), row_of(day, "city", "y")) == (2, 3)
  np.testing.assert_array_equal(day.vectors("target")["text"], base.vectors("target")["text"])
  np.testing.assert_array_equal(day.catalogue("target"), base.catalogue("target"))
  assert row_of(day, "price", "-inf") == row_of(base, "price", "-inf")
  assert [day.notes[name] for name in ("part", "extends", "late_rows", "repeated_rows")] == [1, base.fingerprint, 0, 0]


def test_new_items_and_changed_ones_get_their_fields_and_vectors(base):
  fresh = items((12, "target", ["b", "z"]), (11, "target", ["z"]))
  day = extend(base, "day", rows((1, 12, "target", 9, 1, "e")), fresh)
  assert pl.read_parquet(day.path / "items" / "target.parquet")["item_id"].to_list() == [10, 11, 12]
  tags = {name: row_of(day, "tags", name) for name in "abz"}
  assert tags["z"] > max(tags["a"], tags["b"]) >= 2
  assert day.catalogue("target")[2:, 1:].tolist() == [[tags["a"], tags["b"]], [tags["z"], 0], [tags["b"], tags["z"]]]
  assert day.vectors("target")["text"][2:].tolist() == [[10, 1], [11, 1], [12, 1]]
  again = extend(day, "again", rows((1, 12, "target", 10, 1, "e")))
  np.testing.assert_array_equal(again.catalogue("target"), day.catalogue("target"))


def test_a_value_gets_its_row_when_all_parts_together_reach_min_count(base, tmp_path):
  schema = {"vocabularies": {"event": {"min_count": 5}, "target_item": {"min_count": 2}}}
  first = builder.build(experiment(FIRST, **(FIELDS | schema)), BASE, tmp_path / "first")
  assert row_of(first, "event", "e") == 2  # three training rows, as context and as side information
  assert row_of(first, "event", "g") == row_of(first, "target_item", 10) == 1
  one = extend(first, "one", rows((1, 10, "target", 9, 1, "g"), (2, 10, "target", 9, 1, "g")), **schema)
  assert row_of(one, "event", "g") == 1
  assert row_of(one, "target_item", 10) == 2
  two = extend(one, "two", rows((1, 10, "target", 10, 1, "g")), **schema)
  assert (row_of(two, "event", "e"), row_of(two, "event", "g")) == (2, 3)
  # the catalogue of before, too
  assert (first.catalogue("target")[2:, 0].tolist(), one.catalogue("target")[2:, 0].tolist()) == ([1, 1], [2, 1])


def test_beyond_the_bound_the_values_met_longest_ago_give_their_rows_away(tmp_path):
  schema = {"vocabularies": {"event": {"max_known": 2}}}
  log = rows(
    *[(1, 10, "target", t, 1, e) for t, e in enumerate("aaabbc")],
    (1, 10, "target", 7, 1, "a"),
    (2, 10, "target", 8, 1, "b"),
  )
  first = builder.build(
    experiment({"boundaries": [6, 8]}, **(FIELDS | schema)),
    tables.RawTables(pl.concat([log, rows((1, 20, "source", 1, 1, "a"))]), BASE.items, BASE.users),
    tmp_path / "first",
  )
  assert [row_of(first, "event", e) for e in "abc"] == [2, 3, 1]
  one = extend(first, "one", rows((1, 10, "target", 9, 1, "b"), (1, 10, "target", 10, 1, "d")), **schema)
  # b was met again, a was not
  assert [row_of(one, "event", e) for e in "abd"] == [1, 3, 2]
  (request,) = logs.requests(one, "train")
  # what the past had as a, is not d now
  seen = dict(zip(request.target.times.tolist(), request.target.cross[:, 0].tolist(), strict=True))
  assert seen == {9: 3, 7: 1, 5: 1, 4: 3, 3: 3, 2: 1, 1: 1, 0: 1}
  two = extend(one, "two", rows((1, 10, "target", 11, 1, "e")), **schema)
  assert [row_of(two, "event", e) for e in "bde"] == [1, 2, 3] or [row_of(two, "event", e) for e in "bde"] == [3, 1, 2]


def test_a_profile_may_come_before_its_user(base):
  one = extend(base, "one", rows((1, 10, "target", 9, 1, "e")), None, users((3, "x"), (4, "z")))
  two = extend(one, "two", rows((3, 10, "target", 10, 1, "e"), (4, 10, "target", 10, 1, "e")))
  found = {r.user: r.user_fields.tolist()[1] for r in logs.requests(two, "train")}
  assert found == {3: row_of(two, "city", "x"), 4: row_of(two, "city", "z")}
  assert min(found.values()) > 1
  assert pl.read_parquet(two.path / "users.parquet")["user_id"].to_list() == [1, 2, 3, 4]


def test_what_changes_in_a_profile_counts_and_what_is_met_again_stays(tmp_path):
  schema = {
    "user_fields": ["user_id", "city", {"name": "likes", "max_values": 2}],
    "vocabularies": {"city": {"max_known": 2}, "likes": {"min_count": 2}},
  }
  likes = {"x": ["a", "b"], "y": ["a", "b"], "z": ["b", "c"]}

  def profiles(*of):
    return users(*of).with_columns(likes=pl.Series([likes[city] for _, city in of]))

  base = tables.RawTables(
    pl.concat([BASE.interactions, rows((3, 10, "target", 1, 1, "e"))]), BASE.items, profiles((1, "x"), (3, "y"))
  )
  first = builder.build(experiment(FIRST, **(FIELDS | schema)), base, tmp_path / "first")
  assert [row_of(first, "likes", name) for name in "abc"] == [2, 3, 1]
  # 3 is met again, 1 is not, and 2 is new
  one = extend(
    first, "one", rows((3, 10, "target", 9, 1, "e"), (2, 10, "target", 9, 1, "e")), None, profiles((2, "z")), **schema
  )
  assert [row_of(one, "city", name) for name in "xyz"] == [1, 3, 2]
  # 1 changes, and is not there
  two = extend(one, "two", rows((3, 10, "target", 10, 1, "e")), None, profiles((1, "z")), **schema)
  counts = {n: pl.read_parquet(two.path / "state" / f"values.{n}.parquet") for n in ("city", "likes")}
  assert counts["city"].drop("last").rows() == [("x", 1), ("y", 1), ("z", 2)]
  assert counts["likes"].drop("last").rows() == [("a", 2), ("b", 3), ("c", 2)]
  assert row_of(two, "likes", "c") == 4


@pytest.mark.parametrize("name", ["item_id", "domain"])
def test_a_key_of_the_items_may_be_a_field_of_theirs(tmp_path, name):
  schema = FIELDS | {d: FIELDS[d] | {"item_fields": [name]} for d in DOMAINS}
  first = builder.build(experiment(FIRST, **schema), BASE, tmp_path / "first")
  day = extend(first, "day", rows((1, 10, "target", 9, 1, "e")), **schema)
  np.testing.assert_array_equal(day.catalogue("target"), first.catalogue("target"))


def test_without_growth_everything_new_is_unknown_and_histories_go_on(base):
  fresh = items((12, "target", ["z"]))
  new = rows((1, 12, "target", 9, 1, "z"), (1, 10, "target", 10, 1, "e"))
  day = extend(base, "day", new, fresh, records_keys={"grow": False})
  assert day.fingerprint == base.fingerprint
  candidates = {int(t): int(i) for r in logs.requests(day, "train") for i, t in zip(r.items, r.times, strict=True)}
  assert candidates == {9: 1, 10: 2}
  assert max(r.target.times.max(initial=0) for r in logs.requests(day, "train")) == 9
  # the item is remembered, so the next part need not bring it
  extend(day, "next", rows((1, 12, "target", 11, 1, "e")), records_keys={"grow": False})


def test_what_comes_late_is_history_and_what_comes_again_is_rejected(base, caplog):
  caplog.set_level("WARNING", logger="absl")
  new = rows(
    (2, 11, "target", 8, 1, "other"),  # again, in the newest second
    (2, 11, "target", 8, 0, "f"),  # not again: it has another label
    (2, 10, "target", 5, 1, "f"),  # again
    (2, 10, "target", 6, 1, "f"),  # late
    (2, 10, "target", 7, 0, "f"),  # late, and no behaviour
    (2, 10, "target", 9, 1, "f"),
  )
  day = extend(base, "day", new)
  found = visible(day)
  sees = (("11", 8), ("10", 6), ("10", 5))
  assert set(found) == {
    ("target", "2", "11", 8, 0.0, (sees[1:], ())),
    ("target", "2", "10", 9, 1.0, (sees, ())),
  }
  assert (day.notes["late_rows"], day.notes["repeated_rows"]) == (2, 2)
  assert day.rejected == {"interactions: repeated row of the records that are extended": 2}
  rejected = pl.read_parquet(day.path / "rejected.parquet")
  assert rejected.select("row", "user_id", "timestamp").rows() == [(0, "2", "8"), (2, "2", "5")]
  assert "2 of 4 new interactions are older than the newest of the records" in caplog.text
  assert "rejected 2 rows: interactions: repeated row of the records" in caplog.text
  with pytest.raises(UserError, match=r"2 rows are rejected, and --strict allows none"):
    extend(base, "strict", new, strict=True)
  with pytest.raises(UserError, match=r"base holds the log up to 8, and interactions up to 8: nothing of it is new"):
    extend(base, "again", BASE.interactions)
  assert sorted(p.name for p in base.path.parent.iterdir()) == ["base", "day"]


def test_ids_that_become_texts_are_the_same_ids(base):
  as_text = pl.col("user_id", "item_id").cast(pl.String)
  new = rows((2, 10, "target", 8, 1, "e"), (2, 11, "target", 8, 1, "f"), (2, 10, "target", 9, 1, "e")).with_columns(
    as_text
  )
  day = extend(base, "day", new)
  assert day.notes["repeated_rows"] == 1
  assert len(pl.read_parquet(day.path / "users.parquet")) == 2
  assert len(pl.read_parquet(day.path / "items" / "target.parquet")) == 2
  extend(day, "ints", rows((2, 10, "target", 10, 1, "e")), items((12, "target", ["a"])), users((3, "x")))


def test_sampled_negatives_know_what_the_past_had(tmp_path):
  count = 30
  log = logs.random_log(np.random.default_rng(0), 1500, users=12, count=count)
  schema = {"target": {"max_length": 500}, "source": {"max_length": 500}}
  settings = {"labels": {"kind": "sampled", "negatives": 3}, "shards": 1, "compression": "none"}
  early, late = (log.filter(pl.col("timestamp").is_between(*span)) for span in ((0, 499), (500, 999)))
  first = builder.build(
    logs.experiment(schema, **settings), tables.RawTables(early, logs.items(count)), tmp_path / "one"
  )
  second = builder.build(
    logs.experiment(schema, **settings, split=ALL), tables.RawTables(late, None), tmp_path / "two", extend=first
  )
  names = dict(pl.read_parquet(second.path / "items" / "target.parquet").select("row", "item_id").iter_rows())
  ids = dict(pl.read_parquet(second.path / "users.parquet").select("user", "user_id").iter_rows())
  met = collections.defaultdict(set)
  for user, item in log.filter(pl.col("domain") == "target").select("user_id", "item_id").iter_rows():
    met[user].add(item)
  drawn = collections.Counter()
  for request in logs.requests(second, "train"):
    for item, label in zip(request.items.tolist(), request.labels.tolist(), strict=True):
      assert (names[item] in met[ids[request.user]]) == (label == 1)
      drawn[names[item]] += label == 0
  assert sum(drawn.values()) > 200
  # an item whose last interaction was in the first part is drawn, too
  gone = tables.RawTables(late.filter(pl.col("item_id") != 5).with_columns(label=pl.lit(1.0)), None)
  third = builder.build(logs.experiment(schema, **settings, split=ALL), gone, tmp_path / "three", extend=first)
  row = {item: row for row, item in names.items()}[5]
  assert any(row in r.items[r.labels == 0] for r in logs.requests(third, "train"))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"split": {"kind": "per_user", "validation": 1, "test": 1}}, "per_user cuts the whole log of a user"),
    (
      {"records_keys": {"seed": 7}},
      "was built by other rules, which an extension keeps: records.seed is 7 in the config",
    ),
    ({"candidates": 3}, "was built with another schema"),
    ({"split": {"boundaries": [0, 1]}, "interactions": rows((1, 20, "source", 9, 1, "e"))}, "no split has target"),
    (
      {"interactions": rows((1, 77, "target", 9, 1, "e"))},
      "no usable interaction. interactions: item is not in the items",
    ),
  ],
)
def test_what_cannot_extend_is_told_and_leaves_nothing(base, change, message):
  change = dict(change)
  new = change.pop("interactions", rows((1, 10, "target", 9, 1, "e")))
  with pytest.raises(UserError, match=message):
    extend(base, "day", new, **change)
  assert [p.name for p in base.path.parent.iterdir()] == ["base"]


def test_records_without_a_whole_state_are_named(base, tmp_path):
  new = rows((1, 10, "target", 9, 1, "e"))
  kept = builder.build(experiment(FIRST, **FIELDS), BASE, tmp_path / "like", like=base)
  with pytest.raises(UserError, match=r"like: no state to go on from \(state/ is missing\)"):
    extend(kept, "day", new)
  file = base.path / "state" / "behaviours.target.parquet"
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  with pytest.raises(DamagedError, match=r"behaviours\.target\.parquet: damaged: its checksum"):
    extend(base, "day", new)
  file.unlink()
  with pytest.raises(DamagedError, match=r"behaviours\.target\.parquet: no such file"):
    extend(base, "day", new)
  assert any("behaviours.target" in problem for problem in base.verify_tables())
  formats.write_sealed(base.path / "state" / "state.json", {"version": 9, "part": 0, "newest": 1})
  with pytest.raises(DamagedError, match=r"state\.json: damaged: its checksum"):  # of other records
    extend(base, "day", new)
  base.with_tables().save(base.path)
  with pytest.raises(UserError, match=r"state\.json: version 9, and this program reads 1"):
    extend(RecordSet.open(base.path), "day", new)
  (base.path / "state" / "state.json").unlink()
  with pytest.raises(DamagedError, match=r"state\.json: no such file"):
    extend(RecordSet.open(base.path), "day", new)
  none = logs.experiment(FIELDS, labels={"kind": "given"}, split=FIRST, state=False)
  assert not builder.build(none, BASE, tmp_path / "none").has("state")


def test_a_setting_that_another_version_knew_is_a_difference(base):
  base.model_copy(update={"records": {**base.records, "strange": 1}}).save(base.path)
  with pytest.raises(UserError, match=r"was built by other rules, .* records\.strange"):
    extend(RecordSet.open(base.path), "day", rows((1, 10, "target", 9, 1, "e")))


def test_the_same_part_gives_the_same_bytes_and_may_replace_the_records_that_it_extends(base):
  new = [
    rows((1, 12, "target", 9, 1, "e"), (3, 10, "target", 9, 1, "h")),
    items((12, "target", ["q"])),
    users((3, "x")),
  ]
  one, two = (extend(base, name, *new) for name in ("one", "two"))
  assert logs.file_bytes(one.path) == logs.file_bytes(two.path)
  asked = logs.experiment(FIELDS, labels={"kind": "given"}, split=ALL, shards=2, compression="none")
  replaced = builder.build(asked, tables.RawTables(*new), base.path, overwrite=True, extend=RecordSet.open(base.path))
  assert logs.file_bytes(replaced.path) == logs.file_bytes(one.path)
