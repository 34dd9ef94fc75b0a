"""The model card of an export, `assets.extra/README.md`: where the model comes from, and what its signatures take."""

import datetime
import pathlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

import lcn_tf
from lcn_tf.config import Experiment
from lcn_tf.data.record_set import RecordSet
from lcn_tf.models.projections import Source
from lcn_tf.serving.signatures import Signatures

FILE = "assets.extra/README.md"
_METRICS = ("auc", "gauc", "logloss", "calibration", "candidates", "users")


def card(
  experiment: Experiment,
  record_set: RecordSet,
  signatures: Signatures,
  checkpoint: str,
  projections: Source | None,
  metrics: Mapping[str, Any] | None = None,
  tables: Mapping[str, Any] | None = None,
) -> str:
  """The card, Markdown.

  Args:
    experiment: Effective experiment.
    record_set: Facts of the records that the model was trained with.
    signatures: Functions of the export.
    checkpoint: Name of the checkpoint; empty if there is none.
    projections: Place where the search reads projections of items; None = it reads none.
    metrics: Contents of the `metrics.json` of this checkpoint; None if it was not evaluated.
    tables: Type `dtype` of the embedding tables, and what it costs, `auc`, if that was measured; None = float32.
  """
  tables = tables or {"dtype": "float32"}
  lines = [f"# {experiment.name}", "", "Click-through-rate model of lcn_tf, a TensorFlow SavedModel.", ""]
  network = experiment.model.network or experiment.model.extractor
  facts = {
    "model": experiment.model.extractor if network == "ctr" else network,
    "exported": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    "checkpoint": checkpoint,
    "embedding tables": tables["dtype"],
    "projections of items": {None: "", "table": "a table of all items", "live": "live weights"}[projections],
    "seed": experiment.train.seed,
    "fingerprint of the records": record_set.fingerprint,
    "lcn_tf": " ".join(filter(None, [lcn_tf.__version__, _commit()])),
    "tensorflow": tf.__version__,
  }
  lines += _table(("", ""), [(name, str(value)) for name, value in facts.items() if value != ""])
  lines += ["", "## Data", "", f"Record set `{record_set.name}`.", ""]
  rows = [
    (f"{split}, {domain}", str(part.records), str(part.candidates), str(part.positives), str(part.users))
    + (_day(part.first_time), _day(part.last_time))
    for split, parts in record_set.splits.items()
    for domain, part in parts.items()
  ]
  lines += _table(("split", "records", "candidates", "positives", "users", "first", "last"), rows)
  lines += ["", "## Metrics", ""]
  if metrics:
    found = [(name, f"{metrics[name]:.6g}") for name in _METRICS if metrics.get(name) is not None]
    lines += _table((f"{metrics.get('split', '')} split", ""), found)
  else:
    lines.append("This checkpoint was not evaluated when it was exported.")
  lines += _cost(metrics, tables)
  lines += [
    "",
    "## Signatures",
    "",
    "Those that rank return `probability`, float32 [B, N]. `serving_default` is the first one.",
    "",
  ]
  first = "rank_raw" if "rank_raw" in signatures.functions else "rank"
  for name in sorted(set(signatures.functions) - {"serving_default"}, key=lambda one: one != first):
    specs = signatures.functions[name].structured_input_signature[1]
    inputs = [(f"`{one}`", spec.dtype.name, _shape(spec)) for one, spec in sorted(specs.items())]
    lines += [f"### {name}", "", *_table(("tensor", "dtype", "shape"), inputs), ""]
  return "\n".join([*lines, "`requests.json` has requests with the answers of this model.", ""])


def _cost(metrics: Mapping[str, Any] | None, tables: Mapping[str, Any]) -> list[str]:
  """What the type of the tables says of the metrics."""
  if tables["dtype"] == "float32":
    return []
  said = ["", "These metrics are of the model with float32 tables."] if metrics else []
  if "auc" in tables:
    facts = [(name, f"{value:.6g}") for name, value in tables["auc"].items()]
    said += ["", *_table(("AUC by type of the tables, validation split", ""), facts)]
  return said


def _shape(spec: tf.TensorSpec) -> str:
  """The shape with the names of the axes: B requests, N candidates, L behaviours, M values of a list, K items."""
  name, sizes = spec.name, spec.shape.as_list()
  first = "K" if len(sizes) == 1 and name.endswith(("_ids", "_items")) else "B"
  inner = "N" if name.startswith(("candidate", "context")) or "visible" in name else "M"
  inner = "L" if inner == "M" and name.startswith(("target", "source")) else inner
  return f"[{', '.join(str(size or (first, inner)[min(axis, 1)]) for axis, size in enumerate(sizes))}]"


def _day(seconds: int) -> str:
  return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
  return [f"| {' | '.join(cells)} |" for cells in [head, tuple("---" for _ in head), *rows]]


def _commit() -> str:
  """The commit that the package is checked out at; empty if it is not a checkout."""
  folder = pathlib.Path(lcn_tf.__file__).parent
  asked = ["git", "-C", str(folder), "log", "-1", "--format=(commit %h)", "--", "."]
  try:
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
  except OSError:  # there is no git
    return ""
