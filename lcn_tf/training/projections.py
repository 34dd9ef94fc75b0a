"""The stored part of a search: TWIN's item projections, or another model's search unit."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf.layers.parts import put
from lcn_tf.models.base import RequestModel
from lcn_tf.models.projections import item_projections, searched
from lcn_tf.models.separate_search import SeparateSearch

Logs = dict[str, Any]

_CHUNK = 8192


class Projector:
  """Brings the stored part of a model's searches up to date with the weights ("offline inferring", TWIN, section 4.3).

  TWIN with `projections: cached` stores K_h W_h of every row of the item catalogues. `SeparateSearch` stores the search
  unit of the model that is trained beside it. All other models store nothing.

  Args:
    model: Built model.
  """

  def __init__(self, model: RequestModel):
    self._model = model
    self._cached = {d: one for d, one in searched(model).items() if one.cached is not None}
    self._project = {
      d: tf.function(functools.partial(item_projections, model, d), autograph=False) for d in self._cached
    }

  @property
  def keeps(self) -> bool:
    """Whether the model stores anything."""
    return bool(self._cached) or isinstance(self._model, SeparateSearch)

  def refresh(self) -> None:
    """Recomputes the stored part, chunk by chunk of the catalogues."""
    if isinstance(self._model, SeparateSearch):
      self._model.take_over_search()
    for domain, twin in self._cached.items():
      assert twin.cached is not None
      rows = np.arange(twin.items, dtype=np.int32)
      chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
      last = chunks[-1]
      if len(chunks) > 1:  # one shape, one graph
        chunks[-1] = np.pad(last, (0, _CHUNK - len(last)))
      parts = [self._project[domain](tf.constant(chunk)).numpy() for chunk in chunks]
      put(twin.cached, np.concatenate(parts)[: twin.items])


def refresh(model: RequestModel) -> None:
  """Brings the stored part of the model's searches up to date with its weights."""
  Projector(model).refresh()


class RefreshProjections(keras.callbacks.Callback):
  """Refreshes the stored part of the model's searches during training.

  It comes before validation and checkpoints in the list of callbacks. The stored part is in the checkpoints, so that a
  resumed job searches as before.

  Args:
    every: Steps between two refreshes, counted from the first step of the job; 0 = the end of every epoch. The first
      step of a job always begins fresh.
    first: Number of steps that the optimizer had done before the first one of the job.
  """

  def __init__(self, every: int = 0, first: int = 0):
    super().__init__()
    self._every = every
    self._first = first

  def set_model(self, model: Any) -> None:
    super().set_model(model)
    self._projector = Projector(model)

  def on_train_begin(self, logs: Logs | None = None) -> None:
    self._steps = self._done()
    if not self._steps:
      self._refresh()

  def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
    before, self._steps = self._steps, self._done()
    # several steps may pass between two calls
    if self._every and self._steps // self._every > before // self._every:
      self._refresh()

  def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
    if not self._every:
      self._refresh()

  def _done(self) -> int:
    return int(self.model.optimizer.iterations.numpy()) - self._first

  def _refresh(self) -> None:
    if self._projector.keeps:
      self._projector.refresh()
      logging.log_first_n(logging.INFO, "refreshed what the search keeps, at step %d", 3, self._steps)
