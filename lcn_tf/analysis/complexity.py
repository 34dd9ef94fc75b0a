"""Mult-adds of inference, counted from the graphs and held against formulas."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from lcn_tf.analysis import formulas, synthetic
from lcn_tf.analysis.formulas import Sizes
from lcn_tf.analysis.full_attention import PROJECTIONS, FullAttention
from lcn_tf.errors import UserError
from lcn_tf.interest.base import Extractor
from lcn_tf.interest.lap import LAP
from lcn_tf.layers.structures import Behaviours, Candidates
from lcn_tf.models.base import RequestModel
from lcn_tf.models.mult_adds import MultAdds, count_call
from lcn_tf.pages import figures
from lcn_tf.pages.markup import Cell
from lcn_tf.pages.table_page import Page, Table

LENGTHS = (250, 500, 1000, 2000, 10_000)
_LAP_TABLE = ((200, 50), (100, 50), (100, 20), (50, 20))


def inputs(model: RequestModel, candidates: int, length: int, users: int = 1) -> tuple[Candidates, Behaviours]:
  """Inputs of the model's extractor of the target history, for random requests."""
  embedded = model.embedder([("target", synthetic.requests(model.schema, users, candidates, length))])[0]
  return embedded.candidates, embedded.histories["target"]


def sizes_of(candidates: Candidates, behaviours: Behaviours) -> Sizes:
  buckets, width = behaviours.recency.shape
  return Sizes(
    N=candidates.embedding.shape[1],
    L=behaviours.embedding.shape[1],
    D=behaviours.embedding.shape[2],
    S=behaviours.side.shape[2],
    R=buckets,
    C=width if buckets else 0,
    vectors=behaviours.vectors.shape[2],
  )


def count_extractor(extractor: Extractor, candidates: Candidates, behaviours: Behaviours) -> MultAdds:
  """Mult-adds of the extractor of one history."""
  return count_call(lambda *read: extractor(*read), candidates, behaviours)


def lap_table(length: int = 2000, item: int = 64, side: int = 32) -> list[dict[str, Cell]]:
  """LAP's levels as specified, against its last level over everything, per candidate."""
  sizes = Sizes(N=1, L=length, D=item, S=side)
  everything = formulas.full_attention(sizes)
  rows: list[dict[str, Cell]] = []
  for top_k in _LAP_TABLE:
    levels = formulas.lap_levels(sizes, top_k)
    total = sum(levels.values())
    share = {"total": total, "FSA on everything": everything, "share, %": 100 * total / everything}
    rows.append({"K1, K2": f"{top_k[0]}, {top_k[1]}", **{name.upper(): n for name, n in levels.items()}, **share})
  return rows


def run(
  output: str | pathlib.Path,
  *,
  models: Sequence[str] = (),
  lengths: Sequence[int] = LENGTHS,
  candidates: int = 1,
) -> Page:
  """Counts, and leaves `complexity.json`, `complexity.md` and `index.html` in `output`.

  Args:
    models: Names of `synthetic.names()`; empty = all that can be built.
    lengths: Behaviours of each history.
    candidates: Candidates of the request.

  Raises:
    UserError: A model is unknown, or a size is not positive.
  """
  if min([candidates, *lengths], default=0) < 1:
    raise UserError(f"expected sizes of at least 1, found {candidates} candidates, lengths {list(lengths)}")
  rows: list[dict[str, Cell]] = []
  for name in models or synthetic.names():
    logging.info("%s", name)
    try:
      model = synthetic.build(name, max(lengths), deduplicate=False)
    except UserError as error:
      if models:
        raise
      logging.warning("%s is left out: %s", name, error)
      continue
    rows += [_row(name, model, candidates, length) for length in lengths]
  page = Page(
    title="Mult-adds of inference",
    facts={
      "candidates": candidates,
      "item": "64 wide",
      "side information": "32 wide: 3 stored fields and recency, 8 each",
    },
    tables=[
      Table(
        "One request",
        rows,
        "Extractor: of one history. Model: the extractors of two histories and the MLP (512, 256). Formula: what "
        "this implementation should take; specified: the papers' equations carried out literally (hashes and "
        "projections that could be kept per item included). Matrix products alone count; sorting, gathering, softmax "
        "and elementwise arithmetic do not. Data-dependent: products whose size the graph does not tell, and loops "
        "without a bound, which are left out or counted once.",
        digits=3,
      ),
      Table(
        "LAP as specified, L = 2,000, against its last level over the whole history",
        lap_table(),
        "Per candidate. FSA on everything projects keys and values of all rows for every candidate.",
        digits=1,
      ),
      Table(
        "LAP as implemented against multi-head attention over the whole history, L = 2,000",
        against_full_attention(2000),
        "Counted from the graphs, per request of N candidates, one history, recency left out of both. Per candidate: "
        "keys and values projected for every candidate; shared: once per history; carried: never, as LAP does here.",
        digits=1,
      ),
    ],
    pictures=[_picture(rows, lengths, candidates)],
  )
  page.write(output, "complexity")
  return page


def _row(name: str, model: RequestModel, candidates: int, length: int) -> dict[str, Cell]:
  whole = count_call(
    lambda request: model(request, training=False), synthetic.requests(model.schema, 1, candidates, length)
  )
  row: dict[str, Cell] = {"model": name, "length": length}
  left_out = len(whole.unknown) + len(whole.loops)
  extractors = getattr(model, "extractors", {})
  if "target" not in extractors:
    none: dict[str, Cell] = dict.fromkeys(("extractor", "formula", "specified", "of specified"))
    return row | none | {"model total": whole.total, "data-dependent": left_out}
  extractor = extractors["target"]
  read = inputs(model, candidates, length)
  counted = count_extractor(extractor, *read).total
  kind, sizes = synthetic.PRESETS.get(name, (name, {}))[0], sizes_of(*read)
  specified = formulas.specified(kind, extractor, sizes)
  return row | {
    "extractor": counted,
    "formula": formulas.implemented(kind, extractor, sizes),
    "specified": specified,
    "of specified": counted / specified if specified else None,
    "model total": whole.total,
    "data-dependent": left_out,
  }


def against_full_attention(length: int, counts: Sequence[int] = (1, 16)) -> list[dict[str, Cell]]:
  """LAP's mult-adds against full attention's, a row per number of candidates in `counts`."""
  model = synthetic.build("average_pooling", length, deduplicate=False)
  rows: list[dict[str, Cell]] = []
  for name, options in (("lap", {}), ("lap_five_percent", synthetic.PRESETS["lap_five_percent"][1])):
    for count in counts:
      candidates, behaviours = inputs(model, count, length)
      behaviours = without_recency(behaviours)
      found = {}
      for kind, layer in attentions(options).items():
        layer(candidates, behaviours)
        found[kind] = count_extractor(layer, candidates, behaviours).total
      shares = {f"LAP / {p}, %": 100 * found["LAP"] / found[p] for p in PROJECTIONS}
      rows.append({"model": name, "N": count, **found, **shares})
  return rows


def attentions(options: Mapping[str, Any]) -> dict[str, Extractor]:
  """LAP, and full attention with each kind of projections, by name."""
  return {"LAP": LAP(**options), **{projections: FullAttention(projections) for projections in PROJECTIONS}}


def without_recency(behaviours: Behaviours) -> Behaviours:
  """The same history with 8 more columns of stored side information in the place of its age."""
  side = behaviours.side
  wider = tf.concat([side, side[..., : behaviours.recency.shape[1]]], axis=-1)
  return behaviours._replace(side=wider, recency=behaviours.recency[:0])


def _picture(rows: Sequence[dict[str, Cell]], lengths: Sequence[int], candidates: int) -> str:
  lines: dict[str, list[tuple[int, int]]] = {}
  for row in rows:
    if isinstance(row["extractor"], int):
      lines.setdefault(str(row["model"]), []).append((int(row["length"] or 0), row["extractor"]))
  full = "full attention, as specified"
  specified = [(n, formulas.full_attention(Sizes(N=candidates, L=n, D=64, S=32))) for n in lengths]
  title = f"Mult-adds of one extractor, {candidates} candidate{'s' * (candidates > 1)}"
  draw = figures.by_length({full: specified, **lines}, lengths, title, dashed=full)
  alt = "Mult-adds by length: " + "; ".join(f"{name} {points}" for name, points in lines.items())
  return figures.picture(draw, alt, size=(8.0, 4.6), right=2.2)
