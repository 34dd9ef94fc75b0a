"""The experiment: one YAML file, read into one typed object. No TensorFlow here."""

from lcn_tf.config.experiment import (
  LENGTHS,
  NOT_RESULTS,
  Experiment,
  differs,
  dump,
  from_tree,
  goes_on,
  load,
  with_asked,
)
from lcn_tf.config.model import CRP, MLP, Embedding, Model, Pretraining
from lcn_tf.config.reading import assign, difference, override, read_tree, validated
from lcn_tf.config.records import NOT_CONTENTS, Labels, Records, Split, Synthetic
from lcn_tf.config.train import Train, patience_is_over
from lcn_tf.config.types import Count, Positive, Rate, Share
from lcn_tf.config.walk import Walk

__all__ = [
  "CRP",
  "LENGTHS",
  "MLP",
  "NOT_CONTENTS",
  "NOT_RESULTS",
  "Count",
  "Embedding",
  "Experiment",
  "Labels",
  "Model",
  "Positive",
  "Pretraining",
  "Rate",
  "Records",
  "Share",
  "Split",
  "Synthetic",
  "Train",
  "Walk",
  "assign",
  "difference",
  "differs",
  "dump",
  "from_tree",
  "goes_on",
  "load",
  "override",
  "patience_is_over",
  "read_tree",
  "validated",
  "with_asked",
]
