"""The frozen item vectors that some extractors search with."""

import pathlib

from lcn_tf.config import Experiment, Pretraining
from lcn_tf.data.pretrained import Pretrained
from lcn_tf.data.record_set import RecordSet


def pretrain(config: Pretraining, record_set: RecordSet) -> Pretrained:
  """Makes item vectors of both domains in one space, and their clusters, from the training records alone."""
  raise NotImplementedError


def item_vectors(experiment: Experiment, record_set: RecordSet, folder: pathlib.Path) -> Pretrained:
  """The vectors of a run: those in its `folder`, else a copy of those that the experiment names, else new ones.

  They lie in the run's folder afterwards, so a run is whole without its experiment's `model.pretraining.path`.

  Raises:
    UserError: They are broken, or of other records.
  """
  if Pretrained.there(folder):
    return Pretrained.open(folder, record_set.fingerprint)
  config = experiment.model.pretraining
  found = Pretrained.open(config.path, record_set.fingerprint) if config.path else pretrain(config, record_set)
  found.save(folder)
  return found
