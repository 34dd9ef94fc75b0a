"""What a job takes: the liveness of tensors in a graph, and sizes that the stand-in model scales to."""

import pytest
import tensorflow as tf

from lcn_tf import config as config_lib
from lcn_tf.analysis.live_memory import live_memory
from lcn_tf.analysis.plan import _compiled, _stand_ins, _stored, plan
from lcn_tf.errors import UserError
from lcn_tf.layers.replicas import gather_rows
from lcn_tf.models.build import build_model
from lcn_tf.schema import DOMAINS, with_sizes
from lcn_tf.training.flops import of_step
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.servers import partitioner
from tools import plan_run

TREE = {
  "name": "planned",
  "schema": {
    "target": {"item_fields": ["category"], "max_length": 30},
    "source": {"item_fields": ["category"], "max_length": 20},
    "candidates": 4,
    "extra_length": 0,
  },
  "model": {"extractor": "average_pooling", "embedding": {"dim": 8}, "mlp": {"units": [16]}},
  "train": {"global_batch_size": 32},
}


def peak(call, *shapes):
  specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
  return live_memory(tf.function(call, autograph=False).get_concrete_function(*specs)).peak // 4


def test_a_tensor_lives_from_its_operation_to_its_last_reader():
  # the products of a chain: two at a time
  assert peak(lambda x: tf.matmul(tf.matmul(tf.matmul(x, x), x), x), [10, 10]) == 200
  # each is read again at the end
  assert peak(lambda x: tf.concat([a := tf.matmul(x, x), tf.matmul(a, x)], 0), [10, 10]) == 400
  # another shape is the same memory, and so is what an elementwise operation may overwrite
  assert peak(lambda x: tf.nn.relu(tf.reshape(tf.matmul(x, x), [4, 25])), [10, 10]) == 100


def test_what_nothing_needs_is_not_counted():
  def call(x):
    tf.matmul(x, x)
    return tf.reduce_sum(x)

  assert peak(call, [10, 10]) == 1


def test_what_a_gradient_needs_stays():
  def call(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = x
      for _ in range(5):
        y = tf.tanh(tf.matmul(x, y))
    return tape.gradient(y, x)

  # five results, and the gradients of the last one
  assert 600 <= peak(call, [10, 10]) <= 900


def test_branches_and_loops():
  def branch(x):
    return tf.cond(
      tf.reduce_sum(x) > 0, lambda: tf.reduce_sum(tf.matmul(x, x)), lambda: tf.reduce_sum(tf.concat([x] * 5, 0))
    )

  assert 500 <= peak(branch, [10, 10]) <= 510

  def loop(x):
    body = lambda i, kept: (i + 1, kept.write(i, tf.matmul(x, x)))  # noqa: E731
    kept = tf.TensorArray(tf.float32, 7, element_shape=[10, 10])
    return tf.while_loop(lambda i, kept: i < 7, body, [0, kept], maximum_iterations=7)[1].stack()

  assert 700 <= peak(loop, [10, 10]) <= 920


def test_a_size_that_depends_on_the_data_has_its_bound():
  table = tf.Variable(tf.zeros([1000, 8]))

  def call(x):
    distinct, _ = tf.unique(tf.cast(x, tf.int64))
    return tf.reduce_sum(tf.exp(tf.gather(table, distinct)))

  # 50 ids of 8 bytes, their distinct ones and places, and 50 rows of 8 floats
  assert 400 <= peak(call, [50]) <= 800


def sized(experiment, items):
  schema = experiment.record_schema
  sizes = dict.fromkeys(schema.vocabularies, 40) | {"target_item": items, "source_item": items // 2}
  return with_sizes(schema, sizes, {"target": items, "source": items // 2})


@pytest.mark.parametrize("preset", ["lcn", "twin"])
def test_variables_are_those_of_the_model_with_its_sizes(preset):
  experiment = config_lib.from_tree({**TREE, "train": {**TREE["train"], "preset": preset}}, "test")
  schema = sized(experiment, 300)
  planned = plan(experiment, schema, [1])
  model = build_model(schema, experiment.model)
  optimizer = make_optimizer(model, experiment.train)
  of = lambda variables: sum(v.shape.num_elements() * v.dtype.size for v in variables)  # noqa: E731
  assert planned.tables == of(model.table_variables())
  assert planned.dense == of(model.dense_variables())
  assert planned.frozen == of(model.non_trainable_variables)
  assert planned.slots == of(v for one in optimizer.optimizers for v in one.variables())


def test_a_plan_of_more_rows_than_any_memory_holds_costs_none():
  experiment = config_lib.from_tree(TREE, "test")
  small, large = plan(experiment, sized(experiment, 300), [1]), plan(experiment, sized(experiment, 10**12), [1, 4])
  assert large.tables > 10**13
  assert large.shares[1].activations == small.shares[1].activations
  # 8 requests: 4 candidates, 30 and 20 behaviours, whose rows are 8 floats and a number; categories have 40 rows
  assert large.shares[1].rows == (8 * 4 + 8 * 30 + 8 * 20 + 40) * 40
  assert small.shares[1].rows < large.shares[1].rows
  # and those of the catalogue, an id and a category each, behind them
  assert large.shares[1].read == (8 * 54 + 40) * 32 + 8 * 54 * 16
  assert small.shares[1].read < large.shares[1].read
  assert large.shares[4].activations < large.shares[1].activations / 2
  assert large.sent(1) == 0
  assert large.sent(4) == 2 * large.dense * 3 // 4 + 3 * large.shares[4].rows


def test_servers_hold_parts_of_what_has_rows_of_values():
  experiment = config_lib.from_tree(TREE, "test")
  planned = plan(experiment, sized(experiment, 10**6), [1, 4])
  counters = 2 * 8  # of the optimizers
  assert sum(one.size + one.slots for one in planned.stored) == planned.variables - counters
  # tables with both moments, and catalogues
  large = [one for one in planned.stored if one.rows >= 5 * 10**5]
  assert sorted(one.slots // one.size for one in large) == [0, 0, 2, 2]
  cut = sum(one.size + one.slots for one in large)
  step = 3 * 4 * planned.shares[4].rows // 3
  assert cut // 3 + step <= planned.server_memory(3, 4, 10**6) < cut // 3 + step + planned.variables - cut
  assert planned.server_memory(1, 1, 10**6) == planned.variables - counters + 3 * planned.shares[1].rows
  # a table that is not cut is on one of both with its moments
  whole = max(one.size + one.slots for one in large)
  assert planned.server_memory(2, 1, 10**9) > whole
  # initial values take more than the one slot of this preset
  twin = config_lib.from_tree({**TREE, "train": {**TREE["train"], "preset": "twin"}}, "test")
  begun = plan(twin, sized(twin, 10**6), [1])
  table = max(one.size for one in begun.stored)
  assert max(one.size + one.slots for one in begun.stored) + 3 * begun.shares[1].rows < 2.1 * table
  assert 3 * table <= begun.server_memory(10**6, 1, 10**9) < 3.1 * table
  assert planned.server_memory(10**6, 1, 10**9) >= 3 * max(one.size for one in large)
  assert planned.worker_memory(4) == 2 * planned.dense + planned.shares[4].activations
  assert planned.worker_sent(4) == planned.dense + planned.shares[4].rows
  assert planned.worker_read(4) == planned.dense + planned.shares[4].read


def test_rows_that_functions_look_up_are_counted_once_for_each_turn():
  table = tf.Variable(tf.zeros([50, 3]))
  look_up = lambda rows: tf.reduce_sum(gather_rows(table, rows))  # noqa: E731

  def call(rows):
    own = look_up(rows) + look_up(rows[:2])
    looped = tf.while_loop(
      lambda i, _: i < 4, lambda i, x: (i + 1, x + look_up(rows[:5])), (0, 0.0), maximum_iterations=4
    )
    chosen = tf.cond(own > 0, lambda: look_up(rows[:3]), lambda: look_up(rows[:6]))
    return own + looped[1] + chosen

  found = live_memory(tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec([10], tf.int32)))
  assert found.read.pop(None) == (4 * 5 + 6) * 12
  assert list(found.read.values()) == [(10 + 2) * 12]


def test_frozen_vectors_are_read_for_each_behaviour():
  tree = {**TREE, "model": {**TREE["model"], "item_dim": 8, "extractor": "sim_soft", "options": {"top_k": 3}}}
  tree["model"]["pretraining"] = {"dim": 5}
  experiment = config_lib.from_tree(tree, "test")
  planned = plan(experiment, sized(experiment, 10**6), [1]).shares[1]
  # 8 requests: 4 candidates, 30 and 20 behaviours, whose vectors are 5 floats
  assert planned.read == (8 * 54 + 40) * 32 + 8 * 54 * 16 + 8 * 54 * 5 * 4
  tree["train"] = {**TREE["train"], "micro_batches": 2}
  experiment = config_lib.from_tree(tree, "test")
  halves = plan(experiment, sized(experiment, 10**6), [1]).shares[1]
  assert halves.read == planned.read + 40 * 32  # categories are looked up twice


VALUES = {
  "target": {"item_fields": [{"name": "size", "kind": "numeric", "buckets": 4, "standardise": True}], "max_length": 5},
  "source": {"item_fields": ["category"], "item_vectors": [{"name": "looks", "width": 3}], "max_length": 5},
}


@pytest.mark.parametrize(
  ("model", "cut"),
  [
    ({"extractor": "average_pooling"}, {"catalogue/target", "item_values/target", "content/source/looks"}),
    ({"extractor": "sim_cluster", "options": {"top_k": 3}}, {"catalogue/source"}),
    ({"extractor": "twin", "options": {"top_k": 3, "projections": "cached"}}, {"catalogue/source"}),
    ({"extractor": "dare", "options": {"top_k": 3}}, {"target_item/key"}),
  ],
)
def test_what_the_plan_cuts_is_what_servers_cut(model, cut):
  tree = {**TREE, "schema": {**TREE["schema"], **VALUES}, "model": {**TREE["model"], "item_dim": 8, **model}}
  experiment = config_lib.from_tree(tree, "test")
  small, actual = _stand_ins(sized(experiment, 300))
  may, parts = {}, partitioner(servers=2, part_bytes=1)

  def creator(next_creator, **kwargs):
    variable = next_creator(**kwargs)
    may[variable.ref()] = parts(variable.shape, variable.dtype)[0] if variable.shape.rank else 1
    return variable

  with tf.variable_creator_scope(creator):
    built = _compiled(experiment, small)
  planned = {v.name: _stored(v, built, actual).rows > 1 for v in built.variables}
  assert planned == {v.name: may[v.ref()] > 1 for v in built.variables}
  assert all(any(name in of and planned[of] for of in planned) for name in cut), planned


@pytest.mark.job
def test_a_device_compares_its_rows_with_those_of_all_others():
  tree = {**TREE, "model": {**TREE["model"], "crp": {"units": [8]}}, "train": {"global_batch_size": 512}}
  experiment = config_lib.from_tree(tree, "test")
  schema = sized(experiment, 300)
  [alone] = plan(experiment, schema, [1]).shares.values()
  shared = plan(experiment, schema, [8]).shares[8]
  smaller = config_lib.from_tree({**tree, "train": {"global_batch_size": 64}}, "test")
  own = plan(smaller, schema, [1]).shares[1]  # the same rows, without others
  assert own.mult_adds < shared.mult_adds < alone.mult_adds
  assert own.activations < shared.activations < alone.activations


@pytest.mark.job
def test_arithmetic_counts_the_rows_of_all_replicas_and_of_one_micro_batch():
  tree = {**TREE, "model": {**TREE["model"], "crp": {"units": [8]}}}
  experiment = config_lib.from_tree(tree, "test")
  model = _compiled(experiment, sized(experiment, 300))
  widths = {(of, d): 8.0 for of in DOMAINS for d in DOMAINS}
  rows = dict.fromkeys(DOMAINS, 8)
  alone, two = (of_step(model, rows, widths, replicas) for replicas in (1, 2))
  assert 2 * alone < two == of_step(model, dict.fromkeys(DOMAINS, 16), widths, 1)
  part = of_step(model, dict.fromkeys(DOMAINS, 4), widths, 1)
  model.micro_batches = 2
  assert of_step(model, rows, widths, 1) == 2 * part < alone


def test_devices_that_cannot_share_the_batch_are_refused():
  experiment = config_lib.from_tree(TREE, "test")
  with pytest.raises(UserError, match=r"--devices 3: the 8 requests of a step"):
    plan(experiment, sized(experiment, 300), [3])


@pytest.fixture
def config(tmp_path):
  file = tmp_path / "planned.yaml"
  experiment = config_lib.from_tree(TREE, "test")
  file.write_text(config_lib.dump(experiment))
  return str(file)


def test_the_command_says_what_fits(config, capsys):
  sizes = "--sizes=target_item=8M,source_item=1M,category=1k"
  plan_run.main(["plan_run", "--config", config, sizes, "--devices", "1,2", "--samples", "80M", "--rate", "1000"])
  out = capsys.readouterr().out
  assert "fits: 1 of 1, 2 devices" in out
  assert "80,000,000 candidates in 20,000,000 records" in out
  assert "an epoch takes 22.2 hours" in out
  plan_run.main(["plan_run", "--config", config, sizes, "--devices", "1", "--device", "cpu", "--memory", "1GB"])
  assert "does not fit: every device holds all tables and their state, 864.1 MB" in capsys.readouterr().out


@pytest.mark.job
def test_the_command_says_how_many_servers_hold_what_a_device_does_not(config, capsys):
  def said(*flags):
    sizes = "--sizes=target_item=80M,source_item=1M,category=1k"
    plan_run.main(["plan_run", "--config", config, sizes, "--device", "cpu", "--memory", "2GB", *flags])
    return capsys.readouterr().out.splitlines()[-2:]

  assert said("--devices", "2")[1].startswith("does not fit: every device holds all tables")
  enough = said("--devices", "1,2", "--servers", "2,8,16", "--server_memory", "3GB")
  assert enough[0].startswith("does not fit")
  assert enough[1] == "fits on servers: servers 8, workers 1, the fewest that do"
  assert said("--servers", "2", "--server_memory", "1GB")[1] == (
    "does not fit on servers: more servers, or larger ones, are needed"
  )


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "--sizes: rows of .*category.* are missing"),
    (["--sizes", "items=8M"], "--sizes: unknown name 'items'"),
    (["--sizes", "category"], "--sizes category: expected name=number"),
    (["--sizes", "category=8X"], "--sizes category 8X: expected a number"),
    (["--sizes", "target_item=9,source_item=9,category=9", "--device", "cpu"], "--memory is missing"),
    (["--sizes", "target_item=9,source_item=9,category=9", "--lengths", "target=31"], "a record holds 30 at most"),
    (["--devices", "0"], "--devices 0: expected numbers of at least 1"),
    (["--servers", "0", "--server_memory", "1GB"], "--servers 0: expected numbers of at least 1"),
    (["--servers", "2"], "--servers and --server_memory go together"),
    (["--server_memory", "2GB"], "--servers and --server_memory go together"),
    (["--servers", "2", "--server_memory", "2GB", "--set", "train.jit_compile=true"], "jit_compile True is not for"),
  ],
)
def test_wrong_flags_are_told(config, flags, message):
  with pytest.raises(UserError, match=message):
    plan_run.main(["plan_run", "--config", config, *flags])
