"""Drift between two record sets: how far the distributions of one are from those of another.

With the shares p of A and q of B over the same cells (values of a field, bins of a number, a missing value):

    PSI = sum_i (p_i - q_i) ln(p_i / q_i)
    JS  = (KL(p || m) + KL(q || m)) / 2,  m = (p + q) / 2, logarithms of base 2: from 0 to 1

PSI takes its shares of counts to which 1/2 per cell is added, so it is finite. It is positive between two samples of
one distribution, too: by about (cells - 1) (1 / n_A + 1 / n_B) with n independent draws. A PSI that exceeds this
amount by more than the limit is drift. Each user and each behaviour counts as one draw. The candidates of a record
share their user, and often their moment, so that each record counts as one draw.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from lcn_tf.data import statistics
from lcn_tf.data.record_set import SPLITS, RecordSet
from lcn_tf.data.statistics import Categories, FieldStatistics, Numbers, PartStatistics, Statistics
from lcn_tf.schema import DOMAINS, DomainName


class Limits(NamedTuple):
  """Largest differences that are no drift.

  Attributes:
    psi: PSI beyond that of sampling.
    new_ids: Share of values that A does not know.
    positive_rate: Change of the share of positives, relative to A's.
  """

  psi: float = 0.2
  new_ids: float = 0.1
  positive_rate: float = 0.2


@dataclasses.dataclass(frozen=True)
class Line:
  """One compared distribution.

  Attributes:
    domain: Domain of the candidates or behaviours.
    of: Kind of the rows: `candidates`, `users`, `behaviours`.
    field: Name of the field, or of another quantity such as `positive rate`.
    a, b: Number of different values, mean of numbers, or rate; None for other quantities.
    psi: Population stability index; None without rows on one side.
    sampling: PSI that samples of one distribution have on average.
    js: Jensen-Shannon divergence, from 0 to 1.
    new_ids: Share of B's values that A does not know; None for quantities without ids.
    drift: Names of the limits that are exceeded: `PSI`, `new ids`, `rate`.
  """

  domain: DomainName
  of: str
  field: str
  a: float | None
  b: float | None
  psi: float | None
  sampling: float | None
  js: float | None
  new_ids: float | None
  drift: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drift:
  """Comparison of one split of A with one of B.

  Attributes:
    split_a, split_b: Splits.
    lines: Compared distributions.
    not_in_both: Fields that one of the two lacks, as texts.
  """

  split_a: str
  split_b: str
  lines: tuple[Line, ...]
  not_in_both: tuple[str, ...]

  @property
  def found(self) -> bool:
    """Whether a limit is exceeded."""
    return any(line.drift for line in self.lines)


def default_split(record_set: RecordSet) -> str:
  """The training split, or the newest split of records that have none."""
  there = [split for split in SPLITS if "target" in record_set.splits.get(split, {})]
  return "train" if not there or "train" in there else there[-1]


def compare(a: RecordSet, b: RecordSet, split_a: str, split_b: str, limits: Limits | None = None) -> Drift:
  """Compares a split of `b` with one of `a`.

  Raises:
    UserError: One of them lacks the split, or its statistics.
  """
  a.part(split_a)
  b.part(split_b)
  pair = _Pair(a, b, limits or Limits())
  found = (statistics.read(a), statistics.read(b))
  return Drift(split_a, split_b, tuple(_lines(pair, *found, split_a, split_b)), tuple(pair.not_in_both))


def divergence(a: np.ndarray, b: np.ndarray, draws: tuple[int, int]) -> tuple[float, float, float]:
  """PSI, the mean PSI of samples of one distribution, and JS, of two counts of the same cells.

  Args:
    a, b: Counts `[cells]` of at least 0, neither of them all 0.
    draws: Numbers of independent draws of the two.
  """
  met = (a > 0) | (b > 0)
  a, b = a[met], b[met]
  p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (a, b))
  psi = float(((p - q) * np.log(p / q)).sum())
  p, q = a / a.sum(), b / b.sum()
  middle = (p + q) / 2
  js = sum(float((share[share > 0] * np.log2(share[share > 0] / middle[share > 0])).sum()) / 2 for share in (p, q))
  return psi, (len(a) - 1) * (1 / draws[0] + 1 / draws[1]), min(max(js, 0.0), 1.0)


def cells_of_numbers(a: Numbers, b: Numbers) -> tuple[np.ndarray, np.ndarray]:
  """Counts of both by bin, missing numbers last."""
  edges = sorted({*a.edges, *b.edges})
  counts = []
  for side in (a, b):
    own = dict(zip(side.edges, side.counts, strict=True))
    counts.append(np.array([*(own.get(edge, 0) for edge in edges), side.missing], np.float64))
  return counts[0], counts[1]


def cells_of_values(a: Categories, b: Categories, one_mapping: bool) -> tuple[np.ndarray, np.ndarray]:
  """Counts of both by value; the rest, unknown and missing values last.

  A value that only one side lists is in the rest of the other side, at most as often as the rarest value that is listed
  there. Within this bound it gets the count that makes the two sides most alike, so that no drift is invented.

  Args:
    a, b: Values.
    one_mapping: True if both are of one id mapping. Otherwise a value that one side lists may be unknown to the other.
  """
  keys = list(dict.fromkeys([*a.values, *b.values]))
  listed = [dict(zip(side.values, side.counts, strict=True)) for side in (a, b)]
  return (
    _with_others(a, keys, listed[0], listed[1], b.total, one_mapping),
    _with_others(b, keys, listed[1], listed[0], a.total, one_mapping),
  )


def _with_others(
  side: Categories, keys: list[str], own: dict[str, int], other: dict[str, int], total: int, one_mapping: bool
) -> np.ndarray:
  """Counts of one side `[cells]`: of its own listed values, and of those of its rest that the other side lists."""
  pool = side.rest if one_mapping else side.rest + side.unknown
  most = max(min(side.counts, default=0) if side.rest else 0, 0 if one_mapping else side.unknown)
  asked = np.array([0 if key in own else min(other[key] * side.total / total, most) for key in keys], np.float64)
  if asked.sum() > pool:
    asked *= pool / asked.sum()
  counts = np.array([own.get(key, 0) for key in keys], np.float64) + asked
  left = max(pool - asked.sum(), 0.0)
  return np.append(counts, [left, side.unknown if one_mapping else 0, side.missing])


class _Pair:
  """Two record sets while they are compared."""

  def __init__(self, a: RecordSet, b: RecordSet, limits: Limits):
    self._a, self._b, self._limits = a, b, limits
    self._one_mapping = a.fingerprint == b.fingerprint
    self._new: dict[str, float | None] = {}
    self.not_in_both: list[str] = []

  def line(
    self,
    place: tuple[DomainName, str, str],
    shown: tuple[float | None, float | None],
    cells: Sequence[np.ndarray],
    draws: tuple[int, int],
    new: float | None = None,
  ) -> Line:
    """The line of counts by cell."""
    if not (cells[0].sum() and cells[1].sum()):
      return Line(*place, *shown, None, None, None, new)
    psi, sampling, js = divergence(cells[0], cells[1], draws)
    drift = ["PSI"] if psi - sampling > self._limits.psi else []
    drift += ["new ids"] if new is not None and new > self._limits.new_ids else []
    return Line(*place, *shown, psi, sampling, js, new, tuple(drift))

  def numbers(self, place: tuple[DomainName, str, str], a: Numbers, b: Numbers, draws: tuple[int, int]) -> Line:
    return self.line(place, (a.mean, b.mean), cells_of_numbers(a, b), draws)

  def rate(self, d: DomainName, a: PartStatistics, b: PartStatistics) -> Line:
    """The line of the positives."""
    rates = [part.positives / part.candidates for part in (a, b)]
    cells = [np.array([part.positives, part.candidates - part.positives], np.float64) for part in (a, b)]
    found = self.line((d, "candidates", "positive rate"), (rates[0], rates[1]), cells, (a.records, b.records))
    much = abs(rates[1] - rates[0]) > self._limits.positive_rate * rates[0]
    return dataclasses.replace(found, drift=("rate",) if much else ())

  def fields(
    self,
    d: DomainName,
    of: str,
    a: tuple[FieldStatistics, ...],
    b: tuple[FieldStatistics, ...],
    draws: tuple[int, int],
  ) -> Iterator[Line]:
    """Lines of the fields that both have, in the order of A."""
    known = [{(field.name, field.categories is None): field for field in fields} for fields in (a, b)]
    lacking = dict.fromkeys(
      name for name, kind in {**known[0], **known[1]} if (name, kind) in known[0].keys() ^ known[1]
    )
    self.not_in_both += [f"{name} of {d} {of}" for name in lacking]
    for key, field in known[0].items():
      if key not in known[1]:
        continue
      other, place = known[1][key], (d, "users" if field.of == "user" else of, field.name)
      n = (field.counted.rows, other.counted.rows) if field.of == "user" else draws
      if field.numbers and other.numbers:
        yield self.numbers(place, field.numbers, other.numbers, n)
      elif field.categories and other.categories:
        cells = cells_of_values(field.categories, other.categories, self._one_mapping)
        shown = (field.categories.distinct, other.categories.distinct)
        yield self.line(place, shown, cells, n, self._new_ids(other.vocabulary, field.vocabulary, other.categories))

  def _new_ids(self, name: str, name_in_a: str, b: Categories) -> float | None:
    """The share of B's values that A does not know.

    With one id mapping these are B's unknown values. Otherwise the values of B's vocabulary are looked up in A's, each
    counted as often as the training interactions of B have it.
    """
    if self._one_mapping:
      return b.unknown / (b.known + b.unknown) if b.known + b.unknown else None
    if name not in self._new:
      theirs = self._b.table(f"vocabularies/{name}.parquet", ["value", "count"])
      ours = self._a.table(f"vocabularies/{name_in_a}.parquet", ["value"])["value"]
      total = int(theirs["count"].sum())
      new = int(theirs.filter(~pl.col("value").is_in(ours.implode()))["count"].sum())
      self._new[name] = new / total if total else None
    return self._new[name]


def _lines(pair: _Pair, a: Statistics, b: Statistics, split_a: str, split_b: str) -> Iterator[Line]:
  parts = (a.parts.get(split_a, {}), b.parts.get(split_b, {}))  # type: ignore[call-overload]
  for d in DOMAINS:
    if d in parts[0] and d in parts[1]:
      yield from _of_part(pair, d, parts[0][d], parts[1][d])
  events = (a.behaviours.get(split_a, {}), b.behaviours.get(split_b, {}))  # type: ignore[call-overload]
  for d in DOMAINS:
    if d in events[0] and d in events[1]:
      ours, theirs = events[0][d], events[1][d]
      draws = (ours.behaviours, theirs.behaviours)
      yield from pair.fields(d, "behaviours", ours.fields, theirs.fields, draws)


def _of_part(pair: _Pair, d: DomainName, a: PartStatistics, b: PartStatistics) -> Iterator[Line]:
  draws = (a.records, b.records)
  yield pair.rate(d, a, b)
  hours = [np.array(part.hours, np.float64) for part in (a, b)]
  yield pair.line((d, "candidates", "hour of day"), (None, None), hours, draws)
  for name in DOMAINS:
    yield pair.numbers((d, "candidates", f"{name} history"), a.histories[name], b.histories[name], draws)
  yield from pair.fields(d, "candidates", a.fields, b.fields, draws)


def table(found: Drift) -> str:
  """The comparison as aligned text, with the number of lines that exceed a limit at its end."""
  head = ["domain", "of", "what", "A", "B", "PSI", "sampling", "JS", "new ids", "drift"]
  rows = [head]
  for line in found.lines:
    values = [f"{number:.5g}" if number is not None else "-" for number in (line.a, line.b)]
    measures = [f"{number:.4f}" if number is not None else "-" for number in (line.psi, line.sampling, line.js)]
    new = "-" if line.new_ids is None else f"{line.new_ids:.2%}"
    rows.append([line.domain, line.of, line.field, *values, *measures, new, ", ".join(line.drift)])
  widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
  lines = []
  for row in rows:
    sized = zip(row[:-1], widths[:-1], strict=True)
    padded = [cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in enumerate(sized)]
    lines.append("  ".join([*padded, row[-1]]).rstrip())
  drifted = [line for line in found.lines if line.drift]
  lines.append("")
  if found.not_in_both:
    lines.append(f"Not in both: {', '.join(found.not_in_both)}")
  lines.append(f"drift: {len(drifted)} of {len(found.lines)} lines" if drifted else "no drift")
  return "\n".join(lines)
