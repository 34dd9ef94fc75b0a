"""Does model A beat model B? Paired, from their predictions of the same candidates."""

import pathlib
from collections.abc import Sequence
from typing import Any

import polars as pl

from lcn_tf import metrics
from lcn_tf.errors import UserError
from lcn_tf.evaluation import predictions

SAME = ("user", "item", "timestamp", "label", "weight")


def compare(
  a: Sequence[str | pathlib.Path],
  b: Sequence[str | pathlib.Path],
  *,
  replicates: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> dict[str, Any]:
  """AUC, GAUC and logloss of A minus those of B, with paired user-level bootstrap intervals.

  Args:
    a, b: Predictions files, one per training seed, as many on both sides. All hold the same candidates in the same
      order. With several the statistic is the mean over seeds; users are resampled jointly.
    replicates: Bootstrap samples of the users.
    level: Level of the intervals.
    seed: Seed of the bootstrap.

  Returns:
    `{"auc": {"a", "b", "difference", "interval", "a_seeds", "b_seeds"}, "gauc": ..., "logloss": ...}`, and the files
    and settings of the computation. Logloss is NaN when a file's scores are no probabilities.

  Raises:
    UserError: A file is missing or no predictions file, the sides differ in number, or candidates are not the same.
  """
  if not a or len(a) != len(b):
    raise UserError(f"expected as many files of A as of B, at least one of each; found {len(a)} and {len(b)}")
  if replicates < 1 or not 0 < level < 1:
    raise UserError(f"expected replicates >= 1 and 0 < level < 1, found {replicates} and {level}")
  paths = [*a, *b]
  first = predictions.read(paths[0])
  scored = []
  for path in paths:
    frame = predictions.read(path)
    check_same(frame, path, first, paths[0])
    scored.append(predictions.scored(frame))
  found = metrics.paired(scored[: len(a)], scored[len(a) :], replicates=replicates, level=level, seed=seed)
  return {
    **found,
    "a": [str(path) for path in a],
    "b": [str(path) for path in b],
    "candidates": len(first),
    "users": first["user"].n_unique(),
    "level": level,
    "replicates": replicates,
    "seed": seed,
  }


def check_same(
  frame: pl.DataFrame,
  path: str | pathlib.Path,
  first: pl.DataFrame,
  first_path: str | pathlib.Path,
  names: Sequence[str] = SAME,
) -> None:
  """Checks that two predictions files have the same candidates in the same order.

  Args:
    frame, first: Their rows.
    path, first_path: Their names in the message.
    names: Columns that are compared.

  Raises:
    UserError: The candidates differ; the message has the place.
  """
  if len(frame) != len(first):
    raise UserError(f"{path}: {len(frame)} candidates, but {first_path} has {len(first)}")
  for name in names:
    if frame[name].dtype.is_numeric() != first[name].dtype.is_numeric():
      raise UserError(
        f"{path}: not the candidates of {first_path}: {name} is {frame[name].dtype} instead of {first[name].dtype}"
      )
    differs = frame[name].ne_missing(first[name]).arg_true()
    if len(differs):
      row = int(differs[0])
      raise UserError(
        f"{path}: not the candidates of {first_path}: {name} differs in {len(differs)} rows, first in row {row}: "
        f"{frame[name][row]} instead of {first[name][row]}"
      )
