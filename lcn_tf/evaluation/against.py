"""Sections of the report: verdicts of a gate, differences to a baseline, metrics of requests."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lcn_tf.evaluation.gate import Judged
from lcn_tf.metrics import NAMES
from lcn_tf.pages import markup
from lcn_tf.pages.markup import shown


def verdicts(judged: Sequence[Judged]) -> str:
  """The rules of a gate, the failed ones first; empty without a gate."""
  if not judged:
    return ""
  order = ("failed", "not judged", "passed")
  rows = [
    [
      rule.verdict,
      rule.slice or "all candidates",
      f"{rule.metric} - baseline" if rule.difference else rule.metric,
      ", ".join(f"{key} {value:g}" for key, value in rule.threshold.model_dump(exclude_none=True).items()),
      shown(rule.value) + _interval(rule.interval),
      f"{rule.candidates:,}",
      rule.reason,
    ]
    for rule in sorted(judged, key=lambda rule: order.index(rule.verdict))
  ]
  counts = {verdict: sum(rule.verdict == verdict for rule in judged) for verdict in order}
  said = "Refused" if counts["failed"] else "Passed"
  body = markup.note(f"{said}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}.")
  head = ["verdict", "candidates of", "metric", "rule", "value", "candidates", "reason"]
  return markup.section("Gate", body + markup.table(head, rows, text=4))


def baseline(found: Mapping[str, Any]) -> str:
  """Differences to the baseline, of all candidates and of slices; empty without one."""
  other = found.get("baseline")
  if not other:
    return ""
  rows = [["all candidates", f"{found['candidates']:,}", *_differences(other)]]
  for name, buckets in other["slices"].items():
    rows += [[f"{name} {of['bucket']}", f"{of['candidates']:,}", *_differences(of)] for of in buckets]
  head = ["candidates of", "candidates", *(f"{name} difference" for name in NAMES)]
  note = markup.note(
    f"The model minus {other['path']}, with {found['confidence']['level']:.0%} paired intervals over "
    "users. An interval without 0 is a significant difference."
  )
  return markup.section("Against the baseline", note + markup.table(head, rows))


def requests(found: Mapping[str, Any]) -> str:
  """Metrics of requests; empty if the candidates are not of requests."""
  of = found.get("requests")
  if not of:
    return ""
  rows = [[name, shown(of[name]), _interval(between).strip()] for name, between in of["confidence"].items()]
  note = markup.note(
    f"{of['count']:,} requests with more than one candidate, one of them a positive. A request is what a user saw at "
    "one moment."
  )
  return markup.section("Requests", markup.table(["metric", "mean", "interval"], rows) + note)


def _differences(of: Mapping[str, Any]) -> list[str]:
  return [f"{shown(of[name]['difference'])}{_interval(of[name]['interval'])}" for name in NAMES]


def _interval(between: Sequence[float] | None) -> str:
  if between is None or math.isnan(between[0]):
    return ""
  return f"\n{between[0]:.4f} to {between[1]:.4f}"
