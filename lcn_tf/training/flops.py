"""An estimate of the arithmetic of a training step."""

from collections.abc import Mapping

import tensorflow as tf

from lcn_tf.models import mult_adds
from lcn_tf.models.base import RequestModel
from lcn_tf.schema import DOMAINS, DomainName

Specs = Mapping[DomainName, Mapping[str, tf.TensorSpec]]
Widths = Mapping[tuple[DomainName, DomainName], float]


def of_step(model: RequestModel, rows: Mapping[DomainName, int], specs: Specs, widths: Widths) -> float:
  """Floating-point operations of the matrix products of a step on one replica.

  The products of the losses are counted. A product with its two gradients has three times their mult-adds, and a
  mult-add is two operations. Products whose size depends on the data are left out.

  Args:
    model: Compiled model.
    rows: Requests of a replica, by the domain of their candidates.
    specs: Shapes and types of a replica's batches, by the domain of their candidates; widths of histories are open.
    widths: Widths of histories, by the domains of candidates and history.
  """

  def sized(of: DomainName, name: str, spec: tf.TensorSpec) -> tf.TensorSpec:
    domain = next((d for d in DOMAINS if name.startswith(f"{d}_")), None)
    width = round(widths[of, domain]) if domain else None
    return tf.TensorSpec([rows[of], *(width if axis is None else axis for axis in spec.shape[1:])], spec.dtype)

  inputs = {of: {name: sized(of, name, spec) for name, spec in batch.items()} for of, batch in specs.items()}
  losses = tf.function(lambda batches: model.compute_loss(batches, training=False), autograph=False)
  return 6.0 * mult_adds.count(losses.get_concrete_function(inputs)).total
