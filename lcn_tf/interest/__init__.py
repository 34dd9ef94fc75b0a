"""Interest extractors, one per file: what fills the skeleton's slot."""

from lcn_tf.interest.average_pooling import AveragePooling
from lcn_tf.interest.base import Extractor
from lcn_tf.interest.lap import LAP

EXTRACTORS: dict[str, type[Extractor]] = {
  "average_pooling": AveragePooling,
  "lap": LAP,
}
