"""Interest extractors, one per file. An extractor fills the slot of the skeleton."""

from lcn_tf.interest.average_pooling import AveragePooling
from lcn_tf.interest.base import Extractor
from lcn_tf.interest.dare import DARE
from lcn_tf.interest.din import DIN
from lcn_tf.interest.eta import ETA
from lcn_tf.interest.lap import LAP
from lcn_tf.interest.sdim import SDIM
from lcn_tf.interest.sim import SIMCluster, SIMClusterPlus, SIMHard, SIMSoft
from lcn_tf.interest.twin import TWIN

EXTRACTORS: dict[str, type[Extractor]] = {
  "average_pooling": AveragePooling,
  "dare": DARE,
  "din": DIN,
  "eta": ETA,
  "lap": LAP,
  "sdim": SDIM,
  "sim_cluster": SIMCluster,
  "sim_cluster_plus": SIMClusterPlus,
  "sim_hard": SIMHard,
  "sim_soft": SIMSoft,
  "twin": TWIN,
}
