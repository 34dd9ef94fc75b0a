"""A store in a folder, behind the URLs of a bucket."""

import pathlib

import pytest
from pyarrow import fs

from lcn_tf import places
from lcn_tf.remote import store

BUCKET = "s3://bucket"


class Killed(BaseException):
  """The end of a process by SIGKILL."""


class FolderStore:
  """Stands in the place of pyarrow's file system of a scheme.

  Args:
    folder: Folder in which the buckets are.

  Attributes:
    calls: Names of the calls that have changed something, in order.
    dies_at: Number of such calls after which the next one raises `Killed`; None = never.
    lost: Whether all calls fail as those to a server that is not there.
    refused: Number of calls that have failed so.
  """

  def __init__(self, folder: pathlib.Path):
    self._system = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
    self.calls: list[str] = []
    self.dies_at: int | None = None
    self.lost = False
    self.refused = 0

  def __getattr__(self, name):
    if self.lost:
      self.refused += 1
      raise OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server")
    return getattr(self._system, name)

  def open_output_stream(self, path):
    self._changes(f"write {path}")
    return self._system.open_output_stream(path)

  def delete_file(self, path):
    self._changes(f"delete {path}")
    self._system.delete_file(path)

  def copied(self, path):
    self._changes(f"write {path}")
    return self._system

  def _changes(self, call):
    if self.lost:
      raise OSError("AWS Error NETWORK_CONNECTION")
    if self.dies_at is not None and len(self.calls) >= self.dies_at:
      raise Killed
    self.calls.append(call)


def folder_store(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
  """Has all URLs be files in a folder, and places of URLs that no other test has."""
  folder.mkdir()
  made = FolderStore(folder)
  copy = fs.copy_files

  def copy_files(source, destination, source_filesystem, destination_filesystem):
    if destination_filesystem is made:
      destination_filesystem = made.copied(destination)
    source_filesystem = source_filesystem._system if source_filesystem is made else source_filesystem
    copy(source, destination, source_filesystem=source_filesystem, destination_filesystem=destination_filesystem)

  monkeypatch.setattr(fs, "copy_files", copy_files)
  monkeypatch.setattr(store, "_system", lambda scheme, host: made)
  monkeypatch.setattr(
    store, "_make_parent", lambda system, where, path: made._system.create_dir(path.rpartition("/")[0])
  )
  own = folder.with_name(f"{folder.name}.places")
  monkeypatch.setattr(places, "_own", [str(own)])
  monkeypatch.setenv(places._FOLDERS, str(own))
  return made
