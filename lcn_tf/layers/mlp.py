"""Hidden layers of a scorer."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from lcn_tf.layers.dropout import Dropout


@keras.saving.register_keras_serializable("lcn_tf")
class MLP(keras.layers.Layer):
  """Dense hidden layers, each followed by the activation and dropout. The caller adds the layer that makes a logit.

      x_{l+1} = dropout(activation(x_l W_l + b_l))

  Weights start Glorot-uniform, biases at zero.

  Departures from the paper: none (LCN, section 4.1: 512-256 and 256-128; its activation is not named).

  Args:
    units: Widths of the layers; empty = the identity.
    activation: Name of a Keras activation.
    dropout: Share of each layer's outputs that training drops.

  Call arguments:
    inputs: Inputs, `[..., W]`, with any number of leading axes.
    training: Switch of the dropout.

  Returns:
    Outputs of the last layer, `[..., units[-1]]`.

  Raises:
    ValueError: A width is not positive, `dropout` is not in [0, 1), or Keras does not know the activation.
  """

  def __init__(self, units: Sequence[int], activation: str = "relu", dropout: float = 0.0, **kwargs: Any):
    super().__init__(**kwargs)
    if any(width < 1 for width in units):
      raise ValueError(f"units: expected positive widths, found {list(units)}")
    keras.activations.get(activation)
    self.units = tuple(units)
    self.activation = activation
    self.dropout = dropout
    self._hidden = [
      keras.layers.Dense(width, activation, name=f"dense_{index}", dtype=self.dtype_policy)
      for index, width in enumerate(self.units)
    ]
    self._dropouts = [Dropout(dropout, name=f"dropout_{index}", dtype=self.dtype_policy) for index in range(len(units))]

  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    for dense, drop in zip(self._hidden, self._dropouts, strict=True):
      inputs = drop(dense(inputs), training=training)
    return inputs

  def get_config(self) -> dict[str, Any]:
    config = {"units": self.units, "activation": self.activation, "dropout": self.dropout}
    return {**super().get_config(), **config}
