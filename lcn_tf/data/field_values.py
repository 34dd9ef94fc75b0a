"""The float values of fields: standardised numbers, weights of the values of a list, and vectors of users.

Beside the integer columns of a group of fields (of the user, of an item, of a candidate, of a behaviour) lies a group
of float columns, as wide as its fields need: one column for a standardised number, `max_values` for weights, none for
any other field. Vectors of a user lie behind the values of his fields. Where no field of a group needs a column there
is no such group.
"""

import dataclasses
import math

import numpy as np
import polars as pl

from lcn_tf.schema import DOMAINS, Feature, Schema, UserVector, value_columns

LIMIT = 10_000.0  # of a standardised value; 10^8 training interactions have none beyond it


def index_groups(schema: Schema) -> dict[str, tuple[Feature, ...]]:
  """Each tensor of vocabulary indices that a request has -> its fields. Those without fields are left out."""
  groups = {"user_fields": schema.user_fields, "candidate_context": schema.context_fields}
  groups |= {f"{d}_cross": schema.domain(d).cross_fields for d in DOMAINS}
  return {name: features for name, features in groups.items() if features}


def value_groups(schema: Schema) -> dict[str, tuple[str, tuple[Feature | UserVector, ...]]]:
  """Each tensor of float values that a record holds -> (axis, as in `lcn_tf.data.records.layout`; its fields)."""
  groups: dict[str, tuple[str, tuple[Feature | UserVector, ...]]] = {
    "user_values": ("", schema.user_parts()),
    "candidate_values": ("N", schema.context_fields),
  }
  groups |= {f"{d}_values": (d, schema.domain(d).cross_fields) for d in DOMAINS}
  return {name: group for name, group in groups.items() if value_columns(group[1])}


def vector_columns(schema: Schema) -> dict[str, slice]:
  """The columns of each user vector among the float values of a user, by name."""
  ends = np.cumsum([value_columns(schema.user_fields), *(vector.width for vector in schema.user_vectors)]).tolist()
  return {vector.name: slice(*ends[i : i + 2]) for i, vector in enumerate(schema.user_vectors)}


@dataclasses.dataclass(frozen=True)
class Scale:
  """The standardised value of a number: (g(x) - mean) / deviation with g(x) = x, or log(1 + x), of the clipped x.

  It is 0 if the deviation is 0, and lies within -LIMIT and LIMIT.

  Attributes:
    mean: Mean of g(x) over the training interactions; 0 without any.
    deviation: Standard deviation of g(x) there (divisor n).
    log1p: Switch of the logarithm.
    clip: Limits of x, each None or a number.
  """

  mean: float
  deviation: float
  log1p: bool = False
  clip: tuple[float | None, float | None] | None = None

  @classmethod
  def of(cls, numbers: np.ndarray, counts: np.ndarray, feature: Feature) -> "Scale":
    """That of a field.

    Args:
      numbers: Different numbers `[V]`, finite.
      counts: Training interactions with each `[V]`.
      feature: Field, with `log1p` and `clip`.
    """
    values = _shaped(numbers, feature.log1p, feature.clip)
    total = int(counts.sum())
    if not total:
      return cls(0.0, 0.0, feature.log1p, feature.clip)
    # sums of exact rounding, of numbers between -2 and 2 of which equal ones are exactly 0: any order, any range
    size = float(np.abs(values).max()) or 1.0
    first = values[0] / size
    offset = math.fsum(counts * (values / size - first)) / total
    spread = math.fsum(counts * np.square(values / size - first - offset)) / total
    return cls(_rounded((first + offset) * size), _rounded(math.sqrt(spread) * size), feature.log1p, feature.clip)

  def __call__(self, numbers: np.ndarray) -> np.ndarray:
    """Standardised values float32 of numbers float64, of any shape; NaN (no number) has 0."""
    if not self.deviation:
      return np.zeros(numbers.shape, np.float32)
    shaped = _shaped(numbers, self.log1p, self.clip)
    with np.errstate(all="ignore"):  # infinities are cut
      values = (shaped / 2 - self.mean / 2) / (self.deviation / 2)  # halves: their difference is no infinity
    return np.nan_to_num(np.clip(values, -LIMIT, LIMIT)).astype(np.float32)


def _shaped(numbers: np.ndarray, log1p: bool, clip: tuple[float | None, float | None] | None) -> np.ndarray:
  if clip:
    numbers = np.clip(numbers, *clip)
  return np.log1p(numbers) if log1p else numbers


def _rounded(number: float) -> float:
  """12 digits of it: the last ones of a logarithm differ between processors."""
  return float(f"{number:.12g}")


def weights_column(feature: Feature) -> str:
  """The name of the column of a field's weights in `Checked`."""
  return f"weights:{feature.name}:{feature.weights}"


def weight_shares(values: pl.Series, weights: pl.Series, max_values: int) -> np.ndarray:
  """The share of each kept value in the sum of its row's weights: `[rows, max_values]` float32.

  Values that are missing are dropped with their weights, those beyond `max_values` too. A row without values, or whose
  weights are all 0, has zeros.

  Args:
    values: Lists of values `[rows]`.
    weights: Lists of numbers of at least 0 `[rows]`, as long.
  """
  rows = pl.DataFrame({"row": pl.int_range(len(values), eager=True), "value": values, "weight": weights})
  rows = rows.filter(pl.col("value").list.len() > 0).explode("value", "weight").drop_nulls("value")
  row = rows["row"].to_numpy()
  place = np.arange(len(row)) - np.searchsorted(row, row)
  kept = place < max_values
  table = np.zeros((len(values), max_values))
  table[row[kept], place[kept]] = rows["weight"].to_numpy()[kept]
  largest = table.max(axis=1, keepdims=True)
  table = np.divide(table, largest, out=table, where=largest > 0)  # before the sum, which could be infinite
  total = table.sum(axis=1, keepdims=True)
  return np.divide(table, total, out=table, where=total > 0).astype(np.float32)


def put_vectors(column: pl.Series, table: np.ndarray) -> None:
  """Writes vectors to the rows of a table; rows without one stay as they are.

  Args:
    column: Lists of `width` numbers `[rows]`, null for no vector.
    table: `[rows, width]`.
  """
  there = column.is_not_null().to_numpy()
  if there.any():
    table[there] = column.drop_nulls().explode().to_numpy().reshape(-1, table.shape[1])


def least_values(features: tuple[Feature | UserVector, ...]) -> np.ndarray:
  """The smallest value that each float column of `features` may hold, `[value_columns]` float32: 0 for weights."""
  least = [
    0.0 if isinstance(feature, Feature) and feature.weights else -math.inf
    for feature in features
    for _ in range(feature.value_columns)
  ]
  return np.array(least, np.float32)
