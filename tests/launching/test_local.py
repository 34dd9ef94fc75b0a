"""The launcher with small programs in the place of training jobs."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from lcn_tf import machine
from lcn_tf.errors import UserError
from lcn_tf.launching import commands, local
from tests.support import children

HEAD = """
  import json, os, pathlib, signal, sys, time
  index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
  folder = pathlib.Path(sys.argv[1])
  def started():
    with (folder / "starts").open("a") as file:
      file.write(f"{index}")
    while len((folder / "starts").read_text()) % 2:  # the other one has not begun
      time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
  monkeypatch.setattr(local, "_GRACE", 0.5)
  monkeypatch.setattr(local, "_CLEAN", 0.5)
  monkeypatch.setattr(machine, "gpus", list)


def launched(body, folder, workers=2, **options):
  """The exit code of the launcher, and what it prints."""
  out = io.StringIO()
  code = textwrap.dedent(HEAD) + textwrap.dedent(body)
  return local.launch([sys.executable, "-c", code, str(folder)], workers, out=out, **options), out.getvalue()


def starts(folder):
  return len((folder / "starts").read_text())


def test_servers_and_a_chief_are_started_besides_and_end_when_the_chief_has(tmp_path, monkeypatch):
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  body = """
    kind = json.loads(os.environ["TF_CONFIG"])["task"]["type"]
    print(kind, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    if kind != "chief":
      time.sleep(600)
  """
  code, said = launched(body, tmp_path, workers=2, servers=1, logs=tmp_path / "logs")
  assert code == 0
  lines = ["[chief] chief -1", "[server 0] ps -1", "[worker 0] worker None", "[worker 1] worker None"]
  assert sorted(line for line in said.splitlines() if line in lines) == lines
  assert {file.name for file in (tmp_path / "logs").iterdir()} == {
    *("chief.log", "server_0.log", "worker_0.log", "worker_1.log")
  }


def test_workers_are_one_cluster_and_their_lines_come_side_by_side(tmp_path):
  body = "print(os.environ['TF_CONFIG'], flush=True); sys.stderr.write('no end')"
  code, said = launched(body, tmp_path, workers=3, logs=tmp_path / "logs")
  assert code == 0
  lines = {line.partition("] ")[0]: [] for line in said.splitlines()}
  assert sorted(lines) == ["[worker 0", "[worker 1", "[worker 2"]
  assert said.count("] no end\n") == 3
  told = [json.loads(line.partition("] ")[2]) for line in said.splitlines() if not line.endswith("] no end")]
  assert sorted(one["task"]["index"] for one in told) == [0, 1, 2]
  addresses = told[0]["cluster"]["worker"]
  assert all(one["cluster"]["worker"] == addresses for one in told)
  assert len(set(addresses)) == 3
  assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [f"worker_{i}.log" for i in range(3)]
  assert (tmp_path / "logs" / "worker_1.log").read_text().endswith("no end")
  launched("print('again')", tmp_path, logs=tmp_path / "logs")
  assert (tmp_path / "logs" / "worker_1.log").read_text().endswith("no endagain\n")


FAILS = """
  started()
  if index == 1:
    {}
  time.sleep(600)
"""


@pytest.mark.parametrize(
  ("end", "code", "times"),
  [
    ("sys.exit(1)", 1, 1),
    ("sys.exit(65)", 65, 1),
    ("sys.exit(74)", 74, 1),
    ("sys.exit(75)", 75, 2),
    ("sys.exit(143)", 143, 2),
    ("os.kill(os.getpid(), signal.SIGKILL)", 137, 2),
    ("os.kill(os.getpid(), signal.SIGINT)", 130, 1),
  ],
)
def test_a_failure_ends_all_and_a_lost_worker_starts_all_again(end, code, times, tmp_path):
  assert launched(FAILS.format(end), tmp_path, restarts=1)[0] == code
  assert starts(tmp_path) == 2 * times


def test_a_job_that_was_lost_may_finish_later(tmp_path):
  body = """
    started()
    if len((folder / "starts").read_text()) <= 2:
      os.kill(os.getpid(), signal.SIGKILL)
  """
  assert launched(body, tmp_path, restarts=5)[0] == 0
  assert starts(tmp_path) == 4


def test_the_code_is_that_of_the_worker_that_failed_and_not_of_one_that_lost_it(tmp_path, monkeypatch):
  monkeypatch.setattr(local, "_GRACE", 600.0)
  body = "time.sleep(0.5 * index); sys.exit([75, 65][index])"
  assert launched(body, tmp_path, restarts=3)[0] == 65


def test_a_worker_that_does_not_listen_is_killed(tmp_path):
  body = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / str(index)).touch()
    while index == 0:
      time.sleep(600)
    while not (folder / "0").exists():
      time.sleep(0.05)
    sys.exit(3)
  """
  assert launched(body, tmp_path)[0] == 3


def test_every_worker_has_a_gpu_or_none_begins(tmp_path, monkeypatch):
  monkeypatch.setattr(machine, "gpus", lambda: ["0"])
  with pytest.raises(UserError, match=r"2 workers need a GPU each, and there are 1; CUDA_VISIBLE_DEVICES=-1 hides"):
    launched("started()", tmp_path)
  assert not (tmp_path / "starts").exists()


@pytest.mark.parametrize("command", [[], ["train"], ["bash", "-c", "x"], ["python", "train.py", "--x"]])
def test_another_command_is_refused(command):
  with pytest.raises(UserError, match=r"expected -- python -m pipelines\.train and its flags; found"):
    commands.program(command)
  assert commands.split(["tool", "--a=1", "--", *command]) == (["tool", "--a=1"], command)
  assert commands.split(["tool"]) == (["tool"], [])


SAVES = """
import os, pathlib, sys, time
from lcn_tf import entry

def main(argv):
  print("pid", os.getpid(), flush=True)
  try:
    while True:
      time.sleep(0.05)
  finally:
    time.sleep(0.5)
    pathlib.Path(argv[1], str(os.getpid())).touch()

entry.run(main)
"""


@pytest.fixture
def launcher(tmp_path):
  """The shipped command with two workers that save something before they end, and their process ids."""
  (tmp_path / "saves.py").write_text(SAVES)
  words = [sys.executable, "-m", "tools.launch_local", "--workers", "2", "--restarts", "3", "--"]
  process = subprocess.Popen(
    [*words, "python", "-m", "saves", str(tmp_path / "saved")],
    env=os.environ | {"PYTHONPATH": f"{children.ROOT}:{tmp_path}", "CUDA_VISIBLE_DEVICES": "-1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  (tmp_path / "saved").mkdir()
  pids = []
  while len(pids) < 2:
    line = children.line(process)
    if " pid " in line:
      pids.append(int(line.rpartition(" ")[2]))
  yield process, pids
  for pid in filter(children.alive, [process.pid, *pids]):
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_all_workers_and_their_clean_end_is_waited_for(launcher, number, code, tmp_path):
  process, pids = launcher
  process.send_signal(number)
  assert children.ended(process)[0] == code
  assert sorted(int(path.name) for path in (tmp_path / "saved").iterdir()) == sorted(pids)


def test_no_worker_outlives_a_killed_launcher(launcher, tmp_path):
  process, pids = launcher
  process.kill()
  assert children.eventually(lambda: not any(map(children.alive, pids)))
  assert sorted(int(path.name) for path in pathlib.Path(tmp_path, "saved").iterdir()) == sorted(pids)
