"""A step's cost does not grow with the tables: nothing reads one whole, in training, validation and serving."""

import collections

import pytest
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from lcn_tf import config
from lcn_tf.data.request_spec import request_spec
from lcn_tf.models.build import build_model, needs_pretrained
from lcn_tf.models.graphs import BRANCHES
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS
from lcn_tf.serving.export import save
from lcn_tf.training.optimizers import make_optimizer
from tests.support.batches import batch_of
from tests.support.experiments import small_experiment
from tests.support.record_sets import small_schema, write_record_set
from tests.support.replicas import mirrored

SCHEMA = small_schema()
READS = ("ReadVariableOp", "ResourceGather")
LARGE = ("table", "catalogue", "vectors", "clusters", "projections")


def frozen():
  sizes = {d: SCHEMA.domain(d).items for d in DOMAINS}
  vectors = {d: tf.random.stateless_normal([size, 3], [1, 2]).numpy() for d, size in sizes.items()}
  clusters = {d: tf.ones([size, 2], tf.int64).numpy() for d, size in sizes.items()}
  return Pretrained(vectors, clusters, {}, SCHEMA.fingerprint())


def experiment_of(system):
  network, _, variant = system.partition(" ")
  if network == "minet":
    tree = small_experiment("none").model_dump(mode="json", by_alias=True)
    tree["model"] |= {"network": "minet", "extractor": "none", "options": {"recent": 3, "attention_units": 4}}
    return config.from_tree(tree, "small")
  made = small_experiment(network, crp=variant == "crp", preset="twin" if variant == "adagrad" else "lcn")
  options = {"sim_soft": {"top_k": 4}, "sim_cluster": {"top_k": 4}, "twin": {"top_k": 4, "projections": "cached"}}
  if network in options:
    made = made.model_copy(update={"model": made.model.model_copy(update={"options": options[network]})})
  return made


def model_of(experiment, strategy):
  with strategy.scope():
    pretrained = frozen() if needs_pretrained(experiment.model) else None
    model = build_model(SCHEMA, experiment.model, pretrained=pretrained)
    model.compile(optimizer=make_optimizer(model, experiment.train))
  return model


def large(model, strategy):
  """Of tables, their slots, and what is looked up besides: resource handle -> name."""
  found = {}
  for variable in [*model.variables, *model.optimizer.variables()]:
    if any(part in variable.name for part in LARGE):
      for copy in strategy.experimental_local_results(variable):
        found[id(copy.handle)] = variable.name
  return found


def reads(function, names):
  """How often a traced function, and those that it calls, read these variables: whole, and rows of them."""
  called = {one.signature.name: one for one in function.graph.as_graph_def().library.function}
  outer = {id(inner): names.get(id(handle)) for handle, inner in function.graph.captures}
  with function.graph.as_default():
    found = _reads(function.graph, outer, called)
  return tuple(collections.Counter(name for kind, name in found.elements() if kind == each) for each in READS)


def _reads(graph, names, called):
  """The same of a graph; `names` are those of its tensors, by id, and `called` the functions by name."""
  counted = collections.Counter()
  for op in graph.get_operations():
    if op.type in READS and names.get(id(op.inputs[0])):
      counted[op.type, names[id(op.inputs[0])]] += 1
    given = list(op.inputs)[1 if op.type in BRANCHES else 0 :]
    for function in _functions(op):
      inner = function_def_to_graph(called[function])
      own = {id(tensor): names.get(id(outer)) for tensor, outer in zip(inner.inputs, given, strict=True)}
      counted += _reads(inner, own, called)
  return counted


def _functions(op):
  """The names of the functions that an operation calls: calls, both ways of a condition, and loops."""
  values = op.node_def.attr.values()
  return [called.name for value in values for called in ([value.func] if value.HasField("func") else value.list.func)]


SYSTEMS = ["lap crp", "twin", "twin adagrad", "sim_soft", "sim_cluster", "minet"]


@pytest.mark.job
@pytest.mark.parametrize(
  ("system", "replicas"), [*((system, 1) for system in SYSTEMS), ("lap crp", 2), ("twin adagrad", 2)]
)
def test_a_step_reads_rows_of_its_tables_and_never_a_whole_one(system, replicas):
  strategy = mirrored(replicas) if replicas > 1 else tf.distribute.MirroredStrategy(["CPU:0"])
  model = model_of(experiment_of(system), strategy)
  inputs = {d: batch_of(4, seed, d) for seed, d in enumerate(model.domains)}
  step = tf.function(lambda: strategy.run(model.train_step, (inputs,)), autograph=False).get_concrete_function()
  names = large(model, strategy)
  assert len(names) >= replicas * 3 * len(model.table_variables()) or system.endswith("adagrad")
  whole, rows = reads(step, names)
  assert whole == {}
  assert rows
  # the count can fail: a dense read of the same variables is seen, in one way of a condition too
  table = model.table_variables()[0]
  reading = tf.function(lambda x: tf.cond(x > 0, lambda: table + x, lambda: table - x), autograph=False)
  assert sum(reads(reading.get_concrete_function(tf.TensorSpec([])), names)[0].values()) == 2
  spec = request_spec(SCHEMA)
  scoring = tf.function(lambda request: model(request), autograph=False, input_signature=[spec])
  whole, rows = reads(scoring.get_concrete_function(), names)
  assert whole == {}
  assert rows


@pytest.mark.job
@pytest.mark.parametrize("system", ["lap", "twin", "sim_soft"])
def test_a_request_to_the_export_reads_rows_alone(system, tmp_path):
  experiment = experiment_of(system)
  model = model_of(experiment, tf.distribute.get_strategy())
  record_set = write_record_set(tmp_path / "records", SCHEMA, records={"train": 2})
  served = tf.saved_model.load(str(save(model, experiment, record_set, tmp_path / "served")))
  names = {id(v.handle): v.name for v in served.weights if any(part in v.name for part in LARGE)}
  assert names
  whole, rows = reads(served.signatures["rank"], names)
  assert whole == {}
  assert rows
