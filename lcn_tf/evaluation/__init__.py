"""Offline evaluation of exported models: scores, metrics, report, comparisons."""

from lcn_tf.evaluation.gate import read as read_gate
from lcn_tf.evaluation.measuring import Settings
from lcn_tf.evaluation.offline import evaluate, evaluate_predictions, score
from lcn_tf.evaluation.slices import parse as parse_slices

__all__ = [
  "Settings",
  "evaluate",
  "evaluate_predictions",
  "parse_slices",
  "read_gate",
  "score",
]
