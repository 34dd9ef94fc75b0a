"""Prints records in readable form, or verifies a whole record set.

The command reads one split and domain of --records and prints some of its records: user, candidates with labels, and
both histories, newest behaviours first. With --verify it reads every byte of the record set, prints one line if all is
well, and otherwise names every problem by file, record and offset and ends with exit code 1. It leaves no files.

Example:

    python -m tools.show_records --records my_records --split train --domain target --count 3
"""

import contextlib
import datetime
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from lcn_tf import entry, places
from lcn_tf.data.field_values import vector_columns
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, DomainName, Feature, Schema

if TYPE_CHECKING:
  from lcn_tf.data.records import Request

_SHOWN = 4  # numbers of a vector
_FLAGS = flags.FlagValues()
_RECORDS = entry.define_records(_FLAGS)
_SPLIT = entry.define_split(_FLAGS, default="train")
_DOMAIN = flags.DEFINE_enum("domain", "target", DOMAINS, "Domain of the candidates.", flag_values=_FLAGS)
_COUNT = flags.DEFINE_integer("count", 3, "Records to print.", lower_bound=1, flag_values=_FLAGS)
_SKIP = flags.DEFINE_integer("skip", 0, "Records to skip before the first one.", lower_bound=0, flag_values=_FLAGS)
_BEHAVIOURS = flags.DEFINE_integer(
  "behaviours", 5, "Behaviours of each history to print, the newest ones.", lower_bound=0, flag_values=_FLAGS
)
_VERIFY = flags.DEFINE_bool("verify", False, "Verify every shard and record instead.", flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  """Prints or verifies the records that the flags name."""
  entry.parse(_FLAGS, argv)
  record_set = RecordSet.open(_RECORDS.value)
  if _VERIFY.value:
    with entry.loading():
      from lcn_tf.data.read import diagnosis

    problems = diagnosis.verify(record_set)
    if problems:
      raise UserError("\n".join([f"{len(problems)} problems in {record_set.path}", *problems]))
    total = sum(part.records for domains in record_set.splits.values() for part in domains.values())
    print(f"{places.shown(record_set.path)}: {total} records, every one valid; every checksum agrees.")
    return
  domain: DomainName = "source" if _DOMAIN.value == "source" else "target"
  shown = show(record_set, _SPLIT.value, domain, _BEHAVIOURS.value)
  for text in itertools.islice(shown, _SKIP.value, _SKIP.value + _COUNT.value):
    print(text, end="\n\n")


def show(record_set: RecordSet, split: str, domain: DomainName, behaviours: int = 5) -> Iterator[str]:
  """The records of a split in the order of the files, each as a text of some lines.

  Args:
    record_set: Record set to read.
    split: Split to read.
    domain: Domain of the candidates.
    behaviours: Number of behaviours of each history, the newest ones.

  Raises:
    UserError: The record set has no records of this split and domain.
  """
  from lcn_tf.data import records
  from lcn_tf.data.read import diagnosis

  part = record_set.part(split, domain)
  names = {d: _item_names(record_set, d) for d in DOMAINS}
  for shard in part.shards:
    for found in diagnosis.scan(record_set, shard, domain):
      text = f"{shard.file}: record {found.number} (offset {found.offset}):"
      if found.reason:
        text += f" BROKEN: {found.reason}"
      if found.serialized is not None:
        with contextlib.suppress(ValueError):
          request = records.decode(found.serialized, record_set.record_schema)
          text += "\n" + _text(request, record_set.record_schema, names, domain, behaviours)
      yield text


def _text(
  request: "Request", schema: Schema, names: dict[DomainName, dict[int, str]], domain: DomainName, behaviours: int
) -> str:
  values = request.user_values.ravel()
  told = f"{_values(schema.user_fields, request.user_fields, values)} {_vectors(schema, values)}".strip()
  lines = [f"user {request.user}  {told}".rstrip()]
  for i in range(len(request.items)):
    seen = "  ".join(f"{d} from {request.history(d).first_visible[i]}" for d in DOMAINS)
    lines.append(
      f"  candidate {i}: {_name(names[domain], request.items[i])}  {_when(request.times[i])}"
      f"  label {request.labels[i]:g}  weight {request.weights[i]:g}  sees {seen}"
      f"  {_values(schema.context_fields, request.context[i], request.context_values[i : i + 1].ravel())}".rstrip()
    )
  for d in DOMAINS:
    history = request.history(d)
    lines.append(f"  {d} history: {len(history.items)} behaviours, newest first")
    for i in range(min(behaviours, len(history.items))):
      cross = _values(schema.domain(d).cross_fields, history.cross[i], history.values[i : i + 1].ravel())
      lines.append(f"    {i}: {_name(names[d], history.items[i])}  {_when(history.times[i])}  {cross}".rstrip())
    if len(history.items) > behaviours:
      lines.append("    ...")
  return "\n".join(lines)


def _values(fields: tuple[Feature, ...], indices: np.ndarray, values: np.ndarray) -> str:
  """The vocabulary indices of each field, without the padding of lists, and behind a colon the values that it has."""
  shown = []
  for feature in fields:
    own, indices = np.split(indices, [feature.max_values])
    floats, values = np.split(values, [feature.value_columns])
    ends = [f":{value:.3g}" for value in floats] or [""] * len(own)
    texts = [f"{index}{end}" for index, end in zip(own, ends, strict=True) if index or feature.max_values == 1]
    shown.append(f"{feature.name}={texts[0] if feature.max_values == 1 else '[' + ', '.join(texts) + ']'}")
  return " ".join(shown)


def _vectors(schema: Schema, values: np.ndarray) -> str:
  """The first numbers of each vector of a user."""
  shown = []
  for name, place in vector_columns(schema).items():
    own = values[place]
    numbers = [*(f"{value:.3g}" for value in own[:_SHOWN]), *(["..."] if len(own) > _SHOWN else [])]
    shown.append(f"{name}=[{', '.join(numbers)}]" if own.any() else f"{name}=none")
  return " ".join(shown)


def _when(seconds: int) -> str:
  try:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
  except (ValueError, OverflowError, OSError):
    return str(seconds)


def _name(names: dict[int, str], row: int) -> str:
  return names.get(int(row), "unknown item" if row == UNKNOWN_ITEM else f"row {row}")


def _item_names(record_set: RecordSet, domain: DomainName) -> dict[int, str]:
  """The raw ids of the catalogue rows; empty for a record set without item ids."""
  file = f"items/{domain}.parquet"
  if not record_set.has(file):
    return {}
  table = record_set.table(file, ["row", "item_id"])
  return {row: f"{item!r} (row {row})" for row, item in table.iter_rows()}


if __name__ == "__main__":
  entry.run(main)
