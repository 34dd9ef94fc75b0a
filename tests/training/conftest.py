import pytest

from tests.support.record_sets import small_schema, write_record_set


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  sizes = {"train": 64, "validation": 16, "test": 16}
  return write_record_set(tmp_path_factory.mktemp("records"), small_schema(), records=sizes)
