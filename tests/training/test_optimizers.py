"""Row-wise Adam against its definition."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf.training.optimizers import RowwiseAdam, make_optimizer
from tests.support.batches import batch_of, model_of
from tests.support.experiments import small_experiment


def rowwise_adam(table, steps, rate, decay, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
  """The definition, row by row: only rows in a step's gradient change, moments included."""
  table, m, v = table.copy(), np.zeros_like(table), np.zeros_like(table)
  for t, (indices, gradients) in enumerate(steps, start=1):
    correction = np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    for index in sorted(set(indices)):
      g = sum(gradient for i, gradient in zip(indices, gradients, strict=True) if i == index)
      m[index] = beta_1 * m[index] + (1 - beta_1) * g
      v[index] = beta_2 * v[index] + (1 - beta_2) * g * g
      step = correction * m[index] / (np.sqrt(v[index]) + epsilon) + decay * table[index]
      table[index] = table[index] - rate * step
  return table


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("repeated", [False, True])
def test_it_follows_its_definition(decay, repeated):
  rng = np.random.default_rng(0)
  start = rng.normal(size=(8, 3)).astype(np.float32)
  steps = []
  for _ in range(5):
    indices = rng.integers(0, 8, 4) if repeated else rng.permutation(8)[:4]
    steps.append((indices, rng.normal(size=(4, 3)).astype(np.float32)))
  variable = tf.Variable(start)
  optimizer = RowwiseAdam(0.05, row_decay=decay, unique_rows=not repeated)
  for indices, gradients in steps:
    optimizer.apply_gradients([(tf.IndexedSlices(tf.constant(gradients), tf.constant(indices), [8, 3]), variable)])
  np.testing.assert_allclose(variable.numpy(), rowwise_adam(start, steps, 0.05, decay), rtol=1e-4, atol=1e-6)


def test_with_every_row_in_every_step_it_is_adam():
  rng = np.random.default_rng(1)
  start = rng.normal(size=(5, 2)).astype(np.float32)
  ours, adam = tf.Variable(start), tf.Variable(start)
  one, other = RowwiseAdam(0.01), keras.optimizers.legacy.Adam(0.01)
  for _ in range(4):
    gradient = tf.constant(rng.normal(size=(5, 2)).astype(np.float32))
    one.apply_gradients([(tf.IndexedSlices(gradient, tf.range(5), [5, 2]), ours)])
    other.apply_gradients([(gradient, adam)])
  np.testing.assert_allclose(ours.numpy(), adam.numpy(), rtol=1e-5)


@pytest.mark.parametrize(("preset", "kind"), [("lcn", RowwiseAdam), ("twin", keras.optimizers.legacy.Adagrad)])
def test_the_presets_give_tables_and_the_rest_an_optimizer_each(preset, kind):
  model = model_of()
  optimizer = make_optimizer(model, small_experiment(preset=preset).train)
  dense, tables = optimizer.optimizers
  assert isinstance(tables, kind)
  assert float(tables.learning_rate) == pytest.approx(0.05 if preset == "twin" else 1e-3)
  assert float(dense.learning_rate) == pytest.approx(1e-3)
  # the variables that each has slots of
  of_dense, of_tables = ({v.name.rpartition("/")[0] for v in one.variables()[1:]} for one in (dense, tables))
  ages = {"recency/target", "recency/source"}
  assert {name for name in of_tables if not name.endswith("/table")} == (ages if preset == "twin" else set())
  assert of_dense.isdisjoint(of_tables)
  assert of_dense | of_tables == {v.name.removesuffix(":0") for v in model.trainable_variables}


def test_the_first_step_of_adam_moves_no_weight_by_more_than_the_rate():
  """A gradient that brings a row several times, as that of ages, would move it further were it taken for one."""
  model = model_of("twin", learning_rate=0.01)
  before = [v.numpy() for v in model.trainable_variables]
  model.train_step({"target": batch_of()})
  moved = {v.name: np.abs(v.numpy() - b).max() for v, b in zip(model.trainable_variables, before, strict=True)}
  assert moved["recency/source:0"] > 0.009
  assert max(moved.values()) < 0.0101, moved


def test_adagrad_of_the_tables_begins_with_accumulators_of_a_tenth():
  model = model_of("average_pooling")
  optimizer = make_optimizer(model, small_experiment(preset="twin").train)
  adagrad, table = optimizer.optimizers[1], model.table_variables()[0]
  for each in model.table_variables():
    np.testing.assert_allclose(adagrad.get_slot(each, "accumulator"), np.full(each.shape, 0.1), rtol=1e-6)
  before, width = table.numpy(), table.shape[1]
  for gradient in (0.3, 0.4):
    adagrad.apply_gradients([(tf.IndexedSlices(tf.fill([1, width], gradient), tf.constant([5]), table.shape), table)])
  change = table.numpy() - before
  first, second = 0.3 / np.sqrt(0.1 + 0.3**2), 0.4 / np.sqrt(0.1 + 0.3**2 + 0.4**2)
  np.testing.assert_allclose(change[5], -0.05 * (first + second), rtol=1e-4)
  assert not np.delete(change, 5, axis=0).any()


def test_the_config_round_trips():
  optimizer = RowwiseAdam(0.02, row_decay=0.3, unique_rows=True)
  again = RowwiseAdam.from_config(optimizer.get_config())
  assert again.get_config() == optimizer.get_config()


def test_a_step_is_traced_once(monkeypatch):
  model, traced = model_of("average_pooling"), []
  step = model.train_step

  @tf.autograph.experimental.do_not_convert
  def counted(inputs):
    traced.append(True)
    return step(inputs)

  monkeypatch.setattr(model, "train_step", counted)
  run = model.make_train_function()
  batches = iter(tf.data.Dataset.from_tensors({"target": batch_of()}).repeat())
  assert run(batches)["loss"] > run(batches)["loss"]
  assert len(traced) == 1
