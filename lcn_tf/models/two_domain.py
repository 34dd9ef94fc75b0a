"""The common part of networks that learn the clicks of both domains side by side: MiNet, CoNet, pi-Net."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from lcn_tf.config.options import checked_options, parameter_types
from lcn_tf.errors import UserError
from lcn_tf.models.base import Batch, Blueprint, RequestModel, Terms, click_loss
from lcn_tf.models.embedder import Embedded
from lcn_tf.schema import DomainName


class TwoDomain(RequestModel):
  """A network with a target task and a source task. Only the target task is served.

      L = L_target + source_weight * L_source

  Each task reads the records of its own domain, whose candidates are of that domain and which have both histories. Each
  loss, `ctr_loss` and `source_loss`, is a mean over the candidates of the global batch.

  A subclass makes its layers in `make_layers`. The keyword arguments of `make_layers`, with their defaults, are the
  options that `model.options` may set. `score` scores target-domain candidates, `score_source` source-domain ones.
  Keras builds a layer at its first call, so an exported model has no weights that `score` never uses.

  The arguments are those of `RequestModel`.

  Attributes:
    source_weight: Weight of the source task's loss; `make_layers` may set it.

  Raises:
    UserError: The model does not read both histories, or its network does not have or accept an option.
  """

  extra_names: tuple[str, ...] = ("source_loss",)
  mean_over: Mapping[str, DomainName] = MappingProxyType({"ctr_loss": "target", "source_loss": "source"})
  # Makes the layers of both tasks; a subclass names its options. A ValueError about one names it and its value.
  make_layers: Callable[..., None]

  def __init__(self, blueprint: Blueprint):
    config = blueprint.config
    super().__init__(blueprint, name=config.network)
    if set(config.histories) != {"target", "source"}:
      raise UserError(
        f"model.network {config.network!r} reads both histories, but model.histories is {list(config.histories)}"
      )
    where = f"model.options of {config.network!r}"
    options = checked_options(where, self.options(), config.options)
    self.source_weight = 1.0
    try:
      self.make_layers(**options)
    except (ValueError, TypeError) as error:
      raise UserError(f"{where}: {error}") from None

  @classmethod
  def options(cls) -> dict[str, Any]:
    """Types of the options that `model.options` of an experiment may set, by name."""
    return parameter_types(cls.make_layers)

  @property
  def domains(self) -> tuple[DomainName, ...]:
    return ("target", "source")

  def score_source(self, embedded: Embedded, training: bool) -> tf.Tensor:
    """Logits `[B, N]`, float32, of source-domain candidates."""
    raise NotImplementedError

  def extra_losses(
    self, embedded: dict[DomainName, Embedded], inputs: dict[DomainName, Batch], step: tf.Tensor, training: bool
  ) -> Terms:
    logits = self.score_source(embedded["source"], training)
    return {"source_loss": (self.source_weight, click_loss(logits, inputs["source"]))}
