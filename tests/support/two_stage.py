"""Checks that extractors with a search and an exact attention share."""

from collections.abc import Callable

import numpy as np

from lcn_tf.interest.two_stage import TwoStage
from lcn_tf.layers.structures import Behaviours, Candidates
from tests.reference import two_stage
from tests.support.layers import tensors

Search = Callable[[int, int, int], float | None]
Twin = Callable[[TwoStage, Candidates, Behaviours], np.ndarray]

_WEIGHTS = {
  "din": ("kernel_1", "bias_1", "kernel_2", "bias_2", "kernel_3"),
  "mha": ("query", "key", "value", "output_weight"),
}


def esu_weights(layer: TwoStage) -> dict[str, np.ndarray]:
  """The weights of the exact attention by the names that its twin has for them."""
  holder = layer if layer.esu == "mha" else layer._din
  return {name.removesuffix("_weight"): getattr(holder, name).numpy() for name in _WEIGHTS[layer.esu]}


def twin_of(search: Callable[[TwoStage, Candidates, Behaviours], Search]) -> Twin:
  """The twin of extractors whose search is that of `search(layer, candidates, behaviours)`."""

  def twin(layer: TwoStage, candidates: Candidates, behaviours: Behaviours) -> np.ndarray:
    found, weights = search(layer, candidates, behaviours), esu_weights(layer)
    return two_stage.two_stage(candidates, behaviours, found, weights, top_k=layer.top_k, esu=layer.esu)

  return twin


def check_exact_scores(layer: TwoStage, candidates: Candidates, behaviours: Behaviours) -> None:
  """The exact scores are those of the attention over all that is visible, and 0 for the rest."""
  inputs = tensors((candidates, behaviours))
  layer(*inputs)
  expected = two_stage.exact_scores(candidates, behaviours, esu_weights(layer), esu=layer.esu)
  np.testing.assert_allclose(layer.exact_scores(*inputs), expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(expected.sum(axis=-1), behaviours.visible.any(axis=-1), rtol=1e-6)
