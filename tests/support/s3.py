"""An S3 server on this machine, as a process of its own."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

from pyarrow import fs

from tests.support import children

BUCKET = "my-bucket"  # of the documents


class Server:
  """A server with a bucket, which keeps all in memory.

  Args:
    log: File for what it says.
    checks: Whether it asks for credentials, which nobody has; there is no bucket then.
  """

  def __init__(self, log: pathlib.Path, checks: bool = False):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    self.endpoint = f"http://127.0.0.1:{port}"
    more = {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if checks else {}
    with log.open("w") as said:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ | more,
        stdout=said,
        stderr=said,
      )
    assert children.eventually(lambda: _listens(port)), log.read_text()
    self.files = fs.S3FileSystem(
      access_key="key",
      secret_key="secret",
      region="us-east-1",
      endpoint_override=self.endpoint,
      allow_bucket_creation=True,
    )
    if not checks:
      self.files.create_dir(BUCKET)

  def environment(self) -> dict[str, str]:
    """The variables with which commands reach it."""
    return {
      "AWS_ACCESS_KEY_ID": "key",
      "AWS_SECRET_ACCESS_KEY": "secret",
      "AWS_REGION": "us-east-1",
      "AWS_ENDPOINT_URL": self.endpoint,
    }

  def put(self, file: pathlib.Path, name: str) -> None:
    fs.copy_files(str(file), f"{BUCKET}/{name}", fs.LocalFileSystem(), self.files)

  def names(self, prefix: str) -> Iterator[str]:
    """The files below a folder of the bucket."""
    found = self.files.get_file_info(fs.FileSelector(f"{BUCKET}/{prefix}", recursive=True, allow_not_found=True))
    return (one.path.removeprefix(f"{BUCKET}/") for one in found if one.is_file)

  def get(self, prefix: str, folder: pathlib.Path) -> pathlib.Path:
    """A local copy of a folder of the bucket."""
    for name in self.names(prefix):
      file = folder / name
      file.parent.mkdir(parents=True, exist_ok=True)
      fs.copy_files(f"{BUCKET}/{name}", str(file), self.files, fs.LocalFileSystem())
    return folder / prefix

  def end(self) -> None:
    self._process.kill()
    self._process.wait()


def _listens(port: int) -> bool:
  with socket.socket() as trial:
    return trial.connect_ex(("127.0.0.1", port)) == 0
