"""What `statistics.json` of a record set says: counts, histories, times and the values of every field.

It holds counts, of which shares are readings: those of one field sum to 1. `lcn_tf.data.build.statistics` makes it, the
page `report/index.html` shows it, and `tools.compare_records` compares two.
"""

from typing import Literal

import pydantic

from lcn_tf.data.record_set import RecordSet, SplitName
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.schema import DomainName, Strict

FILE = "statistics.json"
KEPT = 1000  # values of a field that are listed, the most frequent ones
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Categories(Strict):
  """Values of a field, counted. A list of several values counts each of them, a missing value or empty list once.

  Attributes:
    rows: Rows that were looked at: candidates, users or behaviours.
    missing: Rows without a value.
    unknown: Values that are out of vocabulary.
    distinct: Number of different values that are in the vocabulary.
    values: Ids of the most frequent ones of these, by falling count, ties in the order of the vocabulary.
    counts: Occurrences of each of `values`.
    rest: Occurrences of the other values that are in the vocabulary.
  """

  rows: int
  missing: int
  unknown: int
  distinct: int
  values: tuple[str, ...]
  counts: tuple[int, ...]
  rest: int

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Categories":
    if len(self.values) != len(self.counts):
      raise ValueError(f"{len(self.values)} values and {len(self.counts)} counts")
    return self

  @property
  def known(self) -> int:
    """Occurrences of values that are in the vocabulary."""
    return sum(self.counts) + self.rest

  @property
  def total(self) -> int:
    """Occurrences in all, missing values included: what shares are of."""
    return self.known + self.unknown + self.missing


class Numbers(Strict):
  """Numbers, counted in bins whose edges are the same in every record set.

  Attributes:
    rows: Rows that were looked at.
    missing: Rows without a number.
    mean: Mean; None without numbers.
    quantiles: Smallest numbers that the shares `QUANTILES` of the rows do not exceed; empty without numbers.
    edges: Lower ends of the bins that are not empty, rising.
    counts: Rows of each of these.
  """

  rows: int
  missing: int
  mean: float | None
  quantiles: tuple[float, ...]
  edges: tuple[float, ...]
  counts: tuple[int, ...]

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Numbers":
    if len(self.edges) != len(self.counts):
      raise ValueError(f"{len(self.edges)} edges and {len(self.counts)} counts")
    return self

  @property
  def total(self) -> int:
    """Rows in all, those without a number included: what shares are of."""
    return sum(self.counts) + self.missing


class FieldStatistics(Strict):
  """One field of one part of the records.

  Attributes:
    name: Name of the field; `item_id` is one.
    of: Kind of thing that it describes, and the rows that are counted: each user once, each candidate (its item, its
      context) once, each behaviour once.
    vocabulary: Name of its vocabulary; empty for a vector of the schema.
    categories: Counts of its values, if it is categorical.
    numbers: Its numbers, if it is numeric; lengths (Euclidean norms), if it is a vector.
  """

  name: str
  of: Literal["user", "item", "context", "behaviour"]
  vocabulary: str
  categories: Categories | None = None
  numbers: Numbers | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> "FieldStatistics":
    if (self.categories is None) == (self.numbers is None):
      raise ValueError(f"{self.name}: expected either categories or numbers")
    return self

  @property
  def counted(self) -> Categories | Numbers:
    """What there is of `categories` and `numbers`."""
    return self.categories or self.numbers  # type: ignore[return-value]


class PartStatistics(Strict):
  """The records of one split whose candidates are of one domain.

  Attributes:
    records, candidates, positives, users: Numbers of each.
    hours: Candidates by hour of the day in UTC, 24 numbers.
    histories: Per domain, behaviours strictly older than the newest candidate of each record, without the cut to
      `max_length`.
    longer: Per domain, records with more of these than `max_length`.
    fields: Fields of users, candidates' items and context.
  """

  records: int
  candidates: int
  positives: int
  users: int
  hours: tuple[int, ...]
  histories: dict[DomainName, Numbers]
  longer: dict[DomainName, int]
  fields: tuple[FieldStatistics, ...]


class BehaviourStatistics(Strict):
  """The behaviours of one domain that are counted in one split: those of log rows that may be its candidates.

  Attributes:
    behaviours: Number of them.
    fields: Fields of their items, and cross fields.
  """

  behaviours: int
  fields: tuple[FieldStatistics, ...]


class Curve(Strict):
  """The candidates of one domain, of all splits, over time.

  Attributes:
    start: First second of the first bin; that of a day in UTC if bins are days.
    width: Seconds of a bin.
    candidates, positives: Numbers per bin.
  """

  start: int
  width: int
  candidates: tuple[int, ...]
  positives: tuple[int, ...]


class Statistics(Strict):
  """All of it.

  Attributes:
    format: Number of this layout.
    parts: Parts of the record set by split and domain.
    behaviours: Behaviours by split and domain.
    curves: Curves by domain.
  """

  format: Literal[1] = 1
  parts: dict[SplitName, dict[DomainName, PartStatistics]]
  behaviours: dict[SplitName, dict[DomainName, BehaviourStatistics]]
  curves: dict[DomainName, Curve]


def read(record_set: RecordSet) -> Statistics:
  """The statistics of a record set.

  Raises:
    UserError: It was built before there were any, or by a later version.
    DamagedError: The file is missing, or not what was written.
  """
  file = record_set.path / FILE
  if FILE not in record_set.tables and not record_set.has(FILE):
    raise UserError(
      f"{record_set.path}: has no {FILE}: an id mapping, or records that were built before there was one. Build the "
      "records again with pipelines.build_records."
    )
  try:
    return Statistics.model_validate_json(record_set.read(FILE))
  except pydantic.ValidationError as error:
    detail = error.errors()[0]
    where = ".".join(map(str, detail["loc"])) or "the file"
    raise DamagedError(f"{file}: damaged, or of another version: {where}: {detail['msg']}") from None
