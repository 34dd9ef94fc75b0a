"""The page of a walk: metrics by period, of the walked and of the frozen model."""

import datetime
from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from lcn_tf.pages import figures
from lcn_tf.pages.table_page import Page, Table

_METRICS = {"auc": "AUC", "gauc": "GAUC", "logloss": "Logloss", "calibration": "Calibration, predicted / observed"}
_NEW = {"new_auc": "AUC on items that are new in the period", "later_auc": "AUC on items that are new since the base"}


def render(name: str, days: pl.DataFrame, facts: dict[str, str]) -> str:
  """The page.

  Args:
    name: Name of the experiment.
    days: Rows of `days.parquet`.
    facts: Further facts of the head, by name.
  """
  shown = {column: title for column, title in (_METRICS | _NEW).items() if days[column].is_not_null().any()}
  pictures = [_curves(days, column, title) for column, title in shown.items()]
  of_all = Table("All periods", _means(days), "Means over the periods, each of which counts once.")
  single = Table(
    "Periods",
    [_row(row) for row in days.iter_rows(named=True)],
    "Every candidate is scored before the model has trained on its period. New items have no row in the vocabulary of "
    "the records before the period, later items none in that of the base.",
  )
  periods = days["period"].n_unique()
  return Page(f"{name}, period by period", {"periods": str(periods), **facts}, [of_all, single], pictures).html()


def _curves(days: pl.DataFrame, column: str, title: str) -> str:
  models = days["model"].unique(maintain_order=True).to_list()

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    for index, model in enumerate(models):
      mine = days.filter(pl.col("model") == model)
      values = mine[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
      axes.plot(mine["period"].to_numpy(), values, marker="o", markersize=3.5, label=model, **figures.line_style(index))
    axes.set(xlabel="period", title=title)
    axes.margins(y=0.2)
    if len(models) > 1:
      axes.legend()

  told = "; ".join(f"{model}: mean {_mean(days, model, column):.4f}" for model in models)
  return figures.picture(draw, f"{title} by period. {told}.")


def _mean(days: pl.DataFrame, model: str, column: str) -> float:
  values = days.filter(pl.col("model") == model)[column].drop_nulls().to_numpy()
  return float(np.mean(values)) if len(values) else float("nan")


def _means(days: pl.DataFrame) -> Sequence[dict[str, str | float]]:
  models = days["model"].unique(maintain_order=True).to_list()
  columns = (*_METRICS, "new_share", "new_auc", "later_share", "later_auc")
  return [
    {"model": model, **{column.replace("_", " "): _mean(days, model, column) for column in columns}} for model in models
  ]


def _row(row: dict[str, str | int | float | None]) -> dict[str, str | int | float | None]:
  times = {"first_time": "from (UTC)", "last_time": "to (UTC)"}
  words = {"model": row["model"]} | {name: _time(int(row[key] or 0)) for key, name in times.items()}
  numbers = {key.replace("_", " "): value for key, value in row.items() if key not in ("model", *times)}
  return words | numbers


def _time(seconds: int) -> str:
  try:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")
  except (OverflowError, ValueError, OSError):
    return str(seconds)
