import pytest

from tests.support import children

# a library whose end is that of the process, as tensorflow-io's
COMMAND = """
import atexit, os, sys
from lcn_tf import running
from lcn_tf.errors import StorageError, UserError

class Library:
  def __del__(self):
    os.abort()

def main(argv):
  sys.modules["tensorflow_io"] = Library()
  atexit.register(print, "cleaned")
  print("worked")
  if argv[1:]:
    raise {"user": UserError("mistake"), "storage": StorageError("gone"), "bug": KeyError("bug")}[argv[1]]

running.run(main)
"""


@pytest.mark.parametrize(
  ("argument", "code", "said"),
  [("", 0, ""), ("user", 1, "error: mistake\n"), ("storage", 74, "error: gone\n"), ("bug", 1, "KeyError: 'bug'\n")],
)
def test_the_exit_code_stands_where_a_library_would_abort(argument, code, said):
  process = children.start(COMMAND, *filter(None, [argument]))
  out, errors = process.communicate(timeout=children.SECONDS)
  assert (process.returncode, out) == (code, "worked\ncleaned\n"), errors
  assert errors.endswith(said)
  assert ("Traceback" in errors) == (argument == "bug")
