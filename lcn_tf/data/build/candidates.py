"""Candidates, histories and the records that hold them: from numbered interactions to a plan of shards."""

import numpy as np
import polars as pl
import tqdm

from lcn_tf.config import Labels, Records
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.negatives import ItemLog, sample_negatives
from lcn_tf.data.build.requests import CandidateColumns, EventColumns, record_spans
from lcn_tf.data.build.shards import Plan, UserLog
from lcn_tf.data.id_mapping import field_sources, field_table
from lcn_tf.data.record_set import SPLITS
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Schema

_TRAIN = SPLITS.index("train")


def user_log(
  indexed: Indexed, schema: Schema, records: Records, met: dict[DomainName, np.ndarray]
) -> tuple[UserLog, dict[DomainName, np.ndarray], int]:
  """Everybody's behaviours and candidates, and how many sampled negatives could not be found.

  Returns:
    The log, the split of each candidate (position in `SPLITS`) per domain, and the number of missing negatives.

  Args:
    met: Per domain, whether an item is known from other records' training, bool `[items]`.
  """
  log = UserLog(indexed.user_fields, {}, {}, {}, {})
  everyone = np.arange(len(indexed.users) + 2)
  splits: dict[DomainName, np.ndarray] = {}
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
    log.cross_sources[d] = field_sources(done, schema.domain(d).cross_fields)
    log.behaviour_splits[d] = _behaviour_splits(done)
    log.behaviour_offsets[d] = np.searchsorted(done["user"].to_numpy(), everyone)
    context = field_table(rows, schema.context_fields, indexed.mapping.vocabularies)
    rng = np.random.default_rng([records.seed, number])
    shown = rows["split"].is_not_null() if d == "target" else (rows["split"] == _TRAIN) & records.source_records
    row, splits[d], log.candidates[d], not_found = _candidates(
      rows, context, records.labels, shown.fill_null(False).to_numpy(), met[d], rng
    )
    log.context_sources[d] = [source[row] for source in field_sources(rows, schema.context_fields)]
    log.candidate_offsets[d] = np.searchsorted(rows["user"].to_numpy()[row], everyone)
    shortage += not_found
  return log, splits, shortage


def _behaviour_splits(rows: pl.DataFrame) -> np.ndarray:
  """The split that each behaviour is counted in, `[rows]`; those that are no candidates train, or are in none."""
  others = pl.when("training").then(_TRAIN).otherwise(len(SPLITS))
  return rows.select(pl.col("split").fill_null(others).cast(pl.Int64))["split"].to_numpy()


def _candidates(
  rows: pl.DataFrame,
  context: np.ndarray,
  labels: Labels,
  shown: np.ndarray,
  met: np.ndarray,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, CandidateColumns, int]:
  """One domain's candidates, by user, then split, then time.

  Args:
    rows: All interactions of the domain in the order of time.
    context: Context fields of the rows, `[rows, F]`.
    labels: Rule that makes candidates and labels of the rows.
    shown: Rows that may be candidates by their split, bool `[rows]`.
    met: Items of the domain's catalogue that are known besides those of the training part, bool `[items]`.
    rng: Draws the negatives.

  Returns:
    The candidates' rows, their splits, the candidates, and how many negatives are missing.
  """
  users, items, times, weights = (rows[name].to_numpy() for name in ("user", "item", "timestamp", "weight"))
  split = rows["split"].fill_null(len(SPLITS)).to_numpy()
  training = rows["training"].to_numpy()
  if labels.kind != "sampled":
    shown = shown & rows["label"].is_not_null().to_numpy()
  number = np.arange(len(met))
  known = number > UNKNOWN_ITEM
  if labels.kind == "sampled":
    # the unknown item cannot be drawn as a negative: as a candidate it would tell a positive
    shown = shown & (items > UNKNOWN_ITEM)
  if labels.known_items:
    known &= met | np.isin(number, items[training])
    shown = shown & known[items]
  shown = np.flatnonzero(shown)
  shown = shown[np.lexsort((split[shown], users[shown]))]
  if labels.kind == "sampled":
    log = ItemLog(users, items, times, len(met))
    drawn = _negatives(log, shown, split[shown] == _TRAIN, training, labels, known, rng)
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
  return row, split[row], candidates, int((drawn == 0).sum())


def _negatives(
  log: ItemLog,
  positives: np.ndarray,
  trains: np.ndarray,
  training: np.ndarray,
  labels: Labels,
  known: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Negatives of the positives, `[P, negatives]`: those of training know the training part alone.

  Args:
    log: All interactions of the domain.
    positives: Positions in the log, `[P]`.
    trains: Mask of the positives of the train split, bool `[P]`.
    training: Mask of the training part of the log, bool `[rows]`.
    labels: Number and popularity exponent of the negatives.
    known: Mask of the items that may be drawn, bool `[items]`.
    rng: Source of randomness.
  """

  def sample(which: np.ndarray, pool: np.ndarray | None) -> np.ndarray:
    return sample_negatives(log, which, labels.negatives, labels.popularity_exponent, rng, known, pool)

  if (training[:-1] >= training[1:]).all():  # it is the oldest part: what is before its positives is in it
    return sample(positives, None)
  drawn = np.zeros((len(positives), labels.negatives), np.int32)
  drawn[trains] = sample(positives[trains], training)
  drawn[~trains] = sample(positives[~trains], None)
  return drawn


def plan_records(log: UserLog, splits: dict[DomainName, np.ndarray], schema: Schema) -> list[Plan]:
  """Cuts everybody's candidates into records of one split.

  Args:
    log: Behaviours and candidates of all users.
    splits: Split of each candidate (position in `SPLITS`) per domain.
    schema: Schema of the records.
  """
  plans = []
  for d in DOMAINS:
    candidates, offsets = log.candidates[d], log.candidate_offsets[d]
    spans: dict[str, list[tuple[int, int, int]]] = {split: [] for split in SPLITS}
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    portion = owners * len(SPLITS) + splits[d]
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
