"""Which split each interaction belongs to, and which interactions are the training part that vocabularies count.

Who decides it:

* `time`: two moments for all users, quantiles of the times of both domains or given ones.
* `per_user`: two moments for each user, by the user's own target-domain candidates. Candidates of one second are never
  apart: those of the second at a cut are all in the later split.
* `column`: what the log says of each interaction.
* `all_train`: there is nothing but training.
"""

import dataclasses
from typing import Protocol

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


@dataclasses.dataclass(frozen=True)
class Moments:
  """Times of the interactions of both domains.

  Attributes:
    train_end, validation_end: First times of validation and of test, in seconds; 0 unless time splits.
    first, last: Oldest and newest time.
  """

  train_end: int
  validation_end: int
  first: int
  last: int

  @classmethod
  def of(cls, times: pl.Series, split: Split) -> "Moments":
    """Those of all interactions.

    Args:
      times: Times of all interactions of both domains.
      split: Quantiles, or the boundaries themselves.
    """
    first, last = int(times.min()), int(times.max())  # type: ignore[arg-type]
    if split.kind != "time":
      return cls(0, 0, first, last)
    if split.boundaries:
      return cls(*split.boundaries, first, last)
    ordered = np.sort(times.to_numpy())
    train_end, validation_end = (int(ordered[rank]) for rank in ranks(len(ordered), split))
    return cls(train_end, validation_end, first, last)


def ranks(rows: int, split: Split) -> tuple[int, int]:
  """Positions, among the ordered times of `rows` interactions, of the first times of validation and of test."""
  return int(rows * split.train), int(rows * (split.train + split.validation))


def divide(interactions: pl.DataFrame, labels: Labels, split: Split) -> Divided:
  """Splits the interactions.

  Args:
    interactions: Those of `tables.Checked`.
    labels: Rule that makes candidates of them.
    split: Rule that splits these.

  Raises:
    UserError: No user has enough candidates to keep some for training.
  """
  rule = dividing(labels, split, Moments.of(interactions["timestamp"], split))
  return rule.divided(*rule.part(interactions))


@dataclasses.dataclass(frozen=True)
class Tally:
  """What rules count in parts of the interactions.

  Attributes:
    users, enough: Users with candidates, and those of them who have enough to keep some for training.
    most: Candidates of the user with most of them.
    late: Training candidates later than a test candidate of the same user.
    candidates: Candidates of each of `SPLITS`.
  """

  users: int = 0
  enough: int = 0
  most: int = 0
  late: int = 0
  candidates: tuple[int, ...] = (0,) * len(SPLITS)

  def __add__(self, other: "Tally") -> "Tally":
    return Tally(
      self.users + other.users,
      self.enough + other.enough,
      max(self.most, other.most),
      self.late + other.late,
      tuple(mine + theirs for mine, theirs in zip(self.candidates, other.candidates, strict=True)),
    )


class Dividing(Protocol):
  """A rule that splits interactions which come in parts, with all of a user in one part."""

  def part(self, interactions: pl.DataFrame) -> tuple[pl.DataFrame, Tally]:
    """The rows of a part with `split` and `training`, and what they count."""

  def divided(self, interactions: pl.DataFrame, tally: Tally) -> Divided:
    """What is told of all parts, with `interactions`. Errors as of `divide`."""


def dividing(labels: Labels, split: Split, moments: Moments) -> Dividing:
  """The rule of a split.

  Args:
    labels: Rule that makes candidates.
    split: Settings.
    moments: Times of all interactions.
  """
  if split.kind == "time":
    return _ByTime(moments)
  if split.kind == "all_train":
    return _AllTrain()
  return _ByUser(labels, split) if split.kind == "per_user" else _ByColumn(labels, split)


class _ByTime:
  def __init__(self, moments: Moments):
    self._moments = moments

  def part(self, interactions: pl.DataFrame) -> tuple[pl.DataFrame, Tally]:
    later = [pl.col("timestamp") >= end for end in (self._moments.train_end, self._moments.validation_end)]
    split = later[0].cast(pl.Int8) + later[1].cast(pl.Int8)
    return _with_training(interactions.with_columns(split=split)), Tally()

  def divided(self, interactions: pl.DataFrame, tally: Tally) -> Divided:
    moments = self._moments
    return Divided(
      interactions,
      {"train_end": moments.train_end, "validation_end": moments.validation_end},
      f"Validation starts at {moments.train_end}, test at {moments.validation_end}; the interactions' times run from "
      f"{moments.first} to {moments.last}.",
      f"before the training split's end at {moments.train_end}",
    )


class _ByUser:
  def __init__(self, labels: Labels, split: Split):
    self._labels, self._split = labels, split

  def part(self, interactions: pl.DataFrame) -> tuple[pl.DataFrame, Tally]:
    split = self._split
    users = (
      interactions.filter((pl.col("domain") == "target") & _may_be_candidates(self._labels))
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
    enough = users.filter("enough")
    tally = Tally(len(users), len(enough), max(users["total"], default=0))
    cuts = enough.select("user_id", "validation_start", "test_start")
    time = pl.col("timestamp")
    part = (time >= pl.col("validation_start")).cast(pl.Int8) + (time >= pl.col("test_start")).cast(pl.Int8)
    divided = interactions.join(cuts, on="user_id", how="left", maintain_order="left")
    divided = divided.with_columns(split=part.fill_null(_TRAIN)).drop("validation_start", "test_start")
    return _with_training(divided), tally

  def divided(self, interactions: pl.DataFrame, tally: Tally) -> Divided:
    asked = f"validation {self._split.validation:g} and test {self._split.test:g}"
    if not tally.enough:
      raise UserError(
        f"records.split: {asked} leave no user an earlier candidate to train on. The user with most target-domain "
        f"candidates has {tally.most}"
      )
    short = tally.users - tally.enough
    if short:
      logging.info(
        "records.split: %d of %d users with candidates have too few moments for %s: all of theirs train",
        *(short, tally.users, asked),
      )
    logging.warning(
      "records.split: per_user cuts each user's own time, not the log's: clicks of other users that the model learns "
      "from, and those that vocabularies and item counts come from, may be later than a test candidate"
    )
    return Divided(
      interactions,
      {"users_train_only": short},
      f"{asked[0].upper()}{asked[1:]} of each user's last target-domain candidates are asked for; {tally.enough} of "
      f"{tally.users} users have enough.",
    )


def _size(part: float) -> pl.Expr:
  """How many candidates of a user a part is."""
  if part >= 1:
    return pl.lit(int(part), pl.Int64)
  return (pl.col("total") * part + _EPSILON).floor().cast(pl.Int64).clip(1)


def _may_be_candidates(labels: Labels) -> pl.Expr:
  return pl.lit(True) if labels.kind == "sampled" else pl.col("label").is_not_null()


class _ByColumn:
  def __init__(self, labels: Labels, split: Split):
    self._labels, self._column = labels, split.column

  def part(self, interactions: pl.DataFrame) -> tuple[pl.DataFrame, Tally]:
    numbers = pl.col("split").replace_strict(list(SPLITS), range(len(SPLITS)), return_dtype=pl.Int8)
    divided = interactions.with_columns(split=numbers)
    newest = pl.col("timestamp").filter(pl.col("split") == _TRAIN).max().over("user_id")
    seen_in_training = pl.col("split").is_null() & (pl.col("timestamp") < newest)
    divided = _with_training(divided, seen_in_training)
    candidates = divided.filter((pl.col("domain") == "target") & _may_be_candidates(self._labels))
    first_test = pl.col("timestamp").filter(pl.col("split") == _TEST).min().over("user_id")
    late = len(candidates.filter((pl.col("split") == _TRAIN) & (pl.col("timestamp") > first_test)))
    of_split = tuple(int((candidates["split"] == number).sum()) for number in range(len(SPLITS)))
    return divided, Tally(late=late, candidates=of_split)

  def divided(self, interactions: pl.DataFrame, tally: Tally) -> Divided:
    if tally.late:
      logging.warning(
        "records.split: column %r has %d of %d training interactions of the target domain later than a test "
        "interaction of the same user: their histories hold what is tested",
        *(self._column, tally.late, tally.candidates[_TRAIN]),
      )
    counted = ", ".join(f"{name} {count}" for name, count in zip(SPLITS, tally.candidates, strict=True))
    return Divided(
      interactions,
      {"train_after_test": tally.late},
      f"Column {self._column!r} has, of interactions that may be target-domain candidates: {counted}.",
    )


class _AllTrain:
  def part(self, interactions: pl.DataFrame) -> tuple[pl.DataFrame, Tally]:
    return _with_training(interactions.with_columns(split=pl.lit(_TRAIN, pl.Int8))), Tally()

  def divided(self, interactions: pl.DataFrame, tally: Tally) -> Divided:
    return Divided(interactions, {}, "All candidates train.")


def _with_training(divided: pl.DataFrame, besides: pl.Expr | None = None) -> pl.DataFrame:
  training = (pl.col("split") == _TRAIN).fill_null(False)
  return divided.with_columns(training=training if besides is None else training | besides.fill_null(False))
