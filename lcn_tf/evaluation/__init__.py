"""Offline evaluation of exported models: scores, metrics, report, comparisons."""

from lcn_tf.evaluation.offline import evaluate

__all__ = ["evaluate"]
