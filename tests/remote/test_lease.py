import json

import pytest

from lcn_tf.errors import UserError
from lcn_tf.remote.lease import NAME, SECONDS, Lease
from tests.support.stores import BUCKET, folder_store


class Clock:
  """A clock that waiting alone moves on; at some moments something happens."""

  def __init__(self):
    self.now, self.then = 0.0, {}

  def __call__(self):
    return self.now

  def wait(self, seconds):
    self.now += seconds
    for moment in [m for m in self.then if m <= self.now]:
      self.then.pop(moment)()


@pytest.fixture
def file(tmp_path, monkeypatch):
  """The lease of a folder, and the URL of that folder."""
  folder_store(tmp_path / "store", monkeypatch)
  return tmp_path / "store" / "bucket" / "run" / NAME


@pytest.fixture
def clock():
  return Clock()


def lease(clock):
  return Lease(f"{BUCKET}/run", wait=clock.wait, clock=clock)


def written(file, **values):
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(json.dumps({"owner": "x", "host": "there", "process": 7, "beat": 1, "seconds": 100.0} | values))


def test_a_free_folder_is_held_until_it_is_released(file, clock):
  mine = lease(clock)
  assert json.loads(file.read_text())["beat"] == 1
  mine.renew()
  assert json.loads(file.read_text())["beat"] == 2
  mine.release()
  assert not file.exists()


def test_a_lease_that_is_renewed_is_refused(file, clock):
  written(file)
  clock.then[20.0] = lambda: written(file, beat=2)
  with pytest.raises(UserError, match=r"^s3://bucket/run: another job is at work here: process 7 on there$"):
    lease(clock)
  assert clock.now < 30
  assert json.loads(file.read_text())["owner"] == "x"


def test_a_lease_that_nobody_renews_is_taken_after_its_own_time(file, clock):
  written(file, seconds=500.0)
  mine = lease(clock)
  assert 500 <= clock.now < 600
  mine.check()
  mine.release()


def test_a_lease_that_is_given_back_meanwhile_is_taken_at_once(file, clock):
  written(file)
  clock.then[10.0] = file.unlink
  lease(clock).release()
  assert clock.now < 30


def test_of_two_who_take_it_at_the_same_moment_the_last_one_has_it(file, clock):
  clock.then[0.1] = lambda: written(file, owner="other")
  with pytest.raises(UserError, match="another job is at work here"):
    lease(clock)
  assert json.loads(file.read_text())["owner"] == "other"


def test_an_owner_who_was_taken_for_dead_neither_writes_nor_removes_the_lease_of_another(file, clock):
  mine = lease(clock)
  written(file, owner="other")
  for call in (mine.check, mine.renew):
    with pytest.raises(UserError, match=r"process 7 on there has taken this folder"):
      call()
  mine.release()
  assert json.loads(file.read_text())["owner"] == "other"


def test_a_broken_lease_is_somebodys_until_it_is_dead(file, clock):
  file.parent.mkdir(parents=True)
  file.write_text("{")
  lease(clock).release()
  assert clock.now >= 60


def test_seconds_that_are_none_are_refused(file, clock, monkeypatch):
  monkeypatch.setenv(SECONDS, "soon")
  with pytest.raises(UserError, match=r"^LCN_TF_LEASE_SECONDS=soon: expected seconds"):
    lease(clock)
