"""Does the search find the best behaviours of the final attention? (LCN, figure 4; TWIN, figure 4.)

For every candidate and history, the *oracle* is the order of all visible behaviours by the final attention. Two
numbers compare the order of the search with it:

* consistency: the share of the oracle's `top` best that are among the search's `top` best;
* hits: the number of the oracle's 100 best that are among the search's n best, for n from 10 to the whole history.

A search that computes the scores of the final attention, as TWIN's does, has a third number. The drift is
sum |search alpha - alpha| / sum |alpha| over heads and visible behaviours.

`hits` counts, `consistency_page` draws the results.
"""

import collections
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from lcn_tf.analysis import consistency_page
from lcn_tf.analysis.consistency_page import Line
from lcn_tf.analysis.hits import Depths, Tally, drift_sums, tally
from lcn_tf.analysis.runs import labelled
from lcn_tf.data.read.dataset import OnCorrupt, evaluation_batches
from lcn_tf.data.read.diagnosis import guard
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import request_spec
from lcn_tf.errors import UserError
from lcn_tf.interest.base import Extractor, SearchLevel, in_float32
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.models.base import RequestModel
from lcn_tf.pages.table_page import Page
from lcn_tf.schema import DomainName
from lcn_tf.training.run_folder import Run

SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
ORACLE = 100
_ROWS = 4  # requests at a time: some final attentions read [B, N, L, D] here


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

  Runs that differ only in their seed belong to one model. The tables have means and standard deviations over them.

  Args:
    run_dirs: Run folders.
    record_set: Record set that the runs were trained with.
    split: Split to read.
    output: Folder for the results.
    top: Size of the two sets whose overlap is the consistency.
    oracle: Number of the oracle's best behaviours that hits are counted of.
    sizes: Numbers of the search's best behaviours among which hits are counted. Sizes that are not smaller than the
      longest history become that length.
    requests: Largest number of requests to read; 0 reads all.
    stale: Older checkpoints, as in `analyse`.

  Raises:
    UserError: The errors of `analyse` and of `labelled`; or `top`, `oracle` or a size is not positive.
  """
  if min(top, oracle, *sizes) < 1:
    raise UserError(f"expected top, oracle and sizes of at least 1, found {top}, {oracle}, {list(sizes)}")
  record_set.part(split)
  schema = record_set.record_schema
  longest = max(schema.target.max_length, schema.source.max_length)
  depths = Depths(top, oracle, (*sorted(size for size in sizes if size < longest), longest))
  found: dict[Line, list[Tally]] = collections.defaultdict(list)
  for label, one in labelled(run_dirs, record_set):
    logging.info("%s: %s", one.path, label)
    totals = analyse(one, record_set, split, depths, requests=requests, stale=stale)
    for order in dict.fromkeys(order for order, _ in totals):
      parts = {d: total for (name, d), total in totals.items() if name == order}
      for d, total in parts.items():
        found[Line(label, order, d)].append(total)
      if len(parts) > 1:
        both = list(parts.values())
        found[Line(label, order, "both")].append(both[0] + both[1])
  _warn_if_nothing_counts(found, record_set, split, depths)
  page = consistency_page.page(found, record_set, split, depths)
  page.write(output, "consistency", {"runs": [str(run_dir) for run_dir in run_dirs], "sizes": depths.sizes})
  return page


def _warn_if_nothing_counts(found: dict[Line, list[Tally]], record_set: RecordSet, split: str, depths: Depths) -> None:
  totals = [total for line in found.values() for total in line]
  flags = [] if any(total.counted for total in totals) else [f"--top {depths.top}"]
  flags += [] if any(total.curve_counted for total in totals) else [f"--oracle {depths.oracle}"]
  if flags:
    logging.warning(
      "%s: no candidate of the %s split sees more behaviours than %s, so the results have no number there. "
      "Lower %s below the length of the histories.",
      record_set.path,
      split,
      " or ".join(flags),
      " and ".join(flag.split()[0] for flag in flags),
    )


def analyse(
  run: Run,
  record_set: RecordSet,
  split: str,
  depths: Depths,
  *,
  requests: int = 0,
  stale: Sequence[str] = (),
) -> dict[tuple[str, DomainName], Tally]:
  """Sums over the split of one run, by the name of the order and the domain of the history.

  Args:
    run: Run whose best checkpoint is the newest model.
    record_set: Record set that the run was trained with.
    split: Split to read.
    depths: Depths of the comparison.
    requests: Largest number of requests to read; 0 reads all.
    stale: Older checkpoints, as steps or paths. Each adds orders in which the older model searches with its own
      embeddings, while the oracle remains the newest model's. If the search may store projections of items, each adds
      one more order: the newest model searches the projections of the older one.

  Raises:
    UserError: The run's model does not search, an older checkpoint does not exist, or a record is broken.
  """
  models = _models(run, stale)
  totals: dict[tuple[str, DomainName], Tally] = {}
  try:
    rank = _ranker(models, record_set)
  except NotImplementedError as error:
    raise UserError(f"{run.path}: {error}") from None
  for batch in _batches(record_set, split, requests, run.experiment.train.on_corrupt):
    for d, ranking in rank(batch).items():
      for order, scores in ranking.orders.items():
        drift = ranking.drifts.get(order)
        one = tally(scores, ranking.exact, ranking.visible, batch["candidate_mask"], depths, drift)
        totals[order, d] = totals[order, d] + one if (order, d) in totals else one
  return totals


def _models(run: Run, stale: Sequence[str]) -> list[tuple[str, RequestModel]]:
  """The newest model and the older ones, each with its age in words ("" for the newest)."""
  model, newest = run.best()
  if not getattr(model, "extractors", {}):
    raise UserError(f"{run.path}: network {run.experiment.model.network!r} has no extractor that searches a history")
  models: list[tuple[str, RequestModel]] = [("", model)]
  for name in stale:
    path, age = _older(run, name, newest)
    models.append((f"{age} step{'s' * (age > 1)} old", run.model_of(path)))
  return models


def _older(run: Run, name: str, newest: str) -> tuple[str, int]:
  """Path of an older checkpoint, and the number of steps by which it is older."""
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


class Ranking(NamedTuple):
  """The orders of one history that are compared.

  Attributes:
    orders: Scores of each search by the name of its order, as `Extractor.search_scores`.
    drifts: Results of `drift_sums` by the name of the order; only searches with alphas have one.
    exact: Scores of the oracle, as `Extractor.exact_scores`.
    visible: Mask of the behaviours that each candidate sees, bool `[B, N | 1, L]`.
  """

  orders: dict[str, tf.Tensor]
  drifts: dict[str, tuple[tf.Tensor, tf.Tensor]]
  exact: tf.Tensor
  visible: tf.Tensor


class Reader(NamedTuple):
  """A model that searches, with its view of one domain's history.

  Attributes:
    age: Age of the model in words, "" for the newest.
    extractor: Extractor of the history.
    candidates: Candidates with this model's embeddings.
    behaviours: Behaviours with this model's embeddings.
  """

  age: str
  extractor: Extractor
  candidates: Candidates
  behaviours: Behaviours


def rank_history(
  extractor: Extractor, candidates: Candidates, behaviours: Behaviours, readers: Sequence[Reader]
) -> Ranking:
  """The orders that the readers find, against the final attention of `extractor`.

  Args:
    extractor: Extractor whose final attention is the oracle.
    candidates: Candidates as `extractor` reads them.
    behaviours: Behaviours as `extractor` reads them.
    readers: Models that search, the newest first.
  """
  levels: dict[str, SearchLevel] = {}
  newest = readers[0]
  for reader in readers:
    found = reader.extractor.search_levels(reader.candidates, reader.behaviours)
    levels |= {", ".join(filter(None, [name, reader.age])): level for name, level in found.items()}
    projected = reader.extractor.stored_projections(reader.behaviours) if reader.age else None
    if projected is not None:
      found = newest.extractor.search_levels(newest.candidates, newest.behaviours, projected)
      levels |= {f"{name}, projections {reader.age}": level for name, level in found.items()}
  visible = behaviours.visible
  exact_alphas = extractor.exact_alphas(*in_float32(candidates, behaviours))
  return Ranking(
    orders={order: level.scores for order, level in levels.items()},
    drifts={
      order: drift_sums(level.alphas, exact_alphas, visible)
      for order, level in levels.items()
      if level.alphas is not None
    },
    exact=extractor.exact_scores(candidates, behaviours),
    visible=visible,
  )


Ranker = Callable[[dict[str, tf.Tensor]], dict[DomainName, Ranking]]


def _ranker(models: Sequence[tuple[str, RequestModel]], record_set: RecordSet) -> Ranker:
  """A graph that ranks the histories of a batch by all models, the newest of which comes first.

  Raises:
    NotImplementedError: The extractor does not search.
  """
  model = models[0][1]
  # a TWIN without parameter consistency searches with a model of its own
  searchers: list[tuple[str, Any]] = [(age, getattr(one, "searcher", one)) for age, one in models]
  spec = request_spec(record_set.record_schema)

  def rank(request: dict[str, tf.Tensor]) -> dict[DomainName, Ranking]:
    own = model.embedder([("target", request)])[0]
    views = [own if one is model else one.embedder([("target", request)])[0] for _, one in searchers]
    found = {}
    for d, extractor in model.extractors.items():
      readers = [
        Reader(age, one.extractors[d], view.candidates, view.histories[d])
        for (age, one), view in zip(searchers, views, strict=True)
      ]
      found[d] = rank_history(extractor, own.candidates, own.histories[d], readers)
    return found

  graph = tf.function(rank, input_signature=[spec], autograph=False).get_concrete_function()
  return lambda batch: graph({name: batch[name] for name in spec})


def _batches(record_set: RecordSet, split: str, requests: int, on_corrupt: OnCorrupt) -> Iterator[dict[str, tf.Tensor]]:
  left = requests or record_set.part(split).records
  with guard(record_set, split):
    for batch in evaluation_batches(record_set, split, requests=_ROWS, on_corrupt=on_corrupt):
      if left <= 0:
        return
      yield {name: tensor[:left] for name, tensor in batch.items()}
      left -= _ROWS
