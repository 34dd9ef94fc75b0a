"""Candidates, histories and the records that hold them: from numbered interactions to a plan of shards."""

import numpy as np
import polars as pl
import tqdm

from lcn_tf.config import Labels, Records
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.negatives import ItemLog, sample_negatives
from lcn_tf.data.build.requests import CandidateColumns, EventColumns, record_spans
from lcn_tf.data.build.shards import Plan, UserLog
from lcn_tf.data.id_mapping import field_table
from lcn_tf.data.record_set import SPLITS
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Schema


def user_log(
  indexed: Indexed, schema: Schema, records: Records, train_end: int, met: dict[DomainName, np.ndarray]
) -> tuple[UserLog, int]:
  """Everybody's behaviours and candidates, and how many sampled negatives could not be found.

  Args:
    met: Per domain, whether an item is known from other records' training, bool `[items]`.
  """
  log = UserLog(indexed.user_fields, {}, {}, {}, {})
  everyone = np.arange(len(indexed.users) + 2)
  shortage = 0
  for number, d in enumerate(DOMAINS):
    rows = indexed.interactions.filter(pl.col("domain") == d)
    done = rows
    if records.labels.kind == "given":
      done = rows.filter(pl.col("label").is_null() | (pl.col("label") == 1))
    done = done.sort("user", maintain_order=True)
    log.behaviours[d] = EventColumns(
      done["item"].to_numpy(),
      done["timestamp"].to_numpy(),
      field_table(done, schema.domain(d).cross_fields, indexed.mapping.vocabularies),
    )
    log.behaviour_offsets[d] = np.searchsorted(done["user"].to_numpy(), everyone)
    context = field_table(rows, schema.context_fields, indexed.mapping.vocabularies)
    rng = np.random.default_rng([records.seed, number])
    until = None if d == "target" else train_end if records.source_records else 0
    users, log.candidates[d], missing = _candidates(rows, context, records.labels, until, train_end, met[d], rng)
    log.candidate_offsets[d] = np.searchsorted(users, everyone)
    shortage += missing
  return log, shortage


def _candidates(
  rows: pl.DataFrame,
  context: np.ndarray,
  labels: Labels,
  until: int | None,
  train_end: int,
  met: np.ndarray,
  rng: np.random.Generator,
) -> tuple[np.ndarray, CandidateColumns, int]:
  """One domain's candidates, by user, then time: their users, the candidates, and how many negatives are missing.

  Args:
    rows: All interactions of the domain in the order of time.
    context: Context fields of the rows, `[rows, F]`.
    labels: Rule that makes candidates and labels of the rows.
    until: Interactions from this time on are no candidates.
    train_end: When training ends.
    met: Items of the domain's catalogue that are known besides those of the rows before `train_end`, bool `[items]`.
    rng: Draws the negatives.
  """
  users, items, times, weights = (rows[name].to_numpy() for name in ("user", "item", "timestamp", "weight"))
  shown = np.ones(len(rows), bool) if until is None else times < until
  if labels.kind != "sampled":
    shown &= rows["label"].is_not_null().to_numpy()
  number = np.arange(len(met))
  known = number > UNKNOWN_ITEM
  if labels.kind == "sampled":
    # the unknown item cannot be drawn as a negative: as a candidate it would tell a positive
    shown &= items > UNKNOWN_ITEM
  if labels.known_items:
    known &= met | np.isin(number, items[times < train_end])
    shown &= known[items]
  shown = np.flatnonzero(shown)
  shown = shown[np.argsort(users[shown], kind="stable")]
  if labels.kind == "sampled":
    log = ItemLog(users, items, times, len(met))
    drawn = sample_negatives(log, shown, labels.negatives, labels.popularity_exponent, rng, known)
    grouped = np.concatenate([items[shown][:, np.newaxis], drawn], axis=1)
    label = np.zeros(grouped.shape, np.float32)
    label[:, 0] = 1
  else:
    drawn = np.ones((len(shown), 0), np.int32)
    grouped = items[shown][:, np.newaxis]
    value = rows["label"].to_numpy()[shown][:, np.newaxis]
    label = (value if labels.kind == "given" else value >= labels.at_least).astype(np.float32)
  kept = grouped > 0
  groups, _ = np.nonzero(kept)
  row = shown[groups]
  candidates = CandidateColumns(
    grouped[kept].astype(np.int32), times[row], context[row], label[kept], weights[row].astype(np.float32), groups
  )
  return users[row], candidates, int((drawn == 0).sum())


def plan_records(log: UserLog, schema: Schema, bounds: tuple[int, int]) -> list[Plan]:
  """Cuts everybody's candidates into records of one split."""
  plans = []
  for d in DOMAINS:
    candidates, offsets = log.candidates[d], log.candidate_offsets[d]
    spans: dict[str, list[tuple[int, int, int]]] = {split: [] for split in SPLITS}
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    portion = owners * len(SPLITS) + np.searchsorted(bounds, candidates.times, "right")
    starts = np.flatnonzero(np.diff(portion, prepend=-1))
    stops = np.append(starts, len(portion))[1:]
    busy = zip(portion[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)
    for number, start, stop in tqdm.tqdm(busy, total=len(starts), desc=f"{d} users", unit="", disable=None):
      user, split = divmod(number, len(SPLITS))
      times = {
        name: log.behaviours[name].times[slice(*log.behaviour_offsets[name][user : user + 2])] for name in DOMAINS
      }
      cuts = record_spans(candidates.times[start:stop], candidates.groups[start:stop], times, schema)
      spans[SPLITS[split]] += [(user, start + first, start + last) for first, last in cuts]
    plans += [Plan(split, d, np.array(spans[split], np.int64)) for split in SPLITS if spans[split]]
  return plans
