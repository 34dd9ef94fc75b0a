"""Does the search find what the final attention would have chosen? (LCN, figure 4; TWIN, figure 4.)

Two questions about every candidate and history, where the *oracle* is what the final attention likes best among all
visible behaviours:

* consistency: of the oracle's `top` best, which share is among the `top` best of the search;
* hits: how many of the oracle's 100 best are among the search's best n, for n from 10 to the whole history.

Of TWIN, whose search scores by the same numbers, also by how much they differ: the drift, sum |search alpha - alpha| /
sum |alpha| over heads and visible behaviours.

Ties go to the newer behaviour in both. A candidate that sees no more than `top` (100) behaviours says nothing, since
any search finds them all, so it is not counted.
"""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from matplotlib.figure import Figure

from lcn_tf.data.read.dataset import OnCorrupt, evaluation_batches
from lcn_tf.data.read.diagnosis import guard
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import request_spec
from lcn_tf.errors import UserError
from lcn_tf.interest.base import Extractor, in_float32
from lcn_tf.interest.lap import LAP
from lcn_tf.interest.twin import TWIN, walk_order
from lcn_tf.layers.masked import masked_top_k
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.models.base import RequestModel
from lcn_tf.pages import figures
from lcn_tf.pages.table_page import Cell, Page, Table, line_style
from lcn_tf.schema import DomainName
from lcn_tf.training.run_folder import Run, labels, read_run

SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
ORACLE = 100
_ROWS = 4  # requests at a time: some final attentions read [B, N, L, D] here


def hits_curve(
  search_BNL: tf.Tensor, exact_BNL: tf.Tensor, visible: tf.Tensor, sizes: Sequence[int], oracle: int = ORACLE
) -> tf.Tensor:
  """How many of the best by one score are among the best by another.

  Args:
    search_BNL, exact_BNL: Scores, higher first, ties to the lower index; of what is invisible, anything.
    visible: Which behaviours each candidate sees, bool `[B, N | 1, L]`.
    sizes: How many of the best by `search_BNL` are looked at, the axis S of the result.
    oracle: How many are looked for, the best by `exact_BNL`.

  Returns:
    int64 `[B, N, S]`: at most min(size, oracle, visible behaviours).
  """
  search_BNL, exact_BNL = (_above_masked(scores) for scores in (search_BNL, exact_BNL))
  order_BNL = tf.argsort(tf.where(visible, search_BNL, tf.float32.min), direction="DESCENDING", stable=True)
  places_BNL = tf.argsort(order_BNL)
  best_BNK, valid_BNK = masked_top_k(exact_BNL, visible, oracle)
  places_BNK = tf.gather(places_BNL, tf.cast(best_BNK, tf.int64), batch_dims=2)
  found_BNSK = (places_BNK[:, :, tf.newaxis] < tf.reshape(tf.constant(sizes), [-1, 1])) & valid_BNK[:, :, tf.newaxis]
  return tf.math.count_nonzero(found_BNSK, axis=-1)


def _above_masked(scores: tf.Tensor) -> tf.Tensor:
  """The scores, none as low as what masks write: a behaviour that a hard filter left out is still visible."""
  return tf.maximum(tf.cast(scores, tf.float32), tf.float32.min / 2)


@dataclasses.dataclass
class Tally:
  """Sums over candidates.

  Attributes:
    counted: Candidates that see more than `top` behaviours.
    overlap: Sum over them of the share of the oracle's `top` that the search's `top` holds.
    chance: Sum over them of that share for a search that knows nothing, top / visible.
    curve_counted: Candidates that see more than the oracle's 100 behaviours.
    hits: Sum over them of the hits, per size.
    moved, alphas: Sums over the counted of |search alpha - alpha| and of |alpha|; 0 for what is no TWIN.
  """

  counted: int
  overlap: float
  chance: float
  curve_counted: int
  hits: np.ndarray
  moved: float = 0.0
  alphas: float = 0.0

  def __add__(self, other: "Tally") -> "Tally":
    return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))

  @property
  def consistency(self) -> float:
    return self.overlap / self.counted if self.counted else math.nan

  @property
  def drift(self) -> float | None:
    return self.moved / self.alphas if self.alphas else None

  @property
  def curve(self) -> np.ndarray:
    return self.hits / self.curve_counted if self.curve_counted else np.full(len(self.hits), np.nan)


def tally(
  search_BNL: tf.Tensor,
  exact_BNL: tf.Tensor,
  visible: tf.Tensor,
  real_BN: tf.Tensor,
  *,
  top: int,
  sizes: Sequence[int],
  oracle: int = ORACLE,
  drift: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> Tally:
  """The sums of one batch.

  Args:
    real_BN: Which candidates are no padding.
    drift: Sums of |search alpha - alpha| and of |alpha| of each candidate, `[B, N]`.
    Others: As in `hits_curve`.
  """
  real = np.asarray(real_BN)
  seen = np.broadcast_to(np.asarray(visible).sum(-1), real.shape)
  counted, curve_counted = real & (seen > top), real & (seen > oracle)
  overlap = hits_curve(search_BNL, exact_BNL, visible, [top], top).numpy()[..., 0] / top
  hits = hits_curve(search_BNL, exact_BNL, visible, sizes, oracle).numpy()
  moved, alphas = [float(np.asarray(one)[counted].sum()) for one in drift] if drift else (0.0, 0.0)
  return Tally(
    counted=int(counted.sum()),
    overlap=float(overlap[counted].sum()),
    chance=float((top / np.maximum(seen, 1))[counted].sum()),
    curve_counted=int(curve_counted.sum()),
    hits=hits[curve_counted].sum(0).astype(np.float64),
    moved=moved,
    alphas=alphas,
  )


class _Reader(NamedTuple):
  """A model that searches, and what it makes of one domain's history."""

  age: str
  extractor: Extractor
  candidates: Candidates
  behaviours: Behaviours


class Ranking(NamedTuple):
  """What is compared of one history.

  Attributes:
    orders: By method, as `Extractor.search_scores`.
    drifts: By method, as in `tally`; of TWIN alone.
    exact: As `Extractor.exact_scores`.
    visible: bool `[B, N | 1, L]`.
  """

  orders: dict[str, tf.Tensor]
  drifts: dict[str, tuple[tf.Tensor, tf.Tensor]]
  exact: tf.Tensor
  visible: tf.Tensor


def _find(extractor: Extractor, candidates: Candidates, behaviours: Behaviours, readers: Sequence[_Reader]) -> Ranking:
  """What the readers find, the newest of them first, for the final attention of `extractor`."""
  orders: dict[str, tf.Tensor] = {}
  drifts: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}
  if isinstance(extractor, TWIN):
    exact = extractor.exact_alphas(*in_float32(candidates, behaviours))
    for method, alphas in _alphas(readers).items():
      orders[method] = walk_order(alphas, behaviours.visible)
      drifts[method] = _drift(alphas, exact, behaviours.visible)
  else:
    for age, one, own, past in readers:
      if isinstance(one, LAP):
        levels = [level for level in ("csa", "msa") if level == "csa" or level in one.levels]
        orders |= {f"after {level.upper()}{age}": one.search_scores(own, past, level=level) for level in levels}
      else:
        orders[f"search{age}"] = one.search_scores(own, past)
  return Ranking(orders, drifts, extractor.exact_scores(candidates, behaviours), behaviours.visible)


def _alphas(readers: Sequence[_Reader]) -> dict[str, tf.Tensor]:
  """What TWINs search by: each model, and the newest with the projections that an older one would have kept."""
  found = {}
  newest: Any = readers[0].extractor
  one: Any
  for age, one, *read in readers:
    candidates, behaviours = in_float32(*read)  # type: ignore[arg-type]
    found[f"search{age}"] = one.alphas(candidates, behaviours)
    if age and newest.key == "split":
      projected = one.project(behaviours.embedding)
      found[f"search, projections {age.removeprefix(', ')}"] = newest.alphas(
        *in_float32(readers[0].candidates, readers[0].behaviours), projected
      )
  return found


def _drift(alphas_BNHL: tf.Tensor, exact_BNHL: tf.Tensor, visible: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  def total(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.where(visible[:, :, tf.newaxis], tf.abs(values), 0.0), axis=[2, 3])

  return total(alphas_BNHL - exact_BNHL), total(exact_BNHL)


def analyse(
  run: Run,
  record_set: RecordSet,
  split: str,
  *,
  top: int,
  sizes: Sequence[int],
  oracle: int = ORACLE,
  requests: int = 0,
  stale: Sequence[str] = (),
) -> dict[tuple[str, DomainName], Tally]:
  """One run: (method, domain of the history) -> sums over the split.

  Args:
    requests: Read no more than so many; 0 = all.
    stale: Older checkpoints (steps, or paths): each adds methods whose search is the older model's, embeddings
      included, while the oracle remains the newer one's. For TWIN each adds one more: the search is the newer model's
      but for the behaviours' projections, which are the older one's, as where they are kept per item.

  Raises:
    UserError: The run's model does not search, was trained with other records, or there is no such older checkpoint.
  """
  if run.record_set.fingerprint != record_set.fingerprint:
    raise UserError(
      f"{run.path}: trained with other records: fingerprint {run.record_set.fingerprint}, {record_set.path} has "
      f"{record_set.fingerprint}"
    )
  model, newest = run.best()
  models: list[tuple[str, RequestModel]] = [("", model)]
  for name in stale:
    path, age = _older(run, name, newest)
    models.append((f", {age} step{'s' * (age > 1)} old", run.model_of(path)))
  extractors: dict[DomainName, Extractor] = getattr(model, "extractors", {})
  if not extractors:
    raise UserError(f"{run.path}: network {run.experiment.model.network!r} has no extractor that searches a history")
  spec = request_spec(record_set.record_schema)

  @tf.function(input_signature=[spec], autograph=False)
  def scores(request: dict[str, tf.Tensor]) -> dict[DomainName, Ranking]:
    own = model.embedder([("target", request)])[0]
    searchers = [(age, _searcher(one)) for age, one in models]
    read = [own if one is model else one.embedder([("target", request)])[0] for _, one in searchers]
    found = {}
    for d, extractor in extractors.items():
      readers = [
        _Reader(age, one.extractors[d], part.candidates, part.histories[d])
        for (age, one), part in zip(searchers, read, strict=True)
      ]
      found[d] = _find(extractor, own.candidates, own.histories[d], readers)
    return found

  totals: dict[tuple[str, DomainName], Tally] = {}
  try:
    for batch in _batches(record_set, split, requests, run.experiment.train.on_corrupt):
      for d, found in scores({name: batch[name] for name in spec}).items():
        for method, order in found.orders.items():
          one = tally(
            order,
            found.exact,
            found.visible,
            batch["candidate_mask"],
            top=top,
            sizes=sizes,
            oracle=oracle,
            drift=found.drifts.get(method),
          )
          totals[method, d] = totals[method, d] + one if (method, d) in totals else one
  except NotImplementedError as error:
    raise UserError(f"{run.path}: {error}") from None
  return totals


def _batches(record_set: RecordSet, split: str, requests: int, on_corrupt: OnCorrupt) -> Iterator[dict[str, tf.Tensor]]:
  left = requests or record_set.part(split).records
  with guard(record_set, split):
    for batch in evaluation_batches(record_set, split, requests=_ROWS, on_corrupt=on_corrupt):
      if left <= 0:
        return
      yield {name: tensor[:left] for name, tensor in batch.items()}
      left -= _ROWS


def _older(run: Run, name: str, newest: str) -> tuple[str, int]:
  """Path of an older checkpoint, and by how many steps it is older."""
  path = str(run.path / "checkpoints" / "last" / f"ckpt-{name}") if name.isdigit() else name
  there = sorted((p.with_suffix("") for p in (run.path / "checkpoints").glob("*/*.index")), key=_step)
  known = (
    f"Steps there: {', '.join(sorted({str(_step(p)) for p in there}, key=int))} (train.keep_checkpoints keeps more)"
  )
  if not pathlib.Path(f"{path}.index").is_file():
    raise UserError(f"{run.path}: no checkpoint {name!r}. {known}")
  age = _step(newest) - _step(path)
  if age <= 0:
    raise UserError(f"{run.path}: checkpoint {name!r} is not older than the best one, of step {_step(newest)}. {known}")
  return path, age


def _step(checkpoint: str | pathlib.Path) -> int:
  number = str(checkpoint).rpartition("-")[2]
  if not number.isdigit():
    raise UserError(f"{checkpoint}: not the path of a checkpoint, which ends with its step, as in ckpt-1200")
  return int(number)


def run(
  run_dirs: Sequence[str | pathlib.Path],
  record_set: RecordSet,
  split: str,
  output: str | pathlib.Path,
  *,
  top: int = 50,
  oracle: int = ORACLE,
  sizes: Sequence[int] = SIZES,
  requests: int = 0,
  stale: Sequence[str] = (),
) -> Page:
  """Analyses runs and leaves `consistency.json`, `consistency.md` and `index.html` in `output`.

  Runs that differ in their seed alone are of one model: means and standard deviations over them.

  Raises:
    UserError: As `analyse`; or `top`, `oracle` or a size is not positive.
  """
  if min(top, oracle, *sizes) < 1:
    raise UserError(f"expected top, oracle and sizes of at least 1, found {top}, {oracle}, {list(sizes)}")
  record_set.part(split)
  schema = record_set.record_schema
  longest = max(schema.target.max_length, schema.source.max_length)
  sizes = [*sorted(size for size in sizes if size < longest), longest]
  found: dict[tuple[str, str, str], list[Tally]] = collections.defaultdict(list)
  runs = [read_run(run_dir) for run_dir in run_dirs]
  for one, label in zip(runs, labels(runs), strict=True):
    logging.info("%s: %s", one.path, label)
    totals = analyse(one, record_set, split, top=top, sizes=sizes, oracle=oracle, requests=requests, stale=stale)
    for method in dict.fromkeys(method for method, _ in totals):
      parts = {d: total for (name, d), total in totals.items() if name == method}
      for d, total in parts.items():
        found[label, method, d].append(total)
      if len(parts) > 1:
        both = list(parts.values())
        found[label, method, "both"].append(both[0] + both[1])
  page = _page(found, record_set, split, top, oracle, sizes)
  page.write(output, "consistency", {"runs": [str(run_dir) for run_dir in run_dirs], "sizes": sizes})
  return page


def _page(
  found: dict[tuple[str, str, str], list[Tally]],
  record_set: RecordSet,
  split: str,
  top: int,
  oracle: int,
  sizes: Sequence[int],
) -> Page:
  rows: list[dict[str, Cell]] = []
  curves: list[dict[str, Cell]] = []
  drifts = any(total.alphas for totals in found.values() for total in totals)
  for (model, method, history), totals in found.items():
    values = [total.consistency for total in totals]
    who: dict[str, Cell] = {"model": model, "order": method, "history": history, "runs": len(totals)}
    rows.append(
      {
        **who,
        "consistency": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        "chance": float(np.mean([t.chance / t.counted if t.counted else math.nan for t in totals])),
        "candidates": totals[0].counted,
      }
      | ({"drift": _mean([total.drift for total in totals])} if drifts else {})
    )
    curve = np.mean([total.curve for total in totals], axis=0)
    curves.append(
      {**who, "candidates": totals[0].curve_counted}
      | {f"n = {size:,}": float(hits) for size, hits in zip(sizes, curve, strict=True)}
    )
  oracle_row: dict[str, Cell] = {"model": "oracle", "order": "", "history": "", "runs": None, "candidates": None}
  curves.append(oracle_row | {f"n = {size:,}": float(min(size, oracle)) for size in sizes})
  several = any(len(totals) > 1 for totals in found.values())
  return Page(
    title=f"Consistency of search and final attention on {record_set.name}",
    facts={"split": split, "top": top, "oracle": oracle, "fingerprint": record_set.fingerprint},
    tables=[
      Table(
        f"Share of the final attention's {top} best that are among the search's {top} best",
        rows,
        f"Over the candidates that see more than {top} behaviours. Chance: what a random order would find. "
        "For LAP: the order of the inner products (CSA), and the one in which MSA has re-ranked the first top_k[0] of "
        "it (with top_k[0] no larger than what is compared, both find the same); the oracle is FSA over the whole "
        "history, heads averaged after the softmax."
        + (" Drift: sum |search alpha - alpha| / sum |alpha| over heads and visible behaviours." if drifts else "")
        + (" Means over runs, with their standard deviation." if several else ""),
      ),
      Table(
        f"Hits: how many of the final attention's {oracle} best are among the search's n best",
        curves,
        f"Means over the candidates that see more than {oracle} behaviours.",
        digits=1,
      ),
    ],
    pictures=_pictures(found, sizes, oracle, top),
  )


def _mean(values: Sequence[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return float(np.mean(known)) if known else None


def _pictures(found: dict[tuple[str, str, str], list[Tally]], sizes: Sequence[int], oracle: int, top: int) -> list[str]:
  pictures = []
  for history in dict.fromkeys(history for _, _, history in found):
    lines = {
      f"{model}, {method}": np.mean([total.curve for total in totals], axis=0)
      for (model, method, where), totals in found.items()
      if where == history
    }
    bars = {
      f"{model}, {method}": float(np.mean([total.consistency for total in totals]))
      for (model, method, where), totals in found.items()
      if where == history
    }
    alt = f"Consistency, {history}: " + "; ".join(f"{name} {value:.3f}" for name, value in bars.items())
    pictures.append(figures.picture(_bars(bars, f"Top-{top} consistency, {history}"), alt))
    if any(np.isfinite(values).all() for values in lines.values()):
      alt = f"Hits of the oracle's {oracle} by output size, {history}: " + "; ".join(
        f"{name} {dict(zip(sizes, np.round(values, 1), strict=True))}" for name, values in lines.items()
      )
      pictures.append(figures.picture(_lines(lines, sizes, oracle, f"Hits of the oracle's {oracle}, {history}"), alt))
  return pictures


def _bars(bars: dict[str, float], title: str) -> figures.Draw:
  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    y = np.arange(len(bars))[::-1]
    axes.barh(y, list(bars.values()), color=[line_style(i)["color"] for i in range(len(bars))], height=0.6)
    for position, (name, value) in zip(y, bars.items(), strict=True):
      inside = math.isfinite(value) and value > 0.5
      axes.annotate(
        f"{name}  {value:.3f}",
        (0.0 if inside or not math.isfinite(value) else value, position),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color="white" if inside else figures.INK,
      )
    axes.set(xlim=(0, 1), title=title)
    axes.set_yticks([])
    axes.grid(False, axis="y")

  return draw


def _lines(lines: dict[str, np.ndarray], sizes: Sequence[int], oracle: int, title: str) -> figures.Draw:
  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot(sizes, np.minimum(sizes, oracle), "--", color=figures.INK, linewidth=1.2, label="oracle", zorder=3)
    for index, (name, values) in enumerate(lines.items()):
      axes.plot(sizes, values, marker="o", markersize=3, **line_style(index), label=name)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="behaviours that the search hands over", ylabel="hits", title=title)
    axes.legend(fontsize=8)

  return draw


def _searcher(model: RequestModel) -> Any:
  """What searches: the model itself, or, in a TWIN without parameter consistency, the one that it searches with."""
  return getattr(model, "searcher", model)
