"""A record set: the folder that `pipelines.build_records` leaves and that everything else reads.

dataset.json                     this file's `RecordSet`: schema with sizes, shards, counts, checksums, fingerprint
{train,validation,test}/{target,source}/part-00000-of-00008.tfrecord.gz; of those built --like others, what is not empty
vocabularies/<name>.parquet      index, value, count (in the training interactions)
catalogue/<domain>.npy           [items, fields] int32: of every item, the index of its id and inherent fields
items/<domain>.parquet           row, item_id: which item each catalogue row is
users.parquet                    user, user_id: which user each index is
rejected.parquet                 what was left out, with the reason
"""

import pathlib
import shutil
from typing import Any, Literal

import numpy as np
import pydantic

from lcn_tf import files
from lcn_tf.errors import UserError, nearest, unknown
from lcn_tf.schema import DomainName, Schema, Strict, columns

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_NUMBERING = ("vocabularies", "catalogue", "items")


class Shard(Strict):
  """One TFRecord file; `file` is relative to the record set, `sha256` is of its bytes."""

  file: str
  records: int
  candidates: int
  sha256: str


class Part(Strict):
  """The records of one split whose candidates are of one domain. Times are the candidates', in seconds."""

  shards: tuple[Shard, ...]
  records: int
  candidates: int
  positives: int
  users: int
  first_time: int
  last_time: int


class RecordSet(Strict):
  """What `dataset.json` says, and where it lies."""

  format: Literal[1] = 1
  name: str
  fingerprint: str
  record_schema: Schema = pydantic.Field(alias="schema")
  compression: Literal["gzip", "none"]
  splits: dict[SplitName, dict[DomainName, Part]]
  rejected: dict[str, int] = {}
  records: dict[str, Any] | None = None  # the experiment's section that they were built by
  notes: dict[str, float | int | str] = {}
  path: pathlib.Path = pydantic.Field(pathlib.Path(), exclude=True)

  @classmethod
  def open(cls, path: str | pathlib.Path) -> "RecordSet":
    """Reads `path/dataset.json`.

    Raises:
      UserError: No record set there, or one that this version does not read.
    """
    file = files.local(path) / "dataset.json"
    if not file.is_file():
      folders = [str(p.parent) for p in file.parent.parent.glob("*/dataset.json")]
      raise UserError(f"{path}: no record set here (dataset.json is missing).{nearest(str(path), folders)}")
    try:
      return cls.model_validate_json(file.read_text()).model_copy(update={"path": pathlib.Path(path)})
    except pydantic.ValidationError as error:
      detail = error.errors()[0]
      raise UserError(f"{file}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None

  def save(self, path: str | pathlib.Path) -> None:
    """Writes `path/dataset.json`."""
    with files.replacing(pathlib.Path(path) / "dataset.json") as aside:
      aside.write_text(self.model_dump_json(by_alias=True, indent=1) + "\n")

  def save_numbering(self, path: str | pathlib.Path) -> None:
    """Writes a record set without records to `path`: what encodes requests, and numbers other records alike."""
    self.copy_numbering(path)
    self.model_copy(update={"splits": {}}).save(path)

  def copy_numbering(self, path: str | pathlib.Path) -> None:
    """Copies vocabularies, catalogues and ids of items to `path`, in the place of what is there."""
    for name in _NUMBERING:
      if (self.path / name).is_dir():
        shutil.copytree(self.path / name, pathlib.Path(path) / name, dirs_exist_ok=True)

  def part(self, split: str, domain: DomainName = "target") -> Part:
    """The records of a split.

    Raises:
      UserError: There is no such split, or it has no records of that domain.
    """
    if not self.splits:
      raise UserError(f"{self.path}: a numbering of items and values, no records")
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
    """`[items, columns]` int32; row 0 is padding (zeros), row 1 the unknown item."""
    table = np.load(self.path / "catalogue" / f"{domain}.npy")
    expected = (self.record_schema.domain(domain).items, columns(self.record_schema.catalogue_features(domain)))
    if table.shape != expected:
      raise UserError(f"{self.path}/catalogue/{domain}.npy: shape {table.shape}, dataset.json says {expected}")
    return table
