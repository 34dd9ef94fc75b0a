"""What every entry point shares: flags of its own, and errors as one message instead of a traceback.

An entry point is a module with `main(argv)`, which tests call as well:

    _FLAGS = flags.FlagValues()
    _RECORDS = flags.DEFINE_string("records", None, "...", required=True, flag_values=_FLAGS)

    def main(argv):
      entry.parse(_FLAGS, argv)
      ...

    if __name__ == "__main__":
      entry.run(main)
"""

import logging as standard_logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from lcn_tf import processes, storage
from lcn_tf.errors import StorageError, UserError, nearest

# read when TensorFlow is imported; a job takes the memory that it needs, not the whole GPU
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def define_scoring(
  values: flags.FlagValues,
) -> tuple[flags.FlagHolder[int], flags.FlagHolder[int], flags.FlagHolder[str]]:
  """The flags --bootstrap, --seed and --on_corrupt of the commands that score a split."""
  bootstrap = flags.DEFINE_integer(
    "bootstrap", 200, "replicates of the confidence intervals; 0: none", lower_bound=0, flag_values=values
  )
  seed = flags.DEFINE_integer("seed", 0, "of the bootstrap", lower_bound=0, flag_values=values)
  on_corrupt = flags.DEFINE_enum(
    "on_corrupt", "error", ["error", "skip"], "a broken record ends it, or is logged and left out", flag_values=values
  )
  return bootstrap, seed, on_corrupt


def parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Reads the entry point's flags, and absl's own (--verbosity, ...), from `argv` (the program's name first).

  Raises:
    UserError: An unknown flag, a wrong value, a missing flag, or an argument that is no flag.
  """
  if {"--help", "-h", "--helpfull", "--helpshort"} & set(argv[1:]):
    print(sys.modules["__main__"].__doc__ or "", values.get_help(), sep="\n")
    sys.exit(0)
  for name in values:
    values[name].unparse()
  _check_names(values, argv)
  try:
    rest = flags.FLAGS(values(list(argv), known_only=True))
  except flags.Error as error:
    raise UserError(str(error)) from None
  if len(rest) > 1:
    raise UserError(f"unexpected arguments: {' '.join(rest[1:])}")


def _check_names(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """absl would tell of a missing flag first, though its name is only misspelt."""
  known = {name for some in (values, flags.FLAGS) for flag in some for name in (flag, f"no{flag}")}
  for argument in argv[1:]:
    name = argument[2:].partition("=")[0]
    if argument.startswith("--") and name and name not in known and name not in ("flagfile", "undefok"):
      raise UserError(f"Unknown command line flag {name!r}.{nearest(name, values)}")


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Calls `main` with the command line; errors become messages on stderr.

  The exit code is 1 after a `UserError`, 65 after a `SettingsError`, 74 after what the system says of a file (a full
  disk, a quota, a mount that is gone), which may go well another time, 130 after Ctrl-C and 143 after SIGTERM.
  """
  logging.set_verbosity(logging.INFO)
  # TensorFlow's own lines are of its insides
  standard_logging.getLogger("tensorflow").setLevel(standard_logging.WARNING)
  processes.end_clean_at_sigterm()
  processes.end_with_parent()

  def guarded(argv: Sequence[str]) -> None:
    try:
      processes.own_temporary_folder()
      main(argv)
    except UserError as error:
      _end(str(error), error.exit_code)
    except KeyboardInterrupt:
      _end("interrupted", processes.INTERRUPTED)
    except Exception as error:
      message = storage.message(error)
      if message is None:
        raise
      _end(message, StorageError.exit_code)
    except BaseException as error:  # polars' panics are no exceptions
      if isinstance(error, SystemExit) or storage.failure(error) is None:
        raise
      _end(storage.message(error) or "", StorageError.exit_code)

  def later(argv: Sequence[str]) -> list[str]:
    flags.FLAGS(list(argv[:1]))  # main reads the rest
    return list(argv)

  app.run(guarded, flags_parser=later)


def _end(message: str, code: int) -> NoReturn:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(code)
