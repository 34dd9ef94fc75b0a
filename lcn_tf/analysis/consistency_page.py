"""The tables and pictures of `consistency`."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lcn_tf.analysis.hits import Depths, Tally
from lcn_tf.data.record_set import RecordSet
from lcn_tf.pages import figures
from lcn_tf.pages.figures import line_style
from lcn_tf.pages.markup import Cell
from lcn_tf.pages.table_page import Page, Table


class Line(NamedTuple):
  """One line of the tables.

  Attributes:
    model: Label of the model.
    order: Name of the compared order.
    history: Domain of the history, or "both".
  """

  model: str
  order: str
  history: str


Found = Mapping[Line, Sequence[Tally]]


def page(found: Found, record_set: RecordSet, split: str, depths: Depths) -> Page:
  """The page of an analysis.

  Args:
    found: Sums by line, one per run.
    record_set: Record set that was read.
    split: Split that was read.
    depths: Depths of the comparison.
  """
  drifts = any(total.alphas for totals in found.values() for total in totals)
  several = any(len(totals) > 1 for totals in found.values())
  top, oracle = depths.top, depths.oracle
  return Page(
    title=f"Consistency of search and final attention on {record_set.name}",
    facts={"split": split, "top": top, "oracle": oracle, "fingerprint": record_set.fingerprint},
    tables=[
      Table(
        f"Share of the final attention's {top} best that are among the search's {top} best",
        [_shares(line, totals, drifts) for line, totals in found.items()],
        f"Over the candidates that see more than {top} behaviours. Chance: what a random order would find. "
        "For LAP: the order of the inner products (CSA), and the one in which MSA has re-ranked the first top_k[0] of "
        "it (with top_k[0] no larger than what is compared, both find the same); the oracle is FSA over the whole "
        "history, heads averaged after the softmax."
        + (" Drift: sum |search alpha - alpha| / sum |alpha| over heads and visible behaviours." if drifts else "")
        + (" Means over runs, with their standard deviation." if several else ""),
      ),
      Table(
        f"Hits: how many of the final attention's {oracle} best are among the search's n best",
        [*(_hits(line, totals, depths) for line, totals in found.items()), _oracle_hits(depths)],
        f"Means over the candidates that see more than {oracle} behaviours.",
        digits=1,
      ),
    ],
    pictures=_pictures(found, depths),
  )


def _head(line: Line, totals: Sequence[Tally]) -> dict[str, Cell]:
  return {**line._asdict(), "runs": len(totals)}


def _shares(line: Line, totals: Sequence[Tally], drifts: bool) -> dict[str, Cell]:
  values = [total.consistency for total in totals]
  known = [total.drift for total in totals if total.drift is not None]
  row: dict[str, Cell] = {
    **_head(line, totals),
    "consistency": float(np.mean(values)),
    "std": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
    "chance": float(np.mean([total.expected for total in totals])),
    "candidates": totals[0].counted,
  }
  return row | ({"drift": float(np.mean(known)) if known else None} if drifts else {})


def _hits(line: Line, totals: Sequence[Tally], depths: Depths) -> dict[str, Cell]:
  columns = {f"n = {size:,}": float(hits) for size, hits in zip(depths.sizes, _mean_curve(totals), strict=True)}
  return {**_head(line, totals), "candidates": totals[0].curve_counted, **columns}


def _oracle_hits(depths: Depths) -> dict[str, Cell]:
  head: dict[str, Cell] = {"model": "oracle", "order": "", "history": "", "runs": None, "candidates": None}
  return head | {f"n = {size:,}": float(min(size, depths.oracle)) for size in depths.sizes}


def _mean_curve(totals: Sequence[Tally]) -> np.ndarray:
  return np.mean([total.curve for total in totals], axis=0)


def _pictures(found: Found, depths: Depths) -> list[str]:
  pictures = []
  for history in dict.fromkeys(line.history for line in found):
    chosen = {f"{line.model}, {line.order}": totals for line, totals in found.items() if line.history == history}
    bars = {name: float(np.mean([total.consistency for total in totals])) for name, totals in chosen.items()}
    alt = f"Consistency, {history}: " + "; ".join(f"{name} {value:.3f}" for name, value in bars.items())
    pictures.append(figures.picture(_bars(bars, f"Top-{depths.top} consistency, {history}"), alt))
    lines = {name: _mean_curve(totals) for name, totals in chosen.items()}
    if any(np.isfinite(values).all() for values in lines.values()):
      alt = f"Hits of the oracle's {depths.oracle} by output size, {history}: " + "; ".join(
        f"{name} {dict(zip(depths.sizes, np.round(values, 1), strict=True))}" for name, values in lines.items()
      )
      title = f"Hits of the oracle's {depths.oracle}, {history}"
      pictures.append(figures.picture(_lines(lines, depths, title), alt))
  return pictures


def _bars(bars: dict[str, float], title: str) -> figures.Draw:
  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    y = np.arange(len(bars))[::-1]
    axes.barh(y, list(bars.values()), color=[line_style(i)["color"] for i in range(len(bars))], height=0.6)
    for position, (name, value) in zip(y, bars.items(), strict=True):
      inside = math.isfinite(value) and value > 0.5
      axes.annotate(
        f"{name}  {value:.3f}",
        (0.0 if inside or not math.isfinite(value) else value, position),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color="white" if inside else figures.INK,
      )
    axes.set(xlim=(0, 1), title=title)
    axes.set_yticks([])
    axes.grid(False, axis="y")

  return draw


def _lines(lines: dict[str, np.ndarray], depths: Depths, title: str) -> figures.Draw:
  def draw(figure: Figure) -> None:
    axes, sizes = figure.subplots(), depths.sizes
    axes.plot(sizes, np.minimum(sizes, depths.oracle), "--", color=figures.INK, linewidth=1.2, label="oracle", zorder=3)
    for index, (name, values) in enumerate(lines.items()):
      axes.plot(sizes, values, marker="o", markersize=3, **line_style(index), label=name)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="behaviours that the search hands over", ylabel="hits", title=title)
    axes.legend(fontsize=8)

  return draw
