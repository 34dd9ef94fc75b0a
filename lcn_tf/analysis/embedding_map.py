"""Do items of one category lie together, within a domain and across the two? (LCN, figure 5.)

A map (t-SNE) is no evidence by itself, so there are numbers beside it: *purity*, the share of an item's k nearest
neighbours (cosine) that are of its category, among the items of its own domain and among those of the other one, and
the silhouette. The first value of a field with several is an item's category.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import sklearn.decomposition
import sklearn.manifold
import sklearn.metrics
import tensorflow as tf
import threadpoolctl
from absl import logging
from matplotlib.figure import Figure

from lcn_tf.analysis.runs import labelled
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import example_batch
from lcn_tf.errors import UserError, unknown
from lcn_tf.models.base import RequestModel
from lcn_tf.pages import figures
from lcn_tf.pages.markup import Cell
from lcn_tf.pages.table_page import Page, Table
from lcn_tf.schema import DOMAINS, DomainName, Schema
from lcn_tf.training.run_folder import Run

NEIGHBOURS = 10
_COMPONENTS, _PERPLEXITY = 50, 30.0
_NAMED = 10  # categories with a colour of their own


@dataclasses.dataclass(frozen=True)
class Items:
  """Items of one domain.

  Attributes:
    vectors: `[items, D]`.
    categories: `[items]`.
  """

  vectors: np.ndarray
  categories: np.ndarray


def item_vectors(model: RequestModel, domain: DomainName, rows: np.ndarray) -> np.ndarray:
  """The model's representation of items: id and fields side by side, or their projection, `[items, D]`.

  Args:
    model: Model.
    domain: Domain of the items.
    rows: Rows of the domain's catalogue, `[items]`.
  """
  batch = example_batch(model.schema, candidates=len(rows))
  batch["candidate_items"] = tf.constant(rows[np.newaxis], tf.int32)
  return model.embedder([(domain, batch)])[0].candidates.embedding[0].numpy()


def purity(items: Items, among: Items | None = None, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
  """Mean share of an item's nearest neighbours (cosine) that are of its category, and that of random neighbours.

  Args:
    items: Items whose neighbours are looked for.
    among: Items that may be neighbours; None = `items`, without the item itself. Items whose category does not occur
      among the neighbours are left out.
    neighbours: Number of nearest neighbours.

  Returns:
    The two shares; NaN twice without an item to compare.
  """
  others = items if among is None else among
  known = np.isin(items.categories, others.categories)
  take = min(neighbours, len(others.vectors) - (among is None))
  if take < 1 or not known.any():
    return math.nan, math.nan
  unit, other_unit = _normalised(items.vectors), _normalised(others.vectors)
  shares, chances = [], []
  for i in np.flatnonzero(known):
    similarity = other_unit @ unit[i]
    same = others.categories == items.categories[i]
    candidates = len(same)
    if among is None:
      similarity[i] = -np.inf
      candidates -= 1
    nearest = np.argsort(-similarity, kind="stable")[:take]
    shares.append(same[nearest].mean())
    chances.append((same.sum() - (among is None)) / candidates)
  return float(np.mean(shares)), float(np.mean(chances))


def silhouette(items: Items) -> float:
  """The mean silhouette of the categories by cosine distance; NaN with fewer than two categories, or one item each."""
  names = len(np.unique(items.categories))
  if not 1 < names < len(items.categories):
    return math.nan
  return float(sklearn.metrics.silhouette_score(_normalised(items.vectors), items.categories, metric="cosine"))


def project(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
  """t-SNE in two dimensions, `[items, 2]`, of the 50 main components."""
  components = min(_COMPONENTS, *vectors.shape)
  reduced = sklearn.decomposition.PCA(components, random_state=seed).fit_transform(vectors)
  perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
  # with few items threads wait for each other longer than they work
  with threadpoolctl.threadpool_limits(1 if len(vectors) < 1000 else None):
    return sklearn.manifold.TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(reduced)


def _normalised(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def run(
  run_dirs: Sequence[str | pathlib.Path],
  record_set: RecordSet,
  output: str | pathlib.Path,
  *,
  field: str,
  items: int = 5000,
  seed: int = 0,
) -> Page:
  """Leaves `embedding_map.json`, `embedding_map.md` and `index.html` in `output`.

  Args:
    run_dirs: Folders of runs that read both histories.
    record_set: Record set that the runs were trained with.
    output: Folder for the results.
    field: Name of an item field that both domains have, with one vocabulary.
    items: Largest number of items over both domains, drawn from those of known id and category.
    seed: Seed of the draw and of the map.

  Raises:
    UserError: A run has other records or reads one domain, the domains do not share the field, or a domain has fewer
      than three items.
  """
  table, categories = _draw(record_set, field, items, seed)
  words = _words(record_set, _vocabulary(record_set.record_schema, field))
  rows: list[dict[str, Cell]] = []
  pictures = []
  for label, one in labelled(run_dirs, record_set):
    logging.info("%s: %s", one.path, label)
    parts = _representations(one, table, categories)
    rows += [_measure(one, label, part, found) for part, found in parts.items()]
    part = "id alone" if "id alone" in parts else "whole"
    pictures += _pictures(label, part, parts[part], words, seed)
  count = {d: len(table[d]) for d in DOMAINS}
  page = Page(
    title=f"Item representations by {field} on {record_set.name}",
    facts={"target items": count["target"], "source items": count["source"], "seed": seed},
    tables=[
      Table(
        f"Purity of the {NEIGHBOURS} nearest neighbours, and silhouette",
        rows,
        f"Category: the first value of {field}. Target and source: neighbours in the item's own domain; across: "
        "neighbours in the other domain alone, over the items whose category occurs there. Chance: neighbours drawn "
        "blindly. Whole: what the model compares; where it is the embeddings of id and fields side by side, the "
        "category is told by the field's own columns, so the columns of the id alone are measured besides, and mapped.",
        digits=3,
      )
    ],
    pictures=pictures,
  )
  page.write(output, "embedding_map", {"runs": [str(run_dir) for run_dir in run_dirs], "field": field})
  return page


def _vocabulary(schema: Schema, field: str) -> str:
  """The vocabulary of the field in both domains."""
  found = [{feature.name: feature.vocabulary for feature in schema.domain(d).item_fields} for d in DOMAINS]
  shared = [name for name in found[0] if found[0][name] == found[1].get(name)]
  if field not in shared:
    raise unknown("--field: the domains have to share it", "item field", field, shared)
  return found[0][field]


def _draw(
  record_set: RecordSet, field: str, items: int, seed: int
) -> tuple[dict[DomainName, np.ndarray], dict[DomainName, np.ndarray]]:
  """Catalogue rows of the items, and their categories, by domain. Items of unknown id or category are left out."""
  schema = record_set.record_schema
  vocabulary = schema.vocabularies[_vocabulary(schema, field)]
  random = np.random.default_rng(seed)
  rows: dict[DomainName, np.ndarray] = {}
  categories: dict[DomainName, np.ndarray] = {}
  for d in DOMAINS:
    catalogue = record_set.catalogue(d)
    features = schema.catalogue_features(d)
    position = [feature.name for feature in features].index(field)
    column = sum(feature.max_values for feature in features[:position])
    known_id = catalogue[:, 0] > schema.vocabularies[features[0].vocabulary].oov
    there = np.flatnonzero(known_id & (catalogue[:, column] > vocabulary.oov))
    rows[d] = np.sort(random.choice(there, min(items // 2, len(there)), replace=False))
    categories[d] = catalogue[rows[d], column]
    if len(rows[d]) < 3:
      raise UserError(f"{record_set.path}: {len(rows[d])} items of the {d} domain have a known id and {field}")
  return rows, categories


def _representations(
  run: Run, rows: Mapping[DomainName, np.ndarray], categories: Mapping[DomainName, np.ndarray]
) -> dict[str, dict[DomainName, Items]]:
  """Items by name of the part: "whole", and "id alone" where the whole is the fields side by side."""
  if set(run.experiment.model.histories) != set(DOMAINS):
    raise UserError(f"{run.path}: reads the {run.experiment.model.histories[0]} history alone; the map needs both")
  model, _ = run.best()
  whole = {d: item_vectors(model, d, rows[d]) for d in DOMAINS}
  parts = {"whole": whole}
  if not run.experiment.model.item_dim:
    ids = {d: model.schema.catalogue_features(d)[0].vocabulary for d in DOMAINS}
    widths = {d: model.embedder.tables.tables[ids[d]].shape[-1] for d in DOMAINS}
    parts["id alone"] = {d: whole[d][:, : widths[d]] for d in DOMAINS}
  return {part: {d: Items(found[d], categories[d]) for d in DOMAINS} for part, found in parts.items()}


def _measure(run: Run, label: str, part: str, found: Mapping[DomainName, Items]) -> dict[str, Cell]:
  row: dict[str, Cell] = {"model": label, "representation": part}
  target, source = found["target"], found["source"]
  pairs = {
    "target": (target, None),
    "source": (source, None),
    "across, of target items": (target, source),
    "across, of source items": (source, target),
  }
  for name, (items, among) in pairs.items():
    row[name], row[f"{name}, chance"] = purity(items, among)
  row |= {f"silhouette, {d}": silhouette(found[d]) for d in DOMAINS}
  return row | {"silhouette, both": silhouette(_together(found))}


def _together(found: Mapping[DomainName, Items]) -> Items:
  return Items(*(np.concatenate([getattr(found[d], name) for d in DOMAINS]) for name in ("vectors", "categories")))


def _words(record_set: RecordSet, vocabulary: str) -> dict[int, str]:
  frame = record_set.table(f"vocabularies/{vocabulary}.parquet")
  return dict(zip(frame["index"].to_list(), map(str, frame["value"].to_list()), strict=True))


def _pictures(
  model: str, part: str, found: Mapping[DomainName, Items], words: Mapping[int, str], seed: int
) -> list[str]:
  both = _together(found)
  domains = np.repeat(DOMAINS, [len(found[d].categories) for d in DOMAINS])
  names, counts = np.unique(both.categories, return_counts=True)
  named = names[np.argsort(-counts, kind="stable")][:_NAMED]
  pictures = []
  for title, items, of in (
    (f"{model}, {part}: both domains", both, domains),
    (f"{model}, {part}: target domain alone", found["target"], np.repeat("target", len(found["target"].categories))),
  ):
    points = project(items.vectors, seed)
    alt = f"t-SNE map of {len(points)} items, coloured by category. {title}."
    pictures.append(figures.picture(_scatter(points, items, of, named, words, title), alt, size=(6.6, 4.8), right=1.6))
  return pictures


def _scatter(
  points: np.ndarray, items: Items, domains: np.ndarray, named: np.ndarray, words: Mapping[int, str], title: str
) -> figures.Draw:
  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"]
    groups = [(words.get(int(name), str(name)), items.categories == name) for name in named]
    groups.append(("other", ~np.isin(items.categories, named)))
    for index, (word, chosen) in enumerate(groups):
      colour = colours(index) if word != "other" or index < len(named) else figures.GRID
      for domain, marker in (("target", "o"), ("source", "^")):
        some = chosen & (domains == domain)
        if some.any():
          label = word if domain == "target" or not (chosen & (domains == "target")).any() else None
          x, y = points[some].T
          axes.scatter(x, y, s=7, marker=marker, color=colour, linewidths=0, alpha=0.8, label=label)
    axes.set(title=title + (" (o target, ^ source)" if len(set(domains)) > 1 else ""))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=2)

  return draw
