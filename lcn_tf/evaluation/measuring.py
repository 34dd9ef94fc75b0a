"""Scored candidates -> metrics of all and of slices, alone and against a baseline."""

import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from lcn_tf import metrics
from lcn_tf.errors import UserError
from lcn_tf.evaluation import fields, paired, slices
from lcn_tf.evaluation.candidates import Candidates
from lcn_tf.evaluation.fields import Fields
from lcn_tf.metrics import Measured, Scored


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is measured.

  Attributes:
    bootstrap: Replicates of the confidence intervals; of slices at most 100.
    seed: Seed of the bootstrap.
    slices: Names of slices (`slices.parse`); None = `slices.DEFAULT`, as far as they are there, none of them pooled.
    slice_minimum: Candidates below which a slice of `slices` is pooled with others.
  """

  bootstrap: int = 200
  seed: int = 0
  slices: tuple[str, ...] | None = None
  slice_minimum: int = 100

  def __post_init__(self) -> None:
    if self.bootstrap < 0 or self.slice_minimum < 0:
      raise UserError(
        f"expected bootstrap >= 0 and slice_minimum >= 0, found {self.bootstrap} and {self.slice_minimum}"
      )


@dataclasses.dataclass(frozen=True)
class Result:
  """Metrics of all candidates and of slices.

  Attributes:
    scored: All candidates.
    overall: Their metrics.
    slices: Lower end or None, and metrics, by slice and value.
    seed: Seed of the bootstrap.
  """

  scored: Scored
  overall: Measured
  slices: Mapping[str, Mapping[str, tuple[float | None, Measured]]]
  seed: int

  def as_json(self) -> dict[str, Any]:
    """The metrics in `metrics.json`, with `slices` and, against a baseline, `baseline`."""
    found = dict(self.overall.summary)
    found["confidence"] = {**found["confidence"], "seed": self.seed}
    found["slices"] = slices.as_json(self.slices)
    if self.overall.baseline is not None:
      found["baseline"] = differences(self.overall) | {
        "slices": {
          name: [
            {"bucket": value, "candidates": of_value.summary["candidates"], **differences(of_value)}
            for value, (_, of_value) in values.items()
          ]
          for name, values in self.slices.items()
        }
      }
    return found


def differences(measured: Measured) -> dict[str, Any]:
  """`{"auc": {"model", "baseline", "difference", "interval"}, "gauc": ..., "logloss": ..., "calibration": ...}`, and
  the metrics of requests if there are requests."""
  return {name: measured.difference(name) for name in measured.names}


def measure(
  candidates: Candidates,
  of: Fields,
  settings: Settings,
  *,
  baseline: Candidates | None = None,
  also: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Result:
  """Metrics of scored candidates.

  Args:
    candidates: Candidates.
    of: Fields that they can be sliced by.
    settings: Bootstrap and slices.
    baseline: The same candidates with other scores.
    also: Further slices, which a gate names, with the values that are not pooled.

  Raises:
    UserError: A field is unknown, or a column holds what no metric is defined for.
  """
  names = sliced(of, settings, tuple(also))
  fields.check(of, names)
  scored = candidates.scored()
  requests = candidates.requests(scored.users)
  other = None
  if baseline is not None:
    probability = baseline.scored().scores
    other = dataclasses.replace(scored, scores=probability)
  options: dict[str, Any] = {"baseline": other, "replicates": settings.bootstrap, "seed": settings.seed}
  overall = metrics.measure(scored, requests=requests, **options)
  found: dict[str, dict[str, tuple[float | None, Measured]]] = {}
  for name in names:
    pooled = settings.slice_minimum if name in (settings.slices or ()) or name not in slices.DEFAULT else 0
    of_name: dict[str, Any] = {"minimum": pooled, "kept": also.get(name, ()), "requests": requests}
    found |= slices.measured({name: fields.coded(of, name)}, scored, **of_name, **options)
  return Result(scored, overall, found, settings.seed)


def sliced(of: Fields, settings: Settings, also: tuple[str, ...] = ()) -> tuple[str, ...]:
  """The names of the slices that are measured."""
  own = settings.slices if settings.slices is not None else tuple(n for n in slices.DEFAULT if of.has(n))
  return tuple(dict.fromkeys([*own, *also]))


def check_same(baseline: Candidates, candidates: Candidates) -> None:
  """Checks that a baseline has the same candidates in the same order, column by column.

  Raises:
    UserError: It has others, or none.
  """
  for name in ("user", "label"):
    baseline.column(name)
  if len(baseline) != len(candidates):
    raise UserError(f"{baseline.name}: {len(baseline)} candidates, but {candidates.name} has {len(candidates)}")
  for name in (*paired.SAME, "request"):
    if name in baseline.columns and name in candidates.columns:
      columns = (of.column(name).to_frame() for of in (baseline, candidates))
      mine, theirs = columns
      paired.check_same(mine, baseline.name, theirs, candidates.name, [name])
