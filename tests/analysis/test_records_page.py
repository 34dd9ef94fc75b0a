"""The page of a record set: its numbers, raw ids as text, and nothing that is not there."""

import html
import re

import numpy as np
import polars as pl
import pytest

from lcn_tf.analysis import records_page
from lcn_tf.data import statistics
from lcn_tf.data.build import builder, tables
from tests.data import logs

SCHEMA = {
  "context_fields": ["device", {"name": "price", "kind": "numeric"}],
  "target": {"item_fields": ["category"], "cross_fields": ["empty"], "max_length": 3},
}


def build(folder, like=None, **records):
  rng = np.random.default_rng(0)
  log = logs.random_log(rng, 600, span=50 * 86_400)
  log = log.with_columns(
    device=pl.Series(rng.choice(["<b>tv</b>", "phone", "x" * 90], len(log), p=[0.6, 0.3, 0.1])),
    price=pl.Series([None if rng.random() < 0.25 else 12.5 for _ in range(len(log))]),
    empty=pl.lit(None, pl.String),
  )
  experiment = logs.experiment(SCHEMA, **records)
  return builder.build(experiment, tables.RawTables(log, logs.items(12)), folder, like=like, page=records_page.render)


def rows_of(page, *cells):
  """The rows of a page's tables that begin with these cells."""
  rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
  return [row for row in rows if tuple(row[: len(cells)]) == cells]


def test_the_page_has_the_numbers_of_the_statistics(tmp_path):
  records = build(tmp_path / "out")
  page = (records.path / "report" / "index.html").read_text()
  found = statistics.read(records)
  for split, domains in found.parts.items():
    for d, part in domains.items():
      (row,) = rows_of(page, split, d)
      assert row[2:7] == [
        *(str(count) for count in (part.records, part.candidates, part.users, part.positives)),
        f"{part.positives / part.candidates:.2%}",
      ]
      for name in ("target", "source"):
        (row,) = rows_of(page, name, split, d)
        assert row[4] == f"{part.histories[name].mean:.1f}"
        assert row[-1] == f"{part.longer[name] / part.records:.1%}"
  device = next(f for f in found.parts["train"]["target"].fields if f.name == "device").categories
  row = rows_of(page, "device", "context", "train")[0]
  assert row[3:7] == [str(device.rows), "0.0%", "0.0%", "3"]
  share = f"{device.counts[0] / device.total:.1%}"
  assert html.unescape(row[7]).startswith(f"{device.values[0]} {share}, ")
  price = rows_of(page, "price", "context", "train")[0]
  assert price[5:] == ["12.5000", *["12.5"] * 6]
  assert "<b>" not in page
  assert page.count("<img") == 3
  assert rows_of(page, "empty", "behaviour", "train")[0][4:] == ["100.0%", "-", "0", ""]


def test_the_most_frequent_values_are_listed_with_their_shares_in_every_split(tmp_path):
  records = build(tmp_path / "out")
  page = (records.path / "report" / "index.html").read_text()
  parts = statistics.read(records).parts
  shares = [next(f for f in parts[s]["target"].fields if f.name == "item_id").categories for s in parts]
  listed = re.search(r"<details><summary>item_id: most frequent values</summary>(.*?)</details>", page, re.S)[1]
  assert re.findall(r"<th(?: [^>]*)?>(.*?)</th>", listed) == ["value", *parts]
  found = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", listed)]
  assert [row[0] for row in found] == list(shares[0].values[:10])
  for value, *cells in found:
    own = [dict(zip(s.values, s.counts, strict=True)).get(value, 0) / s.total for s in shares]
    assert cells == [f"{share:.2%}" if share else "-" for share in own]


@pytest.mark.parametrize("labels", [{"kind": "given"}, {"kind": "sampled", "negatives": 1}])
def test_records_built_like_others_have_a_page_too(tmp_path, labels):
  old = build(tmp_path / "old", labels=labels)
  new = build(tmp_path / "new", old, labels=labels, split={"boundaries": [0, 40 * 86_400]})
  assert set(new.splits) == {"validation", "test"}
  page = (new.path / "report" / "index.html").read_text()
  assert [row[0] for split in ("train", "validation", "test") for row in rows_of(page, split)] == ["validation", "test"]


def test_a_page_that_cannot_be_made_leaves_no_records(tmp_path):
  def fails(*_):
    raise RuntimeError("no page")

  table = tables.RawTables(logs.random_log(np.random.default_rng(0), 300), logs.items(12))
  with pytest.raises(RuntimeError, match="no page"):
    builder.build(logs.experiment(), table, tmp_path / "out", page=fails)
  assert list(tmp_path.iterdir()) == []
