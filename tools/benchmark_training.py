"""Measures speed and memory of training steps, with the real model and optimizer on random batches.

The command builds the model that the flags describe and reads no files. With --records it also writes TFRecords of the
same sizes to a temporary folder and measures how fast the input pipeline reads them.

It leaves no files. It prints one JSON line: candidates per second, seconds per step, peak memory and number of weights.

Example:

    python -m tools.benchmark_training --model lcn --histories 1 --seq_len 1000 --requests 32 --candidates 16
"""

import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from lcn_tf import config as config_lib
from lcn_tf import entry
from lcn_tf.config import Experiment
from lcn_tf.errors import UserError, unknown
from lcn_tf.schema import DOMAINS, Schema, with_sizes

_FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string(
  "model", "lcn", "Model to build: lcn (without CRP), lcn_crp, or the name of an extractor.", flag_values=_FLAGS
)
_HISTORIES = flags.DEFINE_integer(
  "histories", 1, "Histories that the model reads. 1 = target, 2 = both domains.", 1, 2, flag_values=_FLAGS
)
_SEQ_LEN = entry.define_seq_len(_FLAGS, 1000)
_REQUESTS = flags.DEFINE_integer(
  "requests", 32, "Requests B of a step, summed over the replicas.", lower_bound=1, flag_values=_FLAGS
)
_CANDIDATES = entry.define_candidates(_FLAGS, 16)
_ITEMS = flags.DEFINE_integer("items", 200_000, "Items of each domain.", lower_bound=10, flag_values=_FLAGS)
_DIM = flags.DEFINE_integer(
  "dim", 64, "Width of an item's embedding. Half of it is the id's, half another field's.", 2, flag_values=_FLAGS
)
_TOPK = flags.DEFINE_list(
  "topk",
  [],
  "Behaviours that the search keeps: K1,K2 of LAP, K of other extractors. Without --topk LAP keeps L/10,L/20, and "
  "others keep their default.",
  flag_values=_FLAGS,
)
_OPTIONS = flags.DEFINE_multi_string(
  "options",
  [],
  "Option key=value of the extractor, with the value in YAML. May be repeated. Without --options all have their "
  "defaults.",
  flag_values=_FLAGS,
)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps that are timed.", lower_bound=1, flag_values=_FLAGS)
_REPLICAS = flags.DEFINE_integer(
  "replicas", 1, "Replicas of the model: GPUs, or logical CPU devices without GPUs.", lower_bound=1, flag_values=_FLAGS
)
_RECORDS = flags.DEFINE_bool(
  "records", False, "Also measure the input pipeline, on TFRecords that the command writes.", flag_values=_FLAGS
)
_PRESET = flags.DEFINE_enum(
  "preset", "lcn", ["lcn", "twin"], "Optimizers, as train.preset of a config.", flag_values=_FLAGS
)
_PLAN = flags.DEFINE_bool(
  "plan", False, "Also print the peak memory that tools.plan_run plans for these sizes.", flag_values=_FLAGS
)
_MICRO_BATCHES = flags.DEFINE_integer(
  "micro_batches",
  1,
  "Parts in which a step reads its batch, as train.micro_batches of a config.",
  1,
  flag_values=_FLAGS,
)
_CATEGORIES = 1000


def experiment() -> Experiment:
  """The experiment that the flags describe."""
  domain = {"item_fields": ["category"], "max_length": _SEQ_LEN.value}
  name = "lap" if _MODEL.value in ("lcn", "lcn_crp") else _MODEL.value
  kept = [int(k) for k in _TOPK.value]
  options: dict[str, Any] = {}
  if name == "lap":
    options["top_k"] = kept or [max(_SEQ_LEN.value // 10, 2), max(_SEQ_LEN.value // 20, 1)]
  elif kept:
    options["top_k"] = kept[0]
  for setting in _OPTIONS.value:
    config_lib.override(options, setting, "--options")
  tree = {
    "name": f"benchmark {_MODEL.value}",
    "schema": {"target": domain, "source": domain, "candidates": _CANDIDATES.value, "extra_length": 0},
    "model": {
      "extractor": name,
      "options": options,
      "histories": list(DOMAINS[: _HISTORIES.value]),
      "embedding": {"dim": _DIM.value // 2, "recency_buckets": 0, "init": "scaled_uniform"},
      "crp": {} if _MODEL.value == "lcn_crp" else None,
    },
    "train": {
      "preset": _PRESET.value,
      "global_batch_size": _REQUESTS.value * _CANDIDATES.value,
      "replicas": _REPLICAS.value,
      "micro_batches": _MICRO_BATCHES.value,
      "log_every": 0,
    },
  }
  return config_lib.from_tree(tree, "flags")


def check_shares() -> None:
  """Checks that replicas and micro-batches share the requests equally.

  Raises:
    UserError: They do not.
  """
  if _REQUESTS.value % _REPLICAS.value:
    raise UserError(f"--requests {_REQUESTS.value} cannot be shared by --replicas {_REPLICAS.value} equally")
  if _REQUESTS.value // _REPLICAS.value % _MICRO_BATCHES.value:
    raise UserError(f"--requests {_REQUESTS.value} of a replica cannot be cut in {_MICRO_BATCHES.value} equal parts")


def random_requests(schema: Schema, count: int, rng: np.random.Generator) -> list[Any]:
  """Requests with full histories of uniformly drawn items: the most distinct rows that a batch can have."""
  from lcn_tf.data.records import History, Request

  candidates, length = schema.candidates, _SEQ_LEN.value
  requests = []
  for user in range(1, count + 1):
    histories = {}
    for index, d in enumerate(DOMAINS):
      size = length if index < _HISTORIES.value else 0
      histories[d] = History(
        rng.integers(2, schema.domain(d).items, size),
        1_000_000 - np.arange(size) * 60,
        np.zeros((size, 0), np.int32),
        np.zeros(candidates, np.int32),
      )
    requests.append(
      Request(
        user,
        np.zeros(0, np.int32),
        rng.integers(2, schema.target.items, candidates),
        np.full(candidates, 1_000_060),
        np.zeros((candidates, 0), np.int32),
        rng.integers(0, 2, candidates),
        np.ones(candidates),
        histories["target"],
        histories["source"],
      )
    )
  return requests


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  check_shares()
  with entry.loading():
    import tensorflow as tf

    from lcn_tf.analysis.synthetic import random_vectors
    from lcn_tf.data import records
    from lcn_tf.interest import EXTRACTORS
    from lcn_tf.models.build import build_model, needs_pretrained
    from lcn_tf.training.cost import peak_memory_bytes
    from lcn_tf.training.optimizers import make_optimizer
    from lcn_tf.training.strategy import input_options, make_strategy

  if _MODEL.value not in ("lcn", "lcn_crp", *EXTRACTORS):
    raise unknown("--model", "model", _MODEL.value, ["lcn", "lcn_crp", *EXTRACTORS])
  setup = experiment()
  rows = _ITEMS.value + 2
  sizes = {"category": _CATEGORIES + 2, "target_item": rows, "source_item": rows}
  schema = with_sizes(setup.record_schema, sizes, {"target": rows, "source": rows})
  rng = np.random.default_rng(0)
  categories = np.concatenate([[0, 1], rng.integers(2, _CATEGORIES + 2, _ITEMS.value)])
  catalogue = np.stack([np.arange(rows), categories], axis=1)

  strategy = make_strategy(setup.train)
  with strategy.scope():
    frozen = random_vectors(rows, _DIM.value, _CATEGORIES + 1, rng) if needs_pretrained(setup.model) else None
    model = build_model(schema, setup.model, catalogues={d: catalogue for d in DOMAINS}, pretrained=frozen)
    model.micro_batches = setup.train.micro_batches
    model.compile(optimizer=make_optimizer(model, setup.train))
  share = _REQUESTS.value // strategy.num_replicas_in_sync
  widths = {d: _SEQ_LEN.value if i < _HISTORIES.value else 1 for i, d in enumerate(DOMAINS)}

  def batch() -> Any:
    serialized = [records.encode(request, schema) for request in random_requests(schema, share, rng)]
    return records.parse(tf.constant(serialized), schema, widths)

  batches = [{domain: batch() for domain in model.domains} for _ in range(4 * strategy.num_replicas_in_sync)]
  stacked = tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *batches)
  data = tf.data.Dataset.from_tensor_slices(stacked).repeat()
  iterator = iter(strategy.distribute_datasets_from_function(lambda context: data, input_options(strategy)))
  step = model.make_train_function()
  for _ in range(3):
    step(iterator)["loss"].numpy()
  seconds = []
  cpu = time.process_time()
  for _ in range(_STEPS.value):
    began = time.perf_counter()
    step(iterator)["loss"].numpy()
    seconds.append(time.perf_counter() - began)
  cpu = time.process_time() - cpu
  median = statistics.median(seconds)
  result = {
    "model": _MODEL.value,
    "histories": _HISTORIES.value,
    "seq_len": _SEQ_LEN.value,
    "requests": _REQUESTS.value,
    "candidates": _CANDIDATES.value,
    "items": _ITEMS.value,
    "dim": _DIM.value,
    "options": setup.model.options,
    "replicas": strategy.num_replicas_in_sync,
    "micro_batches": _MICRO_BATCHES.value,
    "candidates_per_second": round(_REQUESTS.value * _CANDIDATES.value / median, 1),
    "step_seconds": round(median, 5),
    "fastest_step_seconds": round(min(seconds), 5),
    "step_cpu_seconds": round(cpu / len(seconds), 5),
    "peak_memory_bytes": peak_memory_bytes(),
    "parameters": int(sum(v.shape.num_elements() for v in model.trainable_variables)),
  }
  if _PLAN.value:
    from lcn_tf.analysis.plan import libraries, plan

    count = strategy.num_replicas_in_sync
    planned = plan(setup, schema, [count], widths)
    result["planned_memory_bytes"] = libraries("cpu") + count * planned.memory(count)
  if _RECORDS.value:
    result["pipeline_candidates_per_second"] = round(pipeline_speed(setup, schema, rng), 1)
  json.dump(result, sys.stdout)
  print()


def pipeline_speed(setup: Experiment, schema: Schema, rng: np.random.Generator) -> float:
  """Candidates per second that the input pipeline reads from records on disk, nothing else running."""
  import tensorflow as tf

  from lcn_tf.data import records
  from lcn_tf.data.read.dataset import training_batches
  from lcn_tf.data.record_set import Part, RecordSet, Shard

  folder = pathlib.Path(tempfile.mkdtemp(prefix="lcn_tf_benchmark"))
  try:
    (folder / "train").mkdir()
    shards, count = [], max(8 * _REQUESTS.value, 256)
    for index in range(4):
      name = f"train/part-{index:05d}-of-00004.tfrecord.gz"
      requests = random_requests(schema, count, rng)
      with tf.io.TFRecordWriter(str(folder / name), "GZIP") as writer:
        for request in requests:
          writer.write(records.encode(request, schema))
      shards.append(Shard(file=name, records=count, candidates=count * schema.candidates, sha256=""))
    total = sum(shard.records for shard in shards)
    part = Part(
      shards=tuple(shards),
      records=total,
      candidates=total * schema.candidates,
      positives=0,
      users=count,
      first_time=0,
      last_time=0,
    )
    record_set = RecordSet(
      name="benchmark", fingerprint="", schema=schema, compression="gzip", splits={"train": {"target": part}}
    ).model_copy(update={"path": folder})
    batches = iter(training_batches(record_set, requests=_REQUESTS.value, seed=0, shuffle_buffer=4 * _REQUESTS.value))
    steps = max(total // _REQUESTS.value * 2, 20)
    for _ in range(4):
      next(batches)
    began = time.perf_counter()
    for _ in range(steps):
      next(batches)
    return steps * _REQUESTS.value * _CANDIDATES.value / (time.perf_counter() - began)
  finally:
    shutil.rmtree(folder)


if __name__ == "__main__":
  entry.run(main)
