"""Plans a training job before it runs: does it fit, on how many devices, and what moves per step.

The command reads an experiment and the sizes of its vocabularies. It builds the model with small tables and traces one
training step. It trains nothing and leaves no files. It prints tables: memory of a device, bytes that a step sends, and
bytes of the records. The last lines name the cheapest choice that fits.

Sizes come from a record set (--records) or from flags (--sizes). Without servers every device holds all tables, so more
devices lower the memory of a step, but not that of tables and slots. With --servers the command also plans for tables
on servers.

Examples:

    python -m tools.plan_run --config configs/amazon/lcn.yaml --records my_records
    python -m tools.plan_run --config configs/amazon/lcn.yaml --sizes target_item=8M,source_item=700M --samples 46G
    python -m tools.plan_run --config configs/amazon/lcn.yaml --records my_records --servers 2,4 --server_memory 256GB
"""

import re
import sys
from collections.abc import Sequence

from absl import flags

from lcn_tf import config as config_lib
from lcn_tf import entry, storage
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError, unknown
from lcn_tf.schema import DOMAINS, DomainName, Schema, item_vocabulary, with_sizes

_GPUS = {"A100-40": 40, "A100-80": 80, "H100-80": 80}  # GiB

_FLAGS = flags.FlagValues()
_CONFIG = entry.define_config(_FLAGS)
_SET = entry.define_set(_FLAGS)
_RECORDS = entry.define_records(_FLAGS, required=False)
_SIZES = flags.DEFINE_list(
  "sizes",
  [],
  "Rows of vocabularies, name=rows, such as target_item=8M (k, M, G are allowed). They come before those of --records.",
  flag_values=_FLAGS,
)
_DEVICE = flags.DEFINE_enum("device", "A100-80", [*_GPUS, "cpu"], "Kind of device.", flag_values=_FLAGS)
_MEMORY = flags.DEFINE_string(
  "memory", None, "Memory of a device, such as 64GB. Required with --device cpu.", flag_values=_FLAGS
)
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices to plan for.", flag_values=_FLAGS)
_SERVERS = flags.DEFINE_list(
  "servers", [], "Numbers of servers to plan for, with train.strategy=parameter_server.", flag_values=_FLAGS
)
_SERVER_MEMORY = flags.DEFINE_string(
  "server_memory", None, "Memory of a server, such as 256GB. Required with --servers.", flag_values=_FLAGS
)
_LENGTHS = flags.DEFINE_list(
  "lengths",
  [],
  "Mean behaviours of a history in the records, such as target=50,source=400. Without the flag histories are full.",
  flag_values=_FLAGS,
)
_SAMPLES = flags.DEFINE_string(
  "samples", None, "Candidates of the training split, such as 46G. Not with --records.", flag_values=_FLAGS
)
_RATE = flags.DEFINE_float(
  "rate", None, "Candidates per second of the whole job, to print the read rate.", lower_bound=1, flag_values=_FLAGS
)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config_lib.load(_CONFIG.value, _SET.value)
  devices, servers = _counts(_DEVICES), _counts(_SERVERS) if _SERVERS.value else []
  if bool(servers) != bool(_SERVER_MEMORY.value):
    raise UserError("--servers and --server_memory go together: give both, or none")
  if servers:
    config_lib.load(_CONFIG.value, [*_SET.value, "train.strategy=parameter_server"])  # refuses what servers do not do
  if _RECORDS.value and _SAMPLES.value:
    raise UserError("--samples: the records of --records say how many candidates there are")
  record_set = RecordSet.open(_RECORDS.value) if _RECORDS.value else None
  schema = _sized(record_set.record_schema if record_set else experiment.record_schema)
  lengths = _lengths(schema)
  memory = _memory()
  with entry.loading():
    from lcn_tf.analysis import plan as plan_lib
    from lcn_tf.analysis.plan_page import Records, Servers, page

  made = plan_lib.plan(experiment, schema, devices, lengths)
  if record_set:
    part = record_set.part("train")
    stored = Records(part.candidates, part.records, sum(shard.size for shard in part.shards))
  else:
    samples = _number(_SAMPLES.value, "--samples") if _SAMPLES.value else 0
    records = samples // schema.candidates
    stored = Records(samples, records, records * made.record)
  memory_of_each = _SERVER_MEMORY.value
  holding = Servers(servers, storage.bytes_of(memory_of_each, "--server_memory")) if memory_of_each else None
  sys.stdout.write(page(experiment, made, _DEVICE.value, memory, stored, _RATE.value, holding))


def _counts(flag: flags.FlagHolder[list[str]]) -> list[int]:
  """The numbers of a flag, rising.

  Raises:
    UserError: There are none, or one is below 1.
  """
  found = entry.whole_numbers(flag)
  if not found or min(found) < 1:
    raise UserError(f"--{flag.name} {','.join(flag.value)}: expected numbers of at least 1")
  return sorted(set(found))


def _sized(schema: Schema) -> Schema:
  """The schema with the sizes of --sizes, and others as they are.

  Raises:
    UserError: A vocabulary is unknown, or has no size.
  """
  given = _pairs(_SIZES.value, "--sizes", list(schema.vocabularies))
  sizes = {name: given.get(name, vocabulary.size) for name, vocabulary in schema.vocabularies.items()}
  if missing := [name for name, size in sizes.items() if not size]:
    raise UserError(f"--sizes: rows of {', '.join(missing)} are missing. Name them, or give --records")
  items: dict[DomainName, int] = {}
  for d in DOMAINS:
    name = item_vocabulary(d)
    items[d] = given.get(name) or schema.domain(d).items or sizes[name]
  return with_sizes(schema, sizes, items)


def _lengths(schema: Schema) -> dict[DomainName, float]:
  given = _pairs(_LENGTHS.value, "--lengths", list(DOMAINS))
  for name, length in given.items():
    if length > schema.capacity(name):  # type: ignore[arg-type]
      raise UserError(f"--lengths {name}={length}: a record holds {schema.capacity(name)} at most")  # type: ignore[arg-type]
  return {d: given.get(d, schema.capacity(d)) for d in DOMAINS}


def _memory() -> int:
  if _MEMORY.value:
    return storage.bytes_of(_MEMORY.value, "--memory")
  if _DEVICE.value == "cpu":
    raise UserError("--memory is missing: --device cpu needs the memory of the machine, such as 64GB")
  return _GPUS[_DEVICE.value] * 2**30


def _pairs(pairs: Sequence[str], where: str, allowed: list[str]) -> dict[str, int]:
  """Values `name=number` of a list flag."""
  found = {}
  for pair in pairs:
    name, equals, text = pair.partition("=")
    if not equals:
      raise UserError(f"{where} {pair}: expected name=number")
    if name not in allowed:
      raise unknown(where, "name", name, allowed)
    found[name] = _number(text, f"{where} {name}")
  return found


def _number(text: str, where: str) -> int:
  """A whole number of at least 1, such as 700M.

  Raises:
    UserError: It is none.
  """
  found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", text.strip())
  number = round(float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]]) if found else 0
  if number < 1:
    raise UserError(f"{where} {text}: expected a number of at least 1, such as 2000, 50k, 8M or 46G")
  return number


if __name__ == "__main__":
  entry.run(main)
