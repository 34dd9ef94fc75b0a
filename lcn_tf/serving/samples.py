"""A few requests of the validation split, which a run keeps so that its exports can be tried without the records."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf
from absl import logging

from lcn_tf import files
from lcn_tf.data import records
from lcn_tf.data.field_values import vector_columns
from lcn_tf.data.id_mapping import BucketTable, IdMapping
from lcn_tf.data.read.validity import problem
from lcn_tf.data.record_set import RecordSet
from lcn_tf.schema import DOMAINS, DomainName, Feature, Schema, placed
from lcn_tf.serving.requests import BehaviourColumns, RankRequest

FILE = "samples.tfrecord"
COUNT = 8


def keep(record_set: RecordSet, folder: pathlib.Path) -> None:
  """Writes the first valid records of the validation split, or of the training split without one, to `folder`.

  Shards that cannot be read are left to those who train on them: there are no samples then.
  """
  split = "validation" if "target" in record_set.splits.get("validation", {}) else "train"
  shards = [record_set.shard_path(shard) for shard in record_set.part(split).shards]
  compression = "GZIP" if record_set.compression == "gzip" else ""
  try:
    read = tf.data.TFRecordDataset(shards, compression).take(2 * COUNT).as_numpy_iterator()
    found = [one for one in read if _valid(one, record_set.record_schema)][:COUNT]
  except tf.errors.OpError as error:
    logging.warning("no samples of requests are kept: %s", error.message)
    return
  with files.replacing(folder / FILE) as aside, tf.io.TFRecordWriter(str(aside)) as writer:
    for one in found:
      writer.write(one)


def _valid(serialized: bytes, schema: Schema) -> bool:
  try:
    return problem(records.decode(serialized, schema), schema, "target") is None
  except ValueError:
    return False


def kept(folder: pathlib.Path) -> list[bytes]:
  """The records that `keep` wrote; none if there are none, or if they cannot be read."""
  if not (folder / FILE).is_file():
    return []
  try:
    return list(tf.data.TFRecordDataset(str(folder / FILE)).as_numpy_iterator())
  except tf.errors.OpError as error:
    logging.warning("%s: %s: the export has no samples of requests", folder / FILE, error.message)
    return []


def raw_requests(serialized: Sequence[bytes], schema: Schema, mapping: IdMapping) -> list[RankRequest]:
  """Requests as a service would have made them: of each record, the candidates of the first candidate's moment.

  An unknown item or value is a missing one. A number is the lower edge of its bucket.
  """
  return [_raw(records.decode(one, schema), schema, mapping) for one in serialized]


def _raw(record: records.Request, schema: Schema, mapping: IdMapping) -> RankRequest:
  now = record.times == record.times[0]
  context = _values(schema.context_fields, record.context[now], mapping)
  user: dict[str, Any] = {}
  for feature, place in placed(schema.user_fields):
    rows = record.user_fields[place]
    values = _of_field(feature, rows[rows > 0] if feature.max_values > 1 else rows, mapping)
    user[feature.name] = values if feature.max_values > 1 else values[0]
    if feature.weights:
      user[feature.weights] = [1.0] * len(values)
  for name, place in vector_columns(schema).items():
    user[name] = record.user_values[place].tolist()
  return RankRequest(
    int(record.times[0]),
    _ids("target", record.items[now], mapping),
    user,
    [{name: column[n] for name, column in context.items()} for n in range(int(now.sum()))],
    *(_history(d, record, schema, mapping) for d in DOMAINS),
  )


def _history(domain: DomainName, record: records.Request, schema: Schema, mapping: IdMapping) -> BehaviourColumns:
  """What the first candidate sees, oldest first."""
  history = record.history(domain)
  first = int(history.first_visible[0])
  seen = slice(first, first + schema.domain(domain).max_length)
  fields = _values(schema.domain(domain).cross_fields, history.cross[seen][::-1], mapping)
  return BehaviourColumns(_ids(domain, history.items[seen][::-1], mapping), history.times[seen][::-1].tolist(), fields)


def _ids(domain: DomainName, rows: np.ndarray, mapping: IdMapping) -> list[Any]:
  items = mapping.items[domain]
  known = pl.DataFrame({"row": rows.astype(np.int32)}).join(items, on="row", how="left", maintain_order="left")
  return known["item_id"].to_list()


def _values(fields: tuple[Feature, ...], rows: np.ndarray, mapping: IdMapping) -> dict[str, list[Any]]:
  return {feature.name: _of_field(feature, rows[:, n], mapping) for n, feature in enumerate(fields)}


def _of_field(feature: Feature, rows: np.ndarray, mapping: IdMapping) -> list[Any]:
  """The value of each vocabulary index; None for an out-of-vocabulary one."""
  table = mapping.vocabularies[feature.vocabulary]
  values = table.values.to_list()
  if isinstance(table, BucketTable):
    edges = [float(edge) for edge in values[1:]]
    values = [edges[0] if edges else 0.0, *edges]
    if feature.refuses_negative:
      values = [max(value, 0.0) for value in values]
  return [values[row - 1 - table.oov] if row > table.oov else None for row in rows.tolist()]
