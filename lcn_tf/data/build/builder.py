"""Interactions to a record set: vocabularies, catalogues, split, labels, records.

Who knows what:

* The split is chronological over the interactions of both domains: training candidates come before the first
  boundary. Vocabularies, and the order of the catalogues, count interactions before that boundary only.
* A candidate of any split sees the user's whole past: every strictly older behaviour, whatever split that one was a
  candidate in. The behaviours of one second do not see each other.
* Every split has candidates, unless the records are numbered like others: these may be there to be evaluated alone.
* Source-domain records are training material (for models that learn from both domains' clicks), so they exist in the
  train split alone; what is validated and tested is the target domain.
"""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Iterator

import numpy as np
import polars as pl
import tqdm
from absl import logging

from lcn_tf import files, storage
from lcn_tf.config import Experiment, Labels, Records, Split
from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.indexing import Indexed, index
from lcn_tf.data.build.negatives import ItemLog, sample_negatives
from lcn_tf.data.build.requests import CandidateColumns, EventColumns, record_spans
from lcn_tf.data.build.shards import Plan, UserLog, write_parts
from lcn_tf.data.id_mapping import field_table, fingerprint, id_mapping_of
from lcn_tf.data.record_set import REPLACED, SPLITS, RecordSet, check_schema, replaced_by
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Schema, with_sizes

_INTACT = "Nothing was put there, and what was there before is intact."


def build(
  experiment: Experiment,
  tables: raw.RawTables,
  output: str | pathlib.Path,
  strict: bool = False,
  overwrite: bool = False,
  like: RecordSet | None = None,
) -> RecordSet:
  """Builds the record set `output`.

  It is written aside and renamed when it is whole, so there is nothing at `output` after a failure. The same
  experiment and tables give the same bytes.

  Args:
    experiment: `schema` and `records` of it are used.
    tables: The raw input.
    output: A folder that does not exist, or is empty, or is a record set and `overwrite` says so.
    strict: Rejected rows are an error.
    overwrite: Replace the record set at `output`.
    like: Number items and values as this record set does, so that models trained with it read these records. What it
      does not know is unknown, as it is in serving; the fields of its items are the ones it has. Only one split need
      have candidates then. None: number anew.

  Returns:
    The record set, opened.

  Raises:
    UserError: Something is wrong with the input (the message says what), `output` exists, or `like` has another
      schema.
  """
  started = time.monotonic()
  schema, records = experiment.record_schema, experiment.records
  if like:
    check_schema(schema, like)
  mapping = id_mapping_of(like) if like else None
  target = files.local(output)
  with (
    _aside(target, overwrite) as folder,
    storage.storing(
      "a record set", target, needs=lambda: _expected_bytes(folder, plans, records.shards), intact=_INTACT
    ),
  ):
    plans: list[Plan] = []
    checked = raw.check(tables, schema, records.labels)
    by_file = checked.by_file()
    for reason, count in checked.reasons().items():
      logging.warning("rejected %d rows: %s%s", count, reason, f" ({by_file[reason]})" if reason in by_file else "")
    if strict and len(checked.rejected):
      reasons = "; ".join(f"{reason}: {count}" for reason, count in checked.reasons().items())
      raise UserError(f"{len(checked.rejected)} rows are rejected, and --strict allows none. {reasons}")

    bounds = boundaries(checked.interactions["timestamp"], records.split)
    indexed = index(checked, schema, bounds[0], records.seed, mapping)
    if like:
      _check_known(indexed, like)
    if tables.users is not None:
      _check_profiles(indexed, checked, tables.names)
    _check_negatives(indexed, records)
    met = {d: np.zeros(len(indexed.mapping.catalogues[d]), bool) for d in DOMAINS}
    if like:
      met = {d: indexed.mapping.met(d) for d in DOMAINS}
    log, shortage = _user_log(indexed, schema, records, bounds[0], met)
    plans = _plans(log, schema, bounds)
    _check_split(plans, bounds, checked.interactions["timestamp"], records, like)

    sizes = {name: table.size for name, table in indexed.mapping.vocabularies.items()}
    sized = with_sizes(schema, sizes, {d: len(indexed.mapping.catalogues[d]) for d in DOMAINS})
    parts = write_parts(
      folder, log, plans, sized, records.shards, records.compression, np.random.default_rng([records.seed, 2])
    )
    for split in ("validation", "test"):
      if reason := parts[split]["target"].undefined() if split in parts else "":
        logging.warning("the %s split: %s", split, reason)
    _write_tables(folder, indexed, checked.rejected)
    notes: dict[str, float | int | str] = {"train_end": bounds[0], "validation_end": bounds[1]}
    # of the out-of-vocabulary hash, too
    notes["seed"] = like.notes.get("seed", 0) if like else records.seed
    notes |= tables.notes
    if records.labels.kind == "sampled":
      notes["negatives_not_found"] = shortage
    if tables.users is not None:
      notes["users_without_profile"] = indexed.users_without_profile
    RecordSet(
      name=experiment.name,
      fingerprint=fingerprint(sized, indexed.mapping),
      schema=sized,
      compression=records.compression,
      splits=parts,
      rejected=checked.reasons(),
      records=records.model_dump(mode="json"),
      notes=notes,
      path=folder,
    ).with_tables().save(folder)
  result = RecordSet.open(output)
  _log_summary(result, len(indexed.users), time.monotonic() - started)
  return result


def _expected_bytes(folder: pathlib.Path, plans: list[Plan], shards: int) -> int:
  """What the whole record set would take, by the shards that are there: they are of one size, about."""
  there = [file.stat().st_size for file in folder.glob("**/*") if file.is_file() and ".tfrecord" in file.name]
  return max(there, default=0) * sum(min(shards, len(plan.spans)) for plan in plans)


def _check_known(indexed: Indexed, like: RecordSet) -> None:
  """Tells of items that other records do not know; an error if they know none of a domain's."""
  for d, count in indexed.unknown_items.items():
    rows = indexed.interactions.filter(pl.col("domain") == d)["item"]
    unknown = int((rows == UNKNOWN_ITEM).sum())
    if count:
      logging.warning(
        "%d items of the %s domain are not in %s: read as the unknown item, which %.0f %% of its interactions are on",
        *(count, d, like.path, 100 * unknown / len(rows)),
      )
    if unknown and unknown == len(rows):
      raise UserError(
        f"{like.path}: knows none of the {count} items of the {d} domain that the interactions are on. Are these the "
        "records that the log belongs to?"
      )


def _check_profiles(indexed: Indexed, checked: raw.Checked, names: tuple[str, str, str]) -> None:
  """Tells of many users without a profile; none with one is an error."""
  without, users = indexed.users_without_profile, len(indexed.users)
  if without < raw.MANY * users or not without:
    return
  known = checked.users["user_id"]
  strange = indexed.users.filter(~pl.col("user_id").is_in(known.implode()))["user_id"][0]
  told = (
    f"{names[2]}: {without} of {users} users of {names[0]} have no profile: {strange!r}, say; profiles are of "
    f"{f'{known[0]!r}' if len(known) else 'nobody'}"
  )
  if without == users:
    raise UserError(f"{told}. Ids compare as texts where one of the files has texts: 7 is '7', and not '007'")
  logging.warning("%s", told)


def _check_negatives(indexed: Indexed, records: Records) -> None:
  labels = records.labels
  if labels.kind != "sampled":
    return
  for d in DOMAINS if records.source_records else DOMAINS[:1]:
    items = len(indexed.mapping.items[d])
    if 0 < items <= labels.negatives:
      raise UserError(
        f"records.labels.negatives is {labels.negatives}, but the {d} domain has {items} items, and a user has met one "
        "of them at least: ask for fewer"
      )


def boundaries(times: pl.Series, split: Split) -> tuple[int, int]:
  """The first times of validation and of test, in seconds.

  Args:
    times: Of all interactions, both domains.
    split: The quantiles, or the boundaries themselves.
  """
  if split.boundaries:
    return split.boundaries
  ordered = np.sort(times.to_numpy())
  first, second = (ordered[int(len(ordered) * share)] for share in (split.train, split.train + split.validation))
  return int(first), int(second)


def _user_log(
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
    labels: Which rows are candidates, with which label.
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


def _plans(log: UserLog, schema: Schema, bounds: tuple[int, int]) -> list[Plan]:
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


def _check_split(
  plans: list[Plan], bounds: tuple[int, int], times: pl.Series, records: Records, like: RecordSet | None
) -> None:
  found = {(plan.split, plan.domain) for plan in plans}
  missing = [split for split in SPLITS if (split, "target") not in found]
  if like and len(missing) < len(SPLITS):
    return
  if missing:
    what = "no split has" if like else f"the {missing[0]} split has no"
    raise UserError(
      f"records.split: {what} target-domain candidates. Validation starts at {bounds[0]}, test at {bounds[1]}; the "
      f"interactions' times run from {times.min()!r} to {times.max()!r}."
    )
  if records.source_records and ("train", "source") not in found:
    raise UserError(
      "records.source_records: there are no source-domain candidates before the training split's end at "
      f"{bounds[0]}. Set it to false if the source domain has no labels."
    )


def _write_tables(folder: pathlib.Path, indexed: Indexed, rejected: pl.DataFrame) -> None:
  for name in ("vocabularies", "catalogue", "items"):
    (folder / name).mkdir()
  for name, vocabulary in indexed.mapping.vocabularies.items():
    vocabulary.frame().write_parquet(folder / "vocabularies" / f"{name}.parquet")
  for d in DOMAINS:
    np.save(folder / "catalogue" / f"{d}.npy", indexed.mapping.catalogues[d])
    indexed.mapping.items[d].write_parquet(folder / "items" / f"{d}.parquet")
  indexed.users.write_parquet(folder / "users.parquet")
  rejected.write_parquet(folder / "rejected.parquet")


@contextlib.contextmanager
def _aside(output: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
  """A folder beside `output` that takes its place at the end, and is removed after a failure."""
  output = output.resolve()  # beside what a link points to
  exists = UserError(f"{output}: exists. Choose another --output, or replace it with --overwrite")
  if output.is_mount():
    raise UserError(f"{output}: something is mounted there, which no folder can take the place of. Give a folder in it")
  _put_back(output)
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    if not overwrite:
      raise exists
    if not (output / "dataset.json").is_file():
      raise UserError(f"{output}: exists and is not a record set (no dataset.json), so --overwrite leaves it alone")
    for name, what in (("experiment.yaml", "a training run"), ("comparison.yaml", "a comparison")):
      if (output / name).exists():
        raise UserError(f"{output}: holds {what} ({name}), so --overwrite leaves it alone")
  files.make(output.parent, tidy=False)
  with files.folder_aside(output) as folder:
    yield folder
    if overwrite and output.exists():
      old = folder.with_suffix(f".{REPLACED}")
      output.rename(old)
      folder.rename(output)
      shutil.rmtree(old)
      return
    try:
      folder.rename(output)
    except OSError:
      if output.exists():  # by now
        raise exists from None
      raise


def _put_back(output: pathlib.Path) -> None:
  """Finishes what a build that was killed while it replaced `output` had begun."""
  for old in replaced_by(output):
    if output.exists():
      shutil.rmtree(old, ignore_errors=True)
    else:
      old.rename(output)
      logging.warning("%s: put back; a build that was to replace it was killed", output)


def _log_summary(records: RecordSet, users: int, seconds: float) -> None:
  lines = []
  for split, parts in records.splits.items():
    for d, part in parts.items():
      share = 100 * part.positives / part.candidates
      lines.append(
        f"\n  {split:<10} {d}: {part.records} records, {part.candidates} candidates, {part.positives} positives "
        f"({share:.1f} %), {part.users} users"
      )
  rejected = sum(records.rejected.values())
  logging.info(
    "%s: %d users, %d rows rejected, fingerprint %s, %.1f seconds%s",
    records.path,
    users,
    rejected,
    records.fingerprint,
    seconds,
    "".join(lines),
  )
