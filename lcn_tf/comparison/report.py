"""The comparison as one HTML page."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lcn_tf.comparison import table
from lcn_tf.comparison.cells import Row
from lcn_tf.comparison.config import Comparison
from lcn_tf.comparison.grid import Failures
from lcn_tf.comparison.results import Result
from lcn_tf.data.record_set import RecordSet
from lcn_tf.evaluation.report import SLICES
from lcn_tf.pages import figures, markup
from lcn_tf.pages.markup import shown

_WIDTH = 11.0  # inches


def render(
  comparison: Comparison,
  record_set: RecordSet,
  rows: Sequence[Row],
  results: Sequence[Result],
  failures: Failures,
  config: str,
) -> str:
  """The page.

  Args:
    comparison: Comparison.
    record_set: Records.
    rows: Rows of all models.
    results: Results in the order of the table.
    failures: Cells that failed in the last call, with their errors.
    config: Effective comparison, YAML.
  """
  title = f"{comparison.name} on {record_set.name}"
  there = [result for result in results if result.runs]
  facts = [
    f"{len(comparison.models)} models",
    f"seeds {', '.join(map(str, comparison.seeds))}",
    f"reference {comparison.reference}",
    f"schema and vocabularies {record_set.fingerprint}",
  ]
  parts = [
    _table(comparison, record_set, rows, results),
    _failures(failures),
    _auc(comparison, there),
    _series(comparison, there),
    _learning(comparison, there),
    *(_lengths(name, comparison, there) for name in ("history_target", "history_source")),
    _tuning(rows),
    _cells(there),
    markup.section("How this was made", markup.details("Comparison", markup.preformatted(config))),
  ]
  return markup.document(title, facts, parts)


def _table(comparison: Comparison, record_set: RecordSet, models: Sequence[Row], results: Sequence[Result]) -> str:
  # the interval below the difference, the deviation below the mean: the table stays narrow
  rows = [[cell.replace(" [", "\n[").replace(" ±", "\n±") for cell in row] for row in table.body(results)]
  text = " ".join(table.notes(comparison, record_set, models)).replace("`", "")
  return markup.section("Results", markup.table(table.head(comparison), rows) + markup.note(text))


def _failures(failures: Failures) -> str:
  body = "\n".join(
    f"<p>{html.escape(cell.name)}</p>{markup.preformatted(str(error))}" for cell, error in failures.items()
  )
  return markup.section("Failed", body) if failures else ""


def _auc(comparison: Comparison, results: Sequence[Result]) -> str:
  if not results:
    return markup.section("AUC by model", "<p>Nothing is finished yet.</p>")
  pictures = []
  longest = max(len(result.label) for result in results)
  for name in ("auc", "gauc"):
    alt = f"{name.upper()} by model: " + "; ".join(f"{r.label} {table.spread(r, name)}" for r in results)
    size = (5.6, 0.95 + 0.24 * len(results))
    pictures.append(figures.picture(_points(comparison, results, name), alt, size, left=0.3 + 0.075 * longest))
  note = markup.note("Points: seeds. Bars: their mean. Dashed: the reference.")
  return markup.section("By model", markup.grid(pictures) + note)


def _points(comparison: Comparison, results: Sequence[Result], name: str) -> figures.Draw:
  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    for y, result in enumerate(results):
      colour = figures.SECOND if result.label == comparison.reference else figures.FIRST
      values = result.values(name)
      axes.plot(values, [y] * len(values), "o", color=colour, alpha=0.6, markersize=5, markeredgewidth=0)
      axes.plot([result.mean(name)] * 2, [y - 0.32, y + 0.32], color=colour, linewidth=2)
      if result.label == comparison.reference and values:
        axes.axvline(result.mean(name), color=colour, linestyle="--", linewidth=1, alpha=0.6)
    axes.set_yticks(range(len(results)), [result.label for result in results], color=figures.INK)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.06)
    axes.set(title=name.upper())

  return draw


def _series(comparison: Comparison, results: Sequence[Result]) -> str:
  """GAUC over the number at the end of the names of rows, and its gain on the middle number, as in TWIN's Fig. 5.

  Rows whose names are alike but for the number ("TWIN 50", "TWIN 100") are one line.
  """
  named: dict[str, dict[int, float]] = {}
  for result in results:
    if found := re.fullmatch(r"(.+) (\d+)", result.label):
      named.setdefault(found[1], {})[int(found[2])] = result.mean("gauc")
  named = {name: points for name, points in named.items() if len(points) > 1}
  if not named:
    return ""
  numbers = sorted({number for points in named.values() for number in points})
  ticks, middle = [f"{number:,}" for number in numbers], numbers[len(numbers) // 2]
  places = np.arange(len(numbers), dtype=float)
  lines = {
    name: (places, np.array([points.get(number, math.nan) for number in numbers])) for name, points in named.items()
  }
  alt = "GAUC by number: " + "; ".join(
    f"{name} " + ", ".join(f"{tick}: {shown(y)}" for tick, y in zip(ticks, ys, strict=True))
    for name, (_, ys) in lines.items()
  )
  draw = _lines(comparison, lines, "number at the end of the row's name", "GAUC, mean over seeds", ticks)
  rows = []
  for name, (_, ys) in lines.items():
    gains = ys - ys[numbers.index(middle)]
    rows.append(
      [
        name,
        *(shown(y) + ("" if gain != gain else f"\n{gain:+.4f}") for y, gain in zip(ys, gains, strict=True)),
      ]
    )
  body = _wide(draw, alt, lines) + markup.table(["model", *ticks], rows)
  note = markup.note(f"Below each GAUC: what it gains on that at {middle:,}.")
  return markup.section("By length, or what the names of rows end with", body + note)


def _learning(comparison: Comparison, results: Sequence[Result]) -> str:
  curves = {}
  for result in results:
    runs = [np.asarray(history["val_auc"]) for history in result.history if history.get("val_auc")]
    if runs:
      # a run that stopped early counts as long as it lasted
      longest = max(len(run) for run in runs)
      padded = np.array([np.pad(run, (0, longest - len(run)), constant_values=np.nan) for run in runs])
      known = ~np.isnan(padded).all(0)
      means = np.full(longest, np.nan)
      means[known] = np.nanmean(padded[:, known], axis=0)
      curves[result.label] = (np.arange(1, longest + 1, dtype=float), means)
  if not curves:
    return ""
  draw = _lines(comparison, curves, "epoch", "validation AUC, mean over seeds")
  alt = "Validation AUC by epoch: " + "; ".join(f"{label} ends at {y[-1]:.4f}" for label, (_, y) in curves.items())
  return markup.section("Learning curves", _wide(draw, alt, curves))


def _lengths(name: str, comparison: Comparison, results: Sequence[Result]) -> str:
  names = {
    bucket["low"]: bucket["bucket"] for result in results for run in result.slices for bucket in run.get(name, [])
  }
  lows = sorted(names)
  lines, counts = {}, dict.fromkeys(lows, 0)
  for result in results:
    values = np.full(len(lows), np.nan)
    for i, low in enumerate(lows):
      found = [bucket for run in result.slices for bucket in run.get(name, []) if bucket["low"] == low]
      known = [bucket["auc"] for bucket in found if bucket["auc"] is not None]
      counts[low] = max([counts[low], *(bucket["candidates"] for bucket in found)])
      values[i] = np.mean(known) if known else math.nan
    if np.isfinite(values).any():
      lines[result.label] = (np.arange(len(lows), dtype=float), values)
  if not lines:
    return ""
  title, what = SLICES[name]
  ticks = [names[low] for low in lows]
  draw = _lines(comparison, lines, what, "AUC, mean over seeds", ticks)
  alt = f"AUC by {what}: " + "; ".join(
    f"{label} " + ", ".join(f"{tick}: {shown(value)}" for tick, value in zip(ticks, y, strict=True))
    for label, (_, y) in lines.items()
  )
  head = ["model", *(f"{tick}\n{counts[low]:,} candidates" for tick, low in zip(ticks, lows, strict=True))]
  rows = [[label, *(shown(value) for value in y)] for label, (_, y) in lines.items()]
  numbers = markup.details("Numbers", markup.table(head, rows))
  return markup.section(title, _wide(draw, alt, lines) + numbers)


def _lines(
  comparison: Comparison,
  lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
  xlabel: str,
  ylabel: str,
  ticks: Sequence[str] = (),
) -> figures.Draw:
  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    shades = [matplotlib.colormaps["tab20"](i) for i in range(20)]
    colours = shades[::2] + shades[1::2]  # the dark ones first
    for i, (label, (x, y)) in enumerate(lines.items()):
      reference = label == comparison.reference
      style = {"color": figures.INK, "linewidth": 2.6, "zorder": 3} if reference else {"color": colours[i % 20]}
      axes.plot(x, y, marker="o", markersize=4, linestyle="--" if i >= 20 else "-", label=label, **style)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if ticks:
      axes.set_xticks(range(len(ticks)), ticks)
    else:
      axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.03, y=0.08)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, ncols=1 + (len(lines) - 1) // 24)

  return draw


def _wide(draw: figures.Draw, alt: str, lines: Mapping[str, Any]) -> str:
  columns = 1 + (len(lines) - 1) // 24
  right = 0.4 + columns * (0.45 + 0.065 * max(len(label) for label in lines))
  height = max(3.8, 0.9 + 0.175 * min(len(lines), 24))
  return figures.picture(draw, alt, (_WIDTH, height), left=0.75, right=min(right, 6.0))


def _tuning(rows: Sequence[Row]) -> str:
  tried = table.tuning(rows)
  return markup.section("Tuning", markup.table(table.TUNING_HEAD, tried, text=2)) if tried else ""


def _cells(results: Sequence[Result]) -> str:
  measures = ["AUC", "GAUC", "logloss", "val. AUC"]
  head = ["model", "seed", *measures, "best epoch", "epochs", "s", "candidates/s", "MB", "report"]
  rows = []
  for result in results:
    for run in result.runs:
      if run["seed"] is None:
        continue
      measured = [shown(run[name]) for name in ("auc", "gauc", "logloss", "val_auc")]
      cost = [shown(run[name], 0) for name in ("best_epoch", "epochs", "seconds", "candidates_per_second")]
      memory = shown(None if run["peak_memory_bytes"] is None else run["peak_memory_bytes"] / 2**20, 0)
      rows.append([result.label, str(run["seed"]), *measured, *cost, memory, run["path"]])
  if not rows:
    return ""
  body = markup.table(head, rows)
  for path in {row[-1] for row in rows}:
    link = html.escape(f"../{path}/report/index.html", quote=True)
    body = body.replace(f">{html.escape(path)}<", f'><a href="{link}">report</a><')
  return markup.section("Runs", markup.details("Every model and seed", body))
