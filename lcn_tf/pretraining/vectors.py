"""Frozen item vectors and what they were clustered into, as files beside the records that they were made from."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from lcn_tf import files, formats, storage
from lcn_tf.errors import DamagedError, UserError, one_line
from lcn_tf.schema import DOMAINS, DomainName

Kind = Literal["vectors", "clusters"]
KINDS: tuple[Kind, ...] = ("vectors", "clusters")

_ARRAYS = "pretrained.npz"
_NOTES = "pretrained.json"


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """What SIM Soft searches with, what SIM Cluster is made of, and what `embedding.init_from` begins with.

  Attributes:
    vectors: Per domain, one vector per catalogue row, `[items, P]` float32; zeros for padding and for items that
      training never met. The vectors of both domains are of one space.
    clusters: Per domain, `[items, 2]` int64: the clusters of SIM Cluster and of SIM Cluster+, numbered from 1 over both
      domains together; 0 = unknown, which never matches. Empty where none were made.
    notes: Facts for people: how it was made, how many items have a vector, the numbers of clusters.
    fingerprint: Fingerprint of the record set.
  """

  vectors: dict[DomainName, np.ndarray]
  clusters: dict[DomainName, np.ndarray]
  notes: dict[str, Any]
  fingerprint: str

  def made_with(self, settings: Mapping[str, Any]) -> bool:
    """Whether they were made with these `settings()` of `model.pretraining`."""
    # vectors of before there was such a key say nothing of it
    there = {"item_vector": ""} | self.notes.get("settings", settings)
    return all(name in there and there[name] == value for name, value in settings.items())

  def holds(self, kinds: Collection[str]) -> bool:
    """Whether it has the tables, `vectors` or `clusters`, that `kinds` names."""
    return all(self._tables()[kind] for kind in kinds)

  def only(self, kinds: Collection[str]) -> "Pretrained":
    """Without the tables, `vectors` or `clusters`, that `kinds` does not name."""
    vectors, clusters = (table if kind in kinds else {} for kind, table in self._tables().items())
    return dataclasses.replace(self, vectors=vectors, clusters=clusters)

  def _tables(self) -> dict[str, dict[DomainName, np.ndarray]]:
    return {"vectors": self.vectors, "clusters": self.clusters}

  def save(self, folder: str | pathlib.Path) -> None:
    """Writes the files, in the place of older ones when all are whole; a folder with the notes holds all."""
    folder = files.make(folder)
    arrays = {f"{kind}_{d}": array for kind, table in self._tables().items() for d, array in table.items()}

    def save_arrays(path: pathlib.Path) -> None:
      with path.open("wb") as file:
        np.savez(file, **arrays)

    notes = formats.sealed({"fingerprint": self.fingerprint, "notes": self.notes})
    needs = sum(array.nbytes for array in arrays.values())
    files.publish(folder, "item vectors", {_ARRAYS: save_arrays, _NOTES: notes}, needs)

  @classmethod
  def there(cls, folder: str | pathlib.Path) -> bool:
    """Whether the folder holds vectors, whole."""
    return (pathlib.Path(folder) / _NOTES).is_file()

  @classmethod
  def open(cls, folder: str | pathlib.Path, fingerprint: str = "") -> "Pretrained":
    """Reads a folder.

    Args:
      fingerprint: Fingerprint of the records that the vectors must have been made from; empty = any.

    Raises:
      UserError: There are no vectors, they are broken, or they were made from other records.
    """
    folder = pathlib.Path(folder)
    if not cls.there(folder):
      raise UserError(
        f"{folder}: no pre-trained item vectors here ({_NOTES} is missing). pipelines.pretrain makes them."
      )
    try:
      notes = formats.read_sealed(folder / _NOTES)
      with np.load(folder / _ARRAYS) as arrays:
        vectors = {d: arrays[f"vectors_{d}"] for d in DOMAINS}
        clustered = any(f"clusters_{d}" in arrays for d in DOMAINS)
        clusters = {d: arrays[f"clusters_{d}"] if clustered else np.zeros((len(vectors[d]), 2)) for d in DOMAINS}
      found = cls(vectors, clusters if clustered else {}, notes["notes"], notes["fingerprint"])
      if any(vectors[d].ndim != 2 or clusters[d].shape != (len(vectors[d]), 2) for d in DOMAINS):
        shapes = {d: (vectors[d].shape, clusters[d].shape) for d in DOMAINS}
        raise ValueError(f"vectors and clusters of shapes {shapes}, expected [items, P] and [items, 2]")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
      if storage.failure(error):
        raise
      raise DamagedError(f"{folder}: broken pre-trained item vectors: {one_line(error)}") from None
    if fingerprint and found.fingerprint != fingerprint:
      raise UserError(
        f"{folder}: item vectors of other records: fingerprint {found.fingerprint}, these have {fingerprint}. "
        "Run pipelines.pretrain on these records."
      )
    return found
