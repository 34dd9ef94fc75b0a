"""What a search keeps of the model for a while: TWIN's item projections, or another model's search unit."""

from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf.data.request_spec import example_batch
from lcn_tf.interest.twin import TWIN
from lcn_tf.models.base import RequestModel
from lcn_tf.models.separate_search import SeparateSearch
from lcn_tf.schema import DomainName

Logs = dict[str, Any]

_CHUNK = 8192


class Projector:
  """Brings what a model's searches keep up to date with its weights ("offline inferring", TWIN, section 4.3).

  For TWIN with `projections: cached`, K_h W_h of every row of the item catalogues; for `SeparateSearch`, the search
  unit of the model that is trained beside it. Nothing for all other models.

  Args:
    model: Built.
  """

  def __init__(self, model: RequestModel):
    self._model = model
    extractors: dict[DomainName, Any] = getattr(model, "extractors", {})
    self._cached = {d: one for d, one in extractors.items() if isinstance(one, TWIN) and one.cached is not None}
    self._project = {d: tf.function(self._chunk(d), autograph=False) for d in self._cached}

  @property
  def keeps(self) -> bool:
    """Whether there is anything to bring up to date."""
    return bool(self._cached) or isinstance(self._model, SeparateSearch)

  def refresh(self) -> None:
    """Recomputes all of it, chunk by chunk of the catalogues."""
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
      twin.cached.assign(np.concatenate(parts)[: twin.items])

  def _chunk(self, domain: DomainName) -> Any:
    """Catalogue rows -> projections, the way that the model reads a history of these items."""

    def project(rows: tf.Tensor) -> tf.Tensor:
      batch = example_batch(self._model.schema, length=rows.shape[0])
      batch[f"{domain}_items"] = rows[tf.newaxis]
      embedded = self._model.embedder([("target", batch)])[0].histories[domain].embedding[0]
      return tf.cast(self._cached[domain].project(embedded), tf.float32)

    return project


def refresh(model: RequestModel) -> None:
  """Brings what the model's searches keep up to date with its weights."""
  Projector(model).refresh()


class RefreshProjections(keras.callbacks.Callback):
  """Refreshes what the searches of the model keep, during training.

  It comes before validation and checkpoints in the list of callbacks. What was kept is part of the checkpoints, so a
  job that is taken up again searches with what it had.

  Args:
    every: Steps between two refreshes, counted from the job's first; 0: at the end of every epoch (that is, at the
      beginning of the next). The first step of a job always begins fresh.
    first: Steps that the optimizer had done before the job's first one.
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
