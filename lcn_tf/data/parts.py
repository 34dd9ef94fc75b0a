"""What `dataset.json` says of the files of a record set, and their checksums."""

import hashlib
import io
import pathlib
from typing import BinaryIO

from lcn_tf.schema import Strict

_SAMPLED = 4096  # bytes at either end of a shard that its identity is made of


class Shard(Strict):
  """One TFRecord file.

  Attributes:
    file: Its path, relative to the record set.
    records: Records in it.
    candidates: Candidates of these.
    sha256: Checksum of its bytes.
    size: Bytes; 0 = not known.
    ends: Checksum of its first and last bytes, which every reader compares; empty = not known.
  """

  file: str
  records: int
  candidates: int
  sha256: str
  size: int = 0
  ends: str = ""


class Table(Strict):
  """A file of a record set that is no shard: bytes, and their checksum."""

  size: int
  sha256: str


class Part(Strict):
  """The records of one split whose candidates are of one domain. Times are the candidates', in seconds.

  Attributes:
    weight: Sum of the candidates' weights; None = not known.
  """

  shards: tuple[Shard, ...]
  records: int
  candidates: int
  positives: int
  users: int
  first_time: int
  last_time: int
  weight: float | None = None

  def undefined(self) -> str:
    """Why no AUC can be computed of it, and what follows for training; empty if it can, as far as this tells."""
    if self.weight == 0:
      return (
        f"the weights of all {self.candidates} candidates are 0: no metric is defined, no epoch of a job that "
        "validates with it is the best, and its last one is exported"
      )
    if self.positives in (0, self.candidates):
      return (
        f"all {self.candidates} candidates are {'positive' if self.positives else 'negative'}: AUC and GAUC are not "
        "defined, and the best epoch of a job that validates with it is that of the least logloss"
      )
    return ""


def ends(file: pathlib.Path) -> str:
  """Checksum of the first and the last bytes of a file: tells it from others at hardly any cost."""
  with file.open("rb") as opened:
    return ends_of(opened)


def ends_of(opened: BinaryIO) -> str:
  """`ends` of an open file."""
  first = opened.read(_SAMPLED)
  opened.seek(max(opened.seek(0, io.SEEK_END) - _SAMPLED, 0))
  return hashlib.sha256(first + opened.read()).hexdigest()[:16]
