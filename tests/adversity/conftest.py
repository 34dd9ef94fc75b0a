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
  """The run of a job that nothing happened to; `jobs.seconds_of` it says how long it took."""
  return jobs.timed(f"{jobs.TRAIN} --run_dir", workspace / "adversity" / "unbroken", workspace)


@pytest.fixture(scope="session")
def compared(workspace):  # noqa: F811
  """A comparison that nothing happened to, likewise."""
  workspaces.built(jobs.BUILD_SYNTHETIC, workspace)
  return jobs.timed(f"{jobs.COMPARE} --jobs 2 --output", workspace / "adversity" / "compared", workspace)


@pytest.fixture(scope="session")
def walked(workspace):  # noqa: F811
  """A walk of two periods."""
  return jobs.timed(f"{jobs.WALK} --run_dir", workspace / "adversity" / "walked", workspace)
