"""Results of a simulated online comparison: rates by arm, differences with intervals, and a page."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcn_tf.metrics import bootstrap
from lcn_tf.pages.markup import Cell
from lcn_tf.pages.table_page import Page, Table

NAME = "simulated_online"
METRICS = ("ctr", "stay_seconds")
A_A = ("control again", "control")
DIFFERENCES = (("treatment", "control"), A_A, ("oracle", "control"), ("control", "random"), ("oracle", "random"))
COUNTS = ("users", "requests", "shown", "clicks")
_HEADS = {"ctr": "CTR", "stay_seconds": "stay, s"}


@dataclasses.dataclass
class Sums:
  """What the users of an arm did.

  Attributes:
    requests, shown, clicks: Counts of each user, `[users]`.
    stay: Seconds of each user, `[users]`.
    seconds: Duration of each call of a model.
  """

  requests: np.ndarray
  shown: np.ndarray
  clicks: np.ndarray
  stay: np.ndarray
  seconds: list[float] = dataclasses.field(default_factory=list)

  @classmethod
  def zeros(cls, users: int) -> "Sums":
    return cls(*np.zeros((4, users)))

  def add(self, user: int, shown: int, clicks: int, stay: float, seconds: float) -> None:
    """Adds a request of a user; `seconds` is NaN if no model was called."""
    for part, value in ((self.requests, 1), (self.shown, shown), (self.clicks, clicks), (self.stay, stay)):
      part[user] += value
    if seconds == seconds:
      self.seconds.append(seconds)

  def rates(self, counts: np.ndarray) -> np.ndarray:
    """`METRICS` with each user counted `counts` `[users]` times: clicks per shown item, and stay per request."""
    clicks, shown, stay, requests = (counts @ part for part in (self.clicks, self.shown, self.stay, self.requests))
    return np.array([clicks / shown if shown else np.nan, stay / requests if requests else np.nan])


def measured(
  arms: Mapping[str, Sums], groups: np.ndarray, replicates: int, level: float, seed: int
) -> dict[str, list[dict[str, Any]] | dict[str, Any]]:
  """Rates of the arms, their differences, and the A/A check.

  The intervals are percentile intervals of a bootstrap over users. All arms are evaluated with the same resampled
  users, so what two arms have in common cancels in their difference.

  Args:
    arms: Sums of each arm, of the same users.
    groups: Group of each user, `[users]`; users are resampled within their group.
    replicates: Number of replicates.
    level: Level of the intervals.
    seed: Seed of the bootstrap.

  Returns:
    `arms`: rows with rates, intervals and latencies. `differences`: rows a - b for `DIFFERENCES`. `a_a`: whether the
    intervals of `control again` - `control` contain 0.
  """
  random = np.random.default_rng([seed, 2])
  members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
  values: dict[str, list[np.ndarray]] = {name: [] for name in arms}
  for _ in range(replicates):
    drawn = np.concatenate([random.choice(group, len(group)) for group in members])
    counts = np.bincount(drawn, minlength=len(groups)).astype(np.float64)
    for name, sums in arms.items():
      values[name].append(sums.rates(counts))
  point = {name: sums.rates(np.ones(len(groups))) for name, sums in arms.items()}
  drawn_values = {name: np.array(found) for name, found in values.items()}
  rows = [_arm(name, sums, point[name], drawn_values[name], level) for name, sums in arms.items()]
  differences: list[dict[str, Any]] = [
    {"a": a, "b": b}
    | {
      metric: {
        "difference": float(point[a][i] - point[b][i]),
        "relative": float(point[a][i] / point[b][i] - 1) if point[b][i] else float("nan"),
        "interval": bootstrap.interval(drawn_values[a][:, i] - drawn_values[b][:, i], level),
      }
      for i, metric in enumerate(METRICS)
    }
    for a, b in DIFFERENCES
  ]
  found: dict[str, Any] = next(row for row in differences if (row["a"], row["b"]) == A_A)
  checks = {metric: _contains_zero(found[metric]["interval"]) for metric in METRICS}
  return {"arms": rows, "differences": differences, "a_a": {"passed": all(checks.values()), **checks}}


def _arm(name: str, sums: Sums, point: np.ndarray, values: np.ndarray, level: float) -> dict[str, Any]:
  latency = 1000 * np.quantile(sums.seconds, [0.5, 0.99]) if sums.seconds else [None, None]
  return {
    "arm": name,
    "users": int((sums.requests > 0).sum()),
    "requests": int(sums.requests.sum()),
    "shown": int(sums.shown.sum()),
    "clicks": int(sums.clicks.sum()),
    **{
      metric: {"value": float(point[i]), "interval": bootstrap.interval(values[:, i], level)}
      for i, metric in enumerate(METRICS)
    },
    "latency_ms": {"p50": latency[0], "p99": latency[1]},
  }


def _contains_zero(interval: list[float]) -> bool:
  return interval[0] <= 0 <= interval[1]


def page(found: Mapping[str, Any]) -> Page:
  """The page and the tables of the result of `lcn_tf.analysis.online.compare`."""
  rows: list[dict[str, Cell]] = []
  for row in found["arms"]:
    rows.append({"simulated arm": row["arm"], **{name: row[name] for name in COUNTS}})
    for metric in METRICS:
      rows[-1] |= _cells(metric, row[metric], "value")
    rows[-1] |= {f"{name}, ms": row["latency_ms"][name] for name in ("p50", "p99")}
  differences: list[dict[str, Cell]] = []
  for row in found["differences"]:
    differences.append({"simulated difference": f"{row['a']} - {row['b']}"})
    for metric in METRICS:
      differences[-1] |= _cells(metric, row[metric], "difference")
  verdict = "passed" if found["a_a"]["passed"] else "failed"
  level = f"{100 * found['level']:g} %"
  note = (
    "Simulated: clicks and stay times are drawn from the hidden preferences of a synthetic log. The oracle ranks by "
    "these. CTR is clicks per shown item, stay is seconds per request. Latency is that of a call with one request."
  )
  of_differences = f"Simulated. {level} intervals, by a bootstrap over users. A/A check: {verdict}."
  names = ("control", "treatment", "records", "design", "candidates", "shown", "grow", "seed")
  facts = {"data": "simulated users and clicks", **{name: found[name] for name in names}, "A/A check": verdict}
  tables = [Table("Simulated arms", rows, note), Table("Simulated differences", differences, of_differences)]
  return Page("Simulated online comparison", facts, tables)


def _cells(metric: str, found: Mapping[str, Any], value: str) -> dict[str, Cell]:
  low, high = found["interval"]
  cells: dict[str, Cell] = {_HEADS[metric]: found[value]}
  if "relative" in found:
    cells[f"{_HEADS[metric]}, relative %"] = 100 * found["relative"]
  return cells | {f"{_HEADS[metric]}, low": low, f"{_HEADS[metric]}, high": high}


def write(found: Mapping[str, Any], output: str | pathlib.Path) -> Page:
  """Leaves `simulated_online.json`, `simulated_online.md` and `index.html` in a folder; returns the page."""
  made = page(found)
  made.write(output, NAME, {name: value for name, value in found.items() if name not in made.facts})
  return made
