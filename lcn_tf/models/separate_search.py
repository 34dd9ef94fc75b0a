"""TWIN without parameter consistency: another model trains the search unit."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import tensorflow as tf

from lcn_tf.layers.parts import copy
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.models.base import Batch, Blueprint, Terms, click_loss
from lcn_tf.models.ctr import CTR, kept_projections
from lcn_tf.models.embedder import Embedded
from lcn_tf.schema import DomainName


class _Searched(NamedTuple):
  """An `Embedded`, and the same batch as the search unit embeds it."""

  profile: tf.Tensor
  context: tf.Tensor
  candidates: Candidates
  histories: dict[DomainName, Behaviours]
  projected: dict[DomainName, tf.Tensor]
  search: Embedded


class SeparateSearch(CTR):
  """TWIN whose search unit (GSU) has the parameters of another TWIN of the same structure: the ablation "w/o Para-Con".

  The other model, `auxiliary`, is trained beside this one on the same batches, from another seed. They share nothing,
  so their losses can be added. Now and then `take_over_search` copies its search unit into `searcher`: W_q, W_h, w,
  beta, and the embeddings that these read, cross fields included. `searcher` finds the behaviours. The final attention
  (ESU) of this model pools them with parameters of its own. Serving needs no `auxiliary`.

  Departures from the paper: it names neither the rhythm of the copies nor whether embeddings belong to them.

  The argument is that of `CTR`, with `config.auxiliary_seed` set.
  """

  mean_over: Mapping[str, DomainName] = MappingProxyType({"ctr_loss": "target", "auxiliary_loss": "target"})

  def __init__(self, blueprint: Blueprint):
    super().__init__(blueprint)
    alone = blueprint.config.model_copy(update={"auxiliary_seed": None, "crp": None})
    self._searching = dataclasses.replace(blueprint, config=alone)
    self.searcher = CTR(self._searching)
    self.searcher.trainable = False
    self.auxiliary: CTR | None = None

  def call(self, request: Batch, training: bool = False) -> tf.Tensor:
    searched = self._searched({"target": self.embedder([("target", request)])[0]}, {"target": request})
    return self.score(searched["target"], training)

  def _embed(self, inputs: dict[DomainName, Batch]) -> dict[DomainName, Embedded]:
    return self._searched(super()._embed(inputs), inputs)

  def _searched(
    self, embedded: dict[DomainName, Embedded], inputs: dict[DomainName, Batch]
  ) -> dict[DomainName, Embedded]:
    search = self.searcher.embedder([(d, inputs[d]) for d in embedded])
    return {d: _Searched(*one, search=other) for (d, one), other in zip(embedded.items(), search, strict=True)}  # type: ignore[misc]

  def interests(self, embedded: Embedded) -> list[tf.Tensor]:
    assert isinstance(embedded, _Searched)
    found = []
    for d, extractor in self.extractors.items():
      searcher, candidates, behaviours = (
        self.searcher.extractors[d],
        embedded.search.candidates,
        embedded.search.histories[d],
      )
      kept = searcher(candidates, behaviours, pool=False, **kept_projections(embedded.search, d))
      found.append(extractor(embedded.candidates, embedded.histories[d], kept=kept))
    return found

  def extra_losses(
    self, embedded: dict[DomainName, Embedded], inputs: dict[DomainName, Batch], step: tf.Tensor, training: bool
  ) -> Terms:
    terms = super().extra_losses(embedded, inputs, step, training)
    if self.auxiliary is None:
      return terms
    logits = self.auxiliary(inputs["target"], training=training)
    return {**terms, "auxiliary_loss": (1.0, click_loss(logits, inputs["target"]))}

  def build_from(self, example: Batch, training: bool = True) -> None:
    self(example)
    if training:
      tf.keras.utils.set_random_seed(self.config.auxiliary_seed or 0)
      self.auxiliary = CTR(self._searching)
      self.auxiliary(example)
      self.extra_names = (*self.extra_names, "auxiliary_loss")
      self.auxiliary.embedder.copy_catalogues(self.embedder)
      self.take_over_search()
    super().build_from(example, training)

  def take_over_search(self) -> None:
    """Copies the search unit of `auxiliary` into `searcher`, if there is an `auxiliary`."""
    if self.auxiliary is None:
      return
    for d, searcher in self.searcher.extractors.items():
      _copy(self.auxiliary.extractors[d].variables, searcher.variables)
    _copy(self.auxiliary.embedder.variables, self.searcher.embedder.variables)

  def age_variables(self) -> list[tf.Variable]:
    return super().age_variables() + (self.auxiliary.age_variables() if self.auxiliary else [])


def _copy(sources: list[tf.Variable], targets: list[tf.Variable]) -> None:
  """Assigns by name, because trainable variables are listed before the others and so the order differs."""
  values = {variable.name: variable for variable in sources}
  assert set(values) == {variable.name for variable in targets}
  for variable in targets:
    copy(variable, values[variable.name])
