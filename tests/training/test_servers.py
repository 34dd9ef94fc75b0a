"""Jobs with parameter servers, each process one of its own, as several machines run them."""

import contextvars
import json
import shutil

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf import config
from lcn_tf.errors import UserError
from lcn_tf.layers import parts
from lcn_tf.layers.dropout import Dropout
from lcn_tf.layers.lockstep import in_lockstep
from lcn_tf.layers.parts import copy, in_parts, parts_of, put, reference, wholes
from lcn_tf.layers.replicas import gather_rows
from lcn_tf.layers.tables import _initial
from lcn_tf.training.checkpoint_store import Store
from lcn_tf.training.run_folder import shares
from lcn_tf.training.servers import partitioner
from lcn_tf.training.strategy import make_strategy
from lcn_tf.training.trainer import train
from tests.data import vector_logs
from tests.support.batches import batch_of, model_of, without_repeats
from tests.support.curves import points
from tests.support.experiments import small_experiment, tiny_experiment
from tests.support.record_sets import small_schema, write_record_set
from tests.support.workers import Job
from tests.training import growing

PARTS = {"strategy": "parameter_server", "table_part_bytes": 64}


def tensors(run):
  last = Store(run, "last")
  reader = tf.train.load_checkpoint(last.path(last.newest()))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name.startswith("model/")}


def cut(values, sizes):
  ends = np.cumsum(sizes)
  parts = [tf.Variable(values[end - size : end], name=f"part_{end}") for end, size in zip(ends, sizes, strict=True)]
  return tf.__internal__.distribute.ShardedVariable(parts)


@pytest.mark.parametrize("shape", [[], [0], [5], [2, 3]])
def test_rows_of_a_table_in_parts_are_those_of_the_whole(shape):
  values = np.arange(21, dtype=np.float32).reshape(7, 3)
  table, whole = cut(values, [3, 2, 2]), tf.Variable(values)
  indices = tf.constant(np.random.default_rng(0).integers(7, size=shape))

  @tf.function(autograph=False)
  def rows(weights):
    return gather_rows(weights, indices)

  with tf.GradientTape(persistent=True) as tape:
    found, expected = rows(table), rows(whole)
    losses = [tf.reduce_sum(one * one) for one in (found, expected)]
  np.testing.assert_array_equal(found, expected)
  gradients = [tf.convert_to_tensor(one) for one in tape.gradient(losses[0], table.variables)]
  np.testing.assert_array_equal(tf.concat(gradients, 0), tf.convert_to_tensor(tape.gradient(losses[1], whole)))
  ops = {op.type for op in rows.get_concrete_function(table).graph.get_operations()}
  assert "ResourceGather" in ops
  assert "ReadVariableOp" not in ops  # no part crosses the network whole


def test_tables_alone_are_in_parts():
  parts = partitioner(servers=3, part_bytes=1024)
  with in_parts():
    assert parts(tf.TensorShape([1000, 8]), tf.float32) == [3, 1]
    assert parts(tf.TensorShape([80, 8]), tf.float32) == [2, 1]
    assert parts(tf.TensorShape([80, 2]), tf.float32) == [1, 1]
    assert parts(tf.TensorShape([2, 4096]), tf.float32) == [2, 1]
    assert parts(tf.TensorShape([1000]), tf.float32) == [1]
    assert parts(tf.TensorShape([]), tf.int64) == []
    assert parts(tf.TensorShape([1000, 0]), tf.float32) == [1, 1]
  assert parts(tf.TensorShape([5000, 200]), tf.float32) == [1, 1]  # of a dense layer


@pytest.mark.parametrize("sizes", [[7], [3, 4], [1, 1, 5], [2, 5]])
def test_the_parts_of_a_new_table_begin_as_the_whole_does(sizes):
  offset = 0
  for size in sizes:
    part = _initial(2, 0.5, [7, 3], tf.float32, partition_shape=(size, 3), partition_offset=(offset, 0)).numpy()
    assert part.shape == (size, 3)
    for row, values in enumerate(part, offset):
      assert np.all(values == 0) if row < 2 else np.all(np.abs(values) <= 0.5) and np.all(values != 0)
    offset += size


@pytest.mark.parametrize("at_once", [1, 24, 1 << 20])
@pytest.mark.parametrize("sizes", [[], [7], [3, 4], [1, 1, 5]])
def test_a_variable_takes_values_in_blocks(sizes, at_once):
  values = np.arange(21, dtype=np.float32).reshape(7, 3)
  table = cut(np.zeros_like(values), sizes) if sizes else tf.Variable(np.zeros_like(values))
  put(table, values, at_once)
  np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts_of(table)]), values)
  with pytest.raises(ValueError, match=r"the shape \[7, 3\], and the values \[6, 3\]"):
    put(table, values[:6])
  other = cut(np.zeros_like(values), sizes) if sizes else tf.Variable(np.zeros_like(values))
  copy(other, table, at_once)
  np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts_of(other)]), values)


def test_a_server_gets_large_values_in_blocks(monkeypatch):
  monkeypatch.setattr(parts, "_AT_ONCE", 40)
  values = np.arange(10).reshape(5, 2)

  class Variable:
    name, dtype, shape = "table", tf.int64, tf.TensorShape([5, 2])

    def __init__(self, device):
      self.device, self.found, self.blocks = device, np.zeros([5, 2], np.int64), []

    def assign(self, given):
      self.found = np.asarray(given)
      self.blocks = [len(self.found)]

    def scatter_update(self, rows):
      assert rows.values.dtype == tf.int64
      self.found[rows.indices] = rows.values
      self.blocks.append(len(rows.values))

  for device, blocks in (("/job:ps/replica:0/task:1/device:CPU:0", [2, 2, 1]), ("/job:chief/task:0/device:GPU:0", [5])):
    for give in (put, lambda variable, given: copy(variable, tf.Variable(given))):
      variable = Variable(device)
      give(variable, values)
      np.testing.assert_array_equal(variable.found, values)
      assert variable.blocks == blocks


def test_parts_stand_for_their_whole():
  table, other = cut(np.zeros([7, 3], np.float32), [3, 4]), tf.Variable([1.0])
  assert wholes([table.variables[0], other, table.variables[1], table, other]) == [table, other]
  assert parts.whole(table.variables[1]) is table
  assert parts.whole(other) is other
  assert reference(table) != reference(other)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"replicas": 2}, "replicas 2 is not for strategy 'parameter_server'"),
    ({"steps_per_execution": 2}, "steps_per_execution 2 is not for"),
    ({"jit_compile": True}, "jit_compile True is not for"),
    ({"on_corrupt": "skip"}, "on_corrupt 'skip' is not for"),
    ({"profile": [1, 2]}, "profile .* is not for"),
  ],
)
def test_settings_that_servers_do_not_have_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    tiny_experiment(strategy="parameter_server", **options)


@pytest.mark.job
@pytest.mark.parametrize(("extractor", "micro_batches"), [("lap", 1), ("average_pooling", 2)])
def test_workers_that_share_a_step_have_its_losses_and_gradients(extractor, micro_batches):
  model = model_of(extractor, crp=True)
  model.micro_batches = micro_batches
  variables = model.trainable_variables
  inputs = {"target": without_repeats(batch_of(8, 0)), "source": without_repeats(batch_of(4, 1, "source"))}
  shares = [{d: {n: tf.split(x, 2)[i] for n, x in one.items()} for d, one in inputs.items()} for i in range(2)]

  @tf.function(autograph=False)
  def step(parts):
    found = in_lockstep(lambda i: model.losses_and_gradients(parts[i], variables), len(parts))
    losses = {name: tf.add_n([of_part[name] for of_part, _ in found]) for name in found[0][0]}
    gradients = zip(*(of_part for _, of_part in found), strict=True)
    return losses, [tf.add_n([tf.convert_to_tensor(one) for one in parts]) for parts in gradients]

  losses, gradients = step(shares)
  whole, expected = step([inputs])
  assert float(whole["crp_loss"]) > 0.1
  for name, loss in whole.items():
    np.testing.assert_allclose(losses[name], loss, rtol=1e-5, err_msg=name)
  for found, gradient, variable in zip(gradients, expected, variables, strict=True):
    np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-6, err_msg=variable.name)


@pytest.mark.config(minutes=2)
@pytest.mark.parametrize(
  ("extractor", "crp", "model"), [("lap", True, {}), ("twin", False, {}), ("twin", False, {"auxiliary_seed": 5})]
)
def test_a_job_goes_on_with_servers_as_one_process_does(extractor, crp, model, tmp_path):
  """A step reads all of the records, so nothing changes but the place of the tables, and of the parts of a batch.

  Histories are short enough that every search keeps all of them: rounding has no behaviours to choose from.
  """
  sizes = {"train": 32, "validation": 16, "test": 16}
  lengths = {"target": 4, "source": 4}
  record_set = write_record_set(tmp_path / "records", small_schema(), records=sizes, lengths=lengths, unique_users=True)
  alike = {"crp": crp, "global_batch_size": 128, "learning_rate": 0.01, "early_stopping": 0, "log_every": 1}

  def experiment(**settings):
    tree = small_experiment(extractor, **alike, **settings).model_dump(mode="json", by_alias=True)
    tree["model"] |= model
    return config.from_tree(tree, extractor)

  begun = tmp_path / "here"
  train(experiment(epochs=1), record_set, begun)
  folder = tmp_path / "job"
  folder.mkdir()
  shutil.copytree(begun, folder / "run")
  train(experiment(epochs=4), record_set, begun)
  job = Job(folder, experiment(epochs=4, **PARTS), record_set.path, count=5, servers=2)
  assert job.wait() == [0] * 5, job.logs()
  assert "resumed from step 1" in job.logs()
  assert "Traceback" not in job.logs()
  assert len(pl.read_csv(begun / "history.csv")) == 4
  assert any("/.OPTIMIZER_SLOT/" in name for name in tensors(begun))
  expect_same_job(job.run, begun, rtol=1e-4)
  assert (job.run / "metrics.json").is_file()


@pytest.mark.config(minutes=2)
@pytest.mark.parametrize("preset", ["lcn", "twin"])
def test_a_warm_start_on_a_grown_log_is_the_same_with_servers(preset, half, whole, tmp_path):
  alike = {"preset": preset, "steps_per_epoch": 2, "validate": False, "ema_decay": 0.9, "log_every": 1}
  train(growing.experiment(**alike, epochs=2), half, tmp_path / "earlier")
  alike |= {"epochs": 2, "warm_start": str(tmp_path / "earlier")}
  here = tmp_path / "here"
  train(growing.experiment(**alike), whole, here)
  job = Job(tmp_path / "job", growing.experiment(**alike, **PARTS), whole.path, "--noevaluate", count=4, servers=2)
  assert job.wait() == [0] * 4, job.logs()
  assert "and with the optimizers' state after 4 steps; new values: " in job.logs()
  assert "Traceback" not in job.logs()
  drawn = expect_same_job(job.run, here, rtol=1e-4)
  assert min(value for _, value in drawn["candidates_per_second"]) > 0
  assert all(0 < share <= 1 for _, share in drawn["input_wait_share"])


@pytest.mark.config(minutes=2)
@pytest.mark.parametrize(
  ("extractor", "options"), [("lap", {}), ("twin", {"top_k": 4, "head_dim": 3, "projections": "cached"})]
)
def test_mixed_precision_is_the_same_with_servers(extractor, options, record_set, tmp_path):
  def experiment(**settings):
    tree = small_experiment(extractor, crp=True, epochs=1, log_every=1, **settings).model_dump(
      mode="json", by_alias=True
    )
    tree["model"]["options"] |= options
    return config.from_tree(tree, extractor)

  train(experiment(), record_set, tmp_path / "earlier")
  warm = {"warm_start": str(tmp_path / "earlier")}
  for precision in (True, False):
    train(experiment(**warm, mixed_precision=precision), record_set, tmp_path / str(precision))
  mixed = experiment(**warm, mixed_precision=True, **PARTS)
  job = Job(tmp_path / "job", mixed, record_set.path, "--noevaluate", count=4, servers=2)
  assert job.wait() == [0] * 4, job.logs()
  assert "Traceback" not in job.logs()
  drawn = expect_same_job(job.run, tmp_path / "True", rtol=1e-2)
  one, other = (
    np.array(points(tmp_path / precision / "tensorboard" / "steps")["loss"]) for precision in ("True", "False")
  )
  assert np.abs(np.array(drawn["loss"]) - one).max() < np.abs(other - one).max() / 2, "not in bfloat16"


def expect_same_job(run, other, rtol):
  """Losses and weights after each epoch, and the curves by step but for those that tell of speed."""
  one, two = (pl.read_csv(folder / "history.csv") for folder in (run, other))
  assert one.columns == two.columns
  np.testing.assert_allclose(one.to_numpy(), two.to_numpy(), rtol=rtol)
  found, expected = tensors(run), tensors(other)
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    if np.issubdtype(np.asarray(value).dtype, np.floating):
      np.testing.assert_allclose(found[name], value, rtol=10 * rtol, atol=0.1 * rtol, err_msg=name)
  drawn, there = (points(folder / "tensorboard" / "steps") for folder in (run, other))
  assert drawn.keys() == there.keys()
  assert {"loss", "gradient_norm", "table_gradient_norm"} <= drawn.keys()
  for name in drawn.keys() - {"candidates_per_second", "input_wait_share", "flops_per_second"}:
    np.testing.assert_allclose(drawn[name], there[name], rtol=10 * rtol, atol=1e-7, err_msg=name)
  return drawn


@pytest.mark.config(minutes=2)
@pytest.mark.parametrize("lost", [2, 3], ids=["server", "worker"])
def test_a_lost_process_ends_the_job_which_goes_on_from_its_last_checkpoint(lost, record_set, tmp_path):
  options = {"epochs": 1000, "early_stopping": 0, "steps_per_epoch": 1, **PARTS}
  job = Job(tmp_path, small_experiment(crp=True, **options), record_set.path, "--noevaluate", count=5, servers=2)
  job.wait_for("checkpoints/best/checkpoint")
  job.kill(lost)
  codes = job.wait()
  assert codes == [-9 if index == lost else 75 for index in range(5)], job.logs()
  assert "error: a worker or a server was lost, whose log says why" in job.logs()
  assert "Traceback" not in job.logs()
  done = Store(job.run, "last").newest()
  shorter = small_experiment(crp=True, **(options | {"epochs": done + 1}))
  again = Job(tmp_path, shorter, record_set.path, "--noevaluate", count=5, servers=2)
  assert again.wait() == [0] * 5, again.logs()
  assert Store(job.run, "last").newest() > done
  assert json.loads((job.run / "training.json").read_text())["finished"]


@pytest.mark.config(minutes=1)
def test_values_of_items_are_on_servers_in_parts(tmp_path):
  records = vector_logs.build(tmp_path)
  tree = small_experiment("average_pooling", **PARTS).model_dump(mode="json", by_alias=True)
  tree |= {"schema": vector_logs.SCHEMA}
  tree["train"] |= {"epochs": 1, "global_batch_size": 32}
  job = Job(tmp_path / "job", config.from_tree(tree, "values"), records.path, "--noevaluate", count=4, servers=2)
  assert job.wait() == [0] * 4, job.logs()
  assert "Traceback" not in job.logs()
  ((name, found),) = [(name, found) for name, found in tensors(job.run).items() if "item_values" in name]
  expected = records.item_values("target")
  assert expected.any()
  np.testing.assert_array_equal(found, expected, err_msg=name)


def test_a_job_that_one_process_began_keeps_its_one_share(tmp_path):
  """Else its batches would be other ones, and its position of another order."""
  assert shares(tmp_path, 2) == 2  # of a new job
  last = tmp_path / "checkpoints" / "last"
  last.mkdir(parents=True)
  (last / "checkpoint").touch()
  assert shares(tmp_path, 2) == 1


def test_parts_of_a_step_drop_other_numbers_without_waiting_for_one_another():
  layer = Dropout(0.5)
  inputs = tf.ones([64])
  expected = layer(inputs, training=True)
  layer = Dropout(0.5)
  layer.build([64])
  layer.generator.reset_from_seed(1)
  plain = layer(inputs, training=True)
  layer.generator.reset_from_seed(1)
  seeds = layer.generator.make_seeds(2)

  def part(index):
    layer.give(seeds[:, index])
    return [layer(inputs, training=True).numpy(), layer(inputs, training=True).numpy()]

  drawn = [one for index in range(2) for one in contextvars.copy_context().run(part, index)]
  assert set(np.unique(expected)) == {0, 2}
  np.testing.assert_array_equal(drawn[0], plain)
  assert len({tuple(one) for one in drawn}) == 4


def test_the_chief_alone_trains(monkeypatch):
  cluster = {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]}
  monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "ps", "index": 0}}))
  with pytest.raises(UserError, match="this is server 0 of 1, and the chief trains"):
    make_strategy(tiny_experiment(strategy="parameter_server").train)


@pytest.mark.config(minutes=1)
def test_a_server_whose_chief_was_never_there_ends_at_sigterm(record_set, tmp_path):
  job = Job(tmp_path, small_experiment(**PARTS), record_set.path, "--noevaluate", count=3, servers=1)
  job.kill(0)
  job.wait_until_said(1, "is at work for")
  job.wait_until_said(2, "is at work for")
  job.preempt(1)
  job.preempt(2)
  assert job.wait() == [-9, 143, 143], job.logs()


@pytest.mark.config(minutes=1)
@pytest.mark.parametrize("everybody", [False, True], ids=["chief", "all"])
def test_sigterm_saves_and_ends_all(everybody, record_set, tmp_path):
  options = {"epochs": 1000, "early_stopping": 0, **PARTS}
  job = Job(tmp_path, small_experiment(crp=True, **options), record_set.path, "--noevaluate", count=4, servers=2)
  job.wait_for("checkpoints/best/checkpoint")
  for index in (3, 2, 1, 0) if everybody else (0,):
    job.preempt(index)
  assert job.wait() == [143, *([143] * 3 if everybody else [75] * 3)], job.logs()
  assert "SIGTERM: stopped at step" in job.logs()
