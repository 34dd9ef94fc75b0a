"""Interactions to a record set: vocabularies, catalogues, split, labels, records.

Who knows what:

* `splits` says of each interaction which split it is a candidate of. Vocabularies, and the order of the catalogues,
  count interactions of the training part only.
* A candidate of any split sees the user's whole past: every strictly older behaviour, whatever split that one was a
  candidate in. The behaviours of one second do not see each other.
* Every split has candidates, unless the records are numbered like others or extend others: these may be there to be
  evaluated, or to be trained on, alone.
* Source-domain records are training material (for models that learn from both domains' clicks), so they exist in the
  train split alone; what is validated and tested is the target domain.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
import polars as pl
from absl import logging

from lcn_tf import files, storage
from lcn_tf.config import Experiment, Records
from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.candidates import Past, plan_records, user_log
from lcn_tf.data.build.checks import check_known, check_negatives, check_profiles, check_split
from lcn_tf.data.build.counting import Counts, count, with_fields
from lcn_tf.data.build.engines import Engine, Processes
from lcn_tf.data.build.extension import Earlier, add_counts, grow, join, past, renumbered
from lcn_tf.data.build.indexing import Indexed, index, new_mapping, number_users
from lcn_tf.data.build.out_of_core import Buckets
from lcn_tf.data.build.output import finish, folder_of, log_summary, write_tables
from lcn_tf.data.build.shards import Plan, UserLog, write_parts
from lcn_tf.data.build.splits import Divided, divide
from lcn_tf.data.build.state import Last, State, next_state, write_state
from lcn_tf.data.build.statistics import statistics
from lcn_tf.data.id_mapping import IdMapping, fingerprint, id_mapping_of
from lcn_tf.data.record_set import Part, RecordSet, SplitName, check_schema
from lcn_tf.data.statistics import Statistics
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, DomainName, Schema, with_sizes

Notes = dict[str, float | int | str]

_INTACT = "Nothing was put there, and what was there before is intact."


def build(
  experiment: Experiment,
  tables: raw.RawTables,
  output: str | pathlib.Path,
  strict: bool = False,
  overwrite: bool = False,
  like: RecordSet | None = None,
  page: Callable[[RecordSet, Statistics], str] | None = None,
  extend: RecordSet | None = None,
  memory: int | None = None,
  engine: Engine | None = None,
) -> RecordSet:
  """Builds the record set `output`.

  It is written aside and renamed when it is whole: a failure leaves `output` as it was. The same experiment and tables
  give the same bytes.

  Args:
    experiment: Experiment, of which `schema` and `records` are read.
    tables: Raw input.
    output: Folder that does not exist or is empty, or a record set if `overwrite`.
    strict: True if rejected rows are an error.
    overwrite: True if the record set at `output` is replaced.
    like: Record set whose id mapping and catalogues are used, so that models trained with it read these records. Items
      and values that it does not know are unknown, as in serving. One split with candidates is enough then. None = a
      new id mapping.
    page: Function that renders the statistics as HTML, for `report/index.html`; None = no page.
    memory: Bytes for interactions that are looked at together, which then lie on the disk, see
      `lcn_tf.data.build.out_of_core`; None = all of them are in memory. The records are the same.
    extend: Record set whose log the tables continue. Candidates are those of the tables alone, histories reach back
      into that log, and its id mapping goes on: see `lcn_tf.data.build.extension`. None = the log begins.
    engine: Engine that the tasks of a build with `memory` run on, and that writes the records; None = `Processes`.

  Raises:
    UserError: The input is wrong, `output` exists, `like` or `extend` has another schema, or `extend` is given with
      `memory` or with an engine that needs it.
  """
  started = time.monotonic()
  schema, records = experiment.record_schema, experiment.records
  if other := like or extend:
    check_schema(schema, other)
  engine = engine or Processes()
  memory = memory or engine.memory
  if extend and memory:
    raise UserError("--memory and --extend exclude each other: an extension reads the new part of a log alone")
  earlier = Earlier.open(extend, records) if extend else None
  target, made = files.local(output), _Made()
  with (
    folder_of(target, overwrite) as folder,
    storage.storing("a record set", target, needs=lambda: made.needs(folder, records.shards), intact=_INTACT),
  ):
    with contextlib.ExitStack() as stack:
      if memory:
        aside = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="buckets-")))
        stack.enter_context(engine.started(aside))
        made.buckets = Buckets(tables, schema, records, aside, memory, engine)
      part = _numbered(tables, schema, records, strict, like, earlier, made.buckets)
      indexed = part.indexed
      if tables.users is not None:
        check_profiles(indexed, part.checked, tables.names)
      check_negatives(indexed, records)
      log, splits, shortage = (
        made.buckets.user_log(indexed) if made.buckets else user_log(indexed, schema, records, part.past)
      )
      made.plans = plan_records(log, splits, schema)
      check_split(made.plans, part.divided, records, alone=bool(other))

      built = _write(folder, experiment, tables, part, log, made.plans, shortage, other, engine)
      found = statistics(indexed, part.checked, log, made.plans, splits, schema)
    finish(built, found, page)
  result = RecordSet.open(output)
  log_summary(result, len(indexed.active), time.monotonic() - started)
  return result


def _write(
  folder: pathlib.Path,
  experiment: Experiment,
  tables: raw.RawTables,
  part: "_Part",
  log: UserLog,
  plans: list[Plan],
  shortage: int,
  other: RecordSet | None,
  engine: Engine,
) -> RecordSet:
  """Writes records, tables and state to `folder`; `other` has the ids that these take over."""
  schema, records, indexed = experiment.record_schema, experiment.records, part.indexed
  sized = _sized(schema, indexed.mapping)
  parts = write_parts(
    folder, log, plans, sized, records.shards, records.compression, np.random.default_rng([records.seed, 2]), engine
  )
  _warn_of_splits(parts)
  write_tables(folder, indexed, part.checked.rejected)
  if records.state and part.counts:
    state = next_state(indexed, part.checked, part.counts, part.totals, log, schema, part.last, part.earlier)
    write_state(state, indexed.mapping, folder)
  # with the seed of a keyed out-of-vocabulary hash
  facts = part.divided.notes | part.notes | {"seed": other.notes.get("seed", 0) if other else records.seed}
  return RecordSet(
    name=experiment.name,
    fingerprint=fingerprint(sized, indexed.mapping),
    schema=sized,
    compression=records.compression,
    splits=parts,
    oov_hash=other.oov_hash if other else "farmhash64",
    rejected=part.checked.reasons(),
    records=records.model_dump(mode="json"),
    notes=facts | tables.notes | _counts(tables, records, indexed, shortage),
    path=folder,
  )


@dataclasses.dataclass
class _Made:
  """What is known so far of the space that a record set takes on the disk."""

  buckets: Buckets | None = None
  plans: list[Plan] = dataclasses.field(default_factory=list)

  def needs(self, folder: pathlib.Path, shards: int) -> int:
    """Bytes, about: by the shards that are there, which are of one size, and those that lie aside meanwhile."""
    there = [file.stat().st_size for file in folder.glob("**/*") if file.is_file() and ".tfrecord" in file.name]
    expected = max(there, default=0) * sum(min(shards, len(plan.spans)) for plan in self.plans)
    return expected + (self.buckets.bytes if self.buckets else 0)


@dataclasses.dataclass(frozen=True)
class _Part:
  """The input as numbers.

  Attributes:
    checked: The tables without rejected rows, with what earlier parts had of items and users.
    divided: Interactions and their splits.
    indexed: Numbers.
    past: Per domain, the log before; None = there is none.
    counts: Training interactions; None = nothing can extend these records.
    totals: Per vocabulary, values of all parts.
    earlier: State of the log before; None = there is none.
    last: Newest second of the input.
    notes: Facts that the record set keeps.
  """

  checked: raw.Checked
  divided: Divided
  indexed: Indexed
  last: Last
  past: dict[DomainName, Past] | None = None
  counts: Counts | None = None
  totals: dict[str, pl.DataFrame] = dataclasses.field(default_factory=dict)
  earlier: State | None = None
  notes: Notes = dataclasses.field(default_factory=dict)


def _numbered(
  tables: raw.RawTables,
  schema: Schema,
  records: Records,
  strict: bool,
  like: RecordSet | None,
  earlier: Earlier | None,
  buckets: Buckets | None,
) -> _Part:
  """Checks, splits and numbers the tables."""
  if earlier:
    return _next_part(tables, schema, records, strict, earlier)
  checked = buckets.check() if buckets else raw.check(tables, schema, records.labels, records.split)
  _tell_rejected(checked, strict)
  divided = buckets.divide() if buckets else divide(checked.interactions, records.labels, records.split)
  users = number_users(buckets.users if buckets else checked.interactions)
  last = buckets.last if buckets else Last.of(checked.interactions)

  def indexed_by(mapping: IdMapping) -> Indexed:
    if buckets:
      return buckets.index(divided, checked, users, mapping)
    return index(divided.interactions, checked, schema, users, mapping)

  if like:
    indexed = indexed_by(id_mapping_of(like))
    check_known(indexed, like)
    return _Part(checked, divided, indexed, last)
  counts = with_fields(buckets.counts, checked, schema) if buckets else count(divided.interactions, checked, schema)
  indexed = indexed_by(new_mapping(checked, counts, schema))
  totals = add_counts(counts, schema) if records.state else {}
  return _Part(checked, divided, indexed, last, counts=counts, totals=totals)


def _next_part(tables: raw.RawTables, schema: Schema, records: Records, strict: bool, earlier: Earlier) -> _Part:
  """`_numbered` of a log that goes on."""
  checked = raw.check(
    earlier.with_missing(tables, schema), schema, records.labels, records.split, earlier.known_items()
  )
  joined = join(checked, earlier, tables.names[0])
  checked, earlier = joined.checked, joined.earlier
  _tell_rejected(checked, strict)
  divided = divide(checked.interactions, records.labels, records.split)
  split = pl.when(~joined.late).then(pl.col("split"))
  divided = dataclasses.replace(divided, interactions=divided.interactions.with_columns(split=split))
  grown = grow(joined, divided.interactions, schema, records.grow)
  users = number_users(divided.interactions, earlier.users)
  indexed = index(divided.interactions, checked, schema, users, grown.mapping)
  state = renumbered(earlier, grown.mapping, schema)
  return _Part(
    checked,
    divided,
    indexed,
    Last.of(checked.interactions),
    past(state, earlier.mapping, grown.mapping, indexed.active),
    grown.counts,
    grown.totals,
    state,
    joined.notes | {"part": earlier.state.part + 1, "extends": earlier.record_set.fingerprint},
  )


def _sized(schema: Schema, mapping: IdMapping) -> Schema:
  sizes = {name: table.size for name, table in mapping.vocabularies.items()}
  return with_sizes(schema, sizes, {d: len(mapping.catalogues[d]) for d in DOMAINS})


def _tell_rejected(checked: raw.Checked, strict: bool) -> None:
  """Logs the rejected rows; an error if `strict`."""
  by_file = checked.by_file()
  for reason, number in checked.reasons().items():
    logging.warning("rejected %d rows: %s%s", number, reason, f" ({by_file[reason]})" if reason in by_file else "")
  if strict and len(checked.rejected):
    reasons = "; ".join(f"{reason}: {number}" for reason, number in checked.reasons().items())
    raise UserError(f"{len(checked.rejected)} rows are rejected, and --strict allows none. {reasons}")


def _counts(tables: raw.RawTables, records: Records, indexed: Indexed, shortage: int) -> Notes:
  """Counts of what the input lacks."""
  found: Notes = {"negatives_not_found": shortage} if records.labels.kind == "sampled" else {}
  return found if tables.users is None else found | {"users_without_profile": indexed.users_without_profile}


def _warn_of_splits(parts: dict[SplitName, dict[DomainName, Part]]) -> None:
  for split in ("validation", "test"):
    if reason := parts[split]["target"].undefined() if split in parts else "":
      logging.warning("the %s split: %s", split, reason)
