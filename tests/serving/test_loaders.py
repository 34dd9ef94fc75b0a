"""What servers load exports with: TensorFlow's C API, and a session of the first TensorFlow."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from lcn_tf.serving import answers
from lcn_tf.training.export_run import export_run
from tests.support.experiments import tiny_experiment
from tests.support.record_sets import small_schema, write_record_set
from tests.support.runs import write_run

SESSION = """
import base64, json, sys
import numpy as np
import tensorflow.compat.v1 as tf

version, program = sys.argv[1:]
sys.path.insert(0, program)
import answers


def plain(value):
  if isinstance(value, list):
    return [plain(one) for one in value]
  return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


tf.disable_eager_execution()
with tf.Session(graph=tf.Graph()) as session:
  graph = tf.saved_model.load(session, ["serve"], version)
  for one in json.load(open(f"{version}/{answers.REQUESTS}")):
    signature = graph.signature_def[one["signature_name"]]
    inputs = {}
    for name, info in signature.inputs.items():
      given = one["inputs"][name]
      dtype = tf.as_dtype(info.dtype)
      if dtype == tf.string:
        inputs[info.name] = np.array(plain(given), object)
      else:
        inputs[info.name] = np.array(given, float if dtype.is_floating else None).astype(dtype.as_numpy_dtype)
    found = session.run(signature.outputs["probability"].name, inputs)
    print(one["signature_name"], float(np.abs(found - np.array(one["outputs"]["probability"])).max()))
assert "lcn_tf" not in sys.modules
"""


@pytest.fixture(scope="module")
def version(tmp_path_factory):
  folder = tmp_path_factory.mktemp("loaders")
  record_set = write_record_set(folder / "records", small_schema())
  write_run(folder / "run", tiny_experiment(), record_set)
  return export_run(folder / "run", folder / "served")


def requests_of(version):
  return json.loads((version / answers.REQUESTS).read_text())


def call_bytes(version, one):
  """The call of `loader.c`."""
  parsed = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
  signature = parsed.meta_graphs[0].signature_def[one["signature_name"]]

  def text(value):
    return struct.pack("<q", len(value)) + value

  parts = [struct.pack("<q", len(signature.inputs))]
  for name, info in signature.inputs.items():
    value = answers.tensor(one["inputs"][name], tf.as_dtype(info.dtype)).numpy()
    parts += [
      text(info.name.encode()),
      struct.pack("<qq", info.dtype, value.ndim),
      struct.pack(f"<{value.ndim}q", *value.shape),
    ]
    parts += [text(each) for each in value.ravel()] if value.dtype == object else [value.tobytes()]
  return b"".join([*parts, text(signature.outputs["probability"].name.encode())])


@pytest.mark.job
@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no C compiler")
def test_a_c_program_loads_an_export_and_answers_as_the_model_does(version, tmp_path):
  package, source = pathlib.Path(tf.__file__).parent, pathlib.Path(__file__).parent / "loader.c"
  libraries = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
  places = [f"-I{package / 'include'}", f"-L{package}", f"-Wl,-rpath,{package}"]
  subprocess.run(["gcc", "-O1", str(source), "-o", str(tmp_path / "loader"), *places, *libraries], check=True)
  for one in requests_of(version)[-3:]:
    (tmp_path / "call").write_bytes(call_bytes(version, one))
    subprocess.run([tmp_path / "loader", version, tmp_path / "call", tmp_path / "answer"], check=True)
    found = np.fromfile(tmp_path / "answer", np.float32)
    np.testing.assert_allclose(found, np.ravel(one["outputs"]["probability"]), rtol=1e-6)


@pytest.mark.job
def test_a_session_of_tensorflow_alone_answers_as_the_model_does(version, tmp_path):
  (tmp_path / "session.py").write_text(SESSION)
  environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
  program = [sys.executable, "-I", tmp_path / "session.py", version, pathlib.Path(answers.__file__).parent]
  done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  worst = [line.split() for line in done.stdout.splitlines() if line.startswith("rank")]
  assert [name for name, _ in worst] == [one["signature_name"] for one in requests_of(version)]
  assert max(float(number) for _, number in worst) < 1e-6
