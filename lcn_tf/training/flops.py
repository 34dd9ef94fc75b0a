"""An estimate of the arithmetic of a training step."""

from collections.abc import Mapping

import tensorflow as tf

from lcn_tf.data.request_spec import batch_spec
from lcn_tf.layers.lockstep import one_of
from lcn_tf.models import mult_adds
from lcn_tf.models.base import RequestModel
from lcn_tf.schema import DOMAINS, DomainName

Widths = Mapping[tuple[DomainName, DomainName], float]


def of_step(model: RequestModel, rows: Mapping[DomainName, int], widths: Widths, replicas: int) -> float:
  """Floating-point operations of the matrix products of a step on all replicas.

  The products of the losses are counted. A product with its two gradients has three times their mult-adds, and a
  mult-add is two operations. Products whose size depends on the data are left out.

  Args:
    model: Compiled model.
    rows: Requests of a replica, by the domain of their candidates.
    widths: Widths of histories, by the domains of candidates and history.
    replicas: Number of replicas.
  """
  parts = model.micro_batches
  inputs = {
    of: batch_spec(model.schema, n // parts, {d: round(widths[of, d]) for d in DOMAINS}) for of, n in rows.items()
  }
  losses = tf.function(lambda batches: model.compute_loss(batches, training=False), autograph=False)
  with one_of(replicas):  # CRP compares the rows of a replica with those of all, within a micro-batch
    graph = losses.get_concrete_function(inputs)
  return 6.0 * replicas * parts * mult_adds.count(graph).total
