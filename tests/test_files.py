"""Files that are whole or not there, and folders that one process holds."""

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import pathlib
import shutil
import tempfile

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf import files, formats
from lcn_tf.errors import DamagedError, StorageError, UserError
from tests.support import children
from tests.support.damage import flip


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
  file = tmp_path / "new" / "file.txt"
  with files.replacing(file) as aside:
    aside.write_text("first")
    assert not file.exists()
  with pytest.raises(UnicodeEncodeError), files.replacing(file) as aside:
    aside.write_text("half \ud800 of the second")
  assert file.read_text() == "first"
  assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"file: no folder can be made here: File exists"):
    files.make(tmp_path / "file")
  with pytest.raises(UserError, match=r"file/below: no folder can be made here: Not a directory"):
    files.make(tmp_path / "file" / "below")


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
  with (
    files.exclusive(tmp_path, "somebody"),
    pytest.raises(UserError, match="another is at work here"),
    files.exclusive(tmp_path, "another"),
  ):
    pytest.fail("both hold it")
  with files.exclusive(tmp_path, "somebody"):
    pass


def test_a_file_system_without_locks_is_told_and_goes_on(tmp_path, monkeypatch, caplog):
  def no_locks(*arguments):
    raise OSError(37, "No locks available")

  monkeypatch.setattr(fcntl, "flock", no_locks)
  with files.exclusive(tmp_path, "somebody"):
    assert "cannot be locked (No locks available)" in caplog.text


@pytest.mark.parametrize("path", ["gs://bucket/run", pathlib.Path("gs://bucket/run")])
def test_a_bucket_is_no_folder(tmp_path, monkeypatch, path):
  monkeypatch.chdir(tmp_path)
  message = r"^gs://bucket/run: only local or mounted paths are read and written$"
  for use in (files.local, files.make):
    with pytest.raises(UserError, match=message):
      use(path)
  for block in (files.exclusive(path, "somebody"), files.replacing(path)):
    with pytest.raises(UserError, match=message), block:
      pytest.fail("made")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["a:b/run", "/mnt/gs:/run", "c:", "run"])
def test_a_colon_alone_makes_no_bucket(path):
  assert files.local(path) == pathlib.Path(path)


@pytest.mark.parametrize("name", ["runs [new]", "a*b", "what?", "back\\slash", "[", "plain"])
def test_tensorflow_writes_and_reads_where_a_name_looks_like_a_pattern(name, tmp_path):
  folder = tmp_path / name / "below"
  folder.mkdir(parents=True)
  plain = files.plain(folder)
  assert not set(plain) & set("*?[]\\")
  assert os.path.samefile(plain, folder)
  assert (plain == str(folder)) == (name == "plain")
  assert files.plain(folder.parent / "later") == str(pathlib.Path(plain).parent / "later")
  tf.train.Checkpoint(value=tf.Variable(3.0)).write(f"{plain}/ckpt-1")
  assert {path.name for path in folder.iterdir()} == {"ckpt-1.index", "ckpt-1.data-00000-of-00001"}
  value = tf.Variable(0.0)
  tf.train.Checkpoint(value=value).read(f"{plain}/ckpt-1").assert_consumed()
  assert value.numpy() == 3


def test_a_relative_path_is_made_absolute_before_it_is_given_to_tensorflow(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert files.plain("run/last") == str(tmp_path / "run" / "last")


def test_a_pattern_in_the_folder_for_temporary_files_too_is_told(tmp_path, monkeypatch):
  (tmp_path / "a*").mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a*"))
  with pytest.raises(UserError, match=r"a\*/links-\w+: TensorFlow reads this path as a pattern; set TMPDIR to one"):
    files.plain(tmp_path / "b*")
  assert files.plain(tmp_path / "b") == str(tmp_path / "b")


def texts(folder):
  return {path.name: path.read_text() for path in folder.iterdir()}


OLD = {"frame": "old frame", "page": "old page", "numbers": "old numbers"}


@pytest.fixture
def results(tmp_path):
  folder = tmp_path / "results"
  folder.mkdir()
  for name, text in OLD.items():
    (folder / name).write_text(text)
  return folder


def test_a_result_takes_the_place_of_an_older_one(results):
  files.publish(results, "the results", {"frame": lambda path: path.write_text("new"), "numbers": "1"})
  assert texts(results) == {"frame": "new", "page": "old page", "numbers": "1"}


def test_a_result_whose_last_file_is_there_is_whole(results, monkeypatch):
  """Files are put in place in their order, and the last one is away until then."""
  steps, replace = [], pathlib.Path.replace

  def spy(path, target):
    steps.append((target.name, texts(results).get("numbers"), len([p for p in results.iterdir() if p.suffix])))
    return replace(path, target)

  monkeypatch.setattr(pathlib.Path, "replace", spy)
  files.publish(results, "the results", dict.fromkeys(OLD, "new"))
  assert steps == [("frame", None, 3), ("page", None, 2), ("numbers", None, 1)]
  assert texts(results) == dict.fromkeys(OLD, "new")


def full(*arguments, **options):
  raise OSError(errno.ENOSPC, "No space left on device")


def wrong(path):
  path.write_text("half")
  raise ValueError("no such thing")


@pytest.mark.parametrize(
  ("writer", "error", "message"),
  [
    (full, StorageError, r"results: the results could not be written: no space .* intact\.$"),
    (wrong, ValueError, r"^no such thing$"),
  ],
)
@pytest.mark.parametrize("failing", OLD)
def test_a_result_of_which_one_file_cannot_be_written_leaves_the_older_one(failing, writer, error, message, results):
  with pytest.raises(error, match=message):
    files.publish(results, "the results", dict.fromkeys(OLD, "new") | {failing: writer})
  assert texts(results) == OLD


def test_a_disk_that_is_full_only_when_it_is_flushed_leaves_the_older_result(results, monkeypatch):
  """Over a network, and with quotas, a write may succeed and the flush after it fail."""
  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(StorageError, match=r"What was there before is intact\.$"):
    files.publish(results, "the results", dict.fromkeys(OLD, "new"))
  assert texts(results) == OLD


HOLD = """
  import pathlib, sys
  from lcn_tf import files
  aside, _ = files.claim(pathlib.Path(sys.argv[1]), folder=sys.argv[2] == "folder")
  if aside.is_dir():
    (aside / "part").write_text("half")
  print(aside, flush=True)
  sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_aside_is_removed_when_its_process_was_killed_and_not_before(kind, tmp_path):
  process = children.start(HOLD, tmp_path / "out[1]", kind)
  aside = pathlib.Path(children.line(process))
  assert aside.parent == tmp_path
  assert files.sweep(tmp_path) == [aside]
  mine, lock = files.claim(tmp_path / "out[1]", folder=False)
  assert aside.exists()
  children.kill(process)
  assert aside.exists()
  other, other_lock = files.claim(tmp_path / "out", folder=False)
  assert aside.exists(), "of another name"
  os.close(other_lock)
  other.unlink()
  again, again_lock = files.claim(tmp_path / "out[1]", folder=False)
  assert sorted(tmp_path.iterdir()) == sorted([mine, again])
  os.close(lock)
  os.close(again_lock)
  assert files.sweep(tmp_path) == []
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [True, False])
def test_what_somebody_takes_for_dead_before_it_is_held_is_left_to_him(folder, tmp_path, monkeypatch):
  flock, taken = fcntl.flock, []

  def remove():
    (shutil.rmtree if folder else os.unlink)(taken[0])

  def tidied_by_another(descriptor, how):
    if not taken:
      taken.extend(tmp_path.iterdir())
      if how & fcntl.LOCK_NB:
        raise BlockingIOError
      remove()  # the other one has the lock until then
    flock(descriptor, how)

  monkeypatch.setattr(fcntl, "flock", tidied_by_another)
  aside, lock = files.claim(tmp_path / "out", folder=folder)
  if taken[0].exists():
    remove()
  assert list(tmp_path.iterdir()) == [aside]
  os.close(lock)


def test_making_a_folder_of_ours_tidies_it(tmp_path):
  left = tmp_path / ".results.0123456789ab.aside"
  left.write_text("half")
  (tmp_path / ".other").write_text("")
  files.make(tmp_path, tidy=False)
  assert left.exists()
  files.make(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == [".other"]


def test_without_locks_nothing_aside_is_taken_for_dead(tmp_path, monkeypatch):
  def no_locks(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", no_locks)
  aside, lock = files.claim(tmp_path / "out", folder=True)
  assert files.sweep(tmp_path) == [aside]
  os.close(lock)


def test_a_folder_aside_goes_unless_it_is_renamed(tmp_path):
  with files.folder_aside(tmp_path / "out") as aside:
    (aside / "part").write_text("")
  assert list(tmp_path.iterdir()) == []
  with files.folder_aside(tmp_path / "out") as aside:
    aside.rename(tmp_path / "out")
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


SEALED = {"name": "small", "auc": 0.75, "none": math.nan, "parts": [1, 2], "text": "ä"}


def test_a_sealed_file_gives_back_what_was_written_and_its_format(tmp_path):
  formats.write_sealed(tmp_path / "it.json", SEALED)
  assert formats.read_sealed(tmp_path / "it.json") == {"format": 2, **SEALED, "none": None}
  assert json.loads((tmp_path / "it.json").read_text())["checksum"]


def test_no_flipped_bit_of_a_sealed_file_goes_unnoticed(tmp_path):
  file = tmp_path / "it.json"
  formats.write_sealed(file, SEALED)
  whole, expected = file.read_bytes(), formats.read_sealed(file)
  noticed = 0
  for place in range(len(whole)):
    for bits in (1 << place % 8, 0xFF):
      flip(file, place, bits)
      try:
        assert formats.read_sealed(file) == expected
      except DamagedError:
        noticed += 1
      file.write_bytes(whole)
  assert noticed > 0.9 * 2 * len(whole)


def test_no_200_random_changes_of_a_sealed_file_go_unnoticed(tmp_path):
  file, rng = tmp_path / "it.json", np.random.default_rng(0)
  formats.write_sealed(file, SEALED)
  whole, expected = file.read_bytes(), formats.read_sealed(file)
  for _ in range(200):
    data = bytearray(whole)
    for place in rng.integers(len(data), size=rng.integers(2, 6)):
      data[place] = rng.integers(256)
    file.write_bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data)
    with contextlib.suppress(DamagedError):
      assert formats.read_sealed(file) == expected


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ('{"name": "old"}', {"name": "old"}),
    ('{"format": 1, "name": "old"}', {"format": 1, "name": "old"}),
  ],
)
def test_a_file_from_before_there_were_seals_is_read(text, expected, tmp_path):
  (tmp_path / "it.json").write_text(text)
  assert formats.read_sealed(tmp_path / "it.json") == expected


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (
      b'{"name": "\xff"}',
      r"it\.json: damaged: not JSON: 'utf-8' codec can't decode byte 0xff .*\. Take it from a backup",
    ),
    (b"", r"it\.json: damaged: not JSON: Expecting value: line 1 column 1 \(char 0\)\. Take"),
    (b"[" * 100_000, r"it\.json: damaged: not JSON: maximum recursion depth exceeded.*\. Take"),
    (b'{"size": ' + b"9" * 5_000 + b"}", r"it\.json: damaged: not JSON: Exceeds the limit .*\. Take"),
    (b"[1]", r"it\.json: damaged: expected a JSON object\. Take it from a backup, or make it again\.$"),
    (b'{"format": 2}', r"it\.json: damaged, or changed by hand: its checksum is not that of what it holds\."),
    (b'{"name": "old", "checksum": "0"}', r"it\.json: damaged, or changed by hand"),
  ],
)
def test_what_is_no_sealed_file_is_named(data, message, tmp_path):
  (tmp_path / "it.json").write_bytes(data)
  with pytest.raises(DamagedError, match=message):
    formats.read_sealed(tmp_path / "it.json")


def test_no_flipped_bit_of_a_checked_text_goes_unnoticed(tmp_path):
  file = tmp_path / "it.yaml"
  formats.write_checked(file, "name: small\ntrain:\n  epochs: 3\n")
  assert file.read_text().endswith("\nname: small\ntrain:\n  epochs: 3\n")
  formats.check_text(file)
  whole = file.read_bytes()
  for place in range(len(whole)):
    for bits in (1 << place % 8, 0xFF):
      flip(file, place, bits)
      with pytest.raises(DamagedError, match=r"it\.yaml: damaged, or changed by hand: .* Train again\.$"):
        formats.check_text(file, "Train again.")
      file.write_bytes(whole)
  for size in range(1, len(whole)):
    file.write_bytes(whole[:size])
    with pytest.raises(DamagedError):
      formats.check_text(file)


@pytest.mark.parametrize("text", ["name: old\n", "", "name: '# written by somebody'\n"])
def test_a_text_from_before_there_were_checksums_passes(text, tmp_path):
  (tmp_path / "it.yaml").write_text(text)
  formats.check_text(tmp_path / "it.yaml")


FRAME = pl.DataFrame(
  {"user": range(40), "item": [f"i{i % 7}" for i in range(40)], "seen": [[i, 2 * i] for i in range(40)]}
)


def test_a_parquet_file_is_read_by_columns_though_its_name_looks_like_a_pattern(tmp_path):
  FRAME.write_parquet(tmp_path / "a[1]*.parquet")
  assert formats.parquet(tmp_path / "a[1]*.parquet").equals(FRAME)
  assert formats.parquet(str(tmp_path / "a[1]*.parquet"), ["item"]).equals(FRAME.select("item"))
  with pytest.raises(DamagedError, match=r"a\[1\]\*\.parquet: .*clicks.* Take it from a backup"):
    formats.parquet(tmp_path / "a[1]*.parquet", ["clicks"])


def test_a_parquet_file_that_is_none_is_named(tmp_path):
  (tmp_path / "it.parquet").write_text("user,item\n1,2\n")
  for source, where, name in (
    (tmp_path / "it.parquet", "", "it.parquet"),
    (io.BytesIO(b""), "the users", "the users"),
  ):
    with pytest.raises(DamagedError, match=rf"{name}: damaged, or no Parquet file: .*\. Build it again\.$"):
      formats.parquet(source, where=where, remedy="Build it again.")
  with pytest.raises(DamagedError, match=r"nowhere\.parquet: .*No such file or directory"):
    formats.parquet(tmp_path / "nowhere.parquet")


def test_a_damaged_parquet_file_raises_nothing_but_a_damaged_error():
  """Its pages have no checksums, so some damage is not seen; polars panics at some of the rest."""
  stream = io.BytesIO()
  FRAME.write_parquet(stream)
  whole, rng = stream.getvalue(), np.random.default_rng(0)
  found = {"same": 0, "other": 0, "damaged": 0}
  for turn in range(200):
    data = bytearray(whole)
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    if turn % 4 == 0:
      data = data[: rng.integers(len(data))]
    try:
      frame = formats.parquet(io.BytesIO(bytes(data)), where="it.parquet")
      found["same" if frame.equals(FRAME) else "other"] += 1
    except DamagedError:
      found["damaged"] += 1
  assert found["damaged"] > 50
  assert found["same"] > 10


def test_a_disk_that_fails_while_a_parquet_file_is_read_is_no_damage(monkeypatch):
  class Gone(io.RawIOBase):
    def read(self, *arguments):
      raise OSError(errno.ESTALE, "Stale file handle")

  with pytest.raises(StorageError, match=r"^it\.parquet: stale file handle$"):
    formats.parquet(Gone(), where="it.parquet")

  def gone(*arguments, **options):
    raise pl.exceptions.ComputeError("Input/output error (os error 5)")

  monkeypatch.setattr(pl, "read_parquet", gone)
  with pytest.raises(StorageError, match=r"^it\.parquet: input/output error$"):
    formats.parquet(io.BytesIO(), where="it.parquet")


def test_a_link_to_nowhere_is_no_folder(tmp_path):
  (tmp_path / "runs").symlink_to("/gone/away")
  with pytest.raises(UserError, match=r"runs: a link to /gone/away, which is not there$"):
    files.make(tmp_path / "runs")
  (tmp_path / "there").symlink_to(tmp_path)
  assert files.make(tmp_path / "there") == tmp_path / "there"


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_made(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
  with pytest.raises(UserError, match=r"results: this folder cannot be written to$"):
    files.make(tmp_path / "results")


def test_a_full_disk_is_not_the_folders_fault(tmp_path, monkeypatch):
  monkeypatch.setattr(pathlib.Path, "mkdir", full)
  with pytest.raises(StorageError, match=r"results: no folder can be made here: No space left on device$"):
    files.make(tmp_path / "results")
