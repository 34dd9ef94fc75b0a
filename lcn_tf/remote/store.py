"""Files behind a URL. Reading, listing and writing go through pyarrow; TensorFlow streams shards through tensorflow-io.

tensorflow-io says of a store that cannot be reached that there is no such file. A job that believed it would begin anew
over an earlier one. pyarrow tells the two apart, and writes an object whole or not at all.
"""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, BinaryIO

from lcn_tf import files, places, storage
from lcn_tf.errors import DamagedError, StorageError, UserError, one_line

BUFFER = 2**23  # bytes that TensorFlow reads of a shard at a time
_ENDPOINTS = ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ATTEMPTS = 5  # of a request
_SECONDS = 30.0  # that a request waits for an answer
_FILES = 8  # copied at the same time
_NO_ACCESS = (
  *("access_denied", "invalid_access_key", "signature_does_not_match", "invalid_client_token", "unrecognized_client"),
  *("missing_authentication", "expired_token", "http status 403", "http status 401", "permission denied"),
  *("permission_denied", "unauthenticated", "unauthorized", "forbidden", "could not create a oauth2 access token"),
)
_NO_BUCKET = ("no_such_bucket", "bucket does not exist", "no such bucket")


class LostError(StorageError):
  """A store that cannot be reached, or fails."""


def url(path: str | pathlib.Path | None) -> str | None:
  """The URL that a path is, without a slash at its end; None for a local path.

  Raises:
    UserError: It is a URL that is not supported, or names no bucket.
  """
  found = None if path is None else files.url(path)
  if found is None:
    return None
  scheme, _, rest = found.partition("://")
  if scheme not in places.SCHEMES:
    raise UserError(f"{found}: only local or mounted paths, and s3://, gs:// and hdfs:// URLs, are read and written")
  if not rest.strip("/") and scheme != "hdfs":
    raise UserError(f"{found}: expected {scheme}://BUCKET/PATH")
  return f"{scheme}://{rest.rstrip('/')}"


@contextlib.contextmanager
def reaching(where: str) -> Iterator[None]:
  """What a store says, as one message.

  Args:
    where: URL of what is read or written.

  Raises:
    UserError: There is no such file or bucket, or no access to it.
    LostError: The store cannot be reached, or fails otherwise.
  """
  try:
    yield
  except FileNotFoundError:
    raise UserError(f"{where}: not found") from None
  except PermissionError as error:
    raise UserError(f"{where}: no access: {one_line(error)}") from None
  except (OSError, ValueError, NotImplementedError) as error:
    if storage.failure(error):  # of a local disk
      raise
    said = str(error).lower()
    if any(words in said for words in _NO_BUCKET):
      raise UserError(f"{where}: no such bucket") from None
    if any(words in said for words in _NO_ACCESS):
      raise UserError(f"{where}: no access, with the credentials that the environment has: {one_line(error)}") from None
    if "libjvm" in said or "libhdfs" in said:
      raise UserError(f"{where}: hdfs:// needs Hadoop's libhdfs, JAVA_HOME and CLASSPATH: {one_line(error)}") from None
    raise LostError(f"{where}: the store cannot be reached, or fails: {one_line(error)}") from None


def listing(where: str) -> dict[str, int]:
  """Sizes of the files below a folder by their paths below it; none if there is no folder. Hidden ones are left out."""
  from pyarrow import fs

  with reaching(where):
    system, path = _of(where)
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
  # paths of hdfs may come with the name of the server
  names = {one.path.partition(f"{path.strip('/')}/")[2]: one for one in found}
  kept = {name: one.size for name, one in names.items() if one.is_file and not _hidden(name)}
  return dict(sorted(kept.items()))


def size(where: str) -> int | None:
  """Bytes of a file; None if there is none."""
  with reaching(where):
    system, path = _of(where)
    found = system.get_file_info(path)
  return int(found.size) if found.is_file else None


def read(where: str) -> bytes:
  """The bytes of a small file. Raises `UserError` if there is none."""
  with opened(where) as file:
    return bytes(file.read())


@contextlib.contextmanager
def opened(where: str) -> Iterator[BinaryIO]:
  """A file to read and seek in; as much of it is fetched as is read."""
  with reaching(where):
    system, path = _of(where)
    with system.open_input_file(path) as file:
      yield file


def write(where: str, data: bytes) -> None:
  """Writes a small file, in the place of what is there."""
  with reaching(where):
    system, path = _of(where)
    _make_parent(system, where, path)
    file = system.open_output_stream(path)
    file.write(data)
    file.close()


def fetch(where: str, to: pathlib.Path, expected: int | None = None) -> None:
  """Copies a file from a store, whole or not at all.

  Args:
    where: URL.
    to: Local file.
    expected: Its size, bytes; None = not known.

  Raises:
    UserError: It is not there, or has another size than it had a moment ago.
    StorageError: The store, or the disk, fails.
  """
  from pyarrow import fs

  with files.replacing(to) as aside, reaching(where):
    system, path = _of(where)
    fs.copy_files(path, str(aside), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())
    if expected is not None and aside.stat().st_size != expected:
      raise DamagedError(f"{where}: {aside.stat().st_size} bytes came, of {expected}: somebody is writing there")


def fetch_all(names: dict[str, int], where: str, to: pathlib.Path) -> None:
  """Copies files of a folder, several at a time; arguments as of `listing` and `fetch`."""
  with concurrent.futures.ThreadPoolExecutor(_FILES) as pool:
    for done in [pool.submit(fetch, f"{where}/{name}", to / name, bytes_) for name, bytes_ in names.items()]:
      done.result()


def put(file: pathlib.Path, where: str) -> None:
  """Copies a local file to a store: a reader finds the whole of it, or what was there before.

  Raises:
    StorageError: The store fails.
  """
  from pyarrow import fs

  with reaching(where):
    system, path = _of(where)
    _make_parent(system, where, path)
    least = file.stat().st_size  # a log may grow
    atomic = not where.startswith("hdfs")  # an object appears when all of it has come
    folder, _, name = path.rpartition("/")
    aside = path if atomic else f"{folder}/.{name}.{uuid.uuid4().hex[:12]}.{files.ASIDE}"
    fs.copy_files(str(file), aside, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)
    if not atomic:
      with contextlib.suppress(FileNotFoundError):
        system.delete_file(path)
      system.move(aside, path)
    found = system.get_file_info(path)
    if not found.is_file or found.size < least:
      raise LostError(f"{where}: {found.size or 0} bytes are there, and {least} were written")


def delete(where: str, names: Iterable[str]) -> None:
  """Removes files of a folder, in this order; one that is not there is passed over."""
  with reaching(where):
    for name in names:
      system, path = _of(f"{where}/{name}")
      with contextlib.suppress(FileNotFoundError):
        system.delete_file(path)


def for_tensorflow(where: str) -> str:
  """A URL that TensorFlow can read from now on."""
  if where.startswith("s3"):
    _settings()
  if not where.startswith("gs"):  # which TensorFlow has
    import tensorflow_io  # noqa: F401  (registers the file systems)
  return where


def _of(where: str) -> tuple[Any, str]:
  """The file system behind a URL, and the path there."""
  scheme, _, rest = where.partition("://")
  if scheme == "hdfs":
    host, _, path = rest.partition("/")
    return _system(scheme, host), f"/{path}"
  return _system(scheme, ""), rest


@functools.cache
def _system(scheme: str, host: str) -> Any:
  from pyarrow import fs

  if scheme == "hdfs":
    return fs.HadoopFileSystem.from_uri(f"hdfs://{host or 'default'}")
  if scheme == "gs":
    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=2 * _SECONDS))
  endpoint, region = _settings()
  return fs.S3FileSystem(
    endpoint_override=endpoint,
    region=region,
    connect_timeout=_SECONDS / 3,
    request_timeout=_SECONDS,
    retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
  )


def _settings() -> tuple[str | None, str | None]:
  """Endpoint and region that the environment names; TensorFlow's own variables for them are set."""
  endpoint, region = (next(filter(None, map(os.environ.get, names)), None) for names in (_ENDPOINTS, _REGIONS))
  if endpoint:
    secure = not endpoint.startswith("http://")
    os.environ["S3_ENDPOINT"] = endpoint
    os.environ.setdefault("S3_USE_HTTPS", str(int(secure)))
    if "://" not in endpoint:
      endpoint = f"{'http' if os.environ['S3_USE_HTTPS'] == '0' else 'https'}://{endpoint}"
  if region:
    os.environ.setdefault("AWS_REGION", region)
  return endpoint, region


def _make_parent(system: Any, where: str, path: str) -> None:
  # a store has no folders
  if where.startswith("hdfs"):
    system.create_dir(path.rpartition("/")[0], recursive=True)


def _hidden(name: str) -> bool:
  return any(part.startswith(".") for part in name.split("/"))
