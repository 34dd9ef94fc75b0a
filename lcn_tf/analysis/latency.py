"""How long a request takes, how much memory it needs, and how the cost of training grows with the history.

One request is one user with N candidates and full histories, embedded and scored as it is served. The variants of one
length are timed in turns, a few runs each, so that other work of the machine slows all of them alike. The minimum is
the time of the work itself. The median and the 99th percentile include that other work.
"""

import json
import multiprocessing
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from lcn_tf.analysis import complexity, synthetic
from lcn_tf.analysis.full_attention import PROJECTIONS
from lcn_tf.data.request_spec import request_spec
from lcn_tf.errors import UserError
from lcn_tf.interest.base import Extractor
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.models.base import RequestModel
from lcn_tf.pages import figures
from lcn_tf.pages.markup import Cell
from lcn_tf.pages.table_page import Page, Table
from lcn_tf.serving.blocks import at_once_here, blocked
from lcn_tf.training.cost import cores, peak_memory_bytes

LENGTHS = (500, 2000, 10_000)
GROWTH = (250, 500, 1000, 2000, 5000, 10_000)
GROWING = ("lcn", "twin")
FULL_ATTENTION_SIZES = ((1, 1), (64, 1), (1, 16), (1, 200))
LONGEST, LONGEST_CANDIDATES = 100_000, 100
SIZES = ((1, 16), (1, 64), (1, 200), (1, 1000), (1, 4000), (4, 200), (16, 200), (64, 200))
_ITEMS = 200_000
_TURN = 5  # runs of a variant before it is another's turn

Call = Callable[[], Any]


def times(calls: Sequence[Call], runs: int, warm_up: int, clock: Callable[[], float] = time.perf_counter) -> np.ndarray:
  """Milliseconds of every run, `[calls, runs]`, the calls taking turns."""
  for call in calls:
    for _ in range(warm_up):
      call()
  found = np.zeros((len(calls), runs))
  for first in range(0, runs, _TURN):
    for index, call in enumerate(calls):
      for run in range(first, min(first + _TURN, runs)):
        began = clock()
        call()
        found[index, run] = 1000 * (clock() - began)
  return found


def serve(model: RequestModel, request: dict[str, tf.Tensor], xla: bool = False) -> Call:
  """A call that scores the request in a compiled graph and waits for the probabilities."""

  def score(**one: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid(model(one, training=False))

  if xla:
    compiled = tf.function(score, autograph=False, jit_compile=True).get_concrete_function(**request)
    return lambda: compiled(**request).numpy()
  specs = request_spec(model.schema)
  typed = {name: tf.TensorSpec(specs[name].shape, tensor.dtype, name) for name, tensor in request.items()}
  served = blocked(score, typed, at_once_here())
  return lambda: served(**request).numpy()


def latencies(
  models: Sequence[str], lengths: Sequence[int], candidates: int, *, xla: bool, runs: int, warm_up: int
) -> list[dict[str, Cell]]:
  """One row per model, length and way: alone, two users' requests merged into one call, compiled by XLA."""
  rows: list[dict[str, Cell]] = []
  for length in lengths:
    calls: dict[tuple[str, str], Call] = {}
    for name in models:
      try:
        model = synthetic.build(name, length, items=_ITEMS)
      except UserError as error:
        logging.warning("%s is left out: %s", name, error)
        continue
      one, two = (synthetic.requests(model.schema, users, candidates, length) for users in (1, 2))
      calls[name, ""] = serve(model, one)
      calls[name, "two users merged"] = serve(model, two)
      if xla:
        # XLA has no tf.unique: look-ups are not deduplicated
        compiled = serve(synthetic.build(name, length, items=_ITEMS, deduplicate=False), one, xla=True)
        if _works(compiled, f"{name} under XLA"):
          calls[name, "XLA"] = compiled
    logging.info("L = %d: %d variants", length, len(calls))
    found = dict(zip(calls, times(list(calls.values()), runs, warm_up), strict=True))
    for (name, way), measured in found.items():
      alone, requests = found[name, ""], 2 if "two" in way else 1
      rows.append(
        {
          "model": name,
          "way": way or "one request",
          "length": length,
          **_summary(measured),
          "p50 per request": float(np.median(measured)) / requests,
          "of one request": float(measured.min() / requests / alone.min()),
        }
      )
  return rows


def _works(call: Call, what: str) -> bool:
  try:
    call()
  except (tf.errors.OpError, ValueError, NotImplementedError) as error:
    logging.warning("%s does not run: %s", what, str(error).splitlines()[0])
    return False
  return True


def _summary(milliseconds: np.ndarray) -> dict[str, Cell]:
  return {
    "min": float(milliseconds.min()),
    "p50": float(np.median(milliseconds)),
    "p99": float(np.quantile(milliseconds, 0.99)),
  }


def against_full_attention(
  length: int, sizes: Sequence[tuple[int, int]] = FULL_ATTENTION_SIZES, *, runs: int, warm_up: int
) -> list[dict[str, Cell]]:
  """LAP's time against that of multi-head attention over the whole history: the extractor alone, one history.

  Args:
    length: Behaviours of the history.
    sizes: Pairs of the number B of users and the number N of candidates of each.
    runs: Timed calls of each variant.
    warm_up: Calls before the timed ones.
  """
  model = synthetic.build("average_pooling", length, items=1000)
  rows: list[dict[str, Cell]] = []
  for name, options in (("lap", {}), ("lap_five_percent", synthetic.PRESETS["lap_five_percent"][1])):
    for users, count in sizes:
      candidates, behaviours = complexity.inputs(model, count, length, users)
      behaviours = complexity.without_recency(behaviours)
      layers = complexity.attentions(options)
      calls = [_attend(layer, candidates, behaviours) for layer in layers.values()]
      best = dict(zip(layers, times(calls, runs, warm_up).min(axis=1), strict=True))
      shares = {f"LAP / {p}, %": float(100 * best["LAP"] / best[p]) for p in PROJECTIONS}
      milliseconds = {way: float(value) for way, value in best.items()}
      rows.append({"model": name, "B": users, "N": count, **milliseconds, **shares})
  return rows


def _attend(layer: Extractor, candidates: Candidates, behaviours: Behaviours) -> Call:
  layer(candidates, behaviours)
  graph = tf.function(lambda *read: layer(*read), autograph=False).get_concrete_function(candidates, behaviours)
  return lambda: graph(candidates, behaviours).numpy()


def peak_memory(name: str, length: int, candidates: int) -> int:
  """Peak memory of this process in bytes, after it has scored one request."""
  model = synthetic.build(name, length, items=_ITEMS)
  call = serve(model, synthetic.requests(model.schema, 1, candidates, length))
  for _ in range(2):
    call()
  return _high_water()


def _high_water() -> int:
  status = pathlib.Path("/proc/self/status")
  if status.is_file():  # the resource usage of a child includes the memory of its parent when it was started
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
  return peak_memory_bytes()


def memory(models: Sequence[str], length: int = LONGEST, candidates: int = LONGEST_CANDIDATES) -> list[dict[str, Cell]]:
  """The memory of one long request, each model in a process of its own."""
  rows: list[dict[str, Cell]] = []
  for name in models:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
      found = pool.apply(peak_memory, (name, length, candidates))
    rows.append({"model": name, "length": length, "candidates": candidates, "peak memory, GB": found / 1e9})
  return rows


def by_size(
  models: Sequence[str], length: int, sizes: Sequence[tuple[int, int]] = SIZES, runs: int = 3
) -> list[dict[str, Cell]]:
  """The CPU time of a candidate by the size of the call, which has to fall, or stay, as calls grow.

  Args:
    models: Names of models.
    length: Behaviours of each history.
    sizes: Pairs of the number B of users and the number N of candidates of each, (1, 200) among them.
    runs: Timed calls of each size, in turns; the least counts.
  """
  rows: list[dict[str, Cell]] = []
  for name in models:
    model = synthetic.build(name, length, items=_ITEMS)
    calls = [serve(model, synthetic.requests(model.schema, users, count, length)) for users, count in sizes]
    found = times(calls, runs, 1, clock=time.process_time).min(axis=1)
    each = {size: 1000 * cost / (size[0] * size[1]) for size, cost in zip(sizes, found, strict=True)}
    cells = {f"{users} x {count}": float(cost / each[1, 200]) for (users, count), cost in each.items()}
    rows.append({"model": name, "us of 1 x 200": float(each[1, 200]), **cells})
    logging.info("%s", rows[-1])
  return rows


def growth(models: Iterable[str] = GROWING, lengths: Sequence[int] = GROWTH, steps: int = 10) -> list[dict[str, Cell]]:
  """The cost of a training step by length, with `tools.benchmark_training`; LAP keeps 200 and 50 at every length."""
  rows: list[dict[str, Cell]] = []
  for name in models:
    first: dict[str, Any] | None = None
    for length in lengths:
      command = [sys.executable, "-m", "tools.benchmark_training", f"--model={name}", f"--seq_len={length}"]
      command += ["--requests=8", "--candidates=16", f"--steps={steps}", "--items=50000"]
      command += ["--topk=200,50"] if name == "lcn" else []
      root = pathlib.Path(__file__).parent.parent.parent
      done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
      if done.returncode:
        raise UserError(f"tools.benchmark_training --model {name} --seq_len {length}: {done.stderr.strip()[-500:]}")
      found = json.loads(done.stdout.strip().splitlines()[-1])
      first = first or found
      seconds = found["fastest_step_seconds"]
      rows.append(
        {
          "model": name,
          "length": length,
          "step, ms, min": 1000 * seconds,
          "step, ms, p50": 1000 * found["step_seconds"],
          "times the first": seconds / first["fastest_step_seconds"],
          "length, times the first": length / lengths[0],
          "us per behaviour": 1e6 * seconds / length,
          "memory, GB": found["peak_memory_bytes"] / 1e9,
        }
      )
      logging.info("%s", rows[-1])
  return rows


def run(
  output: str | pathlib.Path,
  *,
  models: Sequence[str] = (),
  lengths: Sequence[int] = LENGTHS,
  candidates: int = 200,
  xla: bool = False,
  with_memory: bool = False,
  with_growth: bool = False,
  with_sizes: bool = False,
  runs: int = 200,
  warm_up: int = 20,
  longest: int = LONGEST,
) -> Page:
  """Measures, and leaves `latency.json`, `latency.md` and `index.html` in `output`.

  Args:
    models: Names of `synthetic.names()`; empty = all that can be built.
    lengths: Behaviours of each history; empty = no latencies.
    candidates: Candidates of a request.
    xla: Also compile with XLA.
    with_memory: Also measure the memory of one request with `longest` behaviours, of LCN and TWIN or `models`.
    with_growth: Also measure training steps by length, of LCN and TWIN.
    with_sizes: Also measure the CPU time of a candidate by the size of the call, with histories of the first length.
    runs, warm_up: Timed calls of each variant, and calls before these.

  Raises:
    UserError: A model is unknown, or a size is not positive.
  """
  if min([candidates, runs, warm_up, longest, *lengths]) < 1:
    raise UserError("expected lengths, candidates, runs and warm-up of at least 1")
  for name in models:
    synthetic.experiment(name, 1)  # a wrong name is an error before the first measurement
  tables, pictures = [], []
  if lengths:
    rows = latencies(models or synthetic.names(), lengths, candidates, xla=xla, runs=runs, warm_up=warm_up)
    note = (
      f"Milliseconds over {runs} runs after {warm_up}, in one process, the variants taking turns. One request is one "
      f"user with {candidates} candidates and two full histories. Of one request: the minimum, per request, "
      "against that of one request without XLA."
    )
    tables.append(Table("One request", rows, note, digits=2))
    pictures.append(_latency_picture(rows, lengths, candidates))
    full = against_full_attention(2000, runs=runs, warm_up=warm_up)
    note = (
      "Milliseconds, the minimum, of the extractor alone: one history of each of B users, N candidates each; B = 64, "
      "N = 1 is a batch of rows with a history each, as the papers train. Per candidate: keys and values projected for "
      "every candidate; shared: once per history; carried: never, as LAP does here."
    )
    tables.append(Table("LAP against multi-head attention over the whole history, L = 2,000", full, note, digits=3))
  if with_memory:
    found = memory(models or ("lap", "twin"), longest)
    note = "The most that a process held which builds the model (200,000 items a domain) and scores one request."
    tables.append(Table("Memory of a very long request", found, note, digits=2))
  if with_sizes:
    length = (*lengths, 2000)[0]
    found = by_size(models or synthetic.names(), length)
    note = (
      "CPU time of a candidate in a call of B users with N candidates each (B x N), times that of 1 x 200, whose "
      "microseconds are given. The user's side is shared by a user's candidates."
    )
    tables.append(Table(f"Cost of a candidate by the size of the call, L = {length:,}", found, note, digits=2))
  if with_growth:
    found = growth()
    note = "Steps of 8 requests of 16 candidates, one history, tools.benchmark_training in a process of its own each."
    tables.append(Table("Training step by length", found, note, digits=2))
    pictures.append(_growth_picture(found))
  facts = {"candidates": candidates, "threads": cores()}
  page = Page("Latency", facts, tables, pictures)
  page.write(output, "latency")
  return page


def _latency_picture(rows: Sequence[dict[str, Cell]], lengths: Sequence[int], candidates: int) -> str:
  lines: dict[str, list[tuple[Cell, Cell]]] = {}
  for row in rows:
    if row["way"] == "one request":
      lines.setdefault(str(row["model"]), []).append((row["length"], row["p50"]))
  return _log_lines(lines, lengths, f"Latency of {candidates} candidates, ms, median")


def _growth_picture(rows: Sequence[dict[str, Cell]]) -> str:
  lines: dict[str, list[tuple[Cell, Cell]]] = {}
  for row in rows:
    lines.setdefault(str(row["model"]), []).append((row["length"], row["times the first"]))
  lengths = sorted({int(row["length"] or 0) for row in rows})
  lines["linear"] = [(length, length / lengths[0]) for length in lengths]
  return _log_lines(lines, lengths, "Cost of a training step, times that of the shortest")


def _log_lines(lines: dict[str, list[tuple[Cell, Cell]]], lengths: Sequence[int], title: str) -> str:
  alt = f"{title}: " + "; ".join(f"{name} {points}" for name, points in lines.items())
  draw = figures.by_length(lines, lengths, title, dashed="linear")
  return figures.picture(draw, alt, size=(8.0, 4.6), right=2.0)
