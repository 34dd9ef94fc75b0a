"""Metrics of scored candidates: exact, tie-aware, weighted, with user-level confidence. NumPy only, no TensorFlow.

A metric of one class only, or of no candidate, is NaN, never 0.5. NaN scores raise.
"""

from lcn_tf.metrics.bootstrap import NAMES, Replicates, confidence, paired, paired_replicates, replicates_of
from lcn_tf.metrics.probability import CalibrationCurve, calibration, calibration_curve, calibration_error, logloss
from lcn_tf.metrics.ranking import ThresholdCurve, auc, gauc, threshold_curve, user_auc
from lcn_tf.metrics.scored import Accumulator, Scored
from lcn_tf.metrics.summary import Measured, measure, summary

__all__ = [
  "NAMES",
  "Accumulator",
  "CalibrationCurve",
  "Measured",
  "Replicates",
  "Scored",
  "ThresholdCurve",
  "auc",
  "calibration",
  "calibration_curve",
  "calibration_error",
  "confidence",
  "gauc",
  "logloss",
  "measure",
  "paired",
  "paired_replicates",
  "replicates_of",
  "summary",
  "threshold_curve",
  "user_auc",
]
