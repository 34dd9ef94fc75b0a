"""Requests with their answers inside an export: for warm-up, for tests of clients, and for a trial before it appears.

assets.extra/requests.json                   requests as TensorFlow Serving's REST API takes them, with `outputs`
assets.extra/tf_serving_warmup_requests      the same requests, which TensorFlow Serving replays when it loads
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lcn_tf import files
from lcn_tf.data.id_mapping import IdMapping
from lcn_tf.data.wire import field
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, Schema
from lcn_tf.serving import answers
from lcn_tf.serving.raw_client import raw_tensors
from lcn_tf.serving.samples import raw_requests
from lcn_tf.serving.signatures import Signatures

WARMUP = "assets.extra/tf_serving_warmup_requests"
_FEW = 8  # behaviours of requests that bring floats of each
_Call = tuple[str, dict[str, np.ndarray]]


def write(
  version: pathlib.Path, signatures: Signatures, samples: Sequence[bytes], schema: Schema, mapping: IdMapping
) -> None:
  """Writes the requests of sample records, one by one and together, with the answers of the model in memory.

  Args:
    version: Version folder.
    signatures: Functions of the export.
    samples: Serialized records, at least one.
    schema: Schema with sizes.
    mapping: Id mapping of the model.
  """
  calls = _calls(signatures, samples, schema, mapping)
  described = []
  for name, tensors in calls:
    outputs = signatures.answer(name, {key: tf.constant(value) for key, value in tensors.items()})
    described.append(
      {
        "signature_name": name,
        "inputs": {key: _listed(value) for key, value in tensors.items()},
        "outputs": {key: value.numpy().tolist() for key, value in outputs.items()},
      }
    )
  (version / answers.REQUESTS).write_text(json.dumps(described, ensure_ascii=False))
  with tf.io.TFRecordWriter(files.plain(version / WARMUP)) as writer:
    for name, tensors in calls:
      writer.write(prediction_log(name, tensors))


def check(version: pathlib.Path) -> None:
  """Asks the written requests in a process that has TensorFlow and none of this package.

  Raises:
    UserError: It cannot be loaded there, or answers otherwise than the model in memory.
  """
  environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
  program = [sys.executable, "-I", answers.__file__, files.plain(version), answers.WATCH]
  pipe = subprocess.PIPE
  with subprocess.Popen(
    program, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
  ) as asked:
    assert asked.stdout is not None
    try:
      said = asked.stdout.read().strip().splitlines()[-3:]
    except BaseException:
      asked.kill()
      raise
  if asked.returncode:
    raise UserError(
      f"the export does not answer as the model does, and is not published: a process with TensorFlow alone says: "
      f"{'; '.join(said)}"
    )


def prediction_log(signature: str, tensors: Mapping[str, np.ndarray]) -> bytes:
  """A PredictionLog of TensorFlow Serving: a call of a signature."""
  inputs = b"".join(
    field(2, field(1, name.encode()) + field(2, tf.make_tensor_proto(value).SerializeToString()))
    for name, value in tensors.items()
  )
  request = field(1, field(3, signature.encode())) + inputs
  return field(6, field(1, request))


def _calls(signatures: Signatures, samples: Sequence[bytes], schema: Schema, mapping: IdMapping) -> list[_Call]:
  found: list[_Call] = []
  for group in [*([one] for one in samples[:2]), samples]:
    serialized = np.array(group, object)
    batch = signatures.read("rank_examples", {"examples": tf.constant(serialized)})
    specs = signatures.functions["rank"].structured_input_signature[1]
    found.append(("rank", {name: tf.cast(batch[name], spec.dtype).numpy() for name, spec in specs.items()}))
    found.append(("rank_examples", {"examples": serialized}))
    if "rank_raw" in signatures.functions:
      specs = signatures.functions["rank_raw"].structured_input_signature[1]
      integer = {d: specs[f"{d}_ids"].dtype == tf.int64 for d in DOMAINS}
      raw = raw_tensors(raw_requests(group, schema, mapping), schema, integer)
      found.append(
        ("rank_raw", {name: _wide(raw[name].astype(spec.dtype.as_numpy_dtype)) for name, spec in specs.items()})
      )
  short = _newest(found[0][1])
  if "rank_projected" in signatures.functions:
    projections = signatures.projections({name: tf.constant(value) for name, value in short.items()})
    found.append(("rank_projected", short | {name: value.numpy() for name, value in projections.items()}))
  if "rank_encoded" in signatures.functions:
    encode, ranked = (signatures.functions[name] for name in ("encode_user", "rank_encoded"))
    user = encode(**{name: tf.constant(short[name]) for name in encode.structured_input_signature[1]})
    whole = short | {name: value.numpy() for name, value in user.items()}
    found.append(("rank_encoded", {name: whole[name] for name in ranked.structured_input_signature[1]}))
  return found


def _newest(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A request of `rank` with the newest `_FEW` behaviours: tensors of floats are long as JSON."""
  short = dict(request)
  for name, value in request.items():
    if name.startswith(DOMAINS) and not name.endswith("_first_visible"):
      short[name] = np.minimum(value, _FEW) if name.endswith("_length") else value[:, :_FEW]
  return short


def _wide(value: np.ndarray) -> np.ndarray:
  """With a column of padding in place of none: JSON does not keep the shape of an array of nothing."""
  if value.ndim < 2 or value.shape[1]:
    return value
  padding = "" if value.dtype == object else 0
  return np.full((value.shape[0], 1), padding, value.dtype)


def _listed(value: np.ndarray) -> Any:
  """Nested lists; bytes that are no text as `{"b64": ...}`, NaN as "NaN"."""

  def plain(one: Any) -> Any:
    if isinstance(one, list):
      return [plain(inner) for inner in one]
    if isinstance(one, bytes):
      return {"b64": base64.b64encode(one).decode()}
    return "NaN" if isinstance(one, float) and one != one else one

  return plain(value.tolist())
