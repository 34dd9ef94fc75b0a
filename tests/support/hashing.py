"""Inputs and checks of extractors that hash."""

import numpy as np
import tensorflow as tf

from lcn_tf.interest.base import Extractor
from lcn_tf.layers.structures import Behaviours, Candidates
from tests.support.layers import tensors


def exact_in_half_precision(candidates: Candidates, behaviours: Behaviours) -> tuple[Candidates, Behaviours]:
  """The same inputs, rounded to float16: half precision changes no sign of theirs."""
  half = lambda array: array.astype(np.float16).astype(np.float32) if array.dtype.kind == "f" else array  # noqa: E731
  return tf.nest.map_structure(half, (candidates, behaviours))


def check_the_search_learns_nothing(layer: Extractor, candidates: Candidates, behaviours: Behaviours) -> None:
  """No gradient passes the search, and its hyperplanes stay as they are drawn."""
  inputs, past = tensors((candidates, behaviours))
  layer(inputs, past)
  read = [inputs.embedding, past.embedding, layer._simhash.hyperplanes]
  with tf.GradientTape() as tape:
    tape.watch(read)
    scores, _ = layer.search(inputs, past)
  assert tape.gradient(scores, read) == [None] * 3
  assert not any("hyperplanes" in weight.name for weight in layer.trainable_weights)
