import fcntl

import pytest

from tests.shipped import workspace as workspaces


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, worker_id):
  """One workspace for all processes of a test run."""
  shared = tmp_path_factory.getbasetemp()
  if worker_id != "master":
    shared = shared.parent
  with (shared / "workspace.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (shared / "workspace.whole").exists():
      workspaces.make(shared / "workspace")
      (shared / "workspace.whole").touch()
  return shared / "workspace"
