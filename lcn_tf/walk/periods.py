"""The cut of a log by time: a base, then period after period, each with the items and users that it meets first."""

import dataclasses

import numpy as np
import polars as pl

from lcn_tf.config import Labels, Walk
from lcn_tf.data.build.raw_table import RawTable
from lcn_tf.data.build.tables import RawTables
from lcn_tf.errors import UserError
from lcn_tf.schema import DomainName


@dataclasses.dataclass(frozen=True)
class Cut:
  """Seconds at which the parts of a log begin.

  Attributes:
    starts: First second of every period, rising.
    end: Second behind the last period.
    part: Number of the part of each interaction `[rows]`: 0 = base, 1.. = periods, -1 = behind the last period.
  """

  starts: tuple[int, ...]
  end: int
  part: np.ndarray

  def rows(self, number: int) -> int:
    """Number of interactions of a part."""
    return int(np.count_nonzero(self.part == number))


def cut(
  tables: RawTables, walk: Walk, labels: Labels, domains: tuple[DomainName, ...], start: int | None = None
) -> Cut:
  """Cuts a log.

  Interactions whose time cannot be read are in the base, whose builder rejects them.

  Args:
    tables: Whole log.
    walk: Share of the base, length and number of the periods.
    labels: Rule that makes candidates.
    domains: Domains of which every period needs candidates; one without is joined to the next one.
    start: First second of the first period; None = the quantile `walk.start`.

  Raises:
    UserError: There is no column of times, or nothing behind the base that a period could be made of.
  """
  table = RawTable(tables.interactions, tables.names[0], "interactions", tables.sources.get("interactions"))
  table.time("timestamp")
  times = table.frame["timestamp"]
  known = times.drop_nulls()
  if known.is_empty():
    raise UserError(f"{tables.names[0]}: no interaction has a time")
  if start is None:
    start = int(known.quantile(walk.start, "nearest"))  # type: ignore[arg-type]
  seconds = times.fill_null(start - 1).to_numpy()
  count = int(seconds.max() - start) // walk.period + 1 if seconds.max() >= start else 0
  number = np.where(seconds < start, 0, 1 + (seconds - start) // walk.period)
  joined = _joined(number, count, _candidates(tables, labels, domains))
  kept = joined[: walk.periods] if walk.periods else joined
  if not kept or not (number == 0).any():
    raise UserError(
      f"walk.start: {tables.names[0]} has {np.count_nonzero(number == 0)} interactions before second {start}, and "
      f"{len(joined)} periods with candidates of the {' and the '.join(domains)} domain from there on; both are needed"
    )
  last = [0, *kept]  # the last stretch of each part
  part = np.where(number <= last[-1], np.searchsorted(last, number, "left"), -1)
  starts = tuple(start + before * walk.period for before in last[:-1])
  return Cut(starts, start + last[-1] * walk.period, part)


def _joined(number: np.ndarray, count: int, candidates: list[np.ndarray]) -> list[int]:
  """The last stretch of every period: the first ones that together have candidates of all domains."""
  found, lacking = [], [True] * len(candidates)
  there = [np.bincount(number[one], minlength=count + 1) > 0 for one in candidates]
  for stretch in range(1, count + 1):
    lacking = [lacks and not has[stretch] for lacks, has in zip(lacking, there, strict=True)]
    if not any(lacking):
      found.append(stretch)
      lacking = [True] * len(candidates)
  return found


def _candidates(tables: RawTables, labels: Labels, domains: tuple[DomainName, ...]) -> list[np.ndarray]:
  """Per domain, rows that may be candidates, bool `[rows]`."""
  frame = tables.interactions
  labelled = pl.lit(True)
  if labels.kind != "sampled" and labels.column in frame.columns:
    labelled = pl.col(labels.column).is_not_null()
  of = pl.col("domain").cast(pl.String) if "domain" in frame.columns else pl.lit(None, pl.String)
  return [frame.select(found=((of == d) & labelled).fill_null(False))["found"].to_numpy() for d in domains]


def part_of(tables: RawTables, cut: Cut, number: int) -> RawTables:
  """One part of a log: its interactions, and the items and users that it is the first to meet.

  What no interaction meets belongs to the base. A period without new items or users has no such table.
  """
  interactions = tables.interactions.filter(pl.Series(cut.part == number))
  items = _first_met(tables.items, tables.interactions, cut, number, ["domain", "item_id"])
  users = _first_met(tables.users, tables.interactions, cut, number, ["user_id"])
  sources = {}
  if "interactions" in tables.sources:  # rows are no longer those of the files
    sources["interactions"] = dataclasses.replace(tables.sources["interactions"], files=())
  return dataclasses.replace(tables, interactions=interactions, items=items, users=users, sources=sources)


def _first_met(
  table: pl.DataFrame | None, interactions: pl.DataFrame, cut: Cut, number: int, keys: list[str]
) -> pl.DataFrame | None:
  if table is None or not all(key in one.columns for key in keys for one in (table, interactions)):
    return table if number == 0 else None
  texts = [pl.col(key).cast(pl.String).alias(f"key:{key}") for key in keys]
  later = np.where(cut.part < 0, len(cut.starts) + 1, cut.part)
  met = interactions.select(*texts, part=pl.Series(later))
  first = met.group_by(pl.exclude("part")).agg(pl.col("part").min())
  numbered = table.select(texts).join(first, on=[f"key:{key}" for key in keys], how="left", maintain_order="left")
  mine = table.filter(numbered["part"].fill_null(0) == number)
  return None if number and mine.is_empty() else mine
