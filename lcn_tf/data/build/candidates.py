"""Candidates, histories and the records that hold them: from numbered interactions to a plan of shards."""

import dataclasses

import numpy as np
import polars as pl
import tqdm

from lcn_tf.config import Labels, Records
from lcn_tf.data.build.arrays import runs
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.negatives import ItemLog, sample_negatives
from lcn_tf.data.build.requests import CandidateColumns, EventColumns, record_spans
from lcn_tf.data.build.shards import Plan, UserLog
from lcn_tf.data.id_mapping import IdMapping, ValueTable, field_sources, field_table, field_values
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
  for d in DOMAINS:
    rows = indexed.interactions.filter(pl.col("domain") == d)
    before = past[d] if past else None
    items, training = (rows[name].to_numpy() for name in ("item", "training"))
    known = known_items(d, indexed.mapping, records.labels, np.unique(items[training]))
    shown = shown_rows(d, rows, records, known)
    drawn = no_negatives(len(shown))
    if records.labels.kind == "sampled":
      users, times = (rows[name].to_numpy() for name in ("user", "timestamp"))
      item_log = ItemLog(users, items, times, len(known), before.interactions if before else None)
      trains = rows["split"].fill_null(len(SPLITS)).to_numpy()[shown] == _TRAIN
      drawn = negatives(d, item_log, shown, trains, training, records, known, before)
    one = domain_log(d, rows, shown, drawn, indexed.mapping.vocabularies, schema, records.labels, before)
    log.behaviours[d], log.cross_sources[d], log.behaviour_splits[d] = one.behaviours, one.cross_sources, one.of_split
    log.behaviour_offsets[d] = np.searchsorted(one.owners, everyone)
    log.candidates[d], log.context_sources[d], splits[d] = one.candidates, one.context_sources, one.splits
    log.candidate_offsets[d] = np.searchsorted(one.candidate_owners, everyone)
    shortage += int((drawn == 0).sum())
  return log, splits, shortage


@dataclasses.dataclass(frozen=True)
class DomainLog:
  """One domain's behaviours, by user, then time, and candidates, by user, then split, then time.

  Attributes:
    owners, candidate_owners: Users of the behaviours and of the candidates, rising.
    behaviours, candidates, cross_sources, context_sources: As in `UserLog`.
    of_split: `UserLog.behaviour_splits`.
    splits: Split of each candidate (position in `SPLITS`).
  """

  owners: np.ndarray
  behaviours: EventColumns
  cross_sources: list[np.ndarray]
  of_split: np.ndarray
  candidate_owners: np.ndarray
  candidates: CandidateColumns
  context_sources: list[np.ndarray]
  splits: np.ndarray


def domain_log(
  d: DomainName,
  rows: pl.DataFrame,
  shown: np.ndarray,
  drawn: np.ndarray,
  vocabularies: dict[str, ValueTable],
  schema: Schema,
  labels: Labels,
  past: Past | None = None,
) -> DomainLog:
  """What records need of one domain of some users.

  Args:
    d: Domain.
    rows: All interactions of these users there, in the order of time.
    shown: Positions of those that are candidates, see `shown_rows`.
    drawn: Negatives of these, `[shown, negatives]`.
    vocabularies: Vocabularies by name.
    schema: Fields.
    labels: Rule that makes candidates and labels of the rows.
    past: Log before the rows; None = there is none.
  """
  done = rows
  if labels.kind == "given":
    done = rows.filter(pl.col("label").is_null() | (pl.col("label") == 1))
  behaviours = _behaviours(
    done.sort("user", maintain_order=True),
    schema.domain(d).cross_fields,
    vocabularies,
    past.behaviours if past else None,
  )
  fields = (rows, schema.context_fields, vocabularies)
  context = (field_table(*fields), field_values(*fields))
  row, candidates = _candidates(rows, context, labels, shown, drawn)
  split = rows["split"].fill_null(len(SPLITS)).to_numpy()
  sources = [source[row] for source in field_sources(rows, schema.context_fields)]
  return DomainLog(*behaviours, rows["user"].to_numpy()[row], candidates, sources, split[row])


def _behaviours(
  done: pl.DataFrame, cross_fields: tuple[Feature, ...], vocabularies: dict[str, ValueTable], past: pl.DataFrame | None
) -> tuple[np.ndarray, EventColumns, list[np.ndarray], np.ndarray]:
  """One domain's behaviours by user, then time: their users, themselves, `field_sources` and their splits.

  Args:
    done: Those of the input, by user, then time.
    cross_fields: Side information.
    vocabularies: Vocabularies by name.
    past: Those of before, which come first among those of one second; None = there are none.
  """
  users, splits = done["user"].to_numpy(), _behaviour_splits(done)
  events = EventColumns(
    done["item"].to_numpy(),
    done["timestamp"].to_numpy(),
    field_table(done, cross_fields, vocabularies),
    field_values(done, cross_fields, vocabularies),
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


def known_items(d: DomainName, mapping: IdMapping, labels: Labels, trained: np.ndarray) -> np.ndarray:
  """Which items of a domain's catalogue may be drawn, and with `known_items` be candidates, bool `[items]`.

  Args:
    d: Domain.
    mapping: Id mapping.
    labels: Rule that makes candidates.
    trained: Items of the training interactions of the domain.
  """
  number = np.arange(len(mapping.catalogues[d]))
  known = number > UNKNOWN_ITEM
  if labels.known_items:
    known &= mapping.met(d) | np.isin(number, trained)
  return known


def shown_rows(d: DomainName, rows: pl.DataFrame, records: Records, known: np.ndarray) -> np.ndarray:
  """Positions of the candidates, or of the positives that negatives are drawn for: by user, then split, then time.

  Args:
    d: Domain.
    rows: Interactions of the domain in the order of time.
    records: Rules.
    known: See `known_items`.
  """
  labels = records.labels
  chosen = rows["split"].is_not_null() if d == "target" else (rows["split"] == _TRAIN) & records.source_records
  shown = chosen.fill_null(False).to_numpy()
  users, items = (rows[name].to_numpy() for name in ("user", "item"))
  if labels.kind != "sampled":
    shown = shown & rows["label"].is_not_null().to_numpy()
  else:
    # the unknown item cannot be drawn as a negative: as a candidate it would tell a positive
    shown = shown & (items > UNKNOWN_ITEM)
  if labels.known_items:
    shown = shown & known[items]
  positions = np.flatnonzero(shown)
  split = rows["split"].fill_null(len(SPLITS)).to_numpy()
  return positions[np.lexsort((split[positions], users[positions]))]


def no_negatives(rows: int) -> np.ndarray:
  return np.ones((rows, 0), np.int32)


def _candidates(
  rows: pl.DataFrame, context: tuple[np.ndarray, ...], labels: Labels, shown: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, CandidateColumns]:
  """The rows that candidates are of, and the candidates.

  Args:
    rows: Interactions of the domain.
    context: Context fields of the rows, indices `[rows, F]` and float values `[rows, V]`.
    labels: Rule that makes candidates and labels of the rows.
    shown: Positions of the candidates, see `shown_rows`.
    drawn: Negatives of these, `[shown, negatives]`.
  """
  items, times, weights = (rows[name].to_numpy() for name in ("item", "timestamp", "weight"))
  grouped = np.concatenate([items[shown][:, np.newaxis], drawn], axis=1)
  if labels.kind == "sampled":
    label = np.zeros(grouped.shape, np.float32)
    label[:, 0] = 1
  else:
    value = rows["label"].to_numpy()[shown][:, np.newaxis]
    label = (value if labels.kind == "given" else value >= labels.at_least).astype(np.float32)
  kept = grouped > 0
  groups, _ = np.nonzero(kept)
  row = shown[groups]
  return row, CandidateColumns(
    grouped[kept].astype(np.int32),
    times[row],
    context[0][row],
    label[kept],
    weights[row].astype(np.float32),
    groups,
    context[1][row],
  )


def negatives(
  d: DomainName,
  log: ItemLog,
  positives: np.ndarray,
  trains: np.ndarray,
  training: np.ndarray,
  records: Records,
  known: np.ndarray,
  past: Past | None = None,
) -> np.ndarray:
  """Negatives of the positives, `[P, negatives]`: those of training know the training part alone.

  Args:
    d: Domain.
    log: All interactions of the domain.
    positives: Positions in the log, `[P]`.
    trains: Mask of the positives of the train split, bool `[P]`.
    training: Mask of the training part of the log, bool `[rows]`.
    records: Number and popularity exponent of the negatives, and the seed.
    known: Mask of the items that may be drawn, bool `[items]`.
    past: Log before the rows; None = there is none.
  """
  labels, rng = records.labels, np.random.default_rng([records.seed, DOMAINS.index(d)])
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
    spans: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    offsets = log.candidate_offsets[d]
    with tqdm.tqdm(total=len(offsets) - 1, desc=f"{d} users", unit="", disable=None) as progress:
      for first, end in runs(offsets):
        for split, cut in zip(SPLITS, _spans(log, d, splits[d], first, end, schema), strict=True):
          spans[split].append(cut)
        log.release()
        progress.update(end - first)
    found = {split: np.concatenate(parts) for split, parts in spans.items()}
    plans += [Plan(split, d, found[split]) for split in SPLITS if len(found[split])]
  return plans


def _spans(log: UserLog, d: DomainName, splits: np.ndarray, first: int, end: int, schema: Schema) -> list[np.ndarray]:
  """`Plan.spans` of each split, of the users `first` .. `end` - 1."""
  spans: list[list[tuple[int, int, int]]] = [[] for _ in SPLITS]
  offsets = log.candidate_offsets[d][first : end + 1]
  candidates, base = log.candidates[d][offsets[0] : offsets[-1]], int(offsets[0])
  owners = np.repeat(np.arange(first, end), np.diff(offsets))
  portion = owners * len(SPLITS) + splits[offsets[0] : offsets[-1]]
  starts = np.flatnonzero(np.diff(portion, prepend=-1))
  stops = np.append(starts, len(portion))[1:]
  for number, start, stop in zip(portion[starts].tolist(), starts.tolist(), stops.tolist(), strict=True):
    user, split = divmod(number, len(SPLITS))
    times = {name: log.behaviours[name].times[slice(*log.behaviour_offsets[name][user : user + 2])] for name in DOMAINS}
    cuts = record_spans(candidates.times[start:stop], candidates.groups[start:stop], times, schema)
    spans[split] += [(user, base + start + one, base + start + last) for one, last in cuts]
  return [np.array(cut, np.int64).reshape(-1, 3) for cut in spans]
