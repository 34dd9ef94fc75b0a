import ctypes
import gc
import hashlib
import itertools
import os
import pathlib
import subprocess
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

ROOT = pathlib.Path(__file__).parents[1]

# glibc keeps what each of its arenas once had: few arenas, and what is large goes back at once.
_libc = ctypes.CDLL(None)
for _option, _value in ((-8, 2), (-3, 2**20)):  # M_ARENA_MAX, M_MMAP_THRESHOLD
  _libc.mallopt(_option, _value)

import lcn_tf  # noqa: E402, F401, I001 (before TensorFlow)
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.python.framework import ops  # noqa: E402

# Tests of replicas need logical devices, which TensorFlow fixes when it is first used.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

# MirroredStrategy gives the collectives of every strategy the same keys, which strategies of different sizes in one
# process may not share.
_bases = itertools.count(1000, 1000)
tf.distribute.MirroredStrategy._collective_key_base = property(lambda self: next(_bases))


# Hundreds of graphs come and go: what TensorFlow is made of is not looked through again for each.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 50, 100)


# TensorFlow registers each traced `tf.custom_gradient` for good: its closure holds the whole graph.
_REGISTERED = ops.gradient_registry._registry
_PAGES_PER_MIB = 2**20 // os.sysconf("SC_PAGE_SIZE")
_MUCH = 100  # MiB
_resident_after_release = 0


def _resident():
  """MiB of this process."""
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) // _PAGES_PER_MIB


def _custom_gradients():
  return {name for name in _REGISTERED if name.startswith("CustomGradient-")}


def _release(names):
  global _resident_after_release
  for name in names:
    del _REGISTERED[name]
  gc.collect()
  _libc.malloc_trim(0)
  _resident_after_release = _resident()


@pytest.fixture(autouse=True, scope="module")
def _graphs_of_a_module():
  """Gives back what a module's graphs have taken."""
  yield
  tf.keras.backend.clear_session()
  _release(_custom_gradients())


@pytest.fixture(autouse=True)
def _graphs_of_a_test():
  """Gives back what a test's graphs have taken, where that is much."""
  before = _custom_gradients()
  yield
  if _resident() > _resident_after_release + _MUCH:
    _release(_custom_gradients() - before)


@pytest.fixture(autouse=True)
def _float32():
  """A test that trains with mixed precision leaves no policy behind."""
  yield
  tf.keras.mixed_precision.set_global_policy("float32")


def pytest_addoption(parser):
  parser.addoption(
    "--campaign", action="store_true", help="what is repeated, or tried on several devices, as often as it takes"
  )
  parser.addoption(
    "--budget", type=float, help="minutes after which no test begins; each commit has an order of its own"
  )


_STARTED = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  """Skips a test that --budget has no time for; a machine that is twice as fast runs twice as many."""
  budget = item.config.getoption("--budget")
  if budget is not None:
    left = budget - (time.monotonic() - _STARTED) / 60
    if left < _minutes(item):
      pytest.skip(f"the {budget:g} minutes of --budget are over, or too short: without it every test runs")


def _minutes(item):
  """What a test takes, about."""
  return max((mark.kwargs.get("minutes", 0) for mark in item.iter_markers("config")), default=0)


def _commit():
  """The commit that is tested; empty where git cannot tell."""
  try:
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, stderr=subprocess.DEVNULL)
  except (OSError, subprocess.CalledProcessError):
    return ""


def pytest_collection_modifyitems(config, items):
  """What takes long begins first: several processes of a test run then end at about the same time.

  With a budget the order is one of the commit, so that each commit tries other ones first: other tests of those marked
  config, of others other files, whose tests share what they make.
  """
  if config.getoption("--budget") is None:
    items.sort(key=_minutes, reverse=True)
  else:
    commit = _commit()
    items.sort(key=lambda item: hashlib.sha256(f"{commit} {_unit(item)}".encode()).digest())


def _unit(item):
  """The test, or its file: what is run in one go."""
  return item.nodeid if item.get_closest_marker("config") else item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def campaign(request):
  """Which of two a check does: the first in every run, the second with --campaign."""
  whole = request.config.getoption("--campaign")
  return lambda few, many: many if whole else few
