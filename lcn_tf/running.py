"""How a command runs and ends: errors as one message, what it wrote put back, and an exit code that stands."""

import functools
import logging as standard_logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import util
from typing import NoReturn

from absl import app, flags, logging

from lcn_tf import places, processes, storage
from lcn_tf.errors import StorageError, UserError
from lcn_tf.remote import working


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Calls `main` with the command line and turns errors into messages on stderr.

  Exit codes: 1 after a `UserError`; 3 if a gate refuses a model; 65 after a `SettingsError`; 74 after an error of
  storage (a full disk, a quota, a mount that is gone, a store that cannot be reached), after which the same command may
  succeed later; 75 if another worker of the job was lost; 130 after Ctrl-C; 143 after SIGTERM.
  """
  logging.set_verbosity(logging.INFO)
  # TensorFlow's own information is about its internals
  standard_logging.getLogger("tensorflow").setLevel(standard_logging.WARNING)
  logging.get_absl_handler().addFilter(_not_of_tensorflow)
  logging.get_absl_handler().addFilter(_with_urls)
  processes.end_clean_at_sigterm()
  processes.end_with_parent()

  def guarded(argv: Sequence[str]) -> None:
    try:
      processes.own_temporary_folder()
      with working.finishing():
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
    except BaseException as error:  # a panic of polars is no Exception
      if isinstance(error, SystemExit) or storage.failure(error) is None:
        raise
      _end(storage.message(error) or "", StorageError.exit_code)

  def later(argv: Sequence[str]) -> list[str]:
    flags.FLAGS(list(argv[:1]))  # main reads the rest
    return list(argv)

  try:
    app.run(guarded, flags_parser=later)
  except SystemExit as ended:
    if processes.aborts_at_exit():
      processes.end_at_once(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    raise
  except BaseException:
    if processes.aborts_at_exit():
      traceback.print_exc()
      processes.end_at_once(1)
    raise


def _not_of_tensorflow(record: standard_logging.LogRecord) -> bool:
  """Whether a line is more than information of TensorFlow, parts of which write it to the log of this program."""
  return record.levelno > standard_logging.INFO or not record.pathname.startswith(_folder_of_tensorflow())


@functools.cache
def _folder_of_tensorflow() -> str:
  found = util.find_spec("tensorflow")
  return os.path.join(os.path.dirname(found.origin or ""), "") if found else os.devnull


def _with_urls(record: standard_logging.LogRecord) -> bool:
  """Has a line of the log name URLs, not the local copies of what they name."""
  record.msg, record.args = places.shown(record.getMessage()), ()
  return True


def _end(message: str, code: int) -> NoReturn:
  print(f"error: {places.shown(message)}", file=sys.stderr)
  sys.exit(code)
