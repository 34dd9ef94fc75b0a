"""Jobs of several processes, as several machines run them."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from lcn_tf import config
from lcn_tf.config import Experiment
from lcn_tf.launching.cluster import members, tf_config

_SECONDS = 600  # far more than a job takes


class Job:
  """`pipelines.train` in two processes or another number of them, with a log each.

  Args:
    folder: Holds the run, the logs and the experiment.
    experiment: What both train.
    records: Their record set.
    flags: More arguments of all.
    count: Number of processes.
    servers: Number of parameter servers among them; the first process is the chief then.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    experiment: Experiment,
    records: str | pathlib.Path,
    *flags: str,
    count: int = 2,
    servers: int = 0,
  ):
    ports = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{port.getsockname()[1]}" for port in ports]
    for port in ports:
      port.close()
    folder.mkdir(exist_ok=True)
    file = folder / "experiment.yaml"
    file.write_text(config.dump(experiment))
    self.run = folder / "run"
    command = [sys.executable, "-m", "pipelines.train", "--config", file, "--records", records, "--run_dir", self.run]
    self._logs = [folder / f"{kind}_{index}.txt" for kind, index in members(count, servers)]
    self._processes = []
    for index, log in enumerate(self._logs):
      with log.open("w") as output:
        self._processes.append(
          subprocess.Popen(
            [*map(str, command), *flags],
            env=os.environ | {"TF_CONFIG": tf_config(addresses, index, servers)},
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
    self.wait_until((self.run / file).exists)

  def wait_until(self, holds):
    """Waits while the first process is at work, whichever of the others are."""
    end = time.monotonic() + _SECONDS
    while not holds() and time.monotonic() < end and self._processes[0].poll() is None:
      time.sleep(0.2)
    assert holds(), self.logs()

  def wait_until_said(self, index, text):
    end = time.monotonic() + _SECONDS
    while text not in self._logs[index].read_text() and time.monotonic() < end:
      time.sleep(0.2)
    assert text in self._logs[index].read_text(), self.logs()

  def logs(self):
    return "\n".join(log.read_text()[-8000:] for log in self._logs)

  def preempt(self, index):
    self._processes[index].send_signal(signal.SIGTERM)

  def kill(self, index):
    self._processes[index].kill()
