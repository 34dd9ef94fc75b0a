"""What all commands share: common flags, `--help`, and errors as one message instead of a traceback.

A command is a module with `main(argv)`, which tests call as well:

    _FLAGS = flags.FlagValues()
    _RECORDS = entry.define_records(_FLAGS)

    def main(argv):
      entry.parse(_FLAGS, argv)
      ...

    if __name__ == "__main__":
      entry.run(main)

`--help` prints the module's docstring and the flags. It imports no TensorFlow, which takes seconds to load. So `main`
imports what needs TensorFlow once its arguments are right, `with entry.loading():`.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from absl import flags

from lcn_tf import storage
from lcn_tf.command_paths import define_path, take
from lcn_tf.errors import UserError, nearest
from lcn_tf.running import run

__all__ = ["define_path", "parse", "run"]

# TensorFlow reads both at its import; the second one takes GPU memory as needed, not all of it at once
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


LEAST_MEMORY = 100_000_000  # bytes; below, there would be thousands of buckets


def define_config(
  values: flags.FlagValues, help: str = "Experiment, a YAML file. The folder configs/ has examples.", alone: bool = True
) -> flags.FlagHolder[str]:
  """Defines the required flag --config; a file that is not `alone` names others, and is a local one."""
  if not alone:
    return flags.DEFINE_string("config", None, help, required=True, flag_values=values)
  return define_path(values, "config", help, "input", required=True)


def define_set(values: flags.FlagValues) -> flags.FlagHolder[list[str]]:
  """Defines the flag --set, the overrides of --config."""
  help = (
    "Setting key.path=value, with the value in YAML, that replaces the one of the config. May be repeated. "
    "Without --set the config stays as it is."
  )
  return flags.DEFINE_multi_string("set", [], help, flag_values=values)


def define_records(values: flags.FlagValues, required: bool = True) -> flags.FlagHolder[str]:
  """Defines the flag --records."""
  help = "Record set, a folder that pipelines.build_records made."
  return define_path(values, "records", help, "records", required=required)


def define_log(values: flags.FlagValues, extends: bool = False) -> tuple[flags.FlagHolder[str | None], ...]:
  """Defines the flags --interactions, --items and --users, the files of a log.

  Args:
    values: Flags of the command.
    extends: True if the command has a flag --extend.
  """
  interactions = (
    "Interactions, a Parquet file or a folder of them. Without the flag the log is the one that the config names."
  )
  unless = ", unless --extend finds no new items there" if extends else ""
  items = f"Items, a Parquet file or a folder of them. Required with --interactions{unless}."
  users = "Users, a Parquet file or a folder of them. Without the flag the log has no profiles of users."
  named = {"interactions": interactions, "items": items, "users": users}
  return tuple(define_path(values, name, help, "input") for name, help in named.items())


def define_memory(values: flags.FlagValues) -> flags.FlagHolder[str | None]:
  """Defines the flag --memory, which `memory_of` reads."""
  help = (
    "Memory for the interactions, such as 2GB, of a log that does not fit in memory. The rest lies beside --output "
    "meanwhile, and the records are the same. Without the flag all interactions are in memory at once."
  )
  return flags.DEFINE_string("memory", None, help, flag_values=values)


def memory_of(flag: flags.FlagHolder[str | None]) -> int | None:
  """Reads the flag --memory in bytes; None if it is not given. Errors as of `storage.bytes_of`."""
  return None if flag.value is None else storage.bytes_of(flag.value, "--memory", LEAST_MEMORY)


def define_model(values: flags.FlagValues, what: str = "SavedModel", required: bool = True) -> flags.FlagHolder[str]:
  """Defines the flag --model of commands that read an export."""
  help = f"{what}, a version folder or the export folder above it. Of an export folder the newest version counts."
  return define_path(values, "model", help, "model", required=required)


def define_split(values: flags.FlagValues, default: str = "test") -> flags.FlagHolder[str]:
  """Defines the flag --split."""
  help = "Split of the records to read: train, validation or test."
  return flags.DEFINE_string("split", default, help, flag_values=values)


def define_run_dir(
  values: flags.FlagValues, help: str = "Run folder that pipelines.train made.", writes: bool = False
) -> flags.FlagHolder[str]:
  """Defines the required flag --run_dir of a command that takes one run, and `writes` it or reads it."""
  return define_path(values, "run_dir", help, "output" if writes else "input", required=True)


def define_run_dirs(values: flags.FlagValues) -> flags.FlagHolder[list[str]]:
  """Defines the required flag --run_dir of a command that compares runs."""
  help = "Run folder that pipelines.train made. May be repeated to compare runs."
  return define_path(values, "run_dir", help, "input", required=True, multiple=True)


def define_output(
  values: flags.FlagValues,
  help: str = "Folder for the results. It is made if it does not exist.",
  use: Literal["output", "new_records"] = "output",
) -> flags.FlagHolder[str]:
  """Defines the required flag --output; of a command that makes a record set, `use` is `new_records`."""
  return define_path(values, "output", help, use, required=True)


def define_keep(values: flags.FlagValues) -> flags.FlagHolder[int]:
  """Defines the flag --keep of the commands that write versions."""
  help = "Number of versions that stay, the newest ones. 0 = all."
  return flags.DEFINE_integer("keep", 0, help, lower_bound=0, flag_values=values)


def define_overwrite(values: flags.FlagValues) -> flags.FlagHolder[bool]:
  """Defines the flag --overwrite."""
  help = "Replace an earlier result in --output. Without the flag an earlier result is an error."
  return flags.DEFINE_bool("overwrite", False, help, flag_values=values)


def define_models(values: flags.FlagValues) -> flags.FlagHolder[list[str]]:
  """Defines the flag --models of the commands that build models for measurements."""
  help = "Names of extractors or networks. Without --models all that can be built are measured."
  return flags.DEFINE_list("models", [], help, flag_values=values)


def define_lengths(
  values: flags.FlagValues, default: Sequence[int], help: str = "Behaviours of each history."
) -> flags.FlagHolder[list[str]]:
  """Defines the flag --lengths; `whole_numbers` reads it."""
  return flags.DEFINE_list("lengths", [str(length) for length in default], help, flag_values=values)


def define_seq_len(values: flags.FlagValues, default: int) -> flags.FlagHolder[int]:
  """Defines the flag --seq_len of the benchmarks."""
  return flags.DEFINE_integer("seq_len", default, "Behaviours L of a history.", lower_bound=1, flag_values=values)


def define_candidates(
  values: flags.FlagValues, default: int, help: str = "Candidates N of a request."
) -> flags.FlagHolder[int]:
  """Defines the flag --candidates."""
  return flags.DEFINE_integer("candidates", default, help, lower_bound=1, flag_values=values)


def define_bootstrap(values: flags.FlagValues, default: int = 200, lower_bound: int = 0) -> flags.FlagHolder[int]:
  """Defines the flag --bootstrap."""
  help = "Bootstrap samples of the users for the confidence intervals."
  if not lower_bound:
    help += " 0 = no intervals."
  return flags.DEFINE_integer("bootstrap", default, help, lower_bound=lower_bound, flag_values=values)


def define_seed(values: flags.FlagValues, help: str = "Seed of the bootstrap.") -> flags.FlagHolder[int]:
  """Defines the flag --seed."""
  return flags.DEFINE_integer("seed", 0, help, lower_bound=0, flag_values=values)


def define_scoring(
  values: flags.FlagValues,
) -> tuple[flags.FlagHolder[int], flags.FlagHolder[int], flags.FlagHolder[str]]:
  """Defines the flags --bootstrap, --seed and --on_corrupt of the commands that score a split."""
  help = "Treatment of a broken record. error = the command ends, skip = the record is logged and left out."
  on_corrupt = flags.DEFINE_enum("on_corrupt", "error", ["error", "skip"], help, flag_values=values)
  return define_bootstrap(values), define_seed(values), on_corrupt


def define_workers(values: flags.FlagValues) -> flags.FlagHolder[int]:
  """Defines the flag --workers of the commands that score shards."""
  help = "Processes that score shards. Each loads the model."
  return flags.DEFINE_integer("workers", 1, help, lower_bound=1, flag_values=values)


def define_slices(values: flags.FlagValues) -> tuple[flags.FlagHolder[list[str]], flags.FlagHolder[int]]:
  """Defines the flags --slices and --slice_minimum."""
  help = (
    "Fields to slice the candidates by: user.<field>, item.<field>, context.<field>, history_target, history_source, "
    "item_count, hour, or two of them with * between. Without the flag there are history_target, history_source and "
    "item_count."
  )
  minimum = "Candidates below which a slice of --slices is pooled with the other small ones."
  return (
    flags.DEFINE_list("slices", [], help, flag_values=values),
    flags.DEFINE_integer("slice_minimum", 100, minimum, lower_bound=0, flag_values=values),
  )


@contextlib.contextmanager
def loading() -> Iterator[None]:
  """The imports of a command, which the garbage collector leaves alone from then on.

  TensorFlow is a million objects that live as long as the process. The collector would look through all of them again
  and again while graphs are traced. A process that has frozen objects already stays as it is: `gc.freeze` would keep
  its garbage for good.
  """
  if gc.get_freeze_count() or not gc.isenabled():
    yield
    return
  gc.disable()
  try:
    yield
  finally:
    gc.freeze()
    gc.enable()


def whole_numbers(flag: flags.FlagHolder[list[str]]) -> list[int]:
  """Reads a list flag as whole numbers.

  Raises:
    UserError: A value is no whole number.
  """
  if not all(value.isdigit() for value in flag.value):
    raise UserError(f"--{flag.name} {','.join(flag.value)}: expected whole numbers")
  return [int(value) for value in flag.value]


def parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Reads the flags of a command, and those of absl (--verbosity, ...). --help prints them and ends the program.

  A flag of `define_path` that names a URL has the local copy afterwards, see `lcn_tf.command_paths`.

  Args:
    values: Flags of the command.
    argv: Command line, the program's name first.

  Raises:
    UserError: An unknown flag, a wrong value, a missing flag, or an argument that is no flag; or what a URL names is
      not there, or is written by somebody else.
    StorageError: A store cannot be reached.
  """
  if {"--help", "-h", "--helpfull", "--helpshort"} & set(argv[1:]):
    print(sys.modules["__main__"].__doc__ or "", _help(values), sep="\n")
    sys.exit(0)
  for name in values:
    values[name].unparse()
  _check_names(values, argv)
  try:
    rest = flags.FLAGS(values(list(argv), known_only=True))
  except flags.Error as error:
    raise UserError(_missing(values, str(error)) or str(error)) from None
  if len(rest) > 1:
    raise UserError(f"unexpected arguments: {' '.join(rest[1:])}")
  take(values)


def _help(values: flags.FlagValues) -> str:
  """The flags in the order of their definition, each with its help text, its type and its default."""
  lines = [f"{_name(values[name])}: {_help_text(values[name])}{_facts(values[name])}" for name in values]
  return "\n".join(["Flags:", *(flags.text_wrap(line, indent=6 * " ", firstline_indent=2 * " ") for line in lines)])


def _name(flag: flags.Flag) -> str:
  return f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"


def _help_text(flag: flags.Flag) -> str:
  # absl adds a line to the help of flags that may be repeated
  return (flag.help or "").partition(";\n")[0]


def _facts(flag: flags.Flag) -> str:
  facts = [flag.parser.syntactic_help] if flag.parser.syntactic_help else []
  if flag.default is None and flag.validators:
    facts.append("required")
  elif flag.default not in (None, []):
    default = (flag.default_as_str or "").strip("'")
    facts.append(f"default: {default}")
  return f" ({', '.join(facts)})" if facts else ""


def _missing(values: flags.FlagValues, error: str) -> str:
  """A line for each required flag that an error of absl says is missing; empty for other errors."""
  missing = [name for name in values if f"Flag --{name} must have a value" in error]
  return "\n".join(f"--{name} is missing: {_help_text(values[name])}" for name in missing)


def _check_names(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Checks that all flags exist. absl would complain first about the required flag whose name is misspelt.

  Raises:
    UserError: An unknown flag; the message has the nearest name.
  """
  known = {name for some in (values, flags.FLAGS) for flag in some for name in (flag, f"no{flag}")}
  for argument in argv[1:]:
    name = argument[2:].partition("=")[0]
    if argument.startswith("--") and name and name not in known and name not in ("flagfile", "undefok"):
      raise UserError(f"Unknown command line flag {name!r}.{nearest(name, values)}")
