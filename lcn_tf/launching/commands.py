"""Commands that stand behind `--` in another one."""

import sys
from collections.abc import Sequence

from lcn_tf.errors import UserError


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """The arguments before the first `--`, and the command behind it."""
  words = list(argv)
  at = words.index("--") if "--" in words else len(words)
  return words[:at], words[at + 1 :]


def program(command: Sequence[str]) -> list[str]:
  """A command `python -m MODULE ...` with this Python.

  Raises:
    UserError: It is another command, or none.
  """
  if len(command) < 3 or command[0] not in ("python", "python3") or command[1] != "-m":
    raise UserError(f"expected -- python -m pipelines.train and its flags; found {' '.join(command) or 'no command'}")
  return [sys.executable, *command[1:]]
