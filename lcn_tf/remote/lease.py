"""Who holds a folder of a store: an object that its owner renews, and that nobody renews when the owner is dead.

    .lease   owner, host, process, beat (rises with every renewal), seconds (without a renewal, after which it is dead)

Stores have no locks, and clocks differ. So who wants a folder that is leased watches the lease with its own clock. A
lease that is renewed meanwhile is somebody's; one that is not is taken. Two who take one at the same moment read it
again after a while: the last one who wrote it has it. An owner who was taken for dead finds another owner's lease
before it writes again, and ends.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from absl import logging

from lcn_tf.errors import StorageError, UserError
from lcn_tf.remote import store

NAME = ".lease"
SECONDS = "LCN_TF_LEASE_SECONDS"  # environment variable
_DEFAULT = 60.0
_BEATS = 6  # within that time
_SETTLED = 1 / 30  # of that time, after which another one who takes it has written


class Lease:
  """A folder of a store, held from the constructor to `release`.

  Args:
    folder: URL.
    wait: Function that waits so many seconds.
    clock: Clock, in seconds.

  Raises:
    UserError: Somebody else holds it.
    StorageError: The store fails.
  """

  def __init__(
    self, folder: str, wait: Callable[[float], object] = time.sleep, clock: Callable[[], float] = time.monotonic
  ):
    self._folder = folder
    self._url = f"{folder}/{NAME}"
    self._seconds = _seconds()
    self._owner = uuid.uuid4().hex
    self._wait, self._clock = wait, clock
    self._beat = 0
    self._ended = threading.Event()
    self._take()
    self._thread = threading.Thread(target=self._renew_until_ended, name="lease", daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Checks that it is still held.

    Raises:
      UserError: Somebody else has taken it.
      StorageError: The store fails.
    """
    there = self._read()
    if not there or there.get("owner") != self._owner:
      raise UserError(
        f"{self._folder}: {_who(there) if there else 'somebody'} has taken this folder, since its lease was not "
        f"renewed for {self._seconds:g} s. Nothing more is written there."
      )

  def release(self, lost: bool = False) -> None:
    """Gives the folder back, if it is still held.

    Args:
      lost: True if the store cannot be reached: the lease will die.
    """
    self._ended.set()
    if lost:
      return
    self._thread.join()
    try:
      self.check()
      store.delete(self._folder, [NAME])
    except UserError as error:
      logging.warning("%s", error)

  def renew(self) -> None:
    """Says that the owner is alive, if it still is the owner."""
    self.check()
    self._write()

  def _take(self) -> None:
    while there := self._read():
      self._watch(there)
      if self._read() == there:
        logging.warning("%s: the lease of %s is dead, and is taken", self._folder, _who(there))
        break
    self._write()
    self._wait(self._seconds * _SETTLED)
    there = self._read()
    if there.get("owner") != self._owner:
      raise self._refusal(there)

  def _watch(self, there: dict[str, Any]) -> None:
    """Returns when a lease is dead, or gone."""
    seconds = float(there.get("seconds", _DEFAULT))
    logging.info("%s: leased by %s; waiting up to %g s to see whether it is alive", self._folder, _who(there), seconds)
    until = self._clock() + seconds
    while self._clock() < until:
      self._wait(seconds / (4 * _BEATS))
      now = self._read()
      if now and now != there:
        raise self._refusal(now)
      if not now:
        return

  def _refusal(self, there: dict[str, Any]) -> UserError:
    return UserError(f"{self._folder}: another job is at work here: {_who(there)}")

  def _renew_until_ended(self) -> None:
    while not self._ended.wait(self._seconds / _BEATS):
      try:
        self.renew()
      except StorageError as error:  # it may come back
        logging.warning("%s", error)
      except UserError as error:  # the next `check` says so
        logging.error("%s", error)
        return

  def _read(self) -> dict[str, Any]:
    if store.size(self._url) is None:
      return {}
    try:
      found = json.loads(store.read(self._url))
    except ValueError:
      found = None
    return found if isinstance(found, dict) else {"owner": "?"}

  def _write(self) -> None:
    self._beat += 1
    mine = {"owner": self._owner, "host": socket.gethostname(), "process": os.getpid(), "beat": self._beat}
    store.write(self._url, json.dumps(mine | {"seconds": self._seconds}).encode())


def _who(there: dict[str, Any]) -> str:
  return f"process {there.get('process', '?')} on {there.get('host', '?')}"


def _seconds() -> float:
  said = os.environ.get(SECONDS, "")
  try:
    seconds = float(said or _DEFAULT)
  except ValueError:
    seconds = 0.0
  if not 1 <= seconds < 86_400:
    raise UserError(f"{SECONDS}={said}: expected seconds, 1 or more")
  return seconds
