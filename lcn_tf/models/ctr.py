"""The skeleton: embed, extract an interest from each history, score. A paper's extractor fills the slot."""

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf.config import Model
from lcn_tf.config.options import checked_options
from lcn_tf.crossdomain.crp import CrossRepresentationProduction, DomainBatch
from lcn_tf.errors import UserError, unknown
from lcn_tf.interest import EXTRACTORS
from lcn_tf.interest.base import Extractor
from lcn_tf.interest.din import DIN
from lcn_tf.layers.mlp import MLP
from lcn_tf.models.base import Batch, Blueprint, RequestModel, Terms, concat_per_candidate
from lcn_tf.models.embedder import Embedded
from lcn_tf.schema import DomainName, Schema, other_domain


class CTR(RequestModel):
  """The skeleton: a click-through-rate model with a slot for an interest extractor per history.

  `model(request)` gives logits `[B, N]`, float32:

      logit = w . MLP([profile ; context ; candidate ; interest_target ; interest_source ; short_term]) + b

  short_term exists if the experiment sets it. It is DIN over the newest behaviours of each history, with every
  extractor.

  Args:
    blueprint: Schema, config and seeds.

  Raises:
    UserError: The extractor is unknown or refuses an option, or CRP lacks a history.
  """

  def __init__(self, blueprint: Blueprint):
    schema, config = blueprint.schema, blueprint.config
    made = {d: make_extractor(config, schema, d) for d in config.histories}
    extractors = {d: extractor for d, extractor in made.items() if extractor is not None}
    key_dim = max((extractor.key_width for extractor in extractors.values()), default=0)
    super().__init__(blueprint, name="ctr", key_dim=key_dim)
    self.extractors = extractors
    recent = config.short_term
    self.short_terms = {d: DIN(recent, name=f"short_term_{d}") for d in config.histories} if recent else {}
    self.mlp = MLP(config.mlp.units, config.mlp.activation, config.mlp.dropout, name="mlp")
    self.logit = keras.layers.Dense(1, name="logit", dtype="float32")
    self.crp: CrossRepresentationProduction | None = None
    self.crp_weight = config.crp.weight if config.crp else 0.0
    if config.crp:
      if set(config.histories) != {"target", "source"}:
        raise UserError(f"model.crp reads both histories, but model.histories is {list(config.histories)}")
      self.crp = CrossRepresentationProduction(**config.crp.model_dump(exclude={"weight"}), name="crp")
      self.extra_names = ("crp_loss",)

  @property
  def domains(self) -> tuple[DomainName, ...]:
    return ("target", "source") if self.crp else ("target",)

  def score(self, embedded: Embedded, training: bool) -> tf.Tensor:
    candidates = embedded.candidates
    parts = [embedded.profile[:, tf.newaxis], embedded.context, candidates.embedding]
    parts += self.interests(embedded)
    parts += [extract(candidates, embedded.histories[d]) for d, extract in self.short_terms.items()]
    hidden = self.mlp(concat_per_candidate(parts, candidates.embedding), training=training)
    return self.logit(hidden)[..., 0]

  def interests(self, embedded: Embedded) -> list[tf.Tensor]:
    """Interests of the extractors, `[B, N | 1, W]` each."""
    return [
      extract(embedded.candidates, embedded.histories[d], **kept_projections(embedded, d))
      for d, extract in self.extractors.items()
    ]

  def extra_losses(
    self, embedded: dict[DomainName, Embedded], inputs: dict[DomainName, Batch], step: tf.Tensor, training: bool
  ) -> Terms:
    if self.crp is None:
      return {}
    batches = [domain_batch(d, inputs[d], embedded[d]) for d in self.domains]
    seed = tf.stack([tf.constant(self.seed, tf.int32), step])
    return {"crp_loss": (self.crp_weight, self.crp(*batches, seed=seed)["total"])}


def make_extractor(config: Model, schema: Schema, domain: DomainName) -> Extractor | None:
  """The extractor of one history, from `config.extractor` and `config.options`; None if there is nothing to extract.

  Raises:
    UserError: The extractor is unknown, or it does not have or accept an option.
  """
  where = f"model.options of {config.extractor!r}"
  if config.extractor == "none":
    checked_options(where, {}, config.options)
    return None
  if config.extractor not in EXTRACTORS:
    raise unknown("model.extractor", "extractor", config.extractor, ["none", *EXTRACTORS])
  make = EXTRACTORS[config.extractor]
  options = checked_options(where, make.options(), config.options)
  try:
    read = config.model_copy(update={"options": options})
    extractor = make.for_history(read, schema, domain, name=f"interest_{domain}")
  except (ValueError, TypeError) as error:
    raise UserError(f"{where}: {error}") from None
  if extractor is None:
    logging.warning("%r finds nothing in the %s history of this schema and leaves it out", config.extractor, domain)
  return extractor


def kept_projections(embedded: Embedded, domain: DomainName) -> dict[str, tf.Tensor]:
  """The argument of a search that reads projections which the request brings; none if it brings none."""
  return {"projected": embedded.projected[domain]} if domain in embedded.projected else {}


def domain_batch(domain: DomainName, batch: Batch, embedded: Embedded) -> DomainBatch:
  """Batch of one domain as CRP reads it."""
  return DomainBatch(
    user=batch["user"],
    profile=embedded.profile,
    candidates=embedded.candidates,
    mask=batch["candidate_mask"],
    label=batch["label"],
    weight=batch["weight"],
    own=embedded.histories[domain],
    other=embedded.histories[other_domain(domain)],
  )
