"""Twin of lcn_tf/layers/mlp.py."""

import numpy as np


def mlp(x, weights):
  """ReLU layers over one row; `weights` = [kernel, bias, kernel, bias, ...]."""
  for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
    x = np.maximum(x @ kernel + bias, 0.0)
  return x
