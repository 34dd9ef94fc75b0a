"""An estimate of the arithmetic of a training step."""

from collections.abc import Mapping

import tensorflow as tf

from lcn_tf.data.request_spec import batch_spec
from lcn_tf.models import mult_adds
from lcn_tf.models.base import RequestModel
from lcn_tf.schema import DOMAINS, DomainName

Widths = Mapping[tuple[DomainName, DomainName], float]


def of_step(model: RequestModel, rows: Mapping[DomainName, int], widths: Widths) -> float:
  """Floating-point operations of the matrix products of a step on one replica.

  The products of the losses are counted. A product with its two gradients has three times their mult-adds, and a
  mult-add is two operations. Products whose size depends on the data are left out.

  Args:
    model: Compiled model.
    rows: Requests of a replica, by the domain of their candidates.
    widths: Widths of histories, by the domains of candidates and history.
  """
  inputs = {of: batch_spec(model.schema, n, {d: round(widths[of, d]) for d in DOMAINS}) for of, n in rows.items()}
  losses = tf.function(lambda batches: model.compute_loss(batches, training=False), autograph=False)
  return 6.0 * mult_adds.count(losses.get_concrete_function(inputs)).total
