"""A gate: the rules that a model has to pass before it is served, and their verdicts.

auc: {min: 0.75}                                    of all candidates
calibration: {min: 0.9, max: 1.1}
difference:
  auc: {min: -0.002, confidence: 0.95}              model - baseline
slices:
  history_target: {minimum: 1000, auc: {min: 0.6}}  every slice of that field
  item.category=Drama: {auc: {min: 0.7}}            one slice
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import yaml

from lcn_tf import files
from lcn_tf.errors import UserError, nearest, one_line
from lcn_tf.evaluation.measuring import Result
from lcn_tf.metrics import NAMES, Measured
from lcn_tf.schema import Strict

METRICS = (*NAMES, "ece", "ndcg@1", "ndcg@5", "ndcg@10", "hit_rate@1", "hit_rate@5", "hit_rate@10")
_MINIMUM = 1000  # candidates of a slice that is judged

Verdict = Literal["passed", "failed", "not judged"]


class RefusedError(UserError):
  """A gate refuses a model."""

  exit_code = 3


class Threshold(Strict):
  """Limits of a metric, or of its difference to the baseline.

  Attributes:
    min, max: Limits; None = none on that side.
    confidence: Level of the bootstrap interval that decides. The rule then fails only if the whole interval is beyond
      the limit. None = the value decides.
  """

  min: float | None = None
  max: float | None = None
  confidence: float | None = pydantic.Field(None, gt=0, lt=1)

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Threshold":
    if self.min is None and self.max is None:
      raise ValueError("expected min or max")
    if self.min is not None and self.max is not None and self.min > self.max:
      raise ValueError(f"min {self.min:g} is above max {self.max:g}")
    return self


class Rules(Strict):
  """Rules of some candidates: thresholds by the name of the metric."""

  metrics: dict[str, Threshold] = {}
  difference: dict[str, Threshold] = {}


class SliceRules(Rules):
  """Rules of slices, of which those with fewer than `minimum` candidates are not judged."""

  minimum: int = pydantic.Field(_MINIMUM, ge=1)


class Gate(Rules):
  """The rules of all candidates, and of slices by `<slice>` or `<slice>=<value>`."""

  slices: dict[str, SliceRules] = {}
  path: pathlib.Path = pydantic.Field(pathlib.Path(), exclude=True)

  def sliced(self) -> dict[str, set[str]]:
    """The slices that are judged, with the values that the rules name, by their name."""
    found: dict[str, set[str]] = {}
    for rule in self.slices:
      name, _, value = rule.partition("=")
      found.setdefault(name, set()).update({value} - {""})
    return found

  def without_differences(self) -> "Gate":
    """The rules that need no baseline."""
    slices = {name: rules.model_copy(update={"difference": {}}) for name, rules in self.slices.items()}
    return self.model_copy(update={"difference": {}, "slices": slices})

  def differs(self) -> bool:
    """Whether a rule asks for a baseline."""
    return bool(self.difference) or any(rules.difference for rules in self.slices.values())


@dataclasses.dataclass(frozen=True)
class Judged:
  """A rule and what became of it.

  Attributes:
    slice: Slice and value, "item.category=Drama"; empty = all candidates.
    metric: Metric; with `difference`, that of the model minus that of the baseline.
    value: Value; NaN if it is not defined.
    interval: Bootstrap interval at the rule's `confidence`; None without one.
    reason: Reason of a verdict other than `passed`.
  """

  slice: str
  metric: str
  difference: bool
  threshold: Threshold
  candidates: int
  value: float
  interval: list[float] | None
  verdict: Verdict
  reason: str = ""

  def as_json(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "threshold": self.threshold.model_dump(exclude_none=True)}

  def __str__(self) -> str:
    what = f"{self.metric} - baseline" if self.difference else self.metric
    return f"{what}{f' of {self.slice}' if self.slice else ''}: {self.reason}"


def read(path: str | pathlib.Path) -> Gate:
  """Reads a gate.

  Raises:
    UserError: The file is missing, is no YAML, or has an unknown or a wrong entry.
  """
  file = files.local(path)
  if not file.is_file():
    raise UserError(f"{path}: no such gate file")
  try:
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: not YAML: {one_line(error)}") from None
  if not isinstance(tree, dict) or not tree:
    raise UserError(f"{path}: expected rules, such as auc: {{min: 0.75}}")
  try:
    gate = Gate.model_validate({**_grouped(tree, str(path), ("slices",)), "slices": _slices(tree, str(path))})
  except pydantic.ValidationError as error:
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"] if part != "metrics")
    raise UserError(f"{path}: {where}: {detail['msg'].removeprefix('Value error, ')}") from None
  return gate.model_copy(update={"path": file})


def judge(gate: Gate, result: Result) -> list[Judged]:
  """Applies every rule.

  A threshold without `confidence` fails if the value is beyond it. One with it fails if the whole bootstrap interval of
  that level is: with min = 0 on a difference, if the model is significantly worse. An undefined value of all candidates
  fails; one of a slice is not judged, and neither is a slice with fewer candidates than its `minimum`.
  """
  found = list(_of(gate, "", result.overall))
  for name, rules in gate.slices.items():
    field, _, value = name.partition("=")
    values = result.slices[field]
    if value and value not in values:
      found += [_not_judged(name, *rule, 0, "no slice has this value") for rule in _each(rules)]
    for present, (_, measured) in values.items():
      if value in ("", present):
        found += _of(rules, f"{field}={present}", measured)
  return found


def check(judged: list[Judged], gate: Gate, where: str) -> None:
  """Ends an evaluation whose model is refused.

  Args:
    judged: Result of `judge`.
    gate: The gate.
    where: Folder of the results, for the message.

  Raises:
    RefusedError: A rule has failed.
  """
  failed = [str(rule) for rule in judged if rule.verdict == "failed"]
  if failed:
    raise RefusedError(f"refused by {gate.path}: {'; '.join(failed)}. {where} has all verdicts.")


def as_json(gate: Gate, judged: list[Judged]) -> dict[str, Any]:
  """The content of `gate.json`."""
  counts = {verdict: sum(rule.verdict == verdict for rule in judged) for verdict in ("passed", "failed", "not judged")}
  return {
    "gate": str(gate.path),
    "passed": not counts["failed"],
    "counts": counts,
    "rules": [rule.as_json() for rule in judged],
  }


def _slices(tree: dict[str, Any], path: str) -> dict[str, Any]:
  entries = tree.get("slices") or {}
  if not isinstance(entries, dict):
    raise UserError(f"{path}: slices: expected names of slices with their rules")
  return {str(name): _grouped(rules, f"{path}: slices.{name}", ("minimum",)) for name, rules in entries.items()}


def _grouped(tree: Any, where: str, others: tuple[str, ...]) -> dict[str, Any]:
  """Rules with their metrics under one key.

  Raises:
    UserError: A key is unknown.
  """
  if not isinstance(tree, dict):
    raise UserError(f"{where}: expected rules, such as auc: {{min: 0.75}}; found {tree!r}")
  known = [*METRICS, "difference", *others]
  differences = tree.get("difference") or {}
  keys = [(where, key, known) for key in tree]
  if isinstance(differences, dict):
    keys += [(f"{where}: difference", key, [name for name in METRICS if name != "ece"]) for key in differences]
  for place, key, allowed in keys:
    if key not in allowed:
      raise UserError(f"{place}: unknown key {key!r}.{nearest(str(key), allowed)} Known keys: {', '.join(allowed)}")
  metrics = {key: value for key, value in tree.items() if key in METRICS}
  rest = {key: tree[key] for key in others if key in tree and key != "slices"}
  return {"metrics": metrics, "difference": differences, **rest}


def _each(rules: Rules) -> Iterator[tuple[str, bool, Threshold]]:
  for difference, thresholds in ((False, rules.metrics), (True, rules.difference)):
    for metric, threshold in thresholds.items():
      yield metric, difference, threshold


def _of(rules: Rules, name: str, measured: Measured) -> Iterator[Judged]:
  candidates = measured.summary["candidates"]
  for metric, difference, threshold in _each(rules):
    if isinstance(rules, SliceRules) and candidates < rules.minimum:
      reason = f"{candidates} candidates, fewer than {rules.minimum}"
      yield _not_judged(name, metric, difference, threshold, candidates, reason)
      continue
    value, interval = _value(measured, metric, difference, threshold.confidence)
    verdict, reason = _verdict(threshold, value, interval, bool(name))
    yield Judged(name, metric, difference, threshold, candidates, value, interval, verdict, reason)


def _not_judged(name: str, metric: str, difference: bool, threshold: Threshold, candidates: int, reason: str) -> Judged:
  return Judged(name, metric, difference, threshold, candidates, math.nan, None, "not judged", reason)


def _value(measured: Measured, metric: str, difference: bool, level: float | None) -> tuple[float, list[float] | None]:
  if metric == "ece":
    return measured.summary["ece"], None
  if metric not in measured.names:  # of requests, which there are not
    return math.nan, None
  if difference:
    found = measured.difference(metric, level or 0.95)
    return found["difference"], found["interval"]
  return float(measured.own.point[measured.names.index(metric)]), measured.interval(metric, level or 0.95)


def _verdict(threshold: Threshold, value: float, interval: list[float] | None, of_slice: bool) -> tuple[Verdict, str]:
  if math.isnan(value):
    return ("not judged" if of_slice else "failed"), "not defined"
  low = high = value
  between = ""
  if threshold.confidence is not None:
    if interval is None or math.isnan(interval[0]):
      return ("not judged" if of_slice else "failed"), f"{value:.4f} has no interval"
    low, high = interval
    between = f" ({threshold.confidence:.4g} interval {low:.4f} to {high:.4f})"
  if threshold.min is not None and high < threshold.min:
    return "failed", f"{value:.4f}{between} is below {threshold.min:g}"
  if threshold.max is not None and low > threshold.max:
    return "failed", f"{value:.4f}{between} is above {threshold.max:g}"
  return "passed", ""
