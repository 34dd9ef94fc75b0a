"""A SavedModel as small as the contract allows: the score of a candidate is its item's."""

import json
import pathlib

import numpy as np
import tensorflow as tf

from lcn_tf.data.record_set import RecordSet

SEED = 7


def item_scores(record_set: RecordSet) -> np.ndarray:
  """The probability that the model gives to each catalogue row."""
  return np.random.default_rng(0).uniform(0.05, 0.95, record_set.record_schema.target.items).astype(np.float32)


def write_export(
  path: str | pathlib.Path,
  record_set: RecordSet,
  *,
  scores: np.ndarray | None = None,
  fingerprint: str = "",
  inputs: tuple[str, ...] = ("candidate_items", "source_length"),
  signature: str = "rank",
  output: str = "probability",
) -> pathlib.Path:
  """Writes it, as `lcn_tf.serving.export` would.

  Args:
    path: The version folder.
    record_set: It is a model of its schema.
    scores: By catalogue row; `item_scores` if None.
    fingerprint: That it claims; the record set's if empty.
    inputs: The tensors that it asks for.
    signature, output: Their names.
  """
  shapes = {name: [None] if name.endswith("length") else [None, None] for name in inputs}
  specs = {name: tf.TensorSpec(shape, tf.int32, name=name) for name, shape in shapes.items()}
  model = tf.Module()
  model.table = tf.Variable(item_scores(record_set) if scores is None else scores)

  @tf.function
  def rank(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
    return {output: tf.gather(model.table, tensors["candidate_items"])}

  tf.saved_model.save(model, str(path), signatures={signature: rank.get_concrete_function(**specs)})
  description = {
    "name": "by_item",
    "fingerprint": fingerprint or record_set.fingerprint,
    "seed": SEED,
    "schema": record_set.record_schema.model_dump(mode="json"),
    "domain": "target",
  }
  extra = pathlib.Path(path) / "assets.extra"
  extra.mkdir(exist_ok=True)
  (extra / "lcn_tf.json").write_text(json.dumps(description))
  return pathlib.Path(path)
