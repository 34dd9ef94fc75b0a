"""Keras callbacks that tests watch a job with."""

import shutil

from tensorflow import keras


class Stop(keras.callbacks.Callback):
  """Kills the job at a step."""

  def __init__(self, step):
    super().__init__()
    self.step = step

  def on_train_batch_end(self, batch, logs=None):
    if int(self.model.optimizer.iterations.numpy()) == self.step:
      raise KeyboardInterrupt


class Copy(keras.callbacks.Callback):
  """Copies the run folder at a step: what a job that is killed there leaves."""

  def __init__(self, step, run, to):
    super().__init__()
    self.step, self.run, self.to = step, run, to

  def on_train_batch_end(self, batch, logs=None):
    if int(self.model.optimizer.iterations.numpy()) == self.step:
      shutil.copytree(self.run, self.to)


class Losses(keras.callbacks.Callback):
  """Collects the running mean of the loss after every step."""

  def __init__(self):
    super().__init__()
    self.values = []

  def on_train_batch_end(self, batch, logs=None):
    self.values.append(logs["loss"])
