"""A job with averages and curves by step, and the same job killed within an epoch."""

import csv
import types

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data.read.dataset import evaluation_batches
from lcn_tf.errors import UserError
from lcn_tf.metrics.probability import logloss
from lcn_tf.training import step_log
from lcn_tf.training.averages import averages
from lcn_tf.training.export_run import export_run
from lcn_tf.training.gauges import Gauges
from lcn_tf.training.optimizers import CompositeOptimizer, DenseAdam, RowwiseAdam, make_optimizer
from lcn_tf.training.prometheus import Sample, text
from lcn_tf.training.run_folder import read_run
from lcn_tf.training.step_log import forget
from lcn_tf.training.trainer import train
from lcn_tf.training.warm_start import earlier_run
from tests.support.callbacks import Copy
from tests.support.curves import points
from tests.support.experiments import tiny_experiment
from tests.support.replicas import mirrored
from tests.support.runs import write_run

pytestmark = pytest.mark.job

SETTINGS = {"ema_decay": 0.8, "checkpoint_every": 3, "learning_rate": 0.05}
EXPERIMENT = tiny_experiment(**SETTINGS, log_every=2)
STEPS = "tensorboard/steps"
NAMES = {"loss", "ctr_loss", "learning_rate", "table_learning_rate", "gradient_norm", "table_gradient_norm"}
NAMES |= {"candidates_per_second", "input_wait_share", "flops_per_second"}


@pytest.fixture(scope="module")
def jobs(tiny_set, tmp_path_factory):
  """The folder of an unbroken job with its model, and of one that was killed at step 5 and went on from step 3."""
  folder = tmp_path_factory.mktemp("large")
  kill = Copy(5, folder / "unbroken", folder / "broken")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(step_log, "_FLOPS_AFTER", 0.0)
    unbroken = train(EXPERIMENT, tiny_set, folder / "unbroken", (kill,)).model
  assert [step for step, _ in points(folder / "broken" / STEPS)["loss"]] == [2, 4]
  again = train(EXPERIMENT, tiny_set, folder / "broken").model
  return types.SimpleNamespace(folder=folder, unbroken=unbroken, again=again)


def test_a_killed_job_ends_with_the_weights_and_averages_of_an_unbroken_one(jobs):
  for one, other in zip(jobs.unbroken.trainable_variables, jobs.again.trainable_variables, strict=True):
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7, err_msg=one.name)
  pairs, others = averages(jobs.unbroken.optimizer), averages(jobs.again.optimizer)
  assert {v.name for v, _ in pairs} == {v.name for v in jobs.unbroken.dense_variables()}
  for (weight, one), (_, other) in zip(pairs, others, strict=True):
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7, err_msg=weight.name)
  assert any(np.abs(weight.numpy() - average.numpy()).max() > 1e-3 for weight, average in pairs)


def test_each_step_is_drawn_once_and_after_a_kill_too(jobs):
  drawn, expected = points(jobs.folder / "broken" / STEPS), points(jobs.folder / "unbroken" / STEPS)
  assert drawn.keys() | {"flops_per_second"} == expected.keys() == NAMES
  for name in NAMES - {"candidates_per_second", "input_wait_share", "flops_per_second"}:
    assert [step for step, _ in drawn[name]] == [2, 4, 6, 8], name
  # mult-adds are not counted in the first minutes, as they were for the unbroken job
  assert min(value for _, value in expected["flops_per_second"]) > 0
  # the window of step 4 begins where the job went on
  for name in ("gradient_norm", "table_gradient_norm", "learning_rate"):
    np.testing.assert_allclose(drawn[name], expected[name], rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(np.delete(drawn["loss"], 1, 0), np.delete(expected["loss"], 1, 0), rtol=1e-5)


def test_losses_of_an_epochs_points_have_the_mean_of_its_row(jobs):
  drawn = points(jobs.folder / "unbroken" / STEPS)["ctr_loss"]
  rows = list(csv.DictReader((jobs.folder / "unbroken" / "history.csv").open()))
  for epoch, row in enumerate(rows):
    assert np.mean([value for _, value in drawn[2 * epoch : 2 * epoch + 2]]) == pytest.approx(float(row["ctr_loss"]))


def test_a_scraper_finds_the_newest_numbers(jobs):
  lines = (jobs.folder / "unbroken" / "metrics.prom").read_text().splitlines()
  assert 'lcn_tf_step{experiment="small none",run="unbroken"} 8' in lines
  names = [line.split("{")[0].split(" ")[-1] for line in lines if not line.startswith("#")]
  typed = [line.split(" ")[2] for line in lines if line.startswith("# TYPE")]
  assert typed == list(dict.fromkeys(names))
  norm = points(jobs.folder / "unbroken" / STEPS)["gradient_norm"][-1][1]
  (line,) = (line for line in lines if line.startswith("lcn_tf_gradient_norm{") and 'weights="dense"' in line)
  assert float(line.split()[-1]) == pytest.approx(norm)


def test_the_best_epoch_is_validated_and_restored_as_averages(jobs, tiny_set):
  run = read_run(jobs.folder / "unbroken")
  rows = list(csv.DictReader((run.path / "history.csv").open()))
  best = max(rows, key=lambda row: float(row["val_auc"]))
  model, (batch,) = run.best()[0], evaluation_batches(tiny_set, "validation", requests=16)
  real = batch["candidate_mask"].numpy()
  loss = logloss(tf.sigmoid(model(batch)).numpy()[real], batch["label"].numpy()[real], batch["weight"].numpy()[real])
  assert loss == pytest.approx(float(best["val_logloss"]), rel=1e-5)
  raw = {v.name: v.numpy() for v in run.best(raw=True)[0].trainable_variables}
  for v in model.trainable_variables:
    if "/mlp/" in v.name or v.name.endswith("/table:0"):
      assert np.array_equal(v.numpy(), raw[v.name]) == v.name.endswith("/table:0"), v.name


@pytest.mark.parametrize("slots", [True, False])
def test_a_warm_start_goes_on_with_the_weights_and_their_averages(slots, jobs, tiny_set):
  run = jobs.folder / "unbroken"
  experiment = tiny_experiment(ema_decay=0.9, warm_start=str(run), warm_start_slots=slots)
  model = read_run(run).best(raw=True)[0]
  expected = {v.name: v.numpy() for v in model.trainable_variables}
  model.compile(optimizer=make_optimizer(model, experiment.train))
  for v in model.trainable_variables:
    v.assign(tf.zeros_like(v))
  earlier_run(experiment, tiny_set).carry(model)
  averaged = {v.name: v.numpy() for v in read_run(run).best()[0].trainable_variables}
  for weight, average in averages(model.optimizer):
    np.testing.assert_array_equal(weight.numpy(), expected[weight.name])
    np.testing.assert_array_equal(average.numpy(), (averaged if slots else expected)[weight.name])


def test_raw_weights_of_a_run_without_averages_are_refused(tiny_set, tmp_path):
  write_run(tmp_path / "run", tiny_experiment(), tiny_set)
  with pytest.raises(UserError, match=r"keeps no averages of its weights \(train.ema_decay: 0\)"):
    export_run(tmp_path / "run", tmp_path / "served", raw=True)


@pytest.mark.parametrize("replicas", [1, 2])
def test_averages_and_norms_follow_their_definitions(replicas):
  strategy = mirrored(replicas)
  with strategy.scope():
    dense, table = tf.Variable([1.0, 2.0]), tf.Variable(np.ones((4, 1), np.float32))
    each = DenseAdam(0.1, ema_decay=0.3), RowwiseAdam(0.1, unique_rows=True)
    for one, variable in zip(each, (dense, table), strict=True):
      one._create_all_weights([variable])
    gauges = Gauges([[each[0].get_slot(dense, "m")], [each[1].get_slot(table, "m")]])
    optimizer = CompositeOptimizer([(each[0], lambda: [dense]), (each[1], lambda: [table])], 2.0, gauges)

  @tf.function(autograph=False)
  def step(scale):
    rows = tf.IndexedSlices(scale * [[3.0], [4.0]] / replicas, tf.constant([1, 2]), tf.constant([4, 1]))
    optimizer.apply_gradients([(scale * [6.0, 8.0] / replicas, dense), (rows, table)])

  expected = dense.numpy()
  for number, scale in enumerate((1.0, 0.5, 0.1)):
    strategy.run(step, (tf.constant(scale),))
    decay = min(0.3, (1 + number) / (10 + number))
    expected = decay * expected + (1 - decay) * dense.numpy()
    ((_, average),) = averages(optimizer)
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-6)
    # of the dense weights before they are clipped to 2
    assert gauges.norms() == pytest.approx([10 * scale, 5 * scale], rel=1e-6)


def test_points_behind_a_step_and_half_written_ones_are_forgotten(tmp_path):
  writer = tf.summary.create_file_writer(str(tmp_path / "tensorboard" / "steps"))
  with writer.as_default():
    for step in (1, 2, 3):
      tf.summary.scalar("loss", 0.5, step)
  writer.close()
  (file,) = (tmp_path / "tensorboard" / "steps").iterdir()
  file.write_bytes(file.read_bytes()[:-5])
  forget(file.parent, 2)
  assert points(file.parent) == {"loss": [(1, 0.5), (2, 0.5)]}


def test_the_text_of_prometheus_is_escaped():
  found = text([Sample("a", "What.", float("nan"), {"name": "b"}), Sample("a", "", 2.0)], {"run": 'x"\\\n'})
  assert found == '# HELP a What.\n# TYPE a gauge\na{run="x\\"\\\\\\n",name="b"} NaN\na{run="x\\"\\\\\\n"} 2.0\n'
