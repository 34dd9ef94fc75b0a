"""What a build leaves besides the shards: tables, statistics, a line of the log; and the folder that they lie in."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from absl import logging

from lcn_tf import files
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.statistics import FILE, Statistics
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS


def write_tables(folder: pathlib.Path, indexed: Indexed, rejected: pl.DataFrame) -> None:
  """Writes the id mapping, the users and the rejected rows to `folder`."""
  for name in ("vocabularies", "catalogue", "items"):
    (folder / name).mkdir()
  for name, vocabulary in indexed.mapping.vocabularies.items():
    vocabulary.frame().write_parquet(folder / "vocabularies" / f"{name}.parquet")
  for d in DOMAINS:
    np.save(folder / "catalogue" / f"{d}.npy", indexed.mapping.catalogues[d])
    if indexed.mapping.item_values[d].shape[1]:
      np.save(folder / "catalogue" / f"{d}_values.npy", indexed.mapping.item_values[d])
    for name, vectors in indexed.mapping.vectors[d].items():
      np.save(folder / "catalogue" / f"{d}.{name}.npy", vectors)
    indexed.mapping.items[d].write_parquet(folder / "items" / f"{d}.parquet")
  indexed.users.write_parquet(folder / "users.parquet")
  rejected.rechunk().write_parquet(folder / "rejected.parquet")


def finish(built: RecordSet, found: Statistics, page: Callable[[RecordSet, Statistics], str] | None) -> None:
  """Writes statistics, their `page` if there is one, and dataset.json."""
  (built.path / FILE).write_text(f"{found.model_dump_json()}\n", encoding="utf-8")
  if page:
    (built.path / "report").mkdir()
    (built.path / "report" / "index.html").write_text(page(built, found), encoding="utf-8")
  built.with_tables().save(built.path)


@contextlib.contextmanager
def folder_of(output: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
  """A folder beside `output` that takes its place at the end, and is removed after a failure."""
  exists = UserError(f"{output}: exists. Choose another --output, or replace it with --overwrite")
  output = output.resolve()  # beside what a link points to
  if output.is_mount():
    raise UserError(f"{output}: something is mounted there, which no folder can take the place of. Give a folder in it")
  files.put_back(output)
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    if not overwrite:
      raise exists
    if not (output / "dataset.json").is_file():
      raise UserError(f"{output}: exists and is not a record set (no dataset.json), so --overwrite leaves it alone")
    for name, what in (("experiment.yaml", "a training run"), ("comparison.yaml", "a comparison")):
      if (output / name).exists():
        raise UserError(f"{output}: holds {what} ({name}), so --overwrite leaves it alone")
  with files.replacing_folder(output, overwrite, exists) as folder:
    yield folder


def log_summary(records: RecordSet, users: int, seconds: float) -> None:
  """Logs what was built, of how many users and in which time."""
  lines = []
  for split, parts in records.splits.items():
    for d, part in parts.items():
      share = 100 * part.positives / part.candidates
      lines.append(
        f"\n  {split:<10} {d}: {part.records} records, {part.candidates} candidates, {part.positives} positives "
        f"({share:.1f} %), {part.users} users"
      )
  rejected = sum(records.rejected.values())
  logging.info(
    "%s: %d users, %d rows rejected, fingerprint %s, %.1f seconds%s",
    records.path,
    users,
    rejected,
    records.fingerprint,
    seconds,
    "".join(lines),
  )
