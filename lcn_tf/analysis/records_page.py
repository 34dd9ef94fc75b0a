"""The page of a record set, `report/index.html`: the numbers of `statistics.json` as tables and plots."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lcn_tf.data.record_set import RecordSet, SplitName
from lcn_tf.data.statistics import QUANTILES, Categories, Curve, FieldStatistics, Numbers, Statistics
from lcn_tf.pages import figures, markup
from lcn_tf.pages.markup import moment, shown
from lcn_tf.schema import DOMAINS, DomainName

TOP = 10  # values of a field that are listed


def render(record_set: RecordSet, found: Statistics) -> str:
  """The page.

  Args:
    record_set: Record set.
    found: Statistics of the record set.
  """
  title = f"Records of {record_set.name}"
  facts = [f"schema and vocabularies {record_set.fingerprint}"]
  facts += [f"labels: {record_set.records['labels']['kind']}"] if record_set.records else []
  rejected = sum(record_set.rejected.values())
  facts.append(f"{rejected:,} rows rejected")
  parts = [
    _parts(record_set, found),
    _over_time(record_set, found),
    _histories(record_set, found),
    *(_fields(title, groups) for title, groups in _groups(found)),
  ]
  return markup.document(title, facts, parts)


def _parts(record_set: RecordSet, found: Statistics) -> str:
  rows = []
  for split, domains in found.parts.items():
    for d, part in domains.items():
      times = record_set.splits[split][d]
      rows.append(
        [
          split,
          d,
          *(f"{count:,}" for count in (part.records, part.candidates, part.users, part.positives)),
          f"{part.positives / part.candidates:.2%}",
          moment(times.first_time),
          moment(times.last_time),
        ]
      )
  head = ["split", "candidates of", "records", "candidates", "users", "positives", "rate", "from (UTC)", "to (UTC)"]
  return markup.section("Splits", markup.table(head, rows, text=2))


def _over_time(record_set: RecordSet, found: Statistics) -> str:
  bounds = [int(record_set.notes[name]) for name in ("train_end", "validation_end") if name in record_set.notes]
  pictures = []
  for d, curve in found.curves.items():
    total, positives = sum(curve.candidates), sum(curve.positives)
    alt = f"{d} domain: {total:,} candidates, {positives:,} of them positive, in {len(curve.candidates)} bins of time."
    pictures.append(figures.picture(_curve(curve, d, bounds), alt))
  note = markup.note("Dashed: the starts of validation and of test.") if bounds else ""
  return markup.section("Over time", markup.grid(pictures) + note) if pictures else ""


def _curve(curve: Curve, d: DomainName, bounds: list[int]) -> figures.Draw:
  """Candidates and positives, and the share of positives, by time."""

  def draw(figure: Figure) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    days = (np.arange(len(curve.candidates)) + 0.5) * curve.width / 86_400
    candidates, positives = np.array(curve.candidates), np.array(curve.positives)
    top.plot(days, candidates, color=figures.FIRST, label="candidates")
    top.plot(days, positives, color=figures.SECOND, label="positives")
    top.set(title=f"Candidates of the {d} domain", ylim=(0, None))
    top.legend()
    there = candidates > 0
    bottom.plot(days[there], positives[there] / candidates[there], color=figures.SECOND, marker=".")
    bottom.set(xlabel=f"days since {moment(curve.start)}", ylabel="rate", ylim=(0, None))
    bottom.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for bound in bounds:
      day = (bound - curve.start) / 86_400
      if 0 <= day <= len(days) * curve.width / 86_400:
        for axes in (top, bottom):
          axes.axvline(day, color=figures.MUTED, linestyle="--", linewidth=1)

  return draw


def _histories(record_set: RecordSet, found: Statistics) -> str:
  rows = []
  for split, domains in found.parts.items():
    for d, part in domains.items():
      for name, lengths in part.histories.items():
        quantiles = [f"{number:,.0f}" for number in lengths.quantiles]
        longer = f"{part.longer[name] / part.records:.1%}"
        empty = dict(zip(lengths.edges, lengths.counts, strict=True)).get(0, 0) / part.records
        rows.append([name, split, d, f"{empty:.1%}", shown(lengths.mean, 1), *quantiles, longer])
  head = ["history", "split", "candidates of", "empty", "mean", *_quantile_names(), "over max_length"]
  first = next(iter(found.parts.values()))["target"]
  alt = "Lengths of the histories: " + "; ".join(
    f"{d}: median {lengths.quantiles[QUANTILES.index(0.5)]:,.0f}" for d, lengths in first.histories.items()
  )
  picture = figures.picture(_lengths(first.histories), alt)
  limits = ", ".join(f"{record_set.record_schema.domain(d).max_length:,} ({d})" for d in DOMAINS)
  note = markup.note(
    "Behaviours strictly older than the newest candidate of each record, before the cut to max_length: "
    f"{limits}. The plot is of the {next(iter(found.parts))} split."
  )
  return markup.section("History lengths", markup.grid([picture]) + markup.table(head, rows, text=3) + note)


def _lengths(histories: dict[DomainName, Numbers]) -> figures.Draw:
  """Share of the records per bin of history length."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    edges = sorted({edge for lengths in histories.values() for edge in lengths.edges})
    for shift, colour, (d, lengths) in zip(
      (-0.2, 0.2), (figures.FIRST, figures.SECOND), histories.items(), strict=True
    ):
      counts = dict(zip(lengths.edges, lengths.counts, strict=True))
      shares = [counts.get(edge, 0) / lengths.rows for edge in edges]
      axes.bar(np.arange(len(edges)) + shift, shares, width=0.4, color=colour, alpha=0.8, label=d)
    axes.set_xticks(np.arange(len(edges)), [f"{edge:.0f}+" if edge > 1 else f"{edge:.0f}" for edge in edges])
    axes.tick_params("x", rotation=45)
    axes.set(title="Behaviours of a history", ylabel="records")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(False, axis="x")
    axes.legend()

  return draw


_Group = dict[SplitName, tuple[FieldStatistics, ...]]


def _groups(found: Statistics) -> Iterator[tuple[str, _Group]]:
  """Headings, each with the fields of every split that stand below it."""
  for d in DOMAINS:
    parts = {split: domains[d].fields for split, domains in found.parts.items() if d in domains}
    if parts:
      yield f"Fields of {d} candidates and their users", parts
  for d in DOMAINS:
    behaviours = {split: domains[d].fields for split, domains in found.behaviours.items() if d in domains}
    if behaviours:
      yield f"Fields of {d} behaviours", behaviours


def _fields(title: str, group: _Group) -> str:
  categorical, numeric = [], []
  first = next(iter(group.values()))
  for number, field in enumerate(first):
    for split, fields in group.items():
      counted = fields[number].counted
      cells = [field.name, field.of, split, f"{counted.rows:,}", _share(counted.missing, counted.total)]
      if isinstance(counted, Categories):
        unknown = _share(counted.unknown, counted.known + counted.unknown)
        top = ", ".join(_values(counted, 3))
        categorical.append([*cells, unknown, f"{counted.distinct:,}", top])
      else:
        numeric.append([*cells, shown(counted.mean), *(f"{number:.5g}" for number in counted.quantiles)])
  body = ""
  if categorical:
    head = ["field", "of", "split", "rows", "missing", "unknown", "different", "most frequent"]
    body += markup.table(head, categorical, text=3)
  if numeric:
    body += markup.table(
      ["field", "of", "split", "rows", "missing", "mean", *_quantile_names()],
      [[*row, *["-"] * (6 + len(QUANTILES) - len(row))] for row in numeric],
      text=3,
    )
  lists = "".join(_top(number, field.name, group) for number, field in enumerate(first) if field.categories)
  return markup.section(title, body + lists) if body else ""


def _top(number: int, name: str, group: _Group) -> str:
  """The most frequent values of a field in its first split, with their shares in every split."""
  shares = {}
  for split, fields in group.items():
    counted = fields[number].categories
    if counted:
      shares[split] = {v: c / counted.total for v, c in zip(counted.values, counted.counts, strict=True)}
  first = next(iter(shares.values()))
  rows = [[value, *(f"{own[value]:.2%}" if value in own else "-" for own in shares.values())] for value in first]
  if not rows:
    return ""
  return markup.details(f"{name}: most frequent values", markup.table(["value", *shares], rows[:TOP]))


def _values(counted: Categories, most: int) -> list[str]:
  """The most frequent values with their shares."""
  pairs = zip(counted.values[:most], counted.counts, strict=False)
  return [f"{value if len(value) <= 24 else value[:23] + '…'} {_share(count, counted.total)}" for value, count in pairs]


def _share(count: int, total: int) -> str:
  return f"{count / total:.1%}" if total else "-"


def _quantile_names() -> list[str]:
  return ["max" if share == 1 else f"{share:.0%}" for share in QUANTILES]
