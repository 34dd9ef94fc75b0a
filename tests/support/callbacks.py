"""Keras callbacks that tests watch a job with."""

from tensorflow import keras


class Losses(keras.callbacks.Callback):
  """Collects the running mean of the loss after every step."""

  def __init__(self):
    super().__init__()
    self.values = []

  def on_train_batch_end(self, batch, logs=None):
    self.values.append(logs["loss"])
