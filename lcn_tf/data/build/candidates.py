"""Candidates, histories and the records that hold them: from numbered interactions to a plan of shards."""

import dataclasses

import numpy as np
import polars as pl
import tqdm

from lcn_tf.config import Labels, Records
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.negatives import ItemLog, sample_negatives
from lcn_tf.data.build.requests import CandidateColumns, EventColumns, record_spans
from lcn_tf.data.build.shards import Plan, UserLog
from lcn_tf.data.id_mapping import field_sources, field_table, field_values
from lcn_tf.data.record_set import SPLITS
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Feature, Schema

_TRAIN = SPLITS.index("train")


@dataclasses.dataclass(frozen=True)
class Past:
  """What candidates of one domain need of the log before the part that they are of.

  Attributes:
    behaviours: Newest behaviours of the part's users, ordered by user, then time: `user`, `item`, `timestamp`,
      `cross_<j>` and `value_<j>`.
    interactions: Interactions of each item `[items]` int64.
    training: Interactions of each item that trained `[items]` int64.
  """

  behaviours: pl.DataFrame
  interactions: np.ndarray
  training: np.ndarray


def user_log(
  indexed: Indexed,
  schema: Schema,
  records: Records,
  past: dict[DomainName, Past] | None = None,
) -> tuple[UserLog, dict[DomainName, np.ndarray], int]:
  """Everybody's behaviours and candidates, and how many sampled negatives could not be found.

  Returns:
    The log, the split of each candidate (position in `SPLITS`) per domain, and the number of missing negatives.

  Args:
    past: Per domain, the log before; None = there is none.
  """
  log = UserLog(indexed.user_fields, indexed.user_values, {}, {}, {}, {})
  everyone = np.arange(len(indexed.users) + 2)
  splits: dict[DomainName, np.ndarray] = {}
  shortage = 0
  for number, d in enumerate(DOMAINS):
    rows = indexed.interactions.filter(pl.col("domain") == d)
    done = rows
    if records.labels.kind == "given":
      done = rows.filter(pl.col("label").is_null() | (pl.col("label") == 1))
    owners, log.behaviours[d], log.cross_sources[d], log.behaviour_splits[d] = _behaviours(
      done.sort("user", maintain_order=True),
      schema.domain(d).cross_fields,
      indexed,
      past[d].behaviours if past else None,
    )
    log.behaviour_offsets[d] = np.searchsorted(owners, everyone)
    fields = (rows, schema.context_fields, indexed.mapping.vocabularies)
    context = (field_table(*fields), field_values(*fields))
    rng = np.random.default_rng([records.seed, number])
    shown = rows["split"].is_not_null() if d == "target" else (rows["split"] == _TRAIN) & records.source_records
    row, splits[d], log.candidates[d], not_found = _candidates(
      rows,
      context,
      records.labels,
      shown.fill_null(False).to_numpy(),
      indexed.mapping.met(d),
      past[d] if past else None,
      rng,
    )
    log.context_sources[d] = [source[row] for source in field_sources(rows, schema.context_fields)]
    log.candidate_offsets[d] = np.searchsorted(rows["user"].to_numpy()[row], everyone)
    shortage += not_found
  return log, splits, shortage


def _behaviours(
  done: pl.DataFrame, cross_fields: tuple[Feature, ...], indexed: Indexed, past: pl.DataFrame | None
) -> tuple[np.ndarray, EventColumns, list[np.ndarray], np.ndarray]:
  """One domain's behaviours by user, then time: their users, themselves, `field_sources` and their splits.

  Args:
    done: Those of the input, by user, then time.
    cross_fields: Side information.
    indexed: Id mapping.
    past: Those of before, which come first among those of one second; None = there are none.
  """
  users, splits = done["user"].to_numpy(), _behaviour_splits(done)
  events = EventColumns(
    done["item"].to_numpy(),
    done["timestamp"].to_numpy(),
    field_table(done, cross_fields, indexed.mapping.vocabularies),
    field_values(done, cross_fields, indexed.mapping.vocabularies),
  )
  sources = field_sources(done, cross_fields)
  if past is None:
    return users, events, sources, splits
  users = np.concatenate([past["user"].to_numpy(), users]).astype(np.int64)
  cross = _before(past, "cross", events.cross)
  items = np.concatenate([past["item"].to_numpy(), events.items])
  times = np.concatenate([past["timestamp"].to_numpy(), events.times])
  events = EventColumns(items, times, cross, _before(past, "value", events.values))
  # statistics count what the part brings alone
  splits = np.concatenate([np.full(len(past), len(SPLITS)), splits])
  sources = [np.append(np.zeros(len(past), own.dtype), own) for own in sources]
  first = times.min(initial=0)
  # two runs in order: a stable sort merges them
  order = np.argsort(users * (times.max(initial=0) - first + 1) + (times - first), kind="stable")
  return users[order], events[order], [own[order] for own in sources], splits[order]


def _before(past: pl.DataFrame, name: str, own: np.ndarray) -> np.ndarray:
  """The columns `<name>_<j>` of `past`, and the rows of `own` below, of as many columns."""
  columns = past.select(f"{name}_{j}" for j in range(own.shape[1])).to_numpy()
  return np.concatenate([columns.reshape(len(past), own.shape[1]), own])


def _behaviour_splits(rows: pl.DataFrame) -> np.ndarray:
  """The split that each behaviour is counted in, `[rows]`; those that are no candidates train, or are in none."""
  others = pl.when("training").then(_TRAIN).otherwise(len(SPLITS))
  return rows.select(pl.col("split").fill_null(others).cast(pl.Int64))["split"].to_numpy()


def _candidates(
  rows: pl.DataFrame,
  context: tuple[np.ndarray, ...],
  labels: Labels,
  shown: np.ndarray,
  met: np.ndarray,
  past: Past | None,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, CandidateColumns, int]:
  """One domain's candidates, by user, then split, then time.

  Args:
    rows: All interactions of the domain in the order of time.
    context: Context fields of the rows, indices `[rows, F]` and float values `[rows, V]`.
    labels: Rule that makes candidates and labels of the rows.
    shown: Rows that may be candidates by their split, bool `[rows]`.
    met: Items of the domain's catalogue that the training of its id mapping met, bool `[items]`.
    past: Log before the rows; None = there is none.
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
    log = ItemLog(users, items, times, len(met), past.interactions if past else None)
    drawn = _negatives(log, shown, split[shown] == _TRAIN, training, labels, known, past, rng)
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
    grouped[kept].astype(np.int32),
    times[row],
    context[0][row],
    label[kept],
    weights[row].astype(np.float32),
    groups,
    context[1][row],
  )
  return row, split[row], candidates, int((drawn == 0).sum())


def _negatives(
  log: ItemLog,
  positives: np.ndarray,
  trains: np.ndarray,
  training: np.ndarray,
  labels: Labels,
  known: np.ndarray,
  past: Past | None,
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
    past: Log before the rows; None = there is none.
    rng: Source of randomness.
  """
  met = (past.behaviours["user"].to_numpy(), past.behaviours["item"].to_numpy()) if past else None
  trained = past.training if past else None

  def sample(which: np.ndarray, pool: np.ndarray | None) -> np.ndarray:
    return sample_negatives(log, which, labels.negatives, labels.popularity_exponent, rng, known, pool, trained, met)

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
