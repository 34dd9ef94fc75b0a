"""The projections of all items of an export, written to a store (TWIN, section 4.3: "offline inferring")."""

import concurrent.futures
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf
from absl import logging

from lcn_tf import files, formats, storage
from lcn_tf.data.id_mapping import items_of
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.formats import sha256
from lcn_tf.serving.export import DESCRIPTION as EXPORT
from lcn_tf.serving.export import describe
from lcn_tf.serving.projection_store import DESCRIPTION, ids_file, table_file
from lcn_tf.serving.raw_client import coded_ids
from lcn_tf.serving.versions import appear, keep_newest, weights_of

SIGNATURE = "project_items"


def project_items(
  version: pathlib.Path, output: str | pathlib.Path, *, batch: int = 8192, workers: int = 1, keep: int = 0
) -> pathlib.Path:
  """Writes the projections of all items aside, then renames them to `output/<POSIX time>`.

  A version holds for each domain whose history the model searches:

      {d}.npy        float32 [items, H * E], in the order of the ids
      {d}_ids.npy    int64 [items], or UTF-8 bytes if the ids are texts, rising

  and a sealed `store.json` with checksums of these files, the export's fingerprint and the digest of its weights.

  Args:
    version: Version folder of an export.
    output: Folder of versions, made if missing.
    batch: Number of items in a call of the model.
    workers: Number of calls at once.
    keep: Number of versions that stay, the newest ones; 0 = all.

  Returns:
    The version folder of the store.

  Raises:
    UserError: This is no export, the export has no `project_items`, or a projection is not finite.
    DamagedError: A file of the export was changed since it was written.
    StorageError: There is no space for the store.
  """
  if not (version / EXPORT).is_file():
    raise UserError(f"{version}: no export of lcn_tf ({EXPORT} is missing)")
  described = describe(version)
  model = tf.saved_model.load(files.plain(version))
  if SIGNATURE not in model.signatures:
    raise UserError(
      f"{version}: no signature {SIGNATURE!r}: only the search of 'twin' with key: split reads projections of items"
    )
  function = model.signatures[SIGNATURE]
  items = items_of(RecordSet.open(version / "assets.extra"))
  widths = {d: shape[-1] for d, shape in function.output_shapes.items()}
  output = files.make(output)
  needs = sum(4 * width * len(items[d]) for d, width in widths.items())
  with (
    files.folder_aside(output / "version") as aside,
    storage.storing("a version", output, needs=needs, intact="The versions that are there are intact."),
  ):
    for d, width in widths.items():
      _write(aside, d, width, items[d], function, batch, workers)
    description = {
      "made": int(time.time()),
      "name": described["name"],
      "export": version.resolve().name,
      "fingerprint": described["fingerprint"],
      "weights": weights_of(described),
      "domains": {d: {"items": len(items[d]), "width": width} for d, width in widths.items()},
      "files": {file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in sorted(aside.iterdir())},
    }
    formats.write_sealed(aside / DESCRIPTION, description)
    written = appear(aside, output, description["made"], DESCRIPTION)
  keep_newest(output, keep, DESCRIPTION)
  return written


def by_export(model: Any) -> Callable[[str, Sequence[Any]], np.ndarray]:
  """The function `misses` of `ProjectionStore.open` that asks an export for the projections of missing items.

  Args:
    model: Export, as `tf.saved_model.load` returns it. It must have `rank_raw`: other exports know no ids.

  Returns:
    Function from a domain and K item ids to projections `[K, H * E]`. An item that the export does not have is the
    unknown item.
  """
  function = model.signatures[SIGNATURE]

  def project(domain: str, ids: Sequence[Any]) -> np.ndarray:
    integer = function.structured_input_signature[1][f"{domain}_ids"].dtype != tf.string
    return _projections(function, domain, coded_ids(ids, integer))

  return project


def _write(
  folder: pathlib.Path, domain: str, width: int, items: pl.DataFrame, function: Any, batch: int, workers: int
) -> None:
  """Writes ids and projections of one domain."""
  began = time.monotonic()
  ids = items["item_id"]
  keys = ids.to_numpy().astype(np.int64) if ids.dtype.is_integer() else _texts(ids)
  order = np.argsort(keys, kind="stable")
  np.save(folder / ids_file(domain), keys[order])
  asked = _asked(function, domain, items)[order]
  header = {"descr": "<f4", "fortran_order": False, "shape": (len(items), width)}
  with (folder / table_file(domain)).open("wb") as file:
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    start = file.tell()

    def project(first: int) -> None:
      found = _projections(function, domain, asked[first : first + batch])
      if not np.isfinite(found).all():
        raise UserError(f"projections of the {domain} items are not finite: the weights are not")
      _put(file.fileno(), found.astype("<f4").tobytes(), start + 4 * width * first)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
      try:
        for done in [pool.submit(project, first) for first in range(0, len(items), batch)]:
          done.result()
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    os.fsync(file.fileno())
  seconds = time.monotonic() - began
  logging.info("%s: %d items in %.1f s, %.0f items/s", domain, len(items), seconds, len(items) / max(seconds, 1e-9))


def _texts(ids: pl.Series) -> np.ndarray:
  """Ids as UTF-8 bytes of one width, which are found without a copy of all of them."""
  return np.array([text.encode() for text in ids.cast(pl.String)] or [b""], "S")[: len(ids)]


def _asked(function: Any, domain: str, items: pl.DataFrame) -> np.ndarray:
  """The argument of the signature for all items: ids, or rows of the catalogue."""
  specs = function.structured_input_signature[1]
  if f"{domain}_items" in specs:
    return items["row"].to_numpy()
  if specs[f"{domain}_ids"].dtype == tf.string:
    return np.array(items["item_id"].cast(pl.String).to_list(), object)
  return items["item_id"].to_numpy()


def _projections(function: Any, domain: str, asked: np.ndarray) -> np.ndarray:
  """The projections of some items of a domain, `[K, H * E]`, by the signature, which asks for other domains, too."""
  given = {
    name: tf.constant(asked if name.startswith(f"{domain}_") else [], spec.dtype)
    for name, spec in function.structured_input_signature[1].items()
  }
  return function(**given)[domain].numpy()  # type: ignore[no-any-return]


def _put(descriptor: int, data: bytes, place: int) -> None:
  """Writes all of the data at a place of a file. A mapped file would end the process where the disk is full."""
  rest = memoryview(data)
  while rest:
    written = os.pwrite(descriptor, rest, place)
    rest, place = rest[written:], place + written
