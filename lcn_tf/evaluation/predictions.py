"""The predictions file: one row per candidate, in the order of the records."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lcn_tf import files, formats
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.metrics import Scored
from lcn_tf.schema import DOMAINS, DomainName, Schema, item_vocabulary, placed

_TYPES = {
  "user": np.int64,
  "item": np.int32,
  "timestamp": np.int64,
  "label": np.float32,
  "weight": np.float32,
  "probability": np.float32,
  **{f"history_{d}": np.int32 for d in DOMAINS},
}
COLUMNS = tuple(_TYPES)
IDS = {"user": "user_id", "item": "item_id"}  # their columns in the log


def columns(
  batch: Mapping[str, np.ndarray], record_set: RecordSet, fields: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """The columns of a batch's real candidates, except `probability`.

  `item` is a row of the target domain's catalogue, `history_<domain>` the behaviours that the candidate may see.

  Args:
    batch: Batch of records.
    record_set: Their record set.
    fields: Names of user and context fields (`field_places`) whose vocabulary indices are added, int32, in the columns
      `field_columns`.
  """
  mask = batch["candidate_mask"]
  seen = {}
  for d in DOMAINS:
    visible = batch[f"{d}_length"][:, np.newaxis] - batch[f"{d}_first_visible"]
    seen[f"history_{d}"] = np.clip(visible, 0, record_set.record_schema.domain(d).max_length)[mask]
  places = field_places(record_set.record_schema)
  added: dict[str, np.ndarray] = {}
  for name in fields:
    tensor, place = places[name]
    values = batch[tensor] if tensor == "candidate_context" else batch[tensor][:, np.newaxis]
    values = np.broadcast_to(values, (*mask.shape, values.shape[-1]))[mask][:, place]
    added |= dict(zip(field_columns(name, values.shape[1]), values.T, strict=True))
  return {
    "user": np.broadcast_to(batch["user"][:, np.newaxis], mask.shape)[mask],
    "item": batch["candidate_items"][mask],
    "timestamp": batch["candidate_times"][mask],
    "label": batch["label"][mask],
    "weight": batch["weight"][mask],
    **seen,
    **added,
  }


def field_places(schema: Schema) -> dict[str, tuple[str, slice]]:
  """Where a batch has the fields that are neither of an item nor of a behaviour.

  Returns:
    By `user.<name>` or `context.<name>`: tensor, and columns.
  """
  user = {f"user.{f.name}": ("user_fields", place) for f, place in placed(schema.user_fields)}
  context = {f"context.{f.name}": ("candidate_context", place) for f, place in placed(schema.context_fields)}
  return user | context


def field_columns(name: str, width: int) -> list[str]:
  """Columns of the values of a field, in the files of parts: `user.hobbies#0`, `user.hobbies#1`."""
  return [f"{name}#{i}" for i in range(width)]


def collect(
  chunks: Iterable[Mapping[str, np.ndarray]], record_set: RecordSet | None = None, domain: DomainName = "target"
) -> pl.DataFrame:
  """The rows of a predictions file: the columns `COLUMNS`, then the log's ids.

  They are held in memory, 40 bytes each and at most 32 for the ids.

  Args:
    chunks: The columns.
    record_set: Record set of the candidates. It gives `user_id` and `item_id` as the log has them, null for the unknown
      item. Without `users.parquet` or `items/<domain>.parquet`, or without a record set, that column is left out.
    domain: Domain of the candidates.

  Raises:
    DamagedError: One of these files was changed since it was written.
  """
  ids = ids_of(record_set, domain) if record_set else {}
  frames = [as_frame(chunk, ids) for chunk in chunks]
  return pl.concat(frames) if frames else as_frame({name: np.zeros(0) for name in _TYPES}, ids)


def as_frame(chunk: Mapping[str, np.ndarray], ids: Mapping[str, pl.Series]) -> pl.DataFrame:
  """The rows of a chunk: `COLUMNS`, the ids, then the chunk's other columns.

  Args:
    chunk: Columns.
    ids: Result of `ids_of`.
  """
  frame = pl.DataFrame({name: chunk[name].astype(dtype) for name, dtype in _TYPES.items()})
  frame = frame.with_columns(
    [by_number.gather(frame[name].clip(0, len(by_number) - 1)) for name, by_number in ids.items()]
  )
  return frame.with_columns([pl.Series(name, chunk[name]) for name in chunk if name not in _TYPES])


def write(
  path: str | pathlib.Path,
  chunks: Iterable[Mapping[str, np.ndarray]],
  record_set: RecordSet | None = None,
  domain: DomainName = "target",
) -> int:
  """Writes the result of `collect` as Parquet; returns the number of rows.

  The file is written aside and renamed: an interruption leaves the earlier file as it was.
  """
  frame = collect(chunks, record_set, domain)
  with files.replacing(path) as aside:
    frame.write_parquet(aside)
  return len(frame)


def ids_of(record_set: RecordSet, domain: DomainName) -> dict[str, pl.Series]:
  """The ids of `user` and `item` by number, null for a number without one, as far as the files are there.

  Raises:
    DamagedError: A file was changed since it was written.
  """
  sources = {"user": ("users.parquet", "user"), "item": (f"items/{domain}.parquet", "row")}
  found = {}
  for name, (file, number) in sources.items():
    if record_set.has(file):
      table = record_set.table(file, [number, IDS[name]]).select(pl.col(number).cast(pl.Int64), IDS[name])
      numbers = pl.DataFrame({number: pl.int_range(2 + int(table[number].to_numpy().max(initial=0)), eager=True)})
      found[name] = numbers.join(table, on=number, how="left", maintain_order="left")[IDS[name]]
  return found


def read(path: str | pathlib.Path) -> pl.DataFrame:
  """The predictions in `path`: their `COLUMNS`.

  Raises:
    UserError: The file or a column is missing.
    DamagedError: The file is not Parquet.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"{path}: no such predictions file")
  frame = formats.parquet(path)
  missing = [name for name in COLUMNS if name not in frame.columns]
  if missing:
    raise UserError(f"{path}: no predictions: the columns {', '.join(missing)} are missing")
  return frame.select(COLUMNS)


def scored(frame: pl.DataFrame) -> Scored:
  """The input of the metrics, without weights when all of them are 1."""
  weights: Any = frame["weight"].to_numpy()
  return Scored(
    frame["probability"].to_numpy(),
    frame["label"].to_numpy(),
    frame["user"].to_numpy(),
    None if (weights == 1).all() else weights,
  )


def item_counts(record_set: RecordSet, domain: DomainName = "target") -> np.ndarray | None:
  """How often each catalogue row's item occurs in the training interactions `[items]`; None if the file is missing.

  Padding, the unknown item and items that are out of vocabulary count 0.
  """
  file = f"vocabularies/{item_vocabulary(domain)}.parquet"
  if not record_set.has(file):
    return None
  declared = record_set.record_schema.vocabularies[item_vocabulary(domain)]
  vocabulary = record_set.table(file).filter(pl.col("index") > declared.oov)
  count = np.zeros(declared.size, np.int64)
  count[vocabulary["index"].to_numpy()] = vocabulary["count"].to_numpy()
  return count[record_set.catalogue(domain)[:, 0]]


def records_read(record_set: RecordSet, split: str, domain: DomainName, candidates: int) -> dict[str, Any]:
  """The facts of the records in `metrics.json`: `name`, `path`, and `left_out`, the candidates of broken records."""
  there = record_set.part(split, domain).candidates
  return {"name": record_set.name, "path": str(record_set.path), "left_out": there - candidates}
