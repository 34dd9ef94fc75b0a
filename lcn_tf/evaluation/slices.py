"""Metrics of parts of the candidates: by any field of user, item and moment, by history, by columns of a file."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lcn_tf import metrics
from lcn_tf.errors import UserError
from lcn_tf.metrics import Measured, Scored

DEFAULT = ("history_target", "history_source", "item_count")
STEPS = (0, 1, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
MOST = 50  # slices of a field; the smaller ones are pooled
_REPLICATES = 100  # bootstrap samples of a slice at most


@dataclasses.dataclass(frozen=True)
class Coded:
  """A field of the candidates.

  Attributes:
    codes: Positions in `names`, `[n, k]`; -1 = no further value of the candidate.
    names: Names of the values; several positions may have one name.
    lows: Lower ends of buckets, which are in order; infinite for one without. None orders values by their numbers of
      candidates.
  """

  codes: np.ndarray
  names: Sequence[str]
  lows: Sequence[float] | None = None


def buckets(values: np.ndarray) -> Coded:
  """Counts `[n]` in the buckets of `STEPS`."""
  codes = np.searchsorted(STEPS, values, side="right").astype(np.int32) - 1
  return Coded(codes[:, np.newaxis], [label(i) for i in range(len(STEPS))], STEPS)


def label(bucket: int) -> str:
  """Name of bucket number `bucket` of `STEPS`: '0', '1-9', ..., '100000+'."""
  low = STEPS[bucket]
  if bucket + 1 == len(STEPS):
    return f"{low}+"
  last = STEPS[bucket + 1] - 1
  return str(low) if last == low else f"{low}-{last}"


def parse(text: Sequence[str]) -> tuple[str, ...]:
  """Names of slices, fields or two fields with `*` between them, each once.

  Raises:
    UserError: A name is empty, or crosses more than two fields.
  """
  found = []
  for name in text:
    fields = [field.strip() for field in name.split("*")]
    if not all(fields) or len(fields) > 2:
      raise UserError(f"--slices {','.join(text)}: expected a field, or two with * between them; found {name!r}")
    found.append("*".join(fields))
  return tuple(dict.fromkeys(found))


def crossed(a: Coded, b: Coded) -> Coded:
  """Pairs of the values of two fields: each of a candidate's values of one with each of the other."""
  one, other = np.broadcast_arrays(a.codes[:, :, np.newaxis], b.codes[:, np.newaxis, :])
  pairs = np.where((one >= 0) & (other >= 0), one.astype(np.int64) * len(b.names) + other, -1)
  return Coded(pairs.reshape(len(pairs), -1), _Pairs(a.names, b.names))


def groups(
  coded: Coded, minimum: int = 0, kept: Collection[str] = ()
) -> Iterator[tuple[str, float | None, np.ndarray]]:
  """Slices of a field.

  Args:
    coded: The field.
    minimum: Candidates below which a slice is pooled with the other small ones, as those beyond the `MOST` largest are.
      0 pools none.
    kept: Names of values that are not pooled.

  Yields:
    Name, lower end if there are `lows`, positions of the candidates, rising. First by `lows` or falling numbers of
    candidates, at last `other (k values)`.
  """
  rows, codes = _pairs(coded.codes)
  if coded.lows is None:  # values of one name are one slice
    present = np.unique(codes)
    by_name: dict[str, int] = {}
    first = np.array([by_name.setdefault(coded.names[code], int(code)) for code in present], np.int64)
    if len(by_name) < len(present):
      rows, codes = _pairs(_split(rows, first[np.searchsorted(present, codes)], len(coded.codes), coded.codes.shape[1]))
  order = np.argsort(codes, kind="stable")
  values, starts = np.unique(codes[order], return_index=True)
  parts = np.split(rows[order], starts[1:])
  sizes = np.array([len(part) for part in parts], np.int64)
  by_size = np.argsort(-sizes, kind="stable")
  small = set()
  if minimum:
    small = {int(i) for i in by_size if sizes[i] < minimum} | {int(i) for i in by_size[MOST:]}
    small = {i for i in small if coded.names[values[i]] not in kept} if kept else small
  for i in range(len(values)) if coded.lows is not None else by_size.tolist():
    if i not in small:
      yield coded.names[values[i]], None if coded.lows is None else float(coded.lows[values[i]]), parts[i]
  if small:
    name = f"other ({len(small)} value{'s' if len(small) > 1 else ''})"
    yield name, None, np.unique(np.concatenate([parts[i] for i in small]))


def measured(
  coded: Mapping[str, Coded],
  scored: Scored,
  *,
  requests: np.ndarray | None = None,
  baseline: Scored | None = None,
  minimum: int = 0,
  kept: Collection[str] = (),
  replicates: int = _REPLICATES,
  seed: int = 0,
) -> dict[str, dict[str, tuple[float | None, Measured]]]:
  """Metrics of the slices of fields.

  Args:
    coded: Fields by the name of the slices.
    scored, requests, baseline, seed: As in `metrics.measure`.
    minimum, kept: As in `groups`.
    replicates: Bootstrap samples; at most 100 are drawn.

  Returns:
    By name and value, in the order of `groups`: lower end of the bucket or None, metrics.
  """
  found: dict[str, dict[str, tuple[float | None, Measured]]] = {}
  for name, field in coded.items():
    found[name] = {}
    for value, low, rows in groups(field, minimum, kept):
      of_rows = metrics.measure(
        _taken(scored, rows),
        requests=None if requests is None else requests[rows],
        baseline=None if baseline is None else _taken(baseline, rows),
        replicates=min(replicates, _REPLICATES),
        seed=seed,
      )
      found[name][value] = (low, of_rows)
  return found


def as_json(found: Mapping[str, Mapping[str, tuple[float | None, Measured]]]) -> dict[str, list[dict[str, Any]]]:
  """The slices in `metrics.json`: of each value `bucket`, its name, `low` if it is a bucket of numbers, and the
  metrics."""
  return {
    name: [{"bucket": value, **_low(low), **of_value.summary} for value, (low, of_value) in values.items()]
    for name, values in found.items()
  }


def _low(low: float | None) -> dict[str, float]:
  if low is None or not np.isfinite(low):
    return {}
  return {"low": low if low % 1 else int(low)}


class _Pairs(Sequence[str]):
  """Names of pairs, made when they are asked for."""

  def __init__(self, a: Sequence[str], b: Sequence[str]):
    self._a, self._b = a, b

  def __len__(self) -> int:
    return len(self._a) * len(self._b)

  def __getitem__(self, code: Any) -> str:  # type: ignore[override]
    one, other = divmod(int(code), len(self._b))
    return f"{self._a[one]} * {self._b[other]}"


def _pairs(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rows and codes of the values that are there, each code of a row once."""
  if codes.shape[1] == 1:
    rows = np.flatnonzero(codes[:, 0] >= 0)
    return rows, codes[rows, 0]
  codes = np.sort(codes, axis=1)
  there = codes >= 0
  there[:, 1:] &= codes[:, 1:] != codes[:, :-1]
  rows, columns = np.nonzero(there)
  return rows, codes[rows, columns]


def _split(rows: np.ndarray, codes: np.ndarray, count: int, width: int) -> np.ndarray:
  """The inverse of `_pairs`: `[count, width]`."""
  table = np.full((count, width), -1, codes.dtype)
  table[rows, np.arange(len(rows)) - np.searchsorted(rows, rows)] = codes
  return table


def _taken(scored: Scored, rows: np.ndarray) -> Scored:
  weights = None if scored.weights is None else scored.weights[rows]
  if weights is not None and (weights == 1).all():
    weights = None
  return Scored(scored.scores[rows], scored.labels[rows], scored.users[rows], weights)
