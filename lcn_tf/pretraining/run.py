"""The frozen item vectors that some extractors search with: made from training records, kept beside the run."""

import dataclasses
import pathlib
import time
from collections.abc import Collection
from typing import Any

import numpy as np
import polars as pl
from absl import logging

from lcn_tf.config import Experiment, Pretraining
from lcn_tf.data.read.dataset import OnCorrupt, evaluation_batches
from lcn_tf.data.read.diagnosis import guard
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError, unknown
from lcn_tf.pretraining.vectors import KINDS, Pretrained
from lcn_tf.remote import mirror
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName

_REQUESTS = 256  # records read at a time
_PENDING = 4_000_000  # behaviours held before repeated ones are dropped


def pretrain(
  config: Pretraining, record_set: RecordSet, on_corrupt: OnCorrupt = "error", kinds: Collection[str] = KINDS
) -> Pretrained:
  """Makes item vectors of both domains in one space, and their clusters, from the training records alone.

  Both histories of a user are merged in the order of time, so an item of one domain is the context of those of the
  other, and <p_target, p_source> means something. See `lcn_tf.pretraining.item2vec` for the formulas. With
  `config.item_vector` they are made of a vector of the schema instead: see `content_vectors`. The same records and
  config give the same vectors.

  Args:
    config: Its `path` does not matter here.
    record_set: Only the shards of its `train` split are opened, those of source-domain candidates included.
    on_corrupt: Treatment of broken records, see `lcn_tf.data.read.dataset`.
    kinds: Names of the tables that are read, `vectors` or `clusters`. Clusters, which take longest, are made only if
      they are among them.

  Raises:
    UserError: A record is broken, or no training record holds a behaviour.
  """
  began = time.monotonic()
  if config.item_vector:
    return content_vectors(config, record_set, kinds)
  events = training_behaviours(record_set, on_corrupt)
  logging.info("read %d behaviours in %.1f seconds", len(events), time.monotonic() - began)
  return vectors_of(events, config, record_set, kinds)


def vectors_of(
  events: pl.DataFrame, config: Pretraining, record_set: RecordSet, kinds: Collection[str] = KINDS
) -> Pretrained:
  """The vectors and clusters that behaviours, as `training_behaviours` returns them, give; arguments as `pretrain`."""
  if events.is_empty():
    raise UserError(f"{record_set.path}: no training record holds a behaviour, so there is nothing to make vectors of")
  from lcn_tf.pretraining import item2vec  # scikit-learn takes most of a second to load, and few models need vectors

  began = time.monotonic()
  rows, items = np.unique(events["row"].to_numpy(), return_inverse=True)
  counts = item2vec.cooccurrences(events["user"].to_numpy(), items, len(rows), config.window)
  vectors = item2vec.factorise(item2vec.shifted_ppmi(counts), config.dim, config.seed)
  seconds = time.monotonic() - began
  ends = np.cumsum([0] + [record_set.record_schema.domain(d).items for d in DOMAINS])
  parts = {d: slice(ends[number], ends[number + 1]) for number, d in enumerate(DOMAINS)}
  spread = np.zeros((ends[-1], config.dim), np.float32)
  spread[rows] = vectors
  facts = {
    "users": events["user"].n_unique(),
    "behaviours": len(events),
    "last_time": events["time"].max(),
    "pairs": int(counts.nnz),
    "seen": {d: int(np.sum((rows >= part.start) & (rows < part.stop))) for d, part in parts.items()},
  }
  by_domain = {d: spread[part] for d, part in parts.items()}
  return _made(by_domain, min(config.dim, len(rows) - 1), config, record_set, kinds, seconds, facts)


def content_vectors(config: Pretraining, record_set: RecordSet, kinds: Collection[str] = KINDS) -> Pretrained:
  """Item vectors made of a frozen vector of the schema, and their clusters; arguments as `pretrain`.

  The vectors of both domains are turned to their common principal axes, the largest first, and cut to `config.dim`
  columns. A rotation changes no inner product.

  Raises:
    UserError: The schema has no vector of that name, or a narrower one.
  """
  from lcn_tf.pretraining import item2vec

  began = time.monotonic()
  schema, name = record_set.record_schema, config.item_vector
  having = {d: {v.name: v.width for v in schema.domain(d).item_vectors} for d in DOMAINS}
  widths = {vectors[name] for vectors in having.values() if name in vectors}
  if not widths:
    raise unknown(
      "model.pretraining.item_vector", "item vector", name, {n for vectors in having.values() for n in vectors}
    )
  width = widths.pop()
  if width < config.dim:
    raise UserError(
      f"model.pretraining.dim is {config.dim}, and the item vector {name!r} has {width} numbers: ask for "
      "that many at most"
    )
  parts = {
    d: record_set.vectors(d)[name] if name in having[d] else np.zeros((schema.domain(d).items, width), np.float32)
    for d in DOMAINS
  }
  turned = item2vec.principal(np.concatenate([parts[d] for d in DOMAINS]), config.dim)
  vectors = dict(zip(DOMAINS, np.split(turned, [len(parts["target"])]), strict=True))
  return _made(vectors, config.dim, config, record_set, kinds, time.monotonic() - began, {})


def _made(
  vectors: dict[DomainName, np.ndarray],
  columns: int,
  config: Pretraining,
  record_set: RecordSet,
  kinds: Collection[str],
  seconds: float,
  facts: dict[str, Any],
) -> Pretrained:
  """New vectors with their notes, and with their clusters if `kinds` asks for them.

  Args:
    vectors: Vectors `[items, P]` per domain.
    columns: Number of their columns that say something.
    config: Settings.
    record_set: Records that they are of.
    kinds: Names of the tables that are read.
    seconds: Time that the vectors took.
    facts: Further notes.
  """
  notes: dict[str, Any] = {
    "settings": config.settings(clusters=False),
    "records": {"name": record_set.name, "path": str(record_set.path)},
    **facts,
    "with_vector": {d: int(np.any(own != 0, axis=1).sum()) for d, own in vectors.items()},
    "columns_used": columns,
    "seconds": {"vectors": round(seconds, 1)},
  }
  made = Pretrained(vectors, {}, notes, record_set.fingerprint)
  if "clusters" in kinds:
    made = with_clusters(made, config)
  _log(made.notes)
  return made


def with_clusters(found: Pretrained, config: Pretraining) -> Pretrained:
  """Item vectors with the clusters of `config`, which are of both domains together, in the place of those they had."""
  from lcn_tf.pretraining import item2vec

  began = time.monotonic()
  vectors = np.concatenate([found.vectors[d] for d in DOMAINS])
  known = int(np.any(vectors != 0, axis=1).sum())
  sizes = [min(count, max(1, known // 10)) for count in config.clusters]
  by_size = {size: item2vec.cluster(vectors, size, config.seed) for size in set(sizes)}
  clusters = np.stack([by_size[size] for size in sizes], axis=1)
  seconds = round(time.monotonic() - began, 1)
  notes = found.notes | {
    "settings": found.notes.get("settings", {}) | {"clusters": config.settings()["clusters"]},
    "clusters_asked": list(config.clusters),
    "clusters": sizes,
    "clusters_not_empty": [len(np.unique(made[made > 0])) for made in clusters.T],
    "clusters_alike": sizes[0] == sizes[1],
    "seconds": found.notes.get("seconds", {}) | {"clusters": seconds},
  }
  ends = np.cumsum([0] + [len(found.vectors[d]) for d in DOMAINS])
  by_domain = {d: clusters[ends[number] : ends[number + 1]] for number, d in enumerate(DOMAINS)}
  return dataclasses.replace(found, clusters=by_domain, notes=notes)


def to_write(
  folder: pathlib.Path,
  config: Pretraining,
  record_set: RecordSet,
  on_corrupt: OnCorrupt = "error",
  kinds: Collection[str] = KINDS,
) -> Pretrained:
  """What `pretrain` makes; a folder that holds the same vectors without clusters gets clusters alone.

  Raises:
    UserError: The folder holds item vectors already, or what there is is broken; or as `pretrain`.
  """
  if not Pretrained.there(folder):
    return pretrain(config, record_set, on_corrupt, kinds)
  found = Pretrained.open(folder)
  same = found.fingerprint == record_set.fingerprint and found.made_with(config.settings(clusters=False))
  if found.holds(kinds) or not same or _last_time(found, record_set) >= _newest(record_set):
    raise UserError(f"{folder}: holds item vectors already. Choose another --output, or replace them with --overwrite")
  return with_clusters(found, config)


def item_vectors(
  experiment: Experiment, record_set: RecordSet, folder: pathlib.Path, kinds: Collection[str] = KINDS
) -> Pretrained:
  """The vectors of a run: those in its `folder`, else a copy of those that the experiment names, else new ones.

  What lies in the folder but was made with other settings, or knows later behaviours than the training records do, is
  made anew. They lie in the run's folder afterwards, so a run is whole without the `model.pretraining.path` of its
  experiment.

  Args:
    experiment: The experiment.
    record_set: Its records.
    folder: Folder of the run's own vectors.
    kinds: Names of the tables that the model reads, `vectors` or `clusters`.

  Raises:
    UserError: They are broken, of other records, know what came after the training records, or lack clusters.
  """
  config = experiment.model.pretraining
  settings = config.settings("clusters" in kinds)
  if Pretrained.there(folder):
    found = Pretrained.open(folder, record_set.fingerprint)
    mine = found.made_with(settings) and _last_time(found, record_set) < _newest(record_set)
    if found.holds(kinds) and (config.path or mine):
      return found
    logging.info("%s: made for another job; made anew", folder)
  if config.path:
    found = Pretrained.open(mirror.copied(config.path), record_set.fingerprint)
    _check_foreign(found, config, record_set, kinds)
  else:
    found = pretrain(config, record_set, experiment.train.on_corrupt, kinds)
  found.save(folder)
  return found


def training_behaviours(record_set: RecordSet, on_corrupt: OnCorrupt = "error") -> pl.DataFrame:
  """Every behaviour that a training record holds, each once, by user, then newest first.

  The histories of a user's records overlap; a behaviour is told by (domain, item, time). Of behaviours of one second,
  target ones come first, and those of one domain stay in the order of the records.

  Returns:
    `user`, `row` (of the catalogues, the target's and then the source's) and `time`, all int64.
  """
  keys = ["user", "time", "domain", "place", "row"]
  found = pl.DataFrame(schema={key: pl.Int64 for key in keys})
  pending: list[pl.DataFrame] = []
  for candidates in DOMAINS:
    if candidates not in record_set.splits.get("train", {}):
      continue
    with guard(record_set, "train", (candidates,)):
      batches = evaluation_batches(record_set, "train", domain=candidates, requests=_REQUESTS, on_corrupt=on_corrupt)
      for batch in batches:
        offset = 0
        for number, d in enumerate(DOMAINS):
          part = _behaviours(*(batch[name].numpy() for name in ("user", f"{d}_items", f"{d}_times", f"{d}_length")))
          pending.append(part.with_columns(pl.col("row") + offset, domain=pl.lit(number, pl.Int64)).select(keys))
          offset += record_set.record_schema.domain(d).items
        if sum(map(len, pending)) > max(_PENDING, len(found)):
          found, pending = pl.concat([found, *pending]).unique(), []
  found = pl.concat([found, *pending]).sort(
    ["user", "time", "domain", "place", "row"], descending=[False, True] + 3 * [False]
  )
  return found.unique(["user", "row", "time"], keep="first", maintain_order=True).select("user", "row", "time")


def _behaviours(users: np.ndarray, items: np.ndarray, times: np.ndarray, lengths: np.ndarray) -> pl.DataFrame:
  """The known behaviours of a batch, `[B, L]`: user, row, time, and the place among those of the same second.

  The newest one's place is 0. A record holds the whole second or its newest part, so the place is the same in all.
  """
  slots = np.arange(items.shape[1])
  begins = np.ones(items.shape, bool)
  begins[:, 1:] = times[:, 1:] != times[:, :-1]
  place = slots - np.maximum.accumulate(np.where(begins, slots, 0), axis=1)
  real = (slots < lengths[:, np.newaxis]) & (items > UNKNOWN_ITEM)
  user = np.broadcast_to(users[:, np.newaxis], items.shape)
  columns = {"user": user, "row": items, "time": times, "place": place}
  return pl.DataFrame({name: column[real].astype(np.int64) for name, column in columns.items()})


def _check_foreign(found: Pretrained, config: Pretraining, record_set: RecordSet, kinds: Collection[str]) -> None:
  """Vectors that another command made: they may know nothing newer than the training candidates."""
  newest, last = _newest(record_set), _last_time(found, record_set)
  if last >= newest:
    raise UserError(
      f"{config.path}: these vectors were made from behaviours up to {last}, but the last training "
      f"candidate of {record_set.path} is of {newest}. Run pipelines.pretrain on these records."
    )
  if not found.holds(kinds):
    raise UserError(
      f"{config.path}: item vectors without clusters, which the model searches by. The command pipelines.pretrain with "
      f"the config of this model and --output {config.path} adds them."
    )
  asked = config.settings("clusters" in kinds)
  if not found.made_with(asked):
    logging.warning(
      "%s: made with %s; what else model.pretraining says, %s, has no effect",
      config.path,
      found.notes["settings"],
      asked,
    )


def _newest(record_set: RecordSet) -> int:
  """The moment of the last training candidate."""
  return max(part.last_time for part in record_set.splits["train"].values())


def _last_time(found: Pretrained, record_set: RecordSet) -> int:
  """Of the behaviours that the vectors were made from; older than all candidates where nothing is said of it."""
  last: int = found.notes.get("last_time", _newest(record_set) - 1)
  return last


def _log(notes: dict[str, Any]) -> None:
  names = ("behaviours", "users", "seen", "with_vector", "clusters", "seconds")
  logging.info("item vectors: %s", ", ".join(f"{name} {notes[name]}" for name in names if name in notes))
  if notes.get("clusters_alike"):
    logging.warning(
      "SIM Cluster and SIM Cluster+ search the same %d clusters: model.pretraining.clusters asks for %s, but "
      "at most a tenth of the %d items with a vector are made",
      notes["clusters"][0],
      notes["clusters_asked"],
      sum(notes["with_vector"].values()),
    )
