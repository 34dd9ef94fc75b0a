"""Exports whose embedding tables are stored in fewer bits."""

import json

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from lcn_tf import config
from lcn_tf.data import records
from lcn_tf.data.request_spec import request_spec, served_spec
from lcn_tf.errors import UserError
from lcn_tf.layers import narrow
from lcn_tf.layers.narrow import from_int8
from lcn_tf.layers.tables import EmbeddingTables
from lcn_tf.models.build import build_model
from lcn_tf.serving.signatures import rank_function
from lcn_tf.training import export_run as export_run_module
from lcn_tf.training.export_run import export_run, exported
from lcn_tf.training.projections import refresh
from lcn_tf.training.run_folder import read_run
from pipelines import evaluate as evaluate_command
from pipelines import export as command
from tests.support.batches import SCHEMA, batch_of, catalogue
from tests.support.experiments import small_experiment, tiny_experiment
from tests.support.layers import ops_without_gpu_kernel
from tests.support.networks import network_experiment
from tests.support.record_sets import random_request, small_schema, tiny_schema, write_record_set
from tests.support.runs import write_run


def wide(experiment, dim, **model):
  tree = experiment.model_dump(mode="json", by_alias=True)
  tree["model"]["embedding"]["dim"] = dim
  tree["model"] |= model
  return config.from_tree(tree, experiment.name)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
  """A run whose export is mostly tables, and its records."""
  record_set = write_record_set(tmp_path_factory.mktemp("tiny"), tiny_schema())
  folder = tmp_path_factory.mktemp("run")
  return folder, write_run(folder, wide(tiny_experiment(), 2048), record_set), record_set


@pytest.fixture(scope="module")
def versions(quick, tmp_path_factory):
  folders = {dtype: tmp_path_factory.mktemp(dtype) for dtype in ("float32", "bfloat16", "int8")}
  return {dtype: export_run(quick[0], folder, dtype=dtype, tried=dtype == "int8") for dtype, folder in folders.items()}


def stored(version):
  """Type and shape of every variable of a SavedModel."""
  read = tf.train.load_checkpoint(str(version / "variables" / "variables"))
  types = read.get_variable_to_dtype_map()
  return [(types[name], shape) for name, shape in read.get_variable_to_shape_map().items() if types[name] != tf.string]


@pytest.mark.job
@pytest.mark.parametrize(("dtype", "bytes_a_number"), [("bfloat16", 2), ("int8", 1)])
def test_the_tables_are_in_the_export_once_in_the_narrow_type(dtype, bytes_a_number, quick, versions):
  shapes = [table.shape.as_list() for table in quick[1].table_variables()]
  there = stored(versions[dtype])
  for shape in shapes:
    assert (tf.as_dtype(dtype), shape) in there
    assert (tf.float32, shape) not in there
    assert (tf.float32, shape) in stored(versions["float32"])
  data = {
    name: (path / "variables" / "variables.data-00000-of-00001").stat().st_size for name, path in versions.items()
  }
  numbers, rows = sum(map(np.prod, shapes)), sum(shape[0] for shape in shapes)
  assert 4 * numbers > 500_000
  saved = numbers * (4 - bytes_a_number) - (4 * rows if dtype == "int8" else 0)
  assert data["float32"] - data[dtype] == pytest.approx(saved, abs=4096)  # the names of the variables


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_saved_model_scores_as_the_narrow_model_does(dtype, quick, versions):
  _, model, record_set = quick
  batch = batch_of_tiny(record_set)
  in_memory = read_run(quick[0]).best()[0]
  in_memory.make_narrow(dtype)
  expected = tf.sigmoid(in_memory(batch)).numpy()
  served = tf.saved_model.load(str(versions[dtype]))
  request = {name: batch[name] for name in served_spec(record_set.record_schema)}
  found = served.signatures["rank"](**request)["probability"].numpy()
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  exact = tf.sigmoid(model(batch)).numpy()
  assert 0 < np.abs(found - exact).max() < 0.01
  graph = served.signatures["rank"].graph.as_graph_def()
  ops = [*graph.node, *(op for function in graph.library.function for op in function.node_def)]
  narrow_ops = {op.op for op in ops if op.attr["dtype"].type == tf.as_dtype(dtype).as_datatype_enum} - {"Placeholder"}
  assert narrow_ops == {"ResourceGather"}  # no ReadVariableOp: tables are not read whole


def batch_of_tiny(record_set):
  schema = record_set.record_schema
  rng = np.random.default_rng(5)
  serialized = [records.encode(random_request(schema, rng, user=i + 1, candidates=4), schema) for i in range(3)]
  return records.parse(tf.constant(serialized), schema)


def systems():
  yield "dare", small_experiment("dare")  # tables of keys
  yield "separate search", wide(small_experiment("twin"), 8, auxiliary_seed=3)  # two models
  yield "conet", network_experiment("conet")


@pytest.mark.job
@pytest.mark.parametrize(("name", "experiment"), [pytest.param(*one, id=one[0]) for one in systems()])
def test_every_system_reads_the_rows_of_its_narrow_tables_alone(name, experiment):
  model = build_model(SCHEMA, experiment.model, catalogues=catalogue(), training=False)
  model.make_narrow("int8")
  layers = [part for part in model.submodules if isinstance(part, EmbeddingTables)]
  unread = [table for layer in layers for table in layer.unread()]
  assert all(set(layer.narrow) == set(layer.tables) for layer in layers)
  rank = rank_function(model, SCHEMA)
  captured = {id(outer) for outer, _ in rank.graph.captures}
  assert unread
  assert captured.isdisjoint({id(table.handle) for table in unread})
  read = [part for layer in layers for parts in layer.narrow.values() for part in parts]
  assert captured.intersection(id(part.handle) for part in read)
  assert ops_without_gpu_kernel(rank) == set()
  batch = {tensor: batch_of(5, 1)[tensor] for tensor in request_spec(SCHEMA)}
  found = model(batch)
  for layer in layers:
    for table_name, parts in layer.narrow.items():
      layer.tables[table_name].assign(from_int8(*parts))
    layer.narrow = {}
  np.testing.assert_allclose(found, model(batch), rtol=1e-5, atol=1e-6)
  assert np.ptp(found) > 0


@pytest.mark.job
def test_cached_projections_are_those_of_the_narrow_tables(tmp_path, monkeypatch):
  record_set = write_record_set(tmp_path / "records", tiny_schema())
  experiment = wide(tiny_experiment("twin"), 8, options={"top_k": 4, "projections": "cached"})
  write_run(tmp_path / "run", experiment, record_set)
  saved = []
  monkeypatch.setattr(export_run_module, "save", lambda model, *args, **kwargs: saved.append(model))
  export_run(tmp_path / "run", tmp_path / "served", dtype="int8")
  cached = {}
  for dtype in ("float32", "int8"):
    model = read_run(tmp_path / "run").best()[0]
    model.make_narrow(dtype)
    refresh(model)
    cached[dtype] = model.extractors["target"].cached.numpy()
  served = saved[0].extractors["target"].cached
  assert any(served is variable for variable in saved[0].served_variables())
  assert served.dtype == tf.float32
  np.testing.assert_array_equal(served, cached["int8"])
  assert np.abs(served - cached["float32"]).max() > 1e-5


@pytest.mark.job
def test_the_command_says_what_a_type_costs(quick, versions, tmp_path, monkeypatch):
  folder, _, record_set = quick
  said = []
  monkeypatch.setattr(narrow, "_LARGEST", 1)  # so coarse that candidates change places
  monkeypatch.setattr(logging, "info", lambda message, *args: said.append(message % args))
  flags = [f"--run_dir={folder}", f"--output={tmp_path / 'served'}", "--dtype=int8", f"--records={record_set.path}"]
  command.main(["export", *flags, "--notry"])
  (version,) = (tmp_path / "served").iterdir()
  tables = json.loads((version / "assets.extra" / "lcn_tf.json").read_text())["tables"]
  cost = tables["auc"]
  assert (tables["dtype"], cost["difference"]) == ("int8", cost["int8"] - cost["float32"])
  assert cost["difference"]
  assert (
    f"AUC of the validation split: {cost['float32']:.6f} with float32 tables, {cost['int8']:.6f} with int8 tables, "
    f"difference {cost['difference']:+.6f}; {cost['candidates']} candidates"
  ) in said
  card = (version / "assets.extra" / "README.md").read_text()
  for name in ("float32", "int8", "difference"):
    assert f"| {name} | {cost[name]:.6g} |" in card
  assert "| embedding tables | int8 |" in card
  for model, dtype in ((version, "int8"), (versions["float32"], "float32")):
    output = tmp_path / dtype
    flags = [f"--model={model}", f"--records={record_set.path}", "--split=validation", f"--output={output}"]
    evaluate_command.main(["evaluate", *flags, "--bootstrap=0"])
    found = json.loads((output / "metrics.json").read_text())
    assert (found["auc"], found["candidates"]) == (pytest.approx(cost[dtype], abs=1e-6), cost["candidates"])


def test_a_narrow_version_does_not_stand_for_the_export_of_a_run(quick, versions):
  assert exported(quick[0], versions["float32"].parent) == versions["float32"]
  assert exported(quick[0], versions["int8"].parent) is None


@pytest.mark.job
def test_what_cannot_be_measured_or_stored_is_told_and_leaves_nothing(quick, tmp_path):
  folder, model, record_set = quick
  flags = [f"--run_dir={folder}", f"--output={tmp_path / 'served'}"]
  with pytest.raises(UserError, match=r"^--records measures what --dtype bfloat16 or int8 costs"):
    command.main(["export", *flags, f"--records={record_set.path}"])
  with pytest.raises(UserError, match=r"value should be one of <float32\|bfloat16\|int8>"):
    command.main(["export", *flags, "--dtype=int4"])
  other = write_record_set(tmp_path / "other", small_schema())
  with pytest.raises(UserError, match="was trained with the schema and vocabularies"):
    command.main(["export", *flags, "--dtype=int8", f"--records={other.path}"])
  blind = record_set.model_copy(update={"splits": {"train": record_set.splits["train"]}})
  with pytest.raises(UserError, match="validation"):
    export_run(folder, tmp_path / "served", dtype="int8", records=blind)
  broken = write_run(tmp_path / "broken", wide(tiny_experiment(), 4), record_set)
  table = broken.table_variables()[0]
  table.assign(table * np.nan)
  tf.train.CheckpointManager(
    tf.train.Checkpoint(model=broken), str(tmp_path / "broken" / "checkpoints" / "best"), 1
  ).save(2)
  with pytest.raises(
    UserError, match=r"broken: the table of source_item: row 0 .*not finite, which int8 does not have"
  ):
    export_run(tmp_path / "broken", tmp_path / "served", dtype="int8")
  assert not (tmp_path / "served").exists()
