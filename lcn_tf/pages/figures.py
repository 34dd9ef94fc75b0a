"""Plots of the pages, each drawn for a light and for a dark page, as inline PNG."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from lcn_tf import metrics

_DPI = 150
FEW_USERS = 20  # with both classes: a bucket of fewer is not drawn


# The paper is transparent: the page's colour shows, and its style sheet inverts the plots on a dark page.
INK, MUTED, GRID, FIRST, SECOND = "#1c2430", "#667085", "#e3e7ee", "#2b6cb0", "#d9772b"
_COLOURS = (FIRST, SECOND, "#2f9e62", "#9c4fb5", "#c0392b", "#0e8a93", "#8a6d1d", "#e05c97")
_STROKES = ("-", ":", "-.")
_STYLE: Any = {
  "font.family": "DejaVu Sans",
  "font.size": 9,
  "axes.titlesize": 10,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": GRID,
  "axes.facecolor": "none",
  "axes.labelcolor": MUTED,
  "axes.titlecolor": INK,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": GRID,
  "grid.linewidth": 0.8,
  "xtick.color": MUTED,
  "ytick.color": MUTED,
  "xtick.major.size": 0,
  "ytick.major.size": 0,
  "text.color": INK,
  "legend.frameon": False,
  "legend.labelcolor": INK,
  "figure.facecolor": "none",
  "lines.linewidth": 1.8,
}

Draw = Callable[[Figure], None]


def picture(
  draw: Draw, alt: str, size: tuple[float, float] = (5.6, 3.6), left: float = 0.62, right: float = 0.22
) -> str:
  """HTML of a plot, its PNG inline. `alt` says in words what it shows; `size` and the margins are in inches."""
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=size, dpi=_DPI)
    draw(figure)
    width, height = size
    figure.subplots_adjust(left / width, 0.5 / height, 1 - right / width, 1 - 0.32 / height, hspace=0.16)
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})
  source = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
  return (
    f'<img src="{source}" alt="{html.escape(alt, quote=True)}" width="{int(width * 100)}" height="{int(height * 100)}">'
  )


def line_style(index: int) -> dict[str, Any]:
  """Colour and stroke of the line of that number in a plot, alike in no two of the first 24."""
  return {"color": _COLOURS[index % len(_COLOURS)], "linestyle": _STROKES[index // len(_COLOURS) % len(_STROKES)]}


def by_length(
  lines: Mapping[str, Sequence[tuple[Any, Any]]], lengths: Sequence[int], title: str, dashed: str = ""
) -> Draw:
  """Lines over the length of a history, on logarithmic axes.

  Args:
    lines: Points (length, value) by the name of the line.
    lengths: Ticks of the axis of the lengths, behaviours.
    title: Heading of the plot.
    dashed: Name of the line that is no measurement, which is dashed and has no markers.
  """

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    number = 0
    for name, points in lines.items():
      style: dict[str, Any] = {"linestyle": "--", "color": MUTED}
      if name != dashed:
        style = {"marker": "o", "markersize": 3, **line_style(number)}
        number += 1
      axes.plot(*zip(*points, strict=True), **style, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(lengths), [f"{n:,}" for n in lengths])
    axes.minorticks_off()
    axes.set(xlabel="behaviours", title=title)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))

  return draw


def training(history: Mapping[str, Sequence[float]], names: Sequence[str], title: str) -> Draw:
  """Lines by epoch of the columns `names` of the training log; the best validation AUC is marked."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    epochs = np.asarray(history["epoch"]) + 1
    for name, colour in zip(names, (FIRST, SECOND, MUTED), strict=False):
      values = np.asarray(history[name])
      axes.plot(epochs, values, color=colour, marker="o", markersize=3.5, label=_words(name))
      if name == "val_auc" and np.isfinite(values).any():
        best = int(np.nanargmax(values))
        axes.plot(epochs[best], values[best], "o", markersize=9, markerfacecolor="none", color=colour)
        axes.annotate(
          f"best {values[best]:.4f}, epoch {epochs[best]:.0f}",
          (epochs[best], values[best]),
          xytext=(0, 12),
          textcoords="offset points",
          ha="right" if best >= len(values) / 2 else "left",
          color=INK,
        )
    axes.margins(y=0.2)
    axes.set(xlabel="epoch", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(names) > 1:
      axes.legend(loc="upper right" if title == "Loss" else "lower right")

  return draw


def calibration(scored: metrics.Scored) -> Draw:
  """Observed share of positives against the predicted one, and how many candidates were promised how much."""
  curve = metrics.calibration_curve(scored.scores, scored.labels, scored.weights)

  def draw(figure: Figure) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    limit = 1.08 * max([*curve.predicted, *curve.observed, 1e-6])
    spread = 1.96 * np.sqrt(curve.observed * (1 - curve.observed) / np.maximum(curve.count, 1))
    top.plot([0, limit], [0, limit], "--", color=MUTED, linewidth=1, label="perfect")
    top.errorbar(curve.predicted, curve.observed, yerr=spread, color=FIRST, marker="o", markersize=4, label="model")
    top.set(ylabel="observed", title="Calibration", xlim=(0, limit), ylim=(0, limit))
    top.legend(loc="upper left")
    bottom.hist(np.clip(scored.scores, 0, limit), bins=np.linspace(0, limit, 50), color=FIRST, alpha=0.7)
    bottom.set(xlabel="predicted probability", ylabel="candidates")
    bottom.yaxis.set_major_formatter(FuncFormatter(_short))
    bottom.yaxis.set_major_locator(MaxNLocator(3))
    for axes in (top, bottom):
      axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

  return draw


def distributions(scored: metrics.Scored) -> Draw:
  """Densities of the scores of positives and of negatives."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    low, high = np.quantile(scored.scores, [0.0005, 0.9995]) if len(scored) else (0, 1)
    edges = np.linspace(low, max(high, low + 1e-6), 61)
    for label, name, colour in ((False, "negatives", FIRST), (True, "positives", SECOND)):
      chosen = scored.labels == label
      if chosen.any():
        weights = None if scored.weights is None else scored.weights[chosen]
        share, _ = np.histogram(np.clip(scored.scores[chosen], edges[0], edges[-1]), edges, weights=weights)
        share = share / max(share.sum(), 1e-12)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(share, edges, color=colour, linewidth=1.6, label=f"{name} ({_short(int(chosen.sum()))})")
    axes.set(xlabel="predicted probability", ylabel="share of the class", title="Scores by label")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()

  return draw


def roc(curve: metrics.ThresholdCurve) -> Draw:
  """Positives that are found against negatives that are taken for positives, over all thresholds."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1, label="random")
    if curve.positives and curve.negatives:
      x, y = curve.false_positives / curve.negatives, curve.true_positives / curve.positives
      axes.plot(x, y, color=FIRST, label="model")
      axes.fill_between(x, x, y, color=FIRST, alpha=0.08)
    axes.set(xlabel="share of the negatives", ylabel="share of the positives", title="ROC")
    _shares(axes)
    axes.legend(loc="lower right")

  return draw


def precision_recall(curve: metrics.ThresholdCurve) -> Draw:
  """Share of positives among the candidates above a threshold, against the share of all positives there."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    total = curve.positives + curve.negatives
    if total and curve.positives:
      axes.axhline(curve.positives / total, linestyle="--", color=MUTED, linewidth=1, label="random")
      taken = curve.true_positives + curve.false_positives
      there = taken > 0
      axes.plot(
        curve.true_positives[there] / curve.positives,
        curve.true_positives[there] / taken[there],
        color=FIRST,
        label="model",
      )
      axes.legend(loc="upper right")
    axes.set(xlabel="share of the positives found", ylabel="positives among the found", title="Precision and recall")
    _shares(axes)

  return draw


def gain(curve: metrics.ThresholdCurve) -> Draw:
  """Share of the positives that the best-scored candidates hold."""
  total = curve.positives + curve.negatives
  share = curve.positives / total if total else 0.0

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1, label="random")
    axes.plot([0, share, 1], [0, 1, 1], ":", color=MUTED, linewidth=1.4, label="perfect")
    if curve.positives:
      x, y = (curve.true_positives + curve.false_positives) / total, curve.true_positives / curve.positives
      axes.plot(x, y, color=FIRST, label="model")
      axes.fill_between(x, x, y, color=FIRST, alpha=0.08)
      tenth = float(np.interp(0.1, x, y))
      axes.plot(0.1, tenth, "o", color=SECOND)
      axes.annotate(f"best 10 % hold {tenth:.0%}", (0.1, tenth), xytext=(10, -4), textcoords="offset points", color=INK)
    axes.set(xlabel="best-scored candidates", ylabel="positives among them", title="Cumulative gain")
    _shares(axes)
    axes.legend(loc="lower right")

  return draw


def _shares(axes: Axes) -> None:
  """Both axes from 0 to 100 %."""
  axes.set(xlim=(0, 1), ylim=(0, 1.02))
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter(PercentFormatter(1, decimals=0))


def by_bucket(buckets: Sequence[Mapping[str, Any]], overall: Mapping[str, Any], xlabel: str) -> Draw:
  """AUC and GAUC with their intervals per bucket, unless it has `FEW_USERS`, and how many candidates each holds."""

  def draw(figure: Figure) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    x = np.arange(len(buckets))
    for name, shift, colour in (("auc", -0.12, FIRST), ("gauc", 0.12, SECOND)):
      _points(top, x + shift, buckets, name, colour)
      if np.isfinite(overall[name]):
        top.axhline(overall[name], color=colour, linestyle="--", linewidth=1, alpha=0.7)
    top.set(title="AUC and GAUC, 95 % intervals")
    top.legend(ncols=2, loc="best")
    top.margins(x=0.08, y=0.15)
    bottom.bar(x, [bucket["candidates"] for bucket in buckets], width=0.6, color=MUTED, alpha=0.55)
    bottom.set(xlabel=xlabel, ylabel="candidates")
    bottom.set_xticks(x, [bucket["bucket"] for bucket in buckets])
    bottom.yaxis.set_major_formatter(FuncFormatter(_short))
    bottom.yaxis.set_major_locator(MaxNLocator(3))
    for axes in (top, bottom):
      axes.grid(False, axis="x")

  return draw


def _points(axes: Axes, x: np.ndarray, buckets: Sequence[Mapping[str, Any]], name: str, colour: str) -> None:
  value = np.array([bucket[name] if bucket["gauc_users"] >= FEW_USERS else np.nan for bucket in buckets])
  low, high = np.array([bucket["confidence"][name] for bucket in buckets]).reshape(-1, 2).T
  spread = np.nan_to_num(np.maximum([value - low, high - value], 0))
  axes.errorbar(x, value, yerr=spread, fmt="o", color=colour, capsize=3, markersize=5, label=name.upper())


def _words(name: str) -> str:
  names = {
    "val_auc": "validation AUC",
    "val_gauc": "validation GAUC",
    "val_loss": "validation loss",
    "ctr_loss": "click loss",
  }
  return names.get(name, name.replace("_", " "))


def _short(value: float, _: int = 0) -> str:
  for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if value >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.3g}"
