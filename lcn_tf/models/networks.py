"""The networks that an experiment can name: the skeleton, and the networks whose wiring does not fit its slot."""

from lcn_tf.models.base import RequestModel
from lcn_tf.models.conet import CoNet
from lcn_tf.models.ctr import CTR
from lcn_tf.models.minet import MiNet
from lcn_tf.models.pi_net import PiNet

NETWORKS: dict[str, type[RequestModel]] = {
  "ctr": CTR,
  "minet": MiNet,
  "conet": CoNet,
  "pi_net": PiNet,
}
