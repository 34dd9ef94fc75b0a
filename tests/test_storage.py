"""A disk that is full, or gone, as the libraries tell of it: one message, and what is not about a disk unchanged."""

import errno
import os
import pathlib
import shutil
import types

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf import storage
from lcn_tf.errors import DamagedError, SettingsError, StorageError, UserError
from lcn_tf.storage import failure, message, storing

FULL = "No space left on device"


def raised(call):
  with pytest.raises(BaseException) as found:
    call()
  return found.value


def chained(error, cause=None, context=None):
  error.__cause__, error.__context__ = cause, context
  return error


# each as its library raises it
ERRORS = {
  "the system": (OSError(errno.ENOSPC, FULL), "no space left on device"),
  "the system, of a file": (OSError(errno.ENOSPC, FULL, "/runs/x"), "no space left on device"),
  "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk quota exceeded"),
  "a mount that is gone": (OSError(errno.ESTALE, "Stale file handle"), "stale file handle"),
  "a server that is gone": (
    OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
    "transport endpoint is not",
  ),
  "a disk that fails": (OSError(errno.EIO, "Input/output error"), "input/output error"),
  "a file that is too large": (OSError(errno.EFBIG, "File too large"), "file too large"),
  "shutil": (shutil.Error([("/a", "/b", f"[Errno 28] {FULL}: '/b'")]), "no space left on device"),
  "TensorFlow": (tf.errors.ResourceExhaustedError(None, None, f"/runs/x_temp/part; {FULL}"), "no space left on device"),
  "TensorFlow, unknown": (tf.errors.UnknownError(None, None, "/runs/x; Disk quota exceeded"), "disk quota exceeded"),
  "TensorFlow, denied": (
    tf.errors.FailedPreconditionError(None, None, "x; Read-only file system"),
    "read-only file system",
  ),
  "polars": (pl.exceptions.ComputeError(f"{FULL} (os error 28)"), "no space left on device"),
  "NumPy": (OSError("8192 requested and 4096 written"), "no space left on device"),
  "a cause": (chained(ValueError("no file"), cause=OSError(errno.EIO, "x")), "input/output error"),
  "a context": (chained(ValueError("no file"), context=OSError(errno.EIO, "x")), "input/output error"),
  "the cause of a cause": (
    chained(KeyError(1), cause=chained(ValueError(2), cause=OSError(errno.ENOSPC, "x"))),
    "no space left on device",
  ),
}


@pytest.mark.parametrize("library", ERRORS)
def test_what_the_system_said_is_found_in_the_error_of(library):
  error, words = ERRORS[library]
  assert failure(error).startswith(words)
  found = message(error)
  assert words in found
  assert "\n" not in found


@pytest.mark.parametrize(
  "error",
  [
    None,
    ValueError("no such thing"),
    OSError(errno.EEXIST, "File exists"),
    OSError("8192 requested"),
    RuntimeError("8192 requested and 4096 written"),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[100,100]"),
    tf.errors.DataLossError(None, None, "truncated record at 17"),
    chained(ValueError("x"), cause=KeyError("y")),
    MemoryError(),
  ],
)
def test_what_is_not_about_a_disk_is_no_failure_of_one(error):
  assert failure(error) is None
  if error is not None:
    assert message(error) is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_device_that_is_always_full_is_told_through_each_library():
  def numpy():
    with open("/dev/full", "wb") as file:
      np.zeros(100_000).tofile(file)

  def text():
    pathlib.Path("/dev/full").write_text("x")

  def copy():
    shutil.copyfile(__file__, "/dev/full")

  def tensorflow():
    with tf.io.TFRecordWriter("/dev/full") as writer:
      writer.write(bytes(1_000_000))
      writer.flush()

  def polars():
    pl.DataFrame({"x": range(100_000)}).write_parquet("/dev/full")

  for call in (numpy, text, copy, tensorflow, polars):
    assert failure(raised(call)) == "no space left on device", call


def test_one_message_says_which_file_and_how_much_is_free(tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda where: types.SimpleNamespace(free=1_234_567))
  file = tmp_path / "not" / "there"
  for name in (str(file), os.fsencode(file), file):
    error = OSError(errno.ENOSPC, FULL, name)
    assert message(error) == f"{file}: no space left on device (1.2 MB are free there)"
  assert message(FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone")).startswith(
    "/gone: no such file or directory"
  )
  error = tf.errors.ResourceExhaustedError(None, None, f"/runs/x/ckpt-8_temp/part-0; {FULL}\n [Op:Save]")
  assert (
    message(error)
    == f"/runs/x/ckpt-8_temp/part-0: no space left on device (/runs/x/ckpt-8_temp/part-0; {FULL} [Op:Save])"
  )
  assert message(OSError(errno.ENOSPC, FULL)) == f"writing: no space left on device ([Errno 28] {FULL})"


@pytest.fixture
def free(monkeypatch):
  asked = []

  def disk_usage(where):
    asked.append(pathlib.Path(where))
    return types.SimpleNamespace(free=1_500_000)

  monkeypatch.setattr(shutil, "disk_usage", disk_usage)
  return asked


@pytest.mark.parametrize(
  ("options", "rest"),
  [
    ({}, " (1.5 MB are free there)."),
    ({"needs": 4_000_000}, " (about 4.0 MB are needed, 1.5 MB are free there, 2.5 MB are missing)."),
    ({"needs": 900}, " (about 900 bytes are needed, 1.5 MB are free there)."),
    ({"needs": lambda: 2_500_000_000, "intact": lambda: "ckpt-4 is intact."}, None),
    ({"intact": "What was there before is intact."}, " (1.5 MB are free there). What was there before is intact."),
  ],
)
def test_a_block_that_stores_says_what_where_how_much_is_missing_and_what_is_intact(options, rest, free, tmp_path):
  rest = rest or " (about 2.5 GB are needed, 1.5 MB are free there, 2.5 GB are missing). ckpt-4 is intact."
  cause = OSError(errno.ENOSPC, FULL)
  with pytest.raises(StorageError) as raised, storing("a checkpoint", tmp_path / "run" / "last", **options):
    raise cause
  expected = f"{tmp_path}/run/last: a checkpoint could not be written: no space left on device{rest}"
  assert str(raised.value) == expected
  assert raised.value.__cause__ is cause
  assert raised.value.exit_code == 74
  assert free == [tmp_path], "the nearest folder that is there"


def test_a_system_that_does_not_say_what_is_free_is_not_waited_for(monkeypatch):
  def gone(where):
    raise OSError(errno.ESTALE, "Stale file handle")

  monkeypatch.setattr(shutil, "disk_usage", gone)
  told = pytest.raises(StorageError, match=r"^/runs: a version could not be written: stale file handle\.$")
  with told, storing("a version", "/runs", needs=10):
    raise tf.errors.UnknownError(None, None, "/runs/x; Stale file handle")


class Panic(BaseException):
  """As polars' panics: no `Exception`."""


def test_a_panic_about_a_disk_is_told_too():
  told = pytest.raises(StorageError, match="the records could not be written: no space left on device")
  with told, storing("the records", "/runs"):
    raise Panic(f"called `Result::unwrap()` on an `Err` value: {FULL}")


@pytest.mark.parametrize(
  "error",
  [
    ValueError("no such thing"),
    FileExistsError(errno.EEXIST, "File exists", "/runs"),
    Panic("index out of bounds"),
    UserError(f"{FULL}, says somebody"),
    SettingsError("the loss is nan"),
    DamagedError("ckpt-4: damaged"),
    StorageError("/runs/x: x could not be written"),
    KeyboardInterrupt(),
    SystemExit(143),
  ],
)
def test_any_other_error_leaves_a_block_that_stores_as_it_is(error):
  def never():
    raise AssertionError("asked")

  with pytest.raises(type(error)) as raised, storing("a checkpoint", "/runs", needs=never, intact=never):
    raise error
  assert raised.value is error


def test_a_block_that_goes_well_asks_nothing():
  def never():
    raise AssertionError("asked")

  with storing("a checkpoint", "/runs", needs=never, intact=never):
    pass


@pytest.mark.parametrize(
  ("size", "text"),
  [
    (0, "0 bytes"),
    (999, "999 bytes"),
    (1_000, "1.0 kB"),
    (1_250_000, "1.2 MB"),
    (3_400_000_000, "3.4 GB"),
    (5e15, "5000.0 TB"),
  ],
)
def test_sizes_are_readable(size, text):
  assert storage.readable(size) == text
