"""Models of small record sets, and what they learn."""

import tensorflow as tf

from lcn_tf.config import Experiment
from lcn_tf.data import records as record_lib
from lcn_tf.data.record_set import RecordSet
from lcn_tf.metrics.ranking import auc
from lcn_tf.models.base import RequestModel
from lcn_tf.models.build import build_model, item_tables
from lcn_tf.training.optimizers import make_optimizer
from tests.data import logs


def batch_of(records: RecordSet, split: str = "train", domain: str = "target") -> dict[str, tf.Tensor]:
  """All records of a split, as tensors."""
  schema = records.record_schema
  serialized = [record_lib.encode(record, schema) for record in logs.requests(records, split, domain)]
  return record_lib.parse(tf.constant(serialized), schema)


def model_of(records: RecordSet, experiment: Experiment) -> RequestModel:
  """A model that is ready for training."""
  model = build_model(records.record_schema, experiment.model, **item_tables(records))
  model.compile(optimizer=make_optimizer(model, experiment.train))
  return model


def learned(model: RequestModel, records: RecordSet, steps: int) -> float:
  """AUC of the test split after `steps` steps with all training records."""
  step, batch = tf.function(model.train_step), batch_of(records)
  for _ in range(steps):
    step({"target": batch})
  test = batch_of(records, "test")
  real = test["candidate_mask"].numpy()
  return auc(model(test).numpy()[real], test["label"].numpy()[real])
