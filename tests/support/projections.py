"""Exports as small as a projection store allows: the projections of an item are a row of a table."""

import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from lcn_tf import formats
from lcn_tf.data.record_set import RecordSet
from tests.support.record_sets import ITEMS

WIDTH = 3


def tables_of(seed: int) -> dict[str, np.ndarray]:
  """Projections of every catalogue row, by domain."""
  rng = np.random.default_rng(seed)
  return {d: rng.normal(size=(ITEMS[d], WIDTH)).astype(np.float32) for d in ITEMS}


def write_export(
  folder: pathlib.Path,
  record_set: RecordSet,
  seed: int = 1,
  *,
  weights: str | None = None,
  dtype: str = "float32",
  signature: str = "project_items",
  tables: Mapping[str, np.ndarray] | None = None,
  work: int = 1,
) -> pathlib.Path:
  """Writes an export whose projections are those of `tables_of`.

  Args:
    folder: Version folder.
    record_set: Record set with the items.
    seed: Seed of the projections.
    weights: Digest that the export claims; None = "weights <seed>".
    dtype: Type of the tables that the export claims.
    signature: Name of the signature.
    tables: Projections; None = those of `tables_of`.
    work: Rows and columns of matrices that a call multiplies, to take longer.
  """
  model = tf.Module()
  model.tables = {d: tf.Variable(table) for d, table in (tables or tables_of(seed)).items()}
  model.matrix = tf.Variable(tf.zeros([work, work]))

  @tf.function
  def project(**rows: tf.Tensor) -> dict[str, tf.Tensor]:
    nothing = tf.reduce_sum(tf.matmul(model.matrix, model.matrix))
    return {d: tf.gather(model.tables[d], rows[f"{d}_items"]) + nothing for d in ITEMS}

  specs = {f"{d}_items": tf.TensorSpec([None], tf.int32, f"{d}_items") for d in ITEMS}
  tf.saved_model.save(model, str(folder), signatures={signature: project.get_concrete_function(**specs)})
  (folder / "assets.extra").mkdir()
  record_set.save_id_mapping(folder / "assets.extra")
  weights = f"weights {seed}" if weights is None else weights
  described = {"name": "fake", "fingerprint": record_set.fingerprint, "weights": weights, "files": {}} | {
    "tables": {"dtype": dtype}
  }
  formats.write_sealed(folder / "assets.extra" / "lcn_tf.json", described)
  return folder
