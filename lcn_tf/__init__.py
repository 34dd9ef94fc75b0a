"""Training, evaluation and export of cross-domain lifelong-sequence CTR models (LCN, TWIN and their peers)."""

import os
import sys

__version__ = "0.1.0"

# tensorflow-recommenders needs Keras 2, which TensorFlow picks when it is first imported.
if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
  raise ImportError(
    "lcn_tf needs Keras 2 (tf-keras), but TensorFlow was imported before it with Keras 3. "
    "Import lcn_tf first, or set TF_USE_LEGACY_KERAS=1 in the environment."
  )
os.environ["TF_USE_LEGACY_KERAS"] = "1"
