"""Mult-adds by formula, per request of N candidates and one history: as the papers' equations cost when they are
carried out literally, and as this implementation does it.

Matrix products alone count; sorting, hashing to words and comparing, softmax and gathering do not. Sizes:

    N candidates, L behaviours, D item width, S stored side information, R age buckets of width C
    W = D + S + C: a behaviour's row
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from lcn_tf.interest.base import Extractor
from lcn_tf.interest.din import DIN
from lcn_tf.interest.lap import LAP


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The letters above; `vectors` is the width of the frozen item vectors. Without recency R and C are 0."""

  N: int
  L: int
  D: int
  S: int = 0
  R: int = 0
  C: int = 0
  vectors: int = 0

  @property
  def W(self) -> int:
    return self.D + self.S + self.C


def lap_levels(
  sizes: Sizes,
  top_k: tuple[int, int] = (200, 50),
  num_heads: int = 4,
  head_dim: int = 16,
  msa_dim: int = 64,
  output_dim: int = 64,
  ffn_dim: int = 256,
) -> dict[str, int]:
  """LAP's three levels, literally: keys and values of all kept rows are projected for every candidate. MSA alone pools
  before it projects values, as in our reading of the paper's eq. (8)."""
  n = sizes.N
  first, second = (min(k, sizes.L) for k in top_k)
  return {
    "csa": n * 2 * sizes.L * sizes.D,
    "msa": n
    * (sizes.D * msa_dim + first * sizes.W * msa_dim + first * msa_dim + first * sizes.W + sizes.W * output_dim),
    "fsa": full_attention(sizes, "per_candidate", num_heads, head_dim, output_dim, ffn_dim, kept=second),
  }


def full_attention(
  sizes: Sizes,
  projections: str = "per_candidate",
  num_heads: int = 4,
  head_dim: int = 16,
  output_dim: int = 64,
  ffn_dim: int = 256,
  kept: int = 0,
) -> int:
  """LAP's last level over `kept` behaviours (0: all); `projections` as of `FullAttention`."""
  n, heads, kept = sizes.N, num_heads * head_dim, kept or sizes.L
  query = n * sizes.D * heads
  out = n * (heads * output_dim + 2 * output_dim * ffn_dim)
  if projections == "carried":
    return query + 2 * n * heads * sizes.W + 2 * n * num_heads * kept * sizes.W + out
  keys_and_values = 2 * kept * sizes.W * heads * (n if projections == "per_candidate" else 1)
  return query + keys_and_values + 2 * n * kept * heads + out


def specified(name: str, extractor: Extractor, sizes: Sizes) -> int | None:
  """The literal equations of one extractor; None if there is no formula for it."""
  own = extractor.mult_adds(sizes)
  return own[0] if own else _of(_SPECIFIED, name, extractor, sizes)


def implemented(name: str, extractor: Extractor, sizes: Sizes) -> int | None:
  """Mult-adds that the graph of one extractor must have; None without a formula."""
  own = extractor.mult_adds(sizes)
  return own[1] if own else _of(_IMPLEMENTED, name, extractor, sizes)


Formula = Callable[[Any, Sizes], int]


def _of(formulas: dict[str, Formula], name: str, extractor: Extractor, sizes: Sizes) -> int | None:
  try:
    return formulas[name](extractor, sizes)
  except (KeyError, NotImplementedError):
    return None


def _average_pooling(layer: Any, s: Sizes) -> int:
  return s.N * s.L * s.W


def _average_pooling_implemented(layer: Any, s: Sizes) -> int:
  # one mean for all candidates, and their shares of the age buckets
  return s.L * (s.D + s.S) + s.N * s.R * s.C


def _pairs(s: Sizes, kept: int, units: Sequence[int]) -> int:
  """DIN's MLP over [candidate ; row ; difference ; product] of every kept behaviour, and the sum of the rows."""
  return s.N * kept * ((3 * s.D + s.W) * units[0] + units[0] * units[1] + units[1] + s.W)


def _din(layer: DIN, s: Sizes) -> int:
  return _pairs(s, min(layer.recent or s.L, s.L), layer.units)


def _own_pairs(s: Sizes, kept: int, units: Sequence[int]) -> int:
  """As `_pairs`, the first layer in blocks: the candidate's part once, one column of ones beside the rows."""
  first, second = units
  return s.N * (s.D * first + kept * ((s.W + 1) * first + first * second + second + s.W))


def _din_implemented(layer: DIN, s: Sizes) -> int:
  if layer.recent:
    return _own_pairs(s, layer.recent, layer.units)
  # rows are shared, so age comes as a table
  first, second = layer.units
  row = s.D + s.S
  of_candidates = s.N * (s.D * first + s.L * ((row + 1) * first + first * second + second + row))
  return of_candidates + s.R * s.C * first + s.N * s.R * s.C


def _esu(layer: Any, s: Sizes) -> int:
  """SIM's, ETA's and SDIM's final attention, literally."""
  kept = min(layer.top_k, s.L)
  if layer.esu == "din":
    return _pairs(s, kept, (80, 40))
  heads = layer.num_heads * layer.head_dim
  return s.N * (s.D * heads + 2 * kept * s.W * heads + 2 * kept * heads + heads * layer.output_dim)


def _esu_implemented(layer: Any, s: Sizes) -> int:
  if layer.esu == "din":
    return _own_pairs(s, layer.top_k, (80, 40))
  heads = layer.num_heads * layer.head_dim
  carried = s.D * heads + 2 * heads * s.W + 2 * layer.num_heads * layer.top_k * s.W
  return s.N * (carried + heads * layer.output_dim)


def _sim_soft(layer: Any, s: Sizes) -> int:
  return s.N * s.L * s.vectors + _esu(layer, s)


def _sim_soft_implemented(layer: Any, s: Sizes) -> int:
  return s.N * s.L * s.vectors + _esu_implemented(layer, s)


def _eta(layer: Any, s: Sizes) -> int:
  # distances of packed words are no mult-adds
  return (s.N + s.L) * s.D * layer.bits + _esu(layer, s)


def _eta_implemented(layer: Any, s: Sizes) -> int:
  return (s.N + s.L) * s.D * layer.bits + s.N * s.L * layer.bits + _esu_implemented(layer, s)


def _sdim(layer: Any, s: Sizes) -> int:
  hashing = (s.N + s.L) * s.D * layer.hashes * layer.width
  # literally, every round adds up the rows of the behaviours that collide: an upper bound, all of them
  return hashing + (s.N * layer.hashes * s.L * s.W if layer.mode == "pool" else _esu(layer, s))


def _twin(layer: Any, s: Sizes) -> int:
  if layer.key == "raw":
    raise NotImplementedError
  heads, kept = layer.num_heads * layer.head_dim, min(layer.top_k, s.L)
  keys = s.L * s.D * heads
  biases = s.L * (s.S + s.C) * layer.num_heads
  esu = kept * s.W * heads + kept * heads + heads * layer.output_dim
  return keys + biases + s.N * (s.D * heads + s.L * heads + esu)


def _twin_implemented(layer: Any, s: Sizes) -> int:
  if layer.key == "raw" or layer.projections == "cached":
    raise NotImplementedError
  heads, width = layer.num_heads * layer.head_dim, layer.num_heads
  query = 2 * s.D * heads
  search = width * s.L * (s.D + s.S)
  esu = 2 * width * layer.top_k * s.W + heads * s.W + heads * layer.output_dim
  ages = s.R * s.C * width  # the bias of each age bucket, once for all candidates
  return s.N * (query + search + esu) + ages


def _lap(layer: LAP, s: Sizes) -> int:
  if layer.levels != ["csa", "msa", "fsa"]:
    raise NotImplementedError
  sizes = {name: getattr(layer, name) for name in ("num_heads", "head_dim", "msa_dim", "output_dim", "ffn_dim")}
  return sum(lap_levels(s, (layer.top_k[0], layer.top_k[1]), **sizes).values())


def _lap_implemented(layer: LAP, s: Sizes) -> int:
  csa = 2 * s.L * s.D
  msa = s.D * layer.msa_dim + layer.msa_dim * s.W + s.W * layer.output_dim
  if s.N == 1:
    msa += 2 * layer.top_k[0] * s.W
  else:  # scores and pools over all behaviours, too: the weights are zero at those that it did not keep
    msa += 2 * s.L * (s.D + s.S) + 2 * s.R * s.C
  sizes = dataclasses.replace(s, N=1)
  options = (layer.num_heads, layer.head_dim, layer.output_dim, layer.ffn_dim)
  return s.N * (csa + msa + full_attention(sizes, "carried", *options, kept=layer.top_k[1]))


_SPECIFIED: dict[str, Formula] = {
  "average_pooling": _average_pooling,
  "din": _din,
  "eta": _eta,
  "lap": _lap,
  "sdim": _sdim,
  "sim_cluster": _esu,
  "sim_cluster_plus": _esu,
  "sim_hard": _esu,
  "sim_soft": _sim_soft,
  "twin": _twin,
}
_IMPLEMENTED: dict[str, Formula] = {
  "average_pooling": _average_pooling_implemented,
  "din": _din_implemented,
  "eta": _eta_implemented,
  "lap": _lap_implemented,
  "sim_cluster": _esu_implemented,
  "sim_cluster_plus": _esu_implemented,
  "sim_hard": _esu_implemented,
  "sim_soft": _sim_soft_implemented,
  "twin": _twin_implemented,
}
