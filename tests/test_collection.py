"""Every test file is run."""

import fnmatch
import pathlib

TESTS = pathlib.Path(__file__).parent


def test_no_folder_of_tests_is_left_out(request):
  left_out = request.config.getini("norecursedirs")
  folders = {part for file in TESTS.rglob("test_*.py") for part in file.relative_to(TESTS).parts[:-1]}
  assert "build" in folders
  assert [name for name in folders if any(fnmatch.fnmatch(name, pattern) for pattern in left_out)] == []
  assert all((file.parent / "__init__.py").is_file() for file in TESTS.rglob("test_*.py"))
