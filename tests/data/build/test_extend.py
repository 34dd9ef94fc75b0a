"""Logs that go on: parts that are built one after the other hold what the log as a whole holds."""

import collections
import itertools
import pathlib
import tempfile

import hypothesis
import polars as pl
from hypothesis import strategies as st

from lcn_tf.data.build import builder, tables
from lcn_tf.data.record_set import SPLITS
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


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, phases=[hypothesis.Phase.generate])
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
