"""The table in the papers' form, as Markdown and as cells for the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lcn_tf.comparison.cells import Row
from lcn_tf.comparison.config import Comparison
from lcn_tf.comparison.results import LEVEL, METRICS, Result
from lcn_tf.data.record_set import RecordSet
from lcn_tf.pages.markup import markdown_table, shown

_LABELS = {"auc": "AUC", "gauc": "GAUC", "logloss": "logloss"}


def head(comparison: Comparison) -> list[str]:
  return [
    "model",
    *(_LABELS[name] for name in METRICS),
    *(f"{_LABELS[name]} - {comparison.reference}" for name in ("auc", "gauc")),
    "training s",
    "candidates/s",
    "peak MB",
    "parameters",
  ]


def body(results: Sequence[Result]) -> list[list[str]]:
  """A row per result; a dash where there is nothing."""
  return [
    [
      result.label + _incomplete(result),
      *(spread(result, name) for name in METRICS),
      *(difference(result.paired, name) for name in ("auc", "gauc")),
      shown(result.mean("seconds"), 0),
      shown(result.mean("candidates_per_second"), 0),
      shown(max(result.values("peak_memory_bytes"), default=math.nan) / 2**20, 0),
      shown(result.mean("parameters"), 0),
    ]
    for result in results
  ]


def _incomplete(result: Result) -> str:
  return "" if len(result.runs) in (0, result.asked) else f" ({len(result.runs)} of {result.asked} seeds)"


def spread(result: Result, name: str) -> str:
  """Mean ± standard deviation over seeds."""
  mean, std = result.mean(name), result.std(name)
  return shown(mean) + ("" if math.isnan(std) else f" ± {std:.4f}")


def difference(paired: dict[str, Any] | None, name: str) -> str:
  """Difference to the reference with its interval, and a star if it is significant."""
  if paired is None or math.isnan(paired[name]["difference"]):
    return "-"
  low, high = paired[name]["interval"]
  return f"{paired[name]['difference']:+.4f} [{low:+.4f}, {high:+.4f}]" + (" *" if significant(paired, name) else "")


def significant(paired: dict[str, Any], name: str) -> bool:
  """Whether the interval holds no 0. Never with one run of the reference: another seed may change the sign."""
  low, high = paired[name]["interval"]
  return len(paired["b"]) > 1 and (low > 0 or high < 0)


def notes(comparison: Comparison, record_set: RecordSet, rows: Sequence[Row]) -> list[str]:
  """Notes on the measurements and the settings of the table."""
  part = record_set.part("test")
  seeds = ", ".join(map(str, comparison.seeds))
  own = {
    label: {key: entry.set[key] for key in comparison.common if key in entry.set}
    for label, entry in comparison.models.items()
  }
  shared = {key: value for key, value in comparison.common.items() if not any(key in keys for keys in own.values())}
  lines = [
    f"Test split of `{record_set.name}` ({record_set.fingerprint}): {part.candidates:,} candidates of {part.users:,} "
    f"users. Mean ± standard deviation over the training seeds {seeds}; of each run the epoch with the best validation "
    "AUC.",
    f"Differences are to {comparison.reference}: {LEVEL:.0%} intervals of {comparison.replicates:,} paired bootstrap "
    "samples of the users, metrics averaged over seeds; * = the interval holds no 0. They are about the choice of "
    "users: what the choice of seeds does is in the standard deviations, and one seed gets no mark.",
    "Training seconds: mean over seeds, validation included. Candidates/s: in training, of the fastest epoch. Cells "
    "that ran side by side shared the cores (`cores` in results.parquet). Peak memory: of the training process, the "
    "largest of all seeds.",
  ]
  if shared:
    lines.append(f"The same for all: {_settings(shared)}.")
  lines += [f"{label} has its own: {_settings(keys)}." for label, keys in own.items() if keys]
  if comparison.tuning:
    grid = "; ".join(f"{key} in {list(values)}" for key, values in comparison.tuning.items())
    # a choice is final: one that is made may be another call's, with other seeds
    tuned = ", ".join(map(str, sorted({row.tuning().get("seed", comparison.seeds[0]) for row in rows})))
    lines.append(
      f"Tuned for each model alike, by validation AUC with seed {tuned}: {grid}. What was not chosen never met the "
      "test split."
    )
  return lines


def _settings(values: Mapping[str, Any]) -> str:
  return ", ".join(f"{key} {value}" for key, value in values.items())


def tuning(rows: Sequence[Row]) -> list[list[str]]:
  """Model, values, validation AUC and mark of the choice, a row per combination of the tuning."""
  found = []
  for row in rows:
    chosen = row.chosen()
    for i, tried in enumerate(row.tuning().get("tried", ())):
      values = ", ".join(f"{key} {value}" for key, value in tried["values"].items())
      found.append([row.label, values, shown(tried["val_auc"]), "chosen" if i == chosen else ""])
  return found


TUNING_HEAD = ["model", "values", "validation AUC", ""]


def markdown(comparison: Comparison, record_set: RecordSet, rows: Sequence[Row], results: Sequence[Result]) -> str:
  """`table.md`."""
  parts = [f"# {comparison.name}", _table(head(comparison), body(results)), *notes(comparison, record_set, rows)]
  tried = tuning(rows)
  if tried:
    parts += ["## Tuning", _table(TUNING_HEAD, tried)]
  return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  return markdown_table(head, body, numbers=range(1, len(head)))
