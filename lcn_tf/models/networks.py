"""The networks that an experiment can name: the skeleton, and those whose wiring does not fit its slot."""

from lcn_tf.models.base import RequestModel
from lcn_tf.models.ctr import CTR

NETWORKS: dict[str, type[RequestModel]] = {
  "ctr": CTR,
}
