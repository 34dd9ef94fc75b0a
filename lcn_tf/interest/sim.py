"""SIM: search-based interest, by category, by cluster, or by frozen item vectors."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.errors import unknown
from lcn_tf.interest.two_stage import TwoStage
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.schema import DomainName, Feature, Schema


@keras.utils.register_keras_serializable("lcn_tf")
class SIMHard(TwoStage):
  """Keeps the newest behaviours of the candidate's category, then attends to them.

      findable_j = visible_j and (categories of j and categories of v share a value)
      kept       = the `top_k` newest findable

  Value 0 (padding) and out-of-vocabulary values are no category. Different rare categories share an out-of-vocabulary
  row, and matching them would find unrelated behaviours. For an item with several values (genres), one common value is
  enough.

  Departures from the paper: items may have several values. There is no auxiliary loss; the paper gives it weight 0 in
  the hard search. The ESU is DIN's by default, because TWIN's tables compare with that. With `esu` "mha" it is
  multi-head attention, as in the paper, but with projections of values and results.

  Args:
    candidate_columns: Columns of the categories in `fields` of the candidates.
    columns: Columns of the categories in `fields` of the behaviours.
    first_value: Smallest value that is a category.
    **kwargs: Arguments of `TwoStage` (`top_k`, `esu`, ...) and of a Keras layer.

  Options:
    category: Name of an item field; default = the first one of the target domain. A history is left out if its items
      lack the field or have it with another vocabulary, because there is no shared taxonomy then. All other options are
      those of `TwoStage`.

  Call arguments:
    candidates: `Candidates`, embedding `[B, N, D]`, fields `[B, N, F]`.
    behaviours: `Behaviours`, embedding `[B, L, D]`, fields `[B, L, F']`, visible `[B, N | 1, L]`.

  Returns:
    Interest of the ESU; see `TwoStage`.

  Raises:
    ValueError: There are no columns, a column is negative, `first_value` is not positive, or `TwoStage` refuses an
      argument.

  Reference: Pi et al., "Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through
    Rate Prediction", CIKM 2020, https://arxiv.org/abs/2006.05639.
  """

  def __init__(
    self,
    candidate_columns: Sequence[int] = (1,),
    columns: Sequence[int] = (1,),
    first_value: int = 1,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    for name, value in {"candidate_columns": candidate_columns, "columns": columns}.items():
      if not value or min(value) < 0:
        raise ValueError(f"{name} must be one column or more, none negative; found {list(value)}")
    if first_value < 1:
      raise ValueError(f"first_value must be positive, 0 is padding; found {first_value}")
    self.candidate_columns = list(candidate_columns)
    self.columns = list(columns)
    self.first_value = first_value

  @classmethod
  def options(cls) -> dict[str, Any]:
    return {"category": str, **TwoStage.options()}

  @classmethod
  def for_history(cls, config: Model, schema: Schema, domain: DomainName, name: str) -> Self | None:
    options = dict(config.options)
    fields = [feature.name for feature in schema.target.item_fields]
    if not fields:
      raise ValueError("category: items of the target domain have no field that could be one")
    category = options.pop("category", fields[0])
    if category not in fields:
      raise ValueError(str(unknown("category", "item field", category, fields)))
    own, own_columns = _find(schema, "target", category)
    other, columns = _find(schema, domain, category)
    if own is None or other is None or other.vocabulary != own.vocabulary:
      return None
    first_value = 1 + schema.vocabularies[own.vocabulary].oov
    return cls(own_columns, columns, first_value, **options, name=name)

  def search(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor]:
    alike_BNL = share_a_value(
      [candidates.fields[..., column] for column in self.candidate_columns],
      [behaviours.fields[..., column] for column in self.columns],
      self.first_value,
    )
    return tf.zeros_like(alike_BNL, tf.float32), alike_BNL & behaviours.visible

  def get_config(self) -> dict[str, Any]:
    names = ("candidate_columns", "columns", "first_value")
    return super().get_config() | {name: getattr(self, name) for name in names}


class _ByCluster(TwoStage):
  """Keeps the newest behaviours of the candidate's cluster, then attends to them."""

  pretrained = ("clusters",)
  column: ClassVar[int]

  def search(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor]:
    own, others = candidates.fields[..., self.column], behaviours.fields[..., self.column]
    alike_BNL = share_a_value([own], [others], first_value=1)
    return tf.zeros_like(alike_BNL, tf.float32), alike_BNL & behaviours.visible


@keras.utils.register_keras_serializable("lcn_tf")
class SIMCluster(_ByCluster):
  """SIM Hard with the k-means cluster of the item's frozen vector in the place of a category.

  Both domains share the clusters, so every history can be searched. Cluster 0 is that of items without a vector and
  matches nothing. The search reads the last column but one of `fields`. The arguments, the result and the errors are
  those of `TwoStage`.

  Departures from the paper: none; TWIN's table has "SIM Cluster" (1,000 clusters) in a line.

  Reference: Chang et al., "TWIN: TWo-stage Interest Network for Lifelong User Behavior Modeling in CTR Prediction at
    Kuaishou", KDD 2023, https://arxiv.org/abs/2302.02352, table 4.
  """

  column = -2


@keras.utils.register_keras_serializable("lcn_tf")
class SIMClusterPlus(_ByCluster):
  """`SIMCluster` with the finer clusters (10,000 in TWIN's table), the last column of `fields`."""

  column = -1


@keras.utils.register_keras_serializable("lcn_tf")
class SIMSoft(TwoStage):
  """Keeps the behaviours whose frozen item vectors have the largest inner products with the candidate's, then attends.

      score_j = <p_v, p_j>

  The vectors p are made before training and never learn, so the search does not follow the model. An item without a
  vector scores 0 everywhere. A candidate without a vector keeps its newest behaviours. The search reads `vectors`,
  `[B, N, P]` and `[B, L, P]`. The arguments, the result and the errors are those of `TwoStage`.

  Departures from the paper: the paper does not say how p is made; see lcn_tf/pretraining/run.py. There is no auxiliary
  search loss, because TWIN and LCN both describe the vectors as "pre-trained".

  Reference: Pi et al., "Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through
    Rate Prediction", CIKM 2020, https://arxiv.org/abs/2006.05639.
  """

  pretrained = ("vectors",)

  def search(self, candidates: Candidates, behaviours: Behaviours) -> tuple[tf.Tensor, tf.Tensor]:
    scores_BNL = tf.matmul(tf.stop_gradient(candidates.vectors), tf.stop_gradient(behaviours.vectors), transpose_b=True)
    return scores_BNL, behaviours.visible


def share_a_value(own: Sequence[tf.Tensor], others: Sequence[tf.Tensor], first_value: int) -> tf.Tensor:
  """Whether each candidate and behaviour have a value in common, bool `[B, N, L]`.

  Args:
    own: Values of the candidates, each `[B, N]` int64.
    others: Values of the behaviours, each `[B, L]` int64.
    first_value: Smallest value that may match.
  """
  alike = []
  for value_BN in own:
    # -1 is no value
    known_BN = tf.where(value_BN >= first_value, value_BN, -1)
    # `==` would lose the static shape where sizes are unknown
    alike += [tf.equal(known_BN[:, :, tf.newaxis], value_BL[:, tf.newaxis]) for value_BL in others]
  return functools.reduce(tf.logical_or, alike)


def _find(schema: Schema, domain: DomainName, name: str) -> tuple[Feature | None, list[int]]:
  """The item field of that name, and its columns in the catalogue."""
  column = 1  # after the id
  for feature in schema.domain(domain).item_fields:
    if feature.name == name:
      return feature, list(range(column, column + feature.max_values))
    column += feature.max_values
  return None, []
