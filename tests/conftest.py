import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import lcn_tf  # noqa: F401, I001 (before TensorFlow)
import pytest
import tensorflow as tf

# Tests of replicas need logical devices, which TensorFlow fixes when it is first used.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

# MirroredStrategy gives the collectives of every strategy the same keys, which strategies of different sizes in one
# process may not share.
_bases = itertools.count(1000, 1000)
tf.distribute.MirroredStrategy._collective_key_base = property(lambda self: next(_bases))


@pytest.fixture(autouse=True)
def _float32():
  """A test that trains with mixed precision leaves no policy behind."""
  yield
  tf.keras.mixed_precision.set_global_policy("float32")


def pytest_addoption(parser):
  parser.addoption(
    "--campaign", action="store_true", help="repeat what happens to jobs (tests/adversity) until it must have happened"
  )
