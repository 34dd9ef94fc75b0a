"""Jobs of several processes, as several machines run them."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from lcn_tf import config
from lcn_tf.config import Experiment

_SECONDS = 600  # far more than a job takes


class Job:
  """`pipelines.train` in two processes or another number of them, with a log each.

  Args:
    folder: Holds the run, the logs and the experiment.
    experiment: What both train.
    records: Their record set.
    flags: More arguments of all.
    count: Number of processes.
  """

  def __init__(
    self, folder: pathlib.Path, experiment: Experiment, records: str | pathlib.Path, *flags: str, count: int = 2
  ):
    servers = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{server.getsockname()[1]}" for server in servers]
    for server in servers:
      server.close()
    folder.mkdir(exist_ok=True)
    file = folder / "experiment.yaml"
    file.write_text(config.dump(experiment))
    self.run = folder / "run"
    command = [sys.executable, "-m", "pipelines.train", "--config", file, "--records", records, "--run_dir", self.run]
    self._logs = [folder / f"worker_{index}.txt" for index in range(count)]
    self._processes = []
    for index, log in enumerate(self._logs):
      there = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
      with log.open("w") as output:
        self._processes.append(
          subprocess.Popen(
            [*map(str, command), *flags],
            env=os.environ | {"TF_CONFIG": json.dumps(there)},
            stdout=output,
            stderr=subprocess.STDOUT,
          )
        )

  def wait(self):
    """Exit codes; a worker that hangs is killed."""
    end = time.monotonic() + _SECONDS
    try:
      return [process.wait(max(1.0, end - time.monotonic())) for process in self._processes]
    finally:
      for process in self._processes:
        process.kill()

  def wait_for(self, file):
    end = time.monotonic() + _SECONDS
    while not (self.run / file).exists() and time.monotonic() < end and all(p.poll() is None for p in self._processes):
      time.sleep(0.2)
    assert (self.run / file).exists(), self.logs()

  def logs(self):
    return "\n".join(log.read_text()[-4000:] for log in self._logs)

  def preempt(self, index):
    self._processes[index].send_signal(signal.SIGTERM)

  def kill(self, index):
    self._processes[index].kill()
