import pytest

from tests.shipped import workspace as workspaces


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, worker_id):
  """One workspace for all processes of a test run."""
  shared = tmp_path_factory.getbasetemp()
  if worker_id != "master":
    shared = shared.parent
  whole = shared / "workspace.whole"

  def make():
    workspaces.make(shared / "workspace")
    whole.touch()

  workspaces.once(whole, make)
  return shared / "workspace"
