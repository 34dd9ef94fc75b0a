"""Every test file is run, and every test if there is time."""

import fnmatch
import itertools
import pathlib
import time
import types

import pytest

TESTS = pathlib.Path(__file__).parent


def test_no_folder_of_tests_is_left_out(request):
  left_out = request.config.getini("norecursedirs")
  folders = {part for file in TESTS.rglob("test_*.py") for part in file.relative_to(TESTS).parts[:-1]}
  assert "build" in folders
  assert [name for name in folders if any(fnmatch.fnmatch(name, pattern) for pattern in left_out)] == []
  assert all((file.parent / "__init__.py").is_file() for file in TESTS.rglob("test_*.py"))


@pytest.fixture
def hooks(request):
  return request.config.pluginmanager.getplugin(str(TESTS / "conftest.py"))


def item(budget, name="some", marks=()):
  """A test with the marks `config(minutes=...)`."""
  marks = [types.SimpleNamespace(kwargs=mark) for mark in marks]
  return types.SimpleNamespace(
    nodeid=name,
    config=types.SimpleNamespace(getoption={"--budget": budget}.get),
    get_closest_marker=lambda name: next(iter(marks), None),
    iter_markers=lambda name: marks,
  )


@pytest.mark.parametrize(
  ("budget", "marks", "runs"),
  [(None, [{}], True), (20, [], False), (20, [{}], False), (40, [{}], True), (40, [{"minutes": 11}, {}], False)],
)
def test_a_test_that_a_budget_has_no_time_for_is_skipped(budget, marks, runs, hooks, monkeypatch):
  monkeypatch.setattr(hooks, "_STARTED", time.monotonic() - 30 * 60)
  if runs:
    hooks.pytest_runtest_setup(item(budget, marks=marks))
  else:
    with pytest.raises(pytest.skip.Exception, match="--budget are over"):
      hooks.pytest_runtest_setup(item(budget, marks=marks))


def test_each_commit_tries_other_tests_first_and_without_a_budget_the_longest_begin(hooks, monkeypatch):
  def order(commit, budget):
    monkeypatch.setattr(hooks, "_commit", lambda: commit)
    items = [item(budget, str(minutes), [{"minutes": minutes}]) for minutes in range(20)]
    hooks.pytest_collection_modifyitems(items[0].config, items)
    return [int(one.nodeid) for one in items]

  assert order("a", None) == sorted(range(20), reverse=True)
  orders = [order(commit, 20) for commit in "aabc"]
  assert orders[0] == orders[1]
  assert all(one != other for one, other in itertools.pairwise(orders[1:]))


def test_with_a_budget_tests_of_a_file_stay_together_but_for_those_marked_config(hooks, monkeypatch):
  monkeypatch.setattr(hooks, "_commit", lambda: "a")
  items = [item(20, f"{file}::{test}", marks) for file, marks in (("jobs", []), ("config", [{}])) for test in range(9)]
  hooks.pytest_collection_modifyitems(items[0].config, items)
  names = [one.nodeid for one in items]
  first = names.index("jobs::0")
  assert names[first : first + 9] == [f"jobs::{test}" for test in range(9)]
  assert [name for name in names if name.startswith("config")] != [f"config::{test}" for test in range(9)]
