"""How commands end: by themselves, by an error, by a signal, with their parent; and what they leave behind."""

import os
import pathlib
import signal

import pytest

from tests.support import children

ENTRY = """
  import errno, os, pathlib, subprocess, sys, tempfile, time
  from lcn_tf import entry, errors, files, processes

  class Panic(BaseException):
    pass

  def wait():
    while True:  # a signal that comes just before a sleep begins is seen when the sleep ends
      time.sleep(0.05)

  def main(argv):
    {}

  entry.run(main)
"""


def entry(body, *arguments, **options):
  """Starts a command whose `main` is `body`, a few lines."""
  return children.start(ENTRY.format("\n    ".join(body.strip().splitlines())), *arguments, **options)


HALF = """
with files.replacing(pathlib.Path(argv[1]) / "page") as page, files.folder_aside(pathlib.Path(argv[1]) / "out") as out:
  page.write_text("half")
  (out / "part").write_text("half")
  print(len(os.listdir(argv[1])), flush=True)
  wait()
"""


@pytest.fixture
def temporary(tmp_path):
  """What TMPDIR names."""
  folder = tmp_path / "temporary"
  folder.mkdir()
  return folder


@pytest.mark.parametrize(
  ("number", "code", "said"),
  [
    (signal.SIGTERM, 143, "SIGTERM: ended; nothing half written is left\n"),
    (signal.SIGINT, 130, "error: interrupted\n"),
  ],
)
def test_a_signal_ends_a_command_with_a_word_and_without_what_was_half_written(number, code, said, tmp_path, temporary):
  output = tmp_path / "output"
  output.mkdir()
  process = entry(HALF, output, TMPDIR=temporary)
  assert children.line(process) == "2"
  process.send_signal(number)
  assert children.ended(process) == (code, "", said)
  assert list(output.iterdir()) == []
  assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
  ("body", "code", "said"),
  [
    ("pass", 0, ""),
    ("sys.exit(7)", 7, ""),
    ("raise errors.UserError('runs: no run here')", 1, "error: runs: no run here\n"),
    ("raise errors.DamagedError('ckpt-4: damaged')", 1, "error: ckpt-4: damaged\n"),
    ("raise errors.SettingsError('step 7: the loss is nan')", 65, "error: step 7: the loss is nan\n"),
    ("raise errors.StorageError('ckpt-4: no space')", 74, "error: ckpt-4: no space\n"),
    ("open('/gone/away')", 74, "error: /gone/away: no such file or directory ("),
    ("raise OSError(errno.EDQUOT, 'Disk quota exceeded')", 74, "error: writing: disk quota exceeded ("),
    ("raise RuntimeError('/x/part; No space left on device')", 74, "error: /x/part: no space left on device ("),
    ("raise Panic('No space left on device')", 74, "error: writing: no space left on device ("),
  ],
)
def test_a_command_ends_with_the_code_and_the_one_line_of_its_error(body, code, said, temporary):
  found, output, errors = children.ended(entry(body, TMPDIR=temporary))
  assert (found, output) == (code, "")
  assert errors.startswith(said)
  assert errors.count("\n") == said.count("error")
  assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("body", ["raise ValueError('a fault of ours')", "raise Panic('a fault of ours')"])
def test_a_fault_of_ours_keeps_its_traceback(body, temporary):
  code, _, errors = children.ended(entry(body, TMPDIR=temporary))
  assert code == 1
  assert "Traceback (most recent call last)" in errors
  assert errors.endswith(": a fault of ours\n")
  assert list(temporary.iterdir()) == []


POOL = """
  import multiprocessing, os, sys, time
  from lcn_tf import processes

  with multiprocessing.get_context("spawn").Pool(1, processes.end_with_parent) as pool:
    print(pool.apply(os.getpid), flush=True)
    pool.apply(time.sleep, [3600])
"""


def test_a_worker_at_work_ends_when_its_parent_is_killed():
  process = children.start(POOL)
  worker = int(children.line(process))
  assert children.alive(worker)
  try:
    process.kill()
    assert children.eventually(lambda: not children.alive(worker))
  finally:
    if children.alive(worker):
      os.kill(worker, signal.SIGKILL)
    children.ended(process)


LIFELINE = """
  import os, subprocess, sys
  from lcn_tf import processes

  with processes.lifeline() as (environment, line):
    command = [sys.executable, "-c", *sys.argv[1:]]
    subprocess.Popen(command, env=os.environ | environment, pass_fds=[line], start_new_session=True)
    sys.stdin.read()
"""
WAIT = """
try:
  print(os.getpid(), processes.PARENT in os.environ, flush=True)
  wait()
except SystemExit as ended:
  pathlib.Path(argv[1]).write_text(str(ended.code))
  raise
"""


@pytest.mark.parametrize("end", [children.kill, children.ended], ids=["killed", "ended"])
def test_a_command_that_hangs_on_a_lifeline_gets_sigterm_when_its_parent_ends(end, tmp_path, temporary):
  code = children.program(ENTRY.format("\n    ".join(WAIT.strip().splitlines())))
  process = children.start(LIFELINE, code, tmp_path / "code.txt", TMPDIR=temporary)
  command, inherited = children.line(process).split()
  assert inherited == "False", "its own children do not hang on it"
  assert children.alive(int(command))
  try:
    end(process)
    assert children.eventually(lambda: not children.alive(int(command)))
  finally:
    if children.alive(int(command)):
      os.kill(int(command), signal.SIGKILL)
  assert (tmp_path / "code.txt").read_text() == "143"
  assert list(temporary.iterdir()) == []


TEMPORARY = """
made = tempfile.mkdtemp()
assert tempfile.gettempdir() == os.environ["TMPDIR"] == os.path.dirname(made)
print(tempfile.gettempdir(), flush=True)
sys.stdin.read()
"""


def test_temporary_files_go_when_their_command_ends_and_those_of_a_killed_one_when_the_next_begins(temporary):
  killed = entry(TEMPORARY, TMPDIR=temporary)
  left = pathlib.Path(children.line(killed))
  other = entry(TEMPORARY, TMPDIR=temporary)
  held = pathlib.Path(children.line(other))
  assert sorted(temporary.iterdir()) == sorted([left, held])
  children.kill(killed)
  assert left.exists()
  assert children.ended(entry("pass", TMPDIR=temporary)) == (0, "", ""), "what others left is no news of this command"
  assert list(temporary.iterdir()) == [held], "somebody is at work there"
  assert children.ended(other) == (0, "", "")
  assert list(temporary.iterdir()) == []


def test_a_fork_of_a_command_leaves_its_temporary_files_alone(temporary):
  body = """
if not os.fork():
  sys.exit(0)
os.wait()
print(os.path.isdir(tempfile.gettempdir()))
"""
  assert children.ended(entry(body, TMPDIR=temporary)) == (0, "True\n", "")


@pytest.mark.parametrize(("name", "reason"), [("gone/away", "No such file or directory"), ("file", "Not a directory")])
def test_temporary_files_go_where_they_were_told_to_or_nowhere(name, reason, tmp_path):
  (tmp_path / "file").write_text("")
  code, output, errors = children.ended(entry("print('begun')", TMPDIR=tmp_path / name))
  assert (code, output) == (74, "")
  assert errors == (
    f"error: {tmp_path / name}: no space for temporary files: {reason}. Make some there, or set TMPDIR to another "
    "folder.\n"
  )


def test_without_tmpdir_temporary_files_go_where_the_system_has_them(temporary):
  body = "print(tempfile.gettempdir())"
  code, output, _ = children.ended(entry(body, TMPDIR=None, TEMP=temporary, TMP=None))
  assert code == 0
  assert pathlib.Path(output.strip()).parent == temporary
