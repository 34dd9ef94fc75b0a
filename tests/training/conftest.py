import pytest

from tests.support.record_sets import small_schema, tiny_schema, write_record_set
from tests.training import growing

SIZES = {"train": 64, "validation": 16, "test": 16}


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  return write_record_set(tmp_path_factory.mktemp("records"), small_schema(), records=SIZES)


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory):
  """For `tiny_experiment`."""
  return write_record_set(tmp_path_factory.mktemp("tiny"), tiny_schema(), records=SIZES)


@pytest.fixture(scope="session")
def half(tmp_path_factory):
  """Records of the older half of a log."""
  return growing.record_set(tmp_path_factory.mktemp("half"), 0.5)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
  """Records of the whole log, whose vocabularies have more values."""
  return growing.record_set(tmp_path_factory.mktemp("whole"), 1.0)
