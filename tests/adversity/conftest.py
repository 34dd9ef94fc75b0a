import fcntl
import shutil

import pytest

from tests.adversity import jobs
from tests.shipped import workspace as workspaces
from tests.shipped.conftest import workspace  # noqa: F401


@pytest.fixture(scope="session")
def records(workspace):  # noqa: F811
  workspaces.built(f"{jobs.BUILD} --output adversity/records", workspace)
  return workspace / "adversity" / "records"


@pytest.fixture(scope="session")
def unbroken(workspace, records):  # noqa: F811
  """The run of a job that nothing happened to, and how many seconds it took."""
  run = workspace / "adversity" / "unbroken"
  with (workspace / "adversity" / "unbroken.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (run / "seconds").exists():
      shutil.rmtree(run, ignore_errors=True)
      seconds = jobs.seconds(lambda: workspaces.succeeds(f"{jobs.TRAIN} --run_dir {run}", workspace))
      (run / "seconds").write_text(str(seconds))
  return run
