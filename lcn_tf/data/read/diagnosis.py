"""Which record is broken, and where.

`lcn_tf.data.read.dataset` reads fast, and only notices that some record is broken. This module then reads the files
again, record by record, until it finds that record.
"""

import atexit
import contextlib
import dataclasses
import os
import pathlib
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
from absl import logging

from lcn_tf.data import records
from lcn_tf.data.id_mapping import fingerprint, id_mapping_of
from lcn_tf.data.read import validity
from lcn_tf.data.record_set import RecordSet, Shard
from lcn_tf.errors import StorageError, UserError, one_line
from lcn_tf.formats import sha256
from lcn_tf.schema import DOMAINS, DomainName, Schema

_HEADER, _FOOTER = 12, 4  # of a TFRecord: length (8) and its checksum (4); the data's checksum (4)
_DATA_ERRORS = (
  tf.errors.DataLossError,
  tf.errors.InvalidArgumentError,
  tf.errors.FailedPreconditionError,
  tf.errors.NotFoundError,
)


class NothingLeft(UserError):
  """No record of a split can be read."""


@dataclasses.dataclass(frozen=True)
class ScannedRecord:
  """One record of a shard.

  Attributes:
    number: Place of the record in the shard, from 0.
    offset: Offset of the first byte in the uncompressed shard.
    serialized: Bytes of the record; None if they cannot be read.
    reason: Reason why the record cannot be used; None if it can.
  """

  number: int
  offset: int
  serialized: bytes | None
  reason: str | None


@dataclasses.dataclass(frozen=True)
class Repaired:
  """Shards without broken records: paths, numbers of records, and the number of records that were left out."""

  paths: list[str]
  counts: list[int]
  broken: int


@contextlib.contextmanager
def guard(record_set: RecordSet, split: str, domains: Sequence[DomainName] = ("target",)) -> Iterator[None]:
  """Turns TensorFlow's errors of broken records of `split` into a `UserError` that names the record.

  An error that does not come from reading records passes unchanged.

  Raises:
    StorageError: The store that holds the records has failed.
  """
  try:
    yield
  except tf.errors.OpError as error:
    broken = isinstance(error, _DATA_ERRORS) and _from_records(error)
    message = _first_broken(record_set, split, domains) if broken else None
    if message is not None:
      raise UserError(message) from error
    if record_set.source and record_set.source in str(error):
      record_set.check_reachable()
      raise StorageError(f"{record_set.source}: reading failed: {one_line(error)}") from error
    raise


def explain(record_set: RecordSet, split: str, domains: Sequence[DomainName], error: Exception) -> UserError:
  """The error to show for `error`, which reading `split` raised: the first broken record, if one is found.

  Args:
    record_set: Record set that was read.
    split: Split that was read.
    domains: Domains whose records were read.
    error: Error of TensorFlow, whose message is shown if no broken record is found.
  """
  message = _first_broken(record_set, split, domains)
  return UserError(message or f"{record_set.path}/{split}: reading failed, though every record is valid: {error}")


def is_described(record_set: RecordSet, shard: Shard) -> bool:
  """Whether a shard has the size and the first and last bytes that `dataset.json` has of it, if it has them."""
  if not shard.ends:
    return True
  return record_set.shard_size(shard) == shard.size and record_set.shard_ends(shard) == shard.ends


def not_described(record_set: RecordSet, shard: Shard, domain: DomainName) -> UserError:
  """The error for a shard that is not the one that `dataset.json` describes: a broken record of it, if there is one."""
  for found in scan(record_set, shard, domain):
    if found.reason:
      return UserError(_message(record_set, shard, found))
  return UserError(_replaced(record_set, shard))


def _replaced(record_set: RecordSet, shard: Shard) -> str:
  with record_set.shard_copy(shard) as path:
    return (
      f"{path}: another shard than dataset.json describes, though every record in it is valid: its sha256 is "
      f"{sha256(path)}, not {shard.sha256}. Put the described one there, or build the records again."
    )


def scan(record_set: RecordSet, shard: Shard, domain: DomainName) -> Iterator[ScannedRecord]:
  """Every record of a shard in order, the broken ones with the reason.

  Bytes that cannot be divided into records are the last `ScannedRecord`: all that follows them is lost.
  """
  with record_set.shard_copy(shard) as path:
    if not path.is_file():
      yield ScannedRecord(0, 0, None, f"this shard is missing; {record_set.path}/dataset.json lists it.")
      return
    yield from _scanned(record_set, shard, domain, path)


def _scanned(record_set: RecordSet, shard: Shard, domain: DomainName, path: pathlib.Path) -> Iterator[ScannedRecord]:
  count = offset = 0
  lost = False
  for serialized, size, reason in _frames(path, record_set.compression == "gzip"):
    if serialized is not None:
      reason = _reason(serialized, record_set, domain)
    yield ScannedRecord(count, offset, serialized, reason)
    lost = not size
    offset += size
    count += 1
  if count != shard.records and not lost:
    yield ScannedRecord(
      count, offset, None, f"the shard ends here; dataset.json says that it holds {shard.records} records."
    )


def repair(record_set: RecordSet, split: str, domain: DomainName) -> Repaired:
  """Shards that can be read: those that are whole as they are, the others copied without their broken records.

  Each broken record is logged with its reason. A shard that is not the described one, though nothing is broken in it,
  belongs to other records, and is left out whole. The copies lie in a temporary folder until the program ends.

  Raises:
    NothingLeft: Nothing is left.
  """
  part = record_set.part(split, domain)
  paths, counts, broken = [], [], 0
  check = _checker(record_set.record_schema, domain)
  options = "GZIP" if record_set.compression == "gzip" else ""
  for shard in part.shards:
    path, good = record_set.shard_path(shard), shard.records
    whole = _whole(record_set, shard, check)
    if whole and not is_described(record_set, shard):
      logging.warning("left out: %s", _replaced(record_set, shard))
      broken += shard.records
      continue
    if not whole:
      folder = tempfile.mkdtemp(prefix="lcn_tf_repaired_")
      atexit.register(shutil.rmtree, folder, ignore_errors=True)
      path, good = f"{folder}/{pathlib.Path(shard.file).name}", 0
      with tf.io.TFRecordWriter(path, options) as writer:
        for found in scan(record_set, shard, domain):
          if found.reason:
            logging.warning("left out: %s", _message(record_set, shard, found))
          else:
            writer.write(found.serialized)
            good += 1
      broken += max(0, shard.records - good)
    paths.append(path)
    counts.append(good)
  if broken:
    logging.warning("%s/%s: %d of %d %s records were left out.", record_set.path, split, broken, part.records, domain)
  if not sum(counts):
    raise NothingLeft(f"{record_set.path}/{split}: none of the {part.records} {domain}-domain records can be read")
  return Repaired(paths, counts, broken)


def verify(record_set: RecordSet) -> list[str]:
  """Every fault of a record set, all of which is read: checksums, fingerprint, counts and every record.

  Returns:
    A message per broken record or file; an empty list for a record set without faults.
  """
  problems = record_set.verify_tables()
  if not problems:
    found = fingerprint(record_set.record_schema, id_mapping_of(record_set))
    if found != record_set.fingerprint:
      problems.append(
        f"{record_set.path}: schema, vocabularies and catalogues have the fingerprint {found}, dataset.json says "
        f"{record_set.fingerprint}."
      )
  checks = {d: _checker(record_set.record_schema, d) for d in DOMAINS}
  for domains in record_set.splits.values():
    for domain, part in domains.items():
      for shard in part.shards:
        with record_set.shard_copy(shard) as path:
          if path.is_file() and (digest := sha256(path)) != shard.sha256:
            problems.append(f"{path}: its sha256 is {digest}, dataset.json says {shard.sha256}.")
          if not _whole(record_set, shard, checks[domain]):
            problems += [_message(record_set, shard, one) for one in scan(record_set, shard, domain) if one.reason]
  return problems


def _first_broken(record_set: RecordSet, split: str, domains: Sequence[DomainName]) -> str | None:
  record_set.check_reachable()
  for domain in domains:
    check = _checker(record_set.record_schema, domain)
    for shard in record_set.part(split, domain).shards:
      if not _whole(record_set, shard, check):
        for found in scan(record_set, shard, domain):
          if found.reason:
            return _message(record_set, shard, found)
  return None


def _message(record_set: RecordSet, shard: Shard, found: ScannedRecord) -> str:
  unit = "uncompressed offset" if record_set.compression == "gzip" else "offset"
  return f"{record_set.path / shard.file}: record {found.number} ({unit} {found.offset}): {found.reason}"


def _from_records(error: Exception) -> bool:
  """Whether reading raised the error, rather than the model."""
  marks = ("IteratorGetNext", "Input dataset was expected to contain", validity.FAILED)
  return isinstance(error, tf.errors.DataLossError) or any(mark in str(error) for mark in marks)


def _reason(serialized: bytes, record_set: RecordSet, domain: DomainName) -> str | None:
  try:
    request = records.decode(serialized, record_set.record_schema)
  except ValueError as error:
    return f"{error}."
  return validity.problem(request, record_set.record_schema, domain)


def _checker(schema: Schema, domain: DomainName) -> Callable[[tf.Tensor], None]:
  """Raises InvalidArgumentError if one of some serialized records `[B]` is not valid."""

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
  def check(serialized: tf.Tensor) -> None:
    data = records.features(serialized, schema)
    validity.assert_valid(data, records.tensors(data, schema), schema, domain)

  return check


def _whole(record_set: RecordSet, shard: Shard, check: Callable[[tf.Tensor], None]) -> bool:
  """Whether all records of a shard are there and valid; fast, without naming a broken one."""
  compression = "GZIP" if record_set.compression == "gzip" else ""
  serialized = tf.data.TFRecordDataset(record_set.shard_path(shard), compression, record_set.shard_buffer)
  serialized = serialized.apply(tf.data.experimental.assert_cardinality(shard.records))
  try:
    for some in serialized.batch(64).prefetch(2):
      check(some)
  except _DATA_ERRORS:
    return False
  return True


def _frames(path: pathlib.Path, compressed: bool) -> Iterator[tuple[bytes | None, int, str | None]]:
  """The records of a TFRecord file: (bytes, or None if broken; bytes that it takes, 0 if unknown; the reason).

  TensorFlow's reader, which checks the checksums, reads up to a broken record. The records behind it are read from a
  copy.
  """
  start = 0
  damage = None
  with tempfile.TemporaryDirectory() as folder:
    plain = rest = str(path)
    if compressed:
      plain = rest = f"{folder}/plain"
      damage = _inflate(path, plain)
    while True:
      try:
        for serialized in tf.data.TFRecordDataset(rest).as_numpy_iterator():
          size = _HEADER + len(serialized) + _FOOTER
          start += size
          yield serialized, size, None
        break
      except tf.errors.DataLossError:
        size, reason = _broken_frame(plain, start)
      if not size:
        yield None, 0, damage or reason
        return
      yield None, size, reason
      start += size
      rest = f"{folder}/rest"
      with open(plain, "rb") as file, open(rest, "wb") as copy:
        file.seek(start)
        shutil.copyfileobj(file, copy)
  if damage:
    yield None, 0, damage


def _inflate(path: pathlib.Path, plain: str) -> str | None:
  """Unpacks a gzip file as far as possible; returns its fault, or None."""
  engine = zlib.decompressobj(wbits=31)
  with open(path, "rb") as file, open(plain, "wb") as copy:
    while block := file.read(1024):
      try:
        copy.write(engine.decompress(block))
      except zlib.error as error:
        return f"the compressed data is corrupt ({error}); the rest of the file cannot be read."
      if engine.unused_data:
        return "bytes follow the end of the compressed data."
  return None if engine.eof else "the file ends within it."


def _broken_frame(plain: str, start: int) -> tuple[int, str]:
  """The size (0 if unknown) of the record at `start` that TensorFlow cannot read, and its fault."""
  with open(plain, "rb") as file:
    file.seek(start)
    header = file.read(_HEADER)
    if len(header) < _HEADER:
      return 0, "the file ends within it."
    length, checksum = struct.unpack("<QI", header)
    if checksum != _masked_crc32c(header[:8]):
      return 0, "its length is corrupt (checksum mismatch); the rest of the file cannot be read."
    if os.path.getsize(plain) < start + _HEADER + length + _FOOTER:
      return 0, "the file ends within it."
    return _HEADER + length + _FOOTER, "its data is corrupt (checksum mismatch)."


def _masked_crc32c(data: bytes) -> int:
  """The checksum of TFRecord files."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
  crc ^= 0xFFFFFFFF
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
