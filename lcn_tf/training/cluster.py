"""The processes of a job as TF_CONFIG describes them."""

import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence

import tensorflow as tf
from absl import logging

from lcn_tf.errors import UserError

PATIENCE, _TOLD_AFTER = 3600.0, 10.0  # seconds of waiting for a process
# what TensorFlow raises where another process was lost
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
KINDS = {"chief": "chief", "worker": "worker", "ps": "server"}


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The processes of a job.

  Attributes:
    described: Addresses by kind: `chief`, `worker`, `ps`.
    kind: Kind of this process; empty without a cluster.
    index: Index of this process among those of its kind.
  """

  described: Mapping[str, Sequence[str]]
  kind: str = ""
  index: int = 0

  def addresses(self, kind: str) -> list[str]:
    return list(self.described.get(kind, []))

  @property
  def workers(self) -> list[str]:
    return self.addresses("worker")

  @property
  def servers(self) -> list[str]:
    return self.addresses("ps")

  @property
  def name(self) -> str:
    """This process, for people: `server 1 of 2`."""
    return f"{KINDS[self.kind]} {self.index} of {len(self.described[self.kind])}"


def cluster() -> Cluster:
  """The processes by TF_CONFIG; none without it.

  Raises:
    UserError: TF_CONFIG is no description of a cluster, or has tasks of other kinds.
  """
  try:
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    described = {kind: list(addresses) for kind, addresses in config.get("cluster", {}).items()}
    found = Cluster(described)
    if described:
      found = Cluster(described, config["task"]["type"], int(config["task"]["index"]))
      described[found.kind][found.index]
      if found.index < 0:
        raise IndexError(found.index)
  except (ValueError, AttributeError, TypeError, LookupError):
    raise UserError(
      f"TF_CONFIG is no description of a cluster as TensorFlow has it: {os.environ['TF_CONFIG']}"
    ) from None
  if others := set(described) - set(KINDS):
    raise UserError(f"TF_CONFIG names tasks that no job here has: {', '.join(sorted(others))}")
  return found


def tasks() -> tuple[list[str], int]:
  """The processes of a job without servers, `chief` before `worker`, and the one that this is; none without TF_CONFIG.

  Raises:
    UserError: TF_CONFIG is no description of a cluster, or has other tasks.
  """
  found = cluster()
  if found.servers:
    raise UserError("TF_CONFIG names servers (ps), which a job of train.strategy parameter_server alone has")
  named = [(kind, number) for kind in ("chief", "worker") for number, _ in enumerate(found.addresses(kind))]
  index = named.index((found.kind, found.index)) if named else 0
  return [found.addresses(kind)[number] for kind, number in named], index


def with_servers() -> Cluster:
  """The processes of a job with parameter servers.

  Raises:
    UserError: TF_CONFIG is no description of a cluster, or lacks a chief, workers or servers.
  """
  found = cluster()
  counts = {kind: len(found.addresses(kind)) for kind in KINDS}
  if counts["chief"] != 1 or not counts["worker"] or not counts["ps"]:
    raise UserError(
      f"train.strategy is parameter_server, and TF_CONFIG names {counts['chief']} chief, {counts['worker']} worker and "
      f"{counts['ps']} ps. Expected one chief, workers and servers (ps)"
    )
  return found


def listens(address: str) -> bool:
  """Whether a process listens at an address, `host:port`."""
  host, _, port = address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    return True
  except OSError:
    return False


def wait_for(address: str, what: str) -> None:
  """Waits for a process to listen, an hour at most: TensorFlow takes SIGTERM for itself while it waits.

  Args:
    address: Address of the process.
    what: Name of it, for the log.
  """
  port = address.rpartition(":")[2]
  if not port.isdecimal() or int(port) >= 2**16:
    return  # TensorFlow has a message for what is no address
  begun = time.monotonic()
  told = False
  while not listens(address) and time.monotonic() - begun < PATIENCE:
    if not told and time.monotonic() - begun > _TOLD_AFTER:
      logging.info("waiting for %s, %s", what, address)
      told = True
    time.sleep(0.2)
