"""Files that are whole or not there, and folders that one process holds."""

import fcntl
import pathlib

import pytest

from lcn_tf import files
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError


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
  for use in (files.local, files.make, RecordSet.open):
    with pytest.raises(UserError, match=message):
      use(path)
  for block in (files.exclusive(path, "somebody"), files.replacing(path)):
    with pytest.raises(UserError, match=message), block:
      pytest.fail("made")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["a:b/run", "/mnt/gs:/run", "c:", "run"])
def test_a_colon_alone_makes_no_bucket(path):
  assert files.local(path) == pathlib.Path(path)
