"""Random logs through the whole builder; the decoded records against a row-by-row reading of the log."""

import collections
import pathlib
import tempfile

import hypothesis
import polars as pl
import pytest
from hypothesis import strategies as st

from lcn_tf.data.build import builder, tables
from lcn_tf.data.record_set import SPLITS
from lcn_tf.schema import DOMAINS
from tests.data import logs

ITEMS = 6
row = st.tuples(
  st.integers(0, 1),
  st.integers(0, ITEMS - 1),
  st.sampled_from(DOMAINS),
  st.integers(0, 29),
  st.sampled_from([0.0, 1.0, 1.0, None]),
  st.sampled_from([*SPLITS, None]),
)
# One target candidate per split, and something to train on in the source domain.
ANCHORS = [(9, i, "target", time, 1.0, SPLITS[i]) for i, time in enumerate((5, 15, 25))]
ANCHORS += [(9, 0, "source", 3, 1.0, "train")]
RULES = [
  {"kind": "time", "boundaries": [10, 20]},
  {"kind": "per_user", "validation": 1, "test": 1},
  {"kind": "per_user", "validation": 0.29, "test": 0.3},
  {"kind": "column", "column": "fold"},
]


@pytest.mark.job
@pytest.mark.parametrize("split", RULES, ids=str)
@hypothesis.settings(max_examples=16, deadline=None, derandomize=True)
@hypothesis.given(
  # Hypothesis draws lists not much longer than they have to be.
  rows=st.lists(row, max_size=9) | st.lists(row, min_size=40, max_size=80),
  kind=st.sampled_from(["given", "threshold", "sampled"]),
  candidates=st.integers(1, 7),
  target_length=st.integers(1, 4),
  source_length=st.integers(1, 4),
  extra_length=st.sampled_from([0.0, 0.34, 1.0]),
)
def test_every_candidate_occurs_once_and_sees_exactly_the_newest_strictly_older_behaviours(
  split, rows, kind, candidates, target_length, source_length, extra_length
):
  rows = rows + ANCHORS
  log = logs.interactions([row[:5] for row in rows], fold=pl.Series([row[5] for row in rows]))
  experiment = logs.experiment(
    {
      "context_fields": ["event"],
      "target": {"cross_fields": ["event"], "max_length": target_length},
      "source": {"cross_fields": ["event"], "max_length": source_length},
      "candidates": candidates,
      "extra_length": extra_length,
    },
    labels={"kind": kind, "negatives": 2},
    split=split,
    shards=2,
  )
  with tempfile.TemporaryDirectory() as folder:
    records = builder.build(experiment, tables.RawTables(log, logs.items(ITEMS)), pathlib.Path(folder) / "out")
    expected = logs.Expected(records, log, kind)
    splits = logs.splits_of(log, split, kind)
    training = logs.trained_on(log, splits)
    assert set(expected.event) == {log["event"][number] for number in training}
    for name in SPLITS:
      assert set(records.splits[name]) == set(DOMAINS if name == "train" else DOMAINS[:1])
      for domain in records.splits[name]:
        requests = logs.requests(records, name, domain)
        found = collections.Counter()
        for request in requests:
          found += _check_record(request, expected, candidates, kind)
          _check_negatives(request, expected, domain, training if name == "train" else range(len(log)))
        assert found == expected.candidates(domain, {number for number, of in enumerate(splits) if of == name})
        part = records.part(name, domain)
        assert part.records == len(requests)
        assert part.candidates == sum(len(request.items) for request in requests)
        assert part.positives == sum(int(request.labels.sum()) for request in requests)


def _check_record(request, expected, candidates, kind):
  """Checks one record; returns its candidates (the positives, if sampled)."""
  schema = expected.schema
  user = expected.users[request.user]
  assert 1 <= len(request.items) <= candidates
  assert list(request.times) == sorted(request.times)
  for domain in DOMAINS:
    history = request.history(domain)
    assert len(history.items) <= schema.capacity(domain)
    for c, time in enumerate(request.times):
      seen = logs.seen(request, domain, c, schema.domain(domain).max_length)
      assert all(when < time for _, when, _ in seen)
      assert seen == expected.seen(user, domain, int(time))
  found = collections.Counter()
  for c in range(len(request.items)):
    if kind == "sampled" and request.labels[c] == 0:
      if candidates >= 3:  # a positive and its two negatives fit
        assert c > 0
        assert (request.times[c - 1], request.context[c - 1, 0]) == (request.times[c], request.context[c, 0])
      continue
    key = (user, int(request.items[c]), int(request.times[c]), float(request.labels[c]), int(request.context[c, 0]))
    found[key] += 1
  return found


def _check_negatives(request, expected, domain, pool):
  """Sampled negatives are of items that rows of the pool met before, and not the user."""
  if expected.kind != "sampled":
    return
  user = expected.users[request.user]
  own = [(number, row) for number, row in expected.log if row["domain"] == domain]
  met = {row["item_id"] for _, row in own if row["user_id"] == user}
  for item, time in zip(request.items[request.labels == 0], request.times[request.labels == 0], strict=True):
    earlier = {row["item_id"] for number, row in own if number in pool and row["timestamp"] < time}
    assert int(item) in {expected.rows[domain][one] for one in earlier - met}


def test_a_history_holds_more_than_max_length_only_within_the_extra_length(tmp_path):
  rows = [(0, i % ITEMS, "source", i, None) for i in range(20)] + [(0, i, "target", 18 + i, 1.0) for i in range(6)]
  experiment = logs.experiment(
    {"source": {"cross_fields": ["event"], "max_length": 8}, "candidates": 4, "extra_length": 0.25},
    split={"boundaries": [22, 23]},
    source_records=False,
  )
  table = tables.RawTables(logs.interactions(rows), logs.items(ITEMS))
  records = builder.build(experiment, table, tmp_path / "out")
  (request,) = logs.requests(records, "train")
  assert list(request.times) == [18, 19, 20, 21]
  assert list(request.source.times) == list(range(19, 9, -1))  # 8 + 2 behaviours
  assert list(request.source.first_visible) == [2, 1, 0, 0]
  assert pl.read_parquet(records.path / "rejected.parquet").is_empty()
