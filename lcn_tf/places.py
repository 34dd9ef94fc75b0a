"""Local places of URLs: where the copy of what lies in an object store is, and which URL a place stands for.

    <folder>/s3/bucket/path   stands for   s3://bucket/path

What people read has the URL: messages, logs, reports and JSON. A process has a folder of its own, in the one for
temporary files, and knows those of its parents.
"""

import atexit
import os
import pathlib
import shutil
import tempfile

SCHEMES = ("s3", "gs", "hdfs")
_FOLDERS = "LCN_TF_PLACES"  # environment variable: the folders of this process and its parents
_own: list[str] = []


def place(url: str) -> pathlib.Path:
  """The local place of a URL; nothing is there yet."""
  if not _own:
    _own.append(os.path.realpath(tempfile.mkdtemp(prefix="places-")))
    atexit.register(shutil.rmtree, _own[0], ignore_errors=True)
    os.environ[_FOLDERS] = os.pathsep.join([*_own, *_folders()])
  scheme, _, rest = url.partition("://")
  return pathlib.Path(_own[0], scheme, rest)


def shown(said: str | pathlib.Path) -> str:
  """A path, or a text with paths in it, with the URLs that places stand for."""
  text = str(said)
  for folder in _folders():
    for scheme in SCHEMES:
      text = text.replace(f"{folder}/{scheme}/", f"{scheme}://")
  return text


def stands_for(path: str | pathlib.Path) -> str | None:
  """The URL that a local path stands for; None for any other path."""
  said = shown(path)
  return None if said == str(path) else said


def _folders() -> list[str]:
  return os.environ.get(_FOLDERS, "").split(os.pathsep) if os.environ.get(_FOLDERS) else []
