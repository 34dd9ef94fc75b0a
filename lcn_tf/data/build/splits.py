"""Which split each interaction belongs to, and which interactions are the training part that vocabularies count.

Who decides it:

* `time`: two moments for all users, quantiles of the times of both domains or given ones.
* `per_user`: two moments for each user, by the user's own target-domain candidates. Candidates of one second are never
  apart: those of the second at a cut are all in the later split.
* `column`: what the log says of each interaction.
* `all_train`: there is nothing but training.
"""

import dataclasses

import numpy as np
import polars as pl
from absl import logging

from lcn_tf.config import Labels, Split
from lcn_tf.data.record_set import SPLITS
from lcn_tf.errors import UserError

_TRAIN, _VALIDATION, _TEST = range(len(SPLITS))
_EPSILON = 1e-9  # 100 * 0.29 is a little less than 29


@dataclasses.dataclass(frozen=True)
class Divided:
  """Interactions and the splits of those that may be candidates.

  Attributes:
    interactions: The checked ones, in their order, with `split` (position in `SPLITS`, null = no candidate) and
      `training` (bool: counts in vocabularies, catalogues and the popularity that negatives of training are drawn by).
    notes: Facts that the record set keeps.
    cuts: Sentence about where the splits lie, for messages.
    training_part: Words for where training candidates lie, for messages.
  """

  interactions: pl.DataFrame
  notes: dict[str, float | int | str]
  cuts: str
  training_part: str = "in the training split"


def divide(interactions: pl.DataFrame, labels: Labels, split: Split) -> Divided:
  """Splits the interactions.

  Args:
    interactions: Those of `tables.Checked`.
    labels: Rule that makes candidates of them.
    split: Rule that splits these.

  Raises:
    UserError: No user has enough candidates to keep some for training.
  """
  rule = {"time": _by_time, "per_user": _by_user, "column": _by_column, "all_train": _all_train}[split.kind]
  return rule(interactions, labels, split)


def _by_time(interactions: pl.DataFrame, labels: Labels, split: Split) -> Divided:
  times = interactions["timestamp"]
  train_end, validation_end = boundaries(times, split)
  part = (pl.col("timestamp") >= train_end).cast(pl.Int8) + (pl.col("timestamp") >= validation_end).cast(pl.Int8)
  return Divided(
    _with_training(interactions.with_columns(split=part)),
    {"train_end": train_end, "validation_end": validation_end},
    f"Validation starts at {train_end}, test at {validation_end}; the interactions' times run from {times.min()!r} to "
    f"{times.max()!r}.",
    f"before the training split's end at {train_end}",
  )


def boundaries(times: pl.Series, split: Split) -> tuple[int, int]:
  """The first times of validation and of test, in seconds.

  Args:
    times: Times of all interactions of both domains.
    split: Quantiles, or the boundaries themselves.
  """
  if split.boundaries:
    return split.boundaries
  ordered = np.sort(times.to_numpy())
  first, second = (ordered[int(len(ordered) * share)] for share in (split.train, split.train + split.validation))
  return int(first), int(second)


def _by_user(interactions: pl.DataFrame, labels: Labels, split: Split) -> Divided:
  users = (
    interactions.filter((pl.col("domain") == "target") & _may_be_candidates(labels))
    .group_by("user_id")
    .agg(pl.col("timestamp").sort().alias("times"), pl.len().cast(pl.Int64).alias("total"))
    .with_columns(tests=_size(split.test), validates=_size(split.validation))
    .with_columns(held=pl.col("tests") + pl.col("validates"))
    .with_columns(
      first=pl.col("times").list.first(),
      validation_start=pl.col("times").list.get(pl.col("total") - pl.col("held"), null_on_oob=True),
      test_start=pl.col("times").list.get(pl.col("total") - pl.col("tests"), null_on_oob=True),
    )
    .with_columns(enough=(pl.col("held") < pl.col("total")) & (pl.col("first") < pl.col("validation_start")))
  )
  asked = f"validation {split.validation:g} and test {split.test:g}"
  enough = users.filter("enough")
  if enough.is_empty():
    most = max(users["total"], default=0)
    raise UserError(
      f"records.split: {asked} leave no user an earlier candidate to train on. The user with most target-domain "
      f"candidates has {most}"
    )
  cuts = enough.select("user_id", "validation_start", "test_start")
  time = pl.col("timestamp")
  part = (time >= pl.col("validation_start")).cast(pl.Int8) + (time >= pl.col("test_start")).cast(pl.Int8)
  divided = (
    interactions.join(cuts, on="user_id", how="left", maintain_order="left")
    .with_columns(split=part.fill_null(_TRAIN))
    .drop("validation_start", "test_start")
  )
  short = len(users) - len(enough)
  if short:
    logging.info(
      "records.split: %d of %d users with candidates have too few moments for %s: all of theirs train",
      *(short, len(users), asked),
    )
  logging.warning(
    "records.split: per_user cuts each user's own time, not the log's: clicks of other users that the model learns "
    "from, and those that vocabularies and item counts come from, may be later than a test candidate"
  )
  return Divided(
    _with_training(divided),
    {"users_train_only": short},
    f"{asked[0].upper()}{asked[1:]} of each user's last target-domain candidates are asked for; {len(enough)} of "
    f"{len(users)} users have enough.",
  )


def _size(part: float) -> pl.Expr:
  """How many candidates of a user a part is."""
  if part >= 1:
    return pl.lit(int(part), pl.Int64)
  return (pl.col("total") * part + _EPSILON).floor().cast(pl.Int64).clip(1)


def _may_be_candidates(labels: Labels) -> pl.Expr:
  return pl.lit(True) if labels.kind == "sampled" else pl.col("label").is_not_null()


def _by_column(interactions: pl.DataFrame, labels: Labels, split: Split) -> Divided:
  numbers = pl.col("split").replace_strict(list(SPLITS), range(len(SPLITS)), return_dtype=pl.Int8)
  divided = interactions.with_columns(split=numbers)
  newest = pl.col("timestamp").filter(pl.col("split") == _TRAIN).max().over("user_id")
  seen_in_training = pl.col("split").is_null() & (pl.col("timestamp") < newest)
  divided = _with_training(divided, seen_in_training)
  candidates = divided.filter((pl.col("domain") == "target") & _may_be_candidates(labels))
  first_test = pl.col("timestamp").filter(pl.col("split") == _TEST).min().over("user_id")
  late = candidates.filter((pl.col("split") == _TRAIN) & (pl.col("timestamp") > first_test))
  if len(late):
    logging.warning(
      "records.split: column %r has %d of %d training interactions of the target domain later than a test interaction "
      "of the same user: their histories hold what is tested",
      *(split.column, len(late), int((candidates["split"] == _TRAIN).sum())),
    )
  counted = ", ".join(f"{name} {int((candidates['split'] == number).sum())}" for number, name in enumerate(SPLITS))
  return Divided(
    divided,
    {"train_after_test": len(late)},
    f"Column {split.column!r} has, of interactions that may be target-domain candidates: {counted}.",
  )


def _all_train(interactions: pl.DataFrame, labels: Labels, split: Split) -> Divided:
  everything = interactions.with_columns(split=pl.lit(_TRAIN, pl.Int8))
  return Divided(_with_training(everything), {}, "All candidates train.")


def _with_training(divided: pl.DataFrame, besides: pl.Expr | None = None) -> pl.DataFrame:
  training = (pl.col("split") == _TRAIN).fill_null(False)
  return divided.with_columns(training=training if besides is None else training | besides.fill_null(False))
