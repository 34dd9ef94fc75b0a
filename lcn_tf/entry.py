"""What every entry point shares: absl flags, and errors as one message instead of a traceback."""

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, logging

from lcn_tf.errors import UserError


def run(main: Callable[[Sequence[str]], None]) -> None:
  """`app.run` for `main`; a `UserError` becomes its message on stderr and exit code 1."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  logging.set_verbosity(logging.INFO)

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
      main(argv)
    except UserError as error:
      print(f"error: {error}", file=sys.stderr)
      sys.exit(1)

  app.run(guarded)
