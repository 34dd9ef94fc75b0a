"""New items of the synthetic log: every day some target items give way to new ones of the same topic and author."""

import numpy as np
import polars as pl


class Renewal:
  """The items that stand in each other's place, one after the other.

  A place has one item at a time. Item 't12' is the first of place 12, 't12.1' the second. All of them have the topic,
  the author and the content of the place, and a popularity of their own.

  Args:
    popularity: Log-odds of the first item of every place, `[places]`.
    share: Share of the places that get a new item each day.
    days: Days of the log.
    spread: Standard deviation of an item's log-odds.
    start: Second at which the log begins.
    seed: Seed of all random choices.
  """

  def __init__(self, popularity: np.ndarray, share: float, days: int, spread: float, start: int, seed: int):
    self._random = np.random.default_rng([seed, 5])
    self._start = start
    fresh = self._random.random((days + 1, len(popularity))) < share  # a session may end after the last day
    fresh[0] = False
    self._turn = np.cumsum(fresh, axis=0)
    self._popularity = self._random.normal(0.0, spread, (int(self._turn[-1].max()) + 1, len(popularity)))
    self._popularity[0] = popularity

  def behaviours(self, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of target behaviours, each of the item that its place has on that day."""
    place, turn = self._of(rows)
    return rows.with_columns(_ids(place, turn))

  def impressions(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of target impressions in the same way, with the clicks of their items; and the popularity of these."""
    place, turn = self._of(rows)
    own = self._popularity[turn, place]
    odds = rows["probability"].to_numpy() / (1 - rows["probability"].to_numpy())
    odds = odds * np.exp(own - self._popularity[0, place])
    probability = odds / (1 + odds)
    label = self._random.random(len(rows)) < probability
    drawn = [pl.Series("probability", probability), pl.Series("label", label.astype(np.int8))]
    return rows.with_columns(_ids(place, turn), *(one.cast(rows[one.name].dtype) for one in drawn)), own

  def items(self, table: pl.DataFrame) -> pl.DataFrame:
    """The table of target items, with all items of every place."""
    turns = self._turn[-1]
    place = np.repeat(np.arange(len(turns)), turns + 1)
    turn = np.arange(len(place)) - np.repeat(np.cumsum(turns + 1) - (turns + 1), turns + 1)
    return table[place].with_columns(_ids(place, turn))

  def _of(self, rows: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The place of each row's item, and which of its items it has at that time."""
    place = rows["item_id"].str.slice(1).cast(pl.Int64).to_numpy()
    day = (rows["timestamp"].to_numpy() - self._start) // 86_400
    return place, self._turn[np.clip(day, 0, len(self._turn) - 1), place]


def _ids(place: np.ndarray, turn: np.ndarray) -> pl.Series:
  first = "t" + pl.Series(place).cast(pl.String)
  later = first + "." + pl.Series(turn).cast(pl.String)
  return first.zip_with(pl.Series(turn == 0), later).alias("item_id")
