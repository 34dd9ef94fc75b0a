"""The report: one HTML page that needs nothing but itself."""

import csv
import html
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcn_tf import metrics
from lcn_tf.data.record_set import RecordSet
from lcn_tf.evaluation import against
from lcn_tf.evaluation.gate import Judged
from lcn_tf.metrics import Scored
from lcn_tf.pages import figures, markup
from lcn_tf.pages.markup import moment, shown

SLICES = {
  "history_target": ("By target history", "behaviours of the target domain that the candidate sees"),
  "history_source": ("By source history", "behaviours of the source domain that the candidate sees"),
  "item_count": ("By item frequency", "interactions of the item in training, 0 below the min_count of its vocabulary"),
}


def read_history(file: str | pathlib.Path | None) -> dict[str, list[float]]:
  """The training log: a column of numbers per name, NaN for other texts; {} if the file is missing.

  An epoch that occurs twice (a job that was started again) counts as its last row.
  """
  if file is None or not pathlib.Path(file).is_file():
    return {}
  with open(file, newline="") as lines:
    rows = [row for row in csv.DictReader(lines) if not math.isnan(_number(row.get("epoch")))]
  last = {_number(row["epoch"]): row for row in rows}
  names = [name for name in (rows[0] if rows else ()) if name]
  return {name: [_number(last[epoch].get(name)) for epoch in sorted(last)] for name in names}


def render(
  found: Mapping[str, Any],
  scored: Scored,
  record_set: RecordSet | None,
  *,
  history: Mapping[str, Sequence[float]],
  config: str = "",
  judged: Sequence[Judged] = (),
) -> str:
  """The page.

  Args:
    found: Contents of `metrics.json`, `slices` included.
    scored: Candidates with probabilities.
    record_set: Record set of the candidates; None if they were scored elsewhere.
    history: Training log by column, {} if there is none.
    config: Effective config, empty if there is none.
    judged: Verdicts of a gate.
  """
  model = found["model"]
  title = model["name"] or model["version"]
  facts = ["scored elsewhere"]
  if record_set is not None:
    title = f"{title} on {record_set.name}"
    facts = [f"{found['split']} split", f"version {model['version']}"]
    facts += [] if found.get("seed") is None else [f"seed {found['seed']}"]
    facts.append(f"schema and vocabularies {record_set.fingerprint}")
  parts = [
    _cards(found),
    against.verdicts(judged),
    against.baseline(found),
    _training(history),
    _scores(found, scored),
    against.requests(found),
    *(_slice(name, buckets, found) for name, buckets in found.get("slices", {}).items()),
    _data(record_set, str(found["split"])) if record_set is not None else "",
    _details(found, config),
  ]
  return markup.document(title, facts, parts)


def _cards(found: Mapping[str, Any]) -> str:
  confidence = found["confidence"]
  level = f"{confidence['level']:.0%}"
  cards = []
  for name, label, hint in (
    ("auc", "AUC", "over all pairs"),
    ("gauc", "GAUC", "within each user"),
    ("logloss", "Logloss", "lower is better"),
  ):
    low, high = confidence[name]
    interval = "" if math.isnan(low) else f"{low:.4f} to {high:.4f}"
    cards.append((label, shown(found[name]), interval, hint))
  cards.append(("Calibration", shown(found["calibration"], 3), "", "predicted / observed"))
  rate = found["positives"] / found["candidates"] if found["candidates"] else math.nan
  cards.append(("Candidates", f"{found['candidates']:,}", f"{found['positives']:,} positive", f"{rate:.2%} of them"))
  users = f"{found['users']:,}"
  cards.append(("Users", users, f"{found['gauc_users']:,} with both classes", "these count in GAUC"))
  body = "\n".join(
    f'<div class="card"><h2>{label}</h2><p class="value">{value}</p><p class="interval">{interval or "&nbsp;"}</p>'
    f"<p>{html.escape(hint)}</p></div>"
    for label, value, interval, hint in cards
  )
  note = (
    f"Ranges are {level} intervals over {confidence['replicates']} bootstrap samples of the users."
    if confidence["replicates"]
    else ""
  )
  return f'<section class="cards">\n{body}\n</section>\n{markup.note(note)}'


def _training(history: Mapping[str, Sequence[float]]) -> str:
  if not history.get("epoch"):
    return ""

  def there(*names: str) -> list[str]:
    return [name for name in names if np.isfinite(history.get(name, ())).any()]

  pictures = []
  own = "ctr_loss" if there("ctr_loss") else "loss"  # a sum with other losses is no match for the validation's
  for names, title in ((there(own, "val_loss", "val_logloss"), "Loss"), (there("val_auc", "val_gauc"), "Ranking")):
    if names:
      alt = f"{title} by epoch: " + "; ".join(f"{name} ends at {history[name][-1]:.4f}" for name in names)
      pictures.append(figures.picture(figures.training(history, names, title), alt))
  if not pictures:
    return ""
  names = [name for name in history if name != "epoch"]
  rows = [
    [f"{epoch + 1:.0f}", *(shown(history[name][i]) for name in names)] for i, epoch in enumerate(history["epoch"])
  ]
  table = markup.table(["epoch", *(name.replace("_", " ") for name in names)], rows)
  return markup.section("Training", markup.grid(pictures) + markup.details("All epochs", table))


def _scores(found: Mapping[str, Any], scored: Scored) -> str:
  if not len(scored):
    return markup.section("Scores", "<p>There are no candidates.</p>")
  curve = metrics.threshold_curve(scored.scores, scored.labels, scored.weights)
  pictures = [
    figures.picture(draw, alt, size=(4.4, 4.0))
    for draw, alt in (
      (
        figures.calibration(scored),
        f"Calibration curve: observed against predicted share of positives; overall {shown(found['calibration'], 3)}.",
      ),
      (figures.distributions(scored), "Distribution of the predicted probabilities by label."),
      (figures.gain(curve), "Cumulative gain: share of the positives among the best-scored candidates."),
      (figures.roc(curve), f"ROC curve; the area under it is the AUC, {shown(found['auc'])}."),
      (figures.precision_recall(curve), "Precision against recall over all thresholds."),
    )
  ]
  return markup.section("Scores", markup.grid(pictures) + _calibration(scored))


def _calibration(scored: Scored) -> str:
  """The bins of the calibration curve as a table."""
  bins = metrics.calibration_curve(scored.scores, scored.labels, scored.weights)
  columns = (bins.predicted, bins.observed, bins.count)
  rows = [[f"{p:.4f}", f"{o:.4f}", f"{n:,}"] for p, o, n in zip(*columns, strict=True)]
  return markup.details("Calibration by bin", markup.table(["predicted", "observed", "candidates"], rows, text=0))


def _slice(name: str, buckets: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
  if not buckets:
    return ""
  title, what = SLICES.get(name, (f"By {name}", name))
  alt = f"AUC and GAUC by {what}: " + "; ".join(
    f"{bucket['bucket']}: AUC {shown(bucket['auc'])}, GAUC {shown(bucket['gauc'])}" for bucket in buckets
  )
  rows = [
    [
      bucket["bucket"],
      f"{bucket['candidates']:,}\n{bucket['positives']:,} positive",
      f"{bucket['users']:,}",
      _with_interval(bucket, "auc"),
      _with_interval(bucket, "gauc"),
      shown(bucket["logloss"]),
      shown(bucket["calibration"], 3),
    ]
    for bucket in buckets
  ]
  head = ["bucket", "candidates", "users", "AUC", "GAUC", "logloss", "calibration"]
  picture = figures.picture(figures.by_bucket(buckets, found, what), alt)
  note = markup.note(
    f"Buckets: {what}. Dashed: all candidates. "
    f"Not drawn: buckets in which fewer than {figures.FEW_USERS} users have both classes."
  )
  return markup.section(title, f'<div class="split">{picture}<div>{markup.table(head, rows)}{note}</div></div>')


def _data(record_set: RecordSet, split: str) -> str:
  rows = []
  for name, domains in record_set.splits.items():
    for domain, part in domains.items():
      rate = part.positives / part.candidates if part.candidates else math.nan
      mark = " *" if name == split else ""
      rows.append(
        [
          f"{name}{mark}",
          domain,
          *(f"{count:,}" for count in (part.records, part.candidates, part.users)),
          f"{rate:.2%}",
          moment(part.first_time),
          moment(part.last_time),
        ]
      )
  head = ["split", "candidates of", "records", "candidates", "users", "positive", "from (UTC)", "to (UTC)"]
  body = markup.table(head, rows, text=2) + markup.note("* evaluated here.")
  schema = record_set.record_schema
  facts: list[tuple[str, Any]] = [("folder", record_set.path)]
  for domain in ("target", "source"):
    of = schema.target if domain == "target" else schema.source
    facts.append((f"{domain} items", f"{of.items:,}"))
    facts.append((f"{domain} behaviours seen at most", f"{of.max_length:,}"))
  facts += [
    (name, moment(value) if name.endswith("_end") and isinstance(value, int) else value)
    for name, value in record_set.notes.items()
  ]
  facts += [(f"rejected: {reason}", f"{count:,}") for reason, count in record_set.rejected.items()]
  body += markup.facts(facts)
  return markup.section("Data", body)


def _details(found: Mapping[str, Any], config: str) -> str:
  confidence = found["confidence"]
  facts = [("predictions", found["predictions"])] if "predictions" in found else [("model", found["model"]["path"])]
  if "records" in found:
    lost = found["records"].get("left_out", 0)
    lines = f", {lost:,} candidates of broken records left out" if lost else ""
    facts += [("records", found["records"]["path"] + lines), ("fingerprint", found["fingerprint"])]
  if "baseline" in found:
    facts.append(("baseline", found["baseline"]["path"]))
  facts.append(("bootstrap", f"{confidence['replicates']} samples of the users, seed {confidence.get('seed', 0)}"))
  body = markup.facts(facts)
  if config:
    body += markup.details("Effective config", markup.preformatted(config))
  return markup.section("How this was made", body)


def _with_interval(bucket: Mapping[str, Any], name: str) -> str:
  """The value, and its interval on a line of its own."""
  low, high = bucket["confidence"][name]
  return shown(bucket[name]) + ("" if math.isnan(low) else f"\n{low:.3f} to {high:.3f}")


def _number(text: str | None) -> float:
  try:
    return float(text or "nan")
  except ValueError:
    return math.nan
