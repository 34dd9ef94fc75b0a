"""pi-Net: two recurrent encoders, and a filter that passes states from each domain to the other."""

import dataclasses

import tensorflow as tf
from tensorflow import keras

from lcn_tf.interest.base import static_rows
from lcn_tf.layers.gru import GRU
from lcn_tf.layers.mlp import MLP
from lcn_tf.layers.recurrence import newest, states_at
from lcn_tf.layers.shared_filter import SharedFilter, align
from lcn_tf.models.base import Blueprint, concat_per_candidate
from lcn_tf.models.embedder import Embedded
from lcn_tf.models.two_domain import TwoDomain
from lcn_tf.schema import DOMAINS, DomainName, other_domain


class PiNet(TwoDomain):
  """Encodes both histories by recurrences, from the oldest behaviour to the newest, whatever the candidate is.

      h^d       = GRU_d(behaviours of domain d)
      g         = SharedFilter(h^S, h^T aligned in time)          over the steps of S; see there
      s         = GRU_ST(g)                                       what the source domain hands to the target domain
      logit_T   = w . MLP([profile ; context ; candidate ; h^T_last ; s_last]) + b

  For source-domain candidates the same holds with S and T exchanged and with other weights. The loss is
  L_T + source_weight * L_S. Each step of one domain is aligned with the newest step of the other domain that is not
  younger.

  The states depend on the user alone, so they are computed once per request. A candidate picks the states after the
  newest behaviours that it sees. Nothing younger enters these states: the step of S is older than the candidate, and
  its aligned step of T is not younger than the step of S.

  Departures from the paper:
  * The paper predicts the next item of a sequence by a softmax over all items of a domain. This is a click model, which
    scores candidates by the same states.
  * Behaviours have their side information beside the item, as everywhere in this library. They do not have their age,
    because it differs between the candidates of a request.
  * A history is cut to the newest `max_steps` behaviours of the record, or to the largest number that one candidate
    sees, if that is smaller. A candidate whose newest visible behaviour has the index f among these has `max_steps - f`
    steps left. A step whose partner in the other domain was cut off has no partner. In serving f is 0. In training the
    candidates of a record share its history, and f is up to `int(extra_length * max_length)` of the schema. So training
    reads a candidate with up to that many steps fewer than serving. Records that are cut in another way give other
    states.
  * The recurrences have no dropout. Gradients are not clipped to +-5, because those of a mean click loss stay far below
    that.

  Options:
    units: Width H of all states.
    members: Latent members K that share an account.
    max_steps: Number of behaviours of each history that the recurrences read, the newest ones. It must be larger than
      `int(extra_length * max_length)` of the schema, because older candidates of a record may not see that many of its
      newest behaviours and would be left with none.
    official_bug: Copy of an error in the authors' code; see `SharedFilter`.
    source_weight: Weight of the source task's loss.

  Reference: Ma et al., "pi-Net: A Parallel Information-sharing Network for Shared-account Cross-domain Sequential
    Recommendations", SIGIR 2019, https://doi.org/10.1145/3331184.3331200.
  """

  def __init__(self, blueprint: Blueprint):
    config = blueprint.config
    # no weights for ages, which it never reads
    embedding = config.embedding.model_copy(update={"recency_buckets": 0})
    unaged = config.model_copy(update={"embedding": embedding})
    super().__init__(dataclasses.replace(blueprint, config=unaged))

  def make_layers(
    self,
    units: int = 100,
    members: int = 4,
    max_steps: int = 100,
    official_bug: bool = False,
    source_weight: float = 1.0,
  ) -> None:
    if source_weight < 0:
      raise ValueError(f"source_weight must not be negative; found {source_weight}")
    self.source_weight = source_weight
    # at most what the newest candidate sees, so that no state holds behaviours that its candidate does not see
    self.steps = {d: min(max_steps, self.embedder.max_lengths[d]) for d in DOMAINS}
    for d in DOMAINS:
      unseen = self.schema.capacity(d) - self.schema.domain(d).max_length
      if self.steps[d] <= unseen:
        raise ValueError(
          f"max_steps {max_steps}: expected it, and model.max_length, to be more than {unseen}, the newest behaviours "
          f"of a record's {d} history that its older candidates may not see (schema.extra_length)"
        )
    self.encoders = {d: GRU(units, name=f"encoder/{d}") for d in DOMAINS}
    # by the domain that receives
    self.filters = {d: SharedFilter(units, members, official_bug, name=f"filter/{d}") for d in DOMAINS}
    self.transfers = {d: GRU(units, name=f"transfer/{d}") for d in DOMAINS}
    mlp = self.config.mlp
    self.mlps = {d: MLP(mlp.units, mlp.activation, mlp.dropout, name=f"mlp/{d}") for d in DOMAINS}
    self.logits = {d: keras.layers.Dense(1, name=f"logit/{d}", dtype="float32") for d in DOMAINS}

  def score(self, embedded: Embedded, training: bool) -> tf.Tensor:
    return self._task("target", embedded, training)

  def score_source(self, embedded: Embedded, training: bool) -> tf.Tensor:
    return self._task("source", embedded, training)

  def _task(self, domain: DomainName, embedded: Embedded, training: bool) -> tf.Tensor:
    candidates = embedded.candidates
    states = [tf.cast(part, candidates.embedding.dtype) for part in self.interests(domain, embedded)]
    parts = [embedded.profile[:, tf.newaxis], embedded.context, candidates.embedding, *states]
    hidden = self.mlps[domain](concat_per_candidate(parts, candidates.embedding), training=training)
    return self.logits[domain](hidden)[..., 0]

  def interests(self, domain: DomainName, embedded: Embedded) -> tuple[tf.Tensor, tf.Tensor]:
    """States that the candidates of `domain` read: h_last of that domain, and s_last from the other domain.

    Args:
      domain: Domain of the candidates.
      embedded: Embedded batch.

    Returns:
      Two states, float32 `[B, N | 1, H]` each, as `visible`. Zeros where a candidate sees no behaviour.
    """
    giver = other_domain(domain)
    visible = {d: embedded.histories[d].visible[..., : self.steps[d]] for d in DOMAINS}
    real = {d: tf.reduce_any(visible[d], axis=1) for d in DOMAINS}
    times = {d: embedded.histories[d].times[:, : self.steps[d]] for d in DOMAINS}
    states = {}
    for d in DOMAINS:
      rows = static_rows(embedded.histories[d])[:, : self.steps[d]]
      states[d] = self.encoders[d](tf.transpose(rows, [1, 0, 2]), tf.transpose(real[d]))
    known = states_at(states[domain], align(times[giver], times[domain], real[domain]))
    mask = tf.transpose(real[giver])
    handed = self.transfers[domain](self.filters[domain](states[giver], known, mask), mask)
    return _per_candidate(states[domain], visible[domain]), _per_candidate(handed, visible[giver])


def _per_candidate(states: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
  """States `[L, B, H]` after the newest step that each candidate sees, `[B, N, H]` for `visible` `[B, N, L]`."""
  return tf.transpose(states_at(states, tf.transpose(newest(visible))), [1, 0, 2])
