"""Items that come and go: which of a synthetic log's items can be met on which day."""

from typing import NamedTuple

import numpy as np

SPREAD = 1.5  # sigma of the log of a life


class Lives(NamedTuple):
  """The items of each day and topic.

  Attributes:
    topics: Number of topics.
    item: Items `[rows]`, by day, then by topic.
    first: First row of each cell (day, topic), and the number of rows behind the last, `[days * topics + 1]`.
    edges: Sum of the weights of the rows before each row, `[rows + 1]`.
  """

  topics: int
  item: np.ndarray
  first: np.ndarray
  edges: np.ndarray

  def draw(self, topics: np.ndarray, days: np.ndarray, place: np.ndarray) -> np.ndarray:
    """An item of each of the topics that lives on that day, in proportion to the weights.

    Args:
      topics: Topics, `[events]`.
      days: Days, `[events]`.
      place: Random numbers in [0, 1), `[events]`.
    """
    cell = days * self.topics + topics
    first, last = self.first[cell], self.first[cell + 1]
    wanted = self.edges[first] + place * (self.edges[last] - self.edges[first])
    return self.item[np.clip(np.searchsorted(self.edges, wanted, "right") - 1, first, last - 1)]

  def on(self, day: int) -> np.ndarray:
    """The items that live on a day."""
    return self.item[self.first[day * self.topics] : self.first[(day + 1) * self.topics]]


def make(topic: np.ndarray, weight: np.ndarray, days: int, median: float, random: np.random.Generator) -> Lives:
  """Draws a whole number of days for each item, from a log-normal distribution, and the day on which it begins.

  As many items live on the first day as on any other. The first item of each topic lives on all days, so none of them
  lacks a topic.

  Args:
    topic: Topics of the items, `[items]`, rising from 0 without a gap.
    weight: Weights of the items, `[items]`.
    days: Number of days.
    median: Median of a life, in days.
    random: Source of the lives.
  """
  life = np.clip(np.rint(median * random.lognormal(0.0, SPREAD, len(topic))).astype(np.int64), 1, days)
  begin = random.integers(1 - life, days)
  stays = np.unique(topic, return_index=True)[1]
  life[stays], begin[stays] = days, 0
  since, until = np.maximum(begin, 0), np.minimum(begin + life, days)
  item = np.repeat(np.arange(len(topic)), until - since)
  day = np.arange(len(item)) - np.repeat(np.cumsum(until - since) - until, until - since)
  topics = int(topic[-1]) + 1
  cell = day * topics + topic[item]
  order = np.argsort(cell, kind="stable")
  first = np.searchsorted(cell[order], np.arange(days * topics + 1))
  return Lives(topics, item[order], first, np.concatenate([[0.0], np.cumsum(weight[item[order]])]))
