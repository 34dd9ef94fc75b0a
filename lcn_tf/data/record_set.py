"""A record set: the folder that `pipelines.build_records` leaves and that everything else reads.

dataset.json                     this file's `RecordSet`: schema with sizes, counts, fingerprint, checksums of all files
{train,validation,test}/{target,source}/part-00000-of-00008.tfrecord.gz; of those built --like others, what is not empty
vocabularies/<name>.parquet      index, value, count (in the training interactions)
catalogue/<domain>.npy           [items, fields] int32: of every item, the index of its id and inherent fields
catalogue/<domain>.<name>.npy    [items, width] float32 or float16: a vector of every item, one file per vector
catalogue/<domain>_values.npy    [items, columns] float32: standardised values and weights of the item fields, if any
items/<domain>.parquet           row, item_id: which item each catalogue row is
users.parquet                    user, user_id: which user each index is
rejected.parquet                 what was left out, with the reason
state/                           what --extend goes on from; see `lcn_tf.data.build.state`
statistics.json                  `lcn_tf.data.statistics`: counts, histories, times, values of every field
report/index.html                a page of these
"""

import contextlib
import hashlib
import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import pydantic
from absl import logging

from lcn_tf import files, formats, places, storage
from lcn_tf.config import NOT_CONTENTS, Records, difference
from lcn_tf.data.parts import Part, Shard, Table, ends, ends_of
from lcn_tf.errors import DamagedError, UserError, nearest, one_line, unknown
from lcn_tf.formats import sha256
from lcn_tf.remote import store
from lcn_tf.schema import DOMAINS, DomainName, Schema, Strict, columns, value_columns, with_sizes

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_ID_MAPPING = ("vocabularies", "catalogue", "items")
_BUILD_AGAIN = "Build the records again, or take them from a backup."


class RecordSet(Strict):
  """What `dataset.json` says, and where it lies.

  Of a record set in a store, `source` is its URL and `path` a local folder, to which tables come as they are read.
  """

  format: Literal[1, 2] = 2  # 1: without checksums of tables
  name: str
  fingerprint: str
  record_schema: Schema = pydantic.Field(alias="schema")
  compression: Literal["gzip", "none"]
  splits: dict[SplitName, dict[DomainName, Part]]
  tables: dict[str, Table] = {}
  oov_hash: Literal["farmhash64", "blake2b"] = "blake2b"  # of the rows of out-of-vocabulary values
  rejected: dict[str, int] = {}
  records: dict[str, Any] | None = None  # the experiment's section that they were built by
  notes: dict[str, float | int | str] = {}
  path: pathlib.Path = pydantic.Field(pathlib.Path(), exclude=True)
  source: str = pydantic.Field("", exclude=True)

  @classmethod
  def open(cls, path: str | pathlib.Path) -> "RecordSet":
    """Reads `path/dataset.json`.

    Raises:
      UserError: No record set there, or one that this version does not read.
      DamagedError: The file is not what was written.
      StorageError: The store that the path names cannot be reached.
    """
    source = store.url(path)
    if source is not None:
      path = places.place(source)
      if (size := store.size(f"{source}/dataset.json")) is not None:
        store.fetch(f"{source}/dataset.json", path / "dataset.json", size)
    file = files.local(path) / "dataset.json"
    if not file.is_file():
      elsewhere = "" if source else _elsewhere(pathlib.Path(path))
      raise UserError(f"{path}: no record set here (dataset.json is missing).{elsewhere}")
    where = {"path": pathlib.Path(path), "source": source or ""}
    try:
      return cls.model_validate(formats.read_sealed(file)).model_copy(update=where)
    except pydantic.ValidationError as error:
      detail = error.errors()[0]
      raise UserError(f"{file}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None

  def save(self, path: str | pathlib.Path) -> None:
    """Writes `path/dataset.json`."""
    formats.write_sealed(pathlib.Path(path) / "dataset.json", self.model_dump(mode="json", by_alias=True))

  def with_tables(self) -> "RecordSet":
    """With the sizes and checksums of the tables that lie in its folder."""
    names = [*(f"{folder}/*" for folder in (*_ID_MAPPING, "state")), "*.parquet", "statistics.json", "report/*"]
    there = sorted(file for name in names for file in self.path.glob(name) if file.is_file())
    made = {
      file.relative_to(self.path).as_posix(): Table(size=file.stat().st_size, sha256=sha256(file)) for file in there
    }
    return self.model_copy(update={"tables": made})

  def save_id_mapping(self, path: str | pathlib.Path) -> None:
    """Writes a record set without records to `path`: what encodes requests, and numbers other records alike."""
    self.model_copy(update={"splits": {}}).copy_id_mapping(path)

  def copy_id_mapping(self, path: str | pathlib.Path) -> None:
    """Copies vocabularies, catalogues and ids of items to `path`, and writes `dataset.json` there; what is there stays.

    Raises:
      DamagedError: A file is not what was written.
    """
    mapping = {name: table for name, table in self.tables.items() if name.split("/")[0] in _ID_MAPPING}
    names = list(mapping) or [
      file.relative_to(self.path).as_posix()
      for folder in _ID_MAPPING
      for file in sorted((self.path / folder).glob("*"))
    ]
    for name in names:
      there = pathlib.Path(path) / name
      if not (there.is_file() and name in mapping and sha256(there) == mapping[name].sha256):
        with files.replacing(there) as aside:
          aside.write_bytes(self.read(name))
    self.model_copy(update={"tables": mapping}).save(path)

  def id_mapping_bytes(self) -> int:
    """What `copy_id_mapping` writes, about."""
    return sum(table.size for name, table in self.tables.items() if name.split("/")[0] in _ID_MAPPING)

  def read(self, name: str) -> bytes:
    """The bytes of one of its tables, by its path below the folder.

    Raises:
      DamagedError: It is missing, or not what was written.
    """
    try:
      data = self._here(name).read_bytes()
    except OSError as error:
      if storage.failure(error):
        raise
      raise DamagedError(f"{self.path / name}: {(error.strerror or '').lower()}. {_BUILD_AGAIN}") from None
    if name in self.tables and hashlib.sha256(data).hexdigest() != self.tables[name].sha256:
      raise DamagedError(
        f"{self.path / name}: damaged: its checksum is not the one that dataset.json has. {_BUILD_AGAIN}"
      )
    return data

  def table(self, name: str, names: Sequence[str] | None = None) -> pl.DataFrame:
    """A Parquet table of the record set, by its path below the folder.

    Args:
      name: The path.
      names: The columns to read; None = all.

    Raises:
      DamagedError: It is missing, not what was written, or lacks a column.
    """
    return formats.parquet(io.BytesIO(self.read(name)), names, str(self.path / name))

  def has(self, name: str) -> bool:
    """Whether it has that table."""
    if self.source and name not in self.tables and not (self.path / name).is_file():
      return store.size(f"{self.source}/{name}") is not None
    return (self.path / name).is_file() or bool(self.source)

  def _here(self, name: str) -> pathlib.Path:
    """The local file of a table; that of a store comes when it is asked for first."""
    file = self.path / name
    if self.source and not file.is_file() and (size := store.size(f"{self.source}/{name}")) is not None:
      store.fetch(f"{self.source}/{name}", file, size)
    return file

  def shard_path(self, shard: Shard) -> str:
    """Path or URL of a shard, for TensorFlow."""
    if self.source and not (self.path / shard.file).exists():
      return store.for_tensorflow(f"{self.source}/{shard.file}")
    return str(self.path / shard.file)

  @property
  def shard_buffer(self) -> int | None:
    """Bytes of a shard that TensorFlow should read at a time; None = its own number."""
    return store.BUFFER if self.source else None

  def shard_size(self, shard: Shard) -> int | None:
    """Bytes of a shard as it is now; None if it is missing."""
    if self.source:
      return store.size(f"{self.source}/{shard.file}")
    file = self.path / shard.file
    return file.stat().st_size if file.exists() else None

  def shard_ends(self, shard: Shard) -> str:
    """Checksum of the first and last bytes of a shard as it is now; see `Shard.ends`."""
    if not self.source:
      return ends(self.path / shard.file)
    with store.opened(f"{self.source}/{shard.file}") as opened:
      return ends_of(opened)

  @contextlib.contextmanager
  def shard_copy(self, shard: Shard) -> Iterator[pathlib.Path]:
    """A local file with a shard's bytes, if the shard is not missing; a copy of one in a store ends with the block."""
    file = self.path / shard.file
    comes = bool(self.source) and not file.exists()
    if comes and (size := self.shard_size(shard)) is not None:
      store.fetch(f"{self.source}/{shard.file}", file, size)
    try:
      yield file
    finally:
      if comes:
        file.unlink(missing_ok=True)

  def check_reachable(self) -> None:
    """Checks that the store that holds it, if one does, can be reached.

    Raises:
      StorageError: It cannot.
    """
    if self.source:
      store.size(f"{self.source}/dataset.json")

  def verify_tables(self) -> list[str]:
    """What is wrong with the tables: a message each."""
    problems = []
    for name in self.tables:
      try:
        self.read(name)
      except UserError as error:
        problems.append(str(error))
    return problems

  def part(self, split: str, domain: DomainName = "target") -> Part:
    """The records of a split.

    Raises:
      UserError: There is no such split, or it has no records of that domain.
    """
    if not self.splits:
      raise UserError(f"{self.path}: an id mapping, no records")
    if split not in self.splits and split in SPLITS:
      raise UserError(f"{self.path}: no records of the {split} split; there are those of: {', '.join(self.splits)}")
    if split not in self.splits:
      raise unknown(str(self.path), "split", split, self.splits)
    if domain not in self.splits[split]:
      raise UserError(
        f"{self.path}: the {split} split holds no {domain}-domain records; it holds: {', '.join(self.splits[split])}"
      )
    return self.splits[split][domain]

  def catalogue(self, domain: DomainName) -> np.ndarray:
    """`[items, columns]` int32; row 0 is padding (zeros), row 1 the unknown item.

    Raises:
      DamagedError: It is not what was written.
    """
    return self._array(f"catalogue/{domain}.npy", domain, columns(self.record_schema.catalogue_features(domain)))

  def vectors(self, domain: DomainName) -> dict[str, np.ndarray]:
    """Frozen vectors `[items, width]` of the catalogue's rows by name; zeros for rows without one.

    Raises:
      DamagedError: They are not what was written.
    """
    fields = self.record_schema.domain(domain).item_vectors
    return {f.name: self._array(f"catalogue/{domain}.{f.name}.npy", domain, f.width) for f in fields}

  def item_values(self, domain: DomainName) -> np.ndarray:
    """Float values of the item fields, `[items, value_columns]` float32; zeros for padding and the unknown item.

    Raises:
      DamagedError: They are not what was written.
    """
    width = value_columns(self.record_schema.catalogue_features(domain))
    if not width:
      return np.zeros((self.record_schema.domain(domain).items, 0), np.float32)
    return self._array(f"catalogue/{domain}_values.npy", domain, width)

  def _array(self, name: str, domain: DomainName, width: int) -> np.ndarray:
    try:
      table = np.load(io.BytesIO(self.read(name)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
      raise DamagedError(f"{self.path / name}: damaged: {one_line(error)}. {_BUILD_AGAIN}") from None
    expected = (self.record_schema.domain(domain).items, width)
    if table.shape != expected:
      raise UserError(f"{self.path / name}: shape {table.shape}, dataset.json says {expected}")
    return table


def check_schema(asked: Schema, record_set: RecordSet) -> None:
  """Checks that the records hold what the experiment's schema asks for.

  Raises:
    UserError: Names the first difference.
  """
  there = record_set.record_schema
  sizes = {name: vocabulary.size for name, vocabulary in there.vocabularies.items()}
  if set(asked.vocabularies) == set(sizes):
    asked = with_sizes(asked, sizes, {d: there.domain(d).items for d in DOMAINS})
  found = difference(asked.model_dump(mode="json"), there.model_dump(mode="json"), "schema", "records")
  if found:
    raise UserError(
      f"{record_set.path} was built with another schema: {found}. Change the config, or build records by it."
    )


def built_by(record_set: RecordSet) -> dict[str, Any]:
  """The section `records` that a record set was built by. What an older version did not know has its default."""
  try:
    return Records.model_validate(record_set.records).model_dump(mode="json")
  except pydantic.ValidationError:  # of another version
    return record_set.records or {}


def warn_of_other_settings(asked: Records, record_set: RecordSet) -> None:
  """Warns if other settings than the experiment's built the records: results are compared by them."""
  if record_set.records is None:
    return
  trees = (asked.model_dump(mode="json"), built_by(record_set))
  asked_tree, there = ({name: value for name, value in t.items() if name not in NOT_CONTENTS} for t in trees)
  found = difference(asked_tree, there, "records", "record set")
  if found:
    logging.warning("%s was built by other settings: %s", record_set.path, found)


def check_fingerprint(record_set: RecordSet, fingerprint: str, where: str) -> None:
  """Checks that a model was trained with the schema and vocabularies of this record set.

  Args:
    record_set: The records to be read.
    fingerprint: The model's.
    where: The model or run folder, for the message.

  Raises:
    UserError: The fingerprints differ.
  """
  if record_set.fingerprint != fingerprint:
    raise UserError(
      f"{where} was trained with the schema and vocabularies {fingerprint!r}, but {record_set.path} has "
      f"{record_set.fingerprint!r}. Use the records that it was trained with, build these again with "
      "pipelines.build_records --like those, or train again with these."
    )


def _elsewhere(path: pathlib.Path) -> str:
  """Where a record set may be that is not at `path`: one that was being replaced, or one of nearly that name."""
  replaced = [str(old) for old in files.replaced_by(path) if (old / "dataset.json").is_file()]
  if replaced:
    return (
      f" A build that was to replace it was killed: what was there before is {replaced[0]}. The next "
      "pipelines.build_records --overwrite there puts it back first; or rename it."
    )
  return nearest(str(path), [str(p.parent) for p in path.parent.glob("*/dataset.json")])
