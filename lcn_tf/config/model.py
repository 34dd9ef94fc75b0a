"""The `model` section: the skeleton's slots, or a network of its own wiring."""

from typing import Any, Literal

import pydantic

from lcn_tf.config.types import Count, Positive, Rate
from lcn_tf.schema import DOMAINS, DomainName, Strict, item_vocabulary


class Embedding(Strict):
  """Embedding tables, one per vocabulary."""

  dim: Positive = 64
  """Width of every field's embedding."""
  dims: dict[str, Positive] = {}
  """Widths by vocabulary, or by vector of items or users for its projection, where they differ from `dim`."""
  cross_dim: Positive = 8
  """Width of every cross field's embedding (side information, recency included)."""
  recency_buckets: Count = 20
  """Buckets of a behaviour's age at the time of its candidate, spaced by factors of two from a minute on; 0 = age is no
  feature."""
  init: Literal["scaled_uniform", "glorot"] = "glorot"
  """Initial values: `scaled_uniform`, +-1/sqrt(width); `glorot`, Xavier's for a [rows, width] table. Ages and
  out-of-vocabulary rows begin as zeros, so that values which training never meets have no effect."""
  init_scale: Rate = 1.0
  """Factor of the initial values."""
  init_from: Literal["none", "pretrained", "pretrained_frozen"] = "none"
  """Beginning of the tables of item ids: `none`, the initial values of all tables; `pretrained`, the item vectors of
  `pretraining`, which are trained on; `pretrained_frozen`, the same vectors, which stay as they are. The vectors get
  the root mean square of the initial values, and of wider ones the first columns are taken. Ids without a vector begin
  as zeros."""

  def id_widths(self) -> dict[str, int]:
    """Widths of the tables of item ids, by vocabulary."""
    return {name: self.dims.get(name, self.dim) for name in map(item_vocabulary, DOMAINS)}


class MLP(Strict):
  """The hidden layers of the scorer."""

  units: tuple[Positive, ...] = (512, 256)
  """Widths of the hidden layers."""
  activation: Literal[
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "selu",
    "mish",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "swish",
    "tanh",
    "linear",
  ] = "relu"
  """Activation of the hidden layers, one of Keras'."""
  dropout: float = pydantic.Field(0.0, ge=0, lt=1)
  """Share of the hidden values that training drops."""


class CRP(Strict):
  """Cross Representation Production (LCN, section 3.4): the weights of its six losses, and its pairs."""

  weight: float = pydantic.Field(0.1, ge=0)
  """Weight lambda_CRP of all losses together, eq. 22."""
  contrastive: tuple[float, float, float, float] = (0.1, 0.1, 0.1, 0.1)
  """Weights of the contrastive losses (t,t'), (t,s'), (s,s''), (s,t''), eq. 20."""
  supervised: tuple[float, float] = (1.0, 1.0)
  """Weights of the click losses of the target and the source domain."""
  temperature: Rate = 0.1
  """Temperature tau of the contrastive losses."""
  negatives: Literal["candidates", "history_query"] = "candidates"
  """Negatives of a pair: `candidates`, two positive samples of different users in one domain; `history_query`, the
  usual in-batch form, the history partner against the other users' candidates."""
  anchors: Positive = 4
  """Anchors of a request, drawn from its positives anew at each step."""
  partners: Positive = 16
  """Past behaviours drawn for each anchor from each history."""
  dedupe_users: bool = True
  """Restriction of the anchors to one request per user, domain and batch."""
  mask_history_negatives: bool = True
  """Mask of negatives that are among the newest 50 behaviours of the anchor's user."""
  mask_same_user: bool = True
  """Mask of negatives of the anchor's own user (off only for ablation)."""
  units: tuple[Positive, ...] = (256, 128)
  """Hidden widths of the two heads."""


class Pretraining(Strict):
  """The frozen item vectors of SIM Soft, SIM Cluster and `embedding.init_from`; see `lcn_tf.pretraining.run`.

  Jobs make them only for models that read them, and clusters only for models that search by clusters.
  """

  path: str = ""
  """Folder that pipelines.pretrain left; empty = the job makes the vectors itself, in its run folder."""
  item_vector: str = ""
  """Name of an item vector of the schema that the vectors are made of; empty = they are made of the histories of the
  training records."""
  dim: Positive = 64
  """Width P of the vectors."""
  window: Positive = 5
  """Events of a user's merged history, on either side, that count as an item's context."""
  clusters: tuple[Positive, Positive] = (1000, 10000)
  """Numbers of k-means clusters of SIM Cluster and of SIM Cluster+; at most a tenth of the items."""
  seed: Count = 0
  """Seed of all random choices."""

  def settings(self, clusters: bool = True) -> dict[str, Any]:
    """The settings that decide the vectors, and with `clusters` those of the clusters, too: all but the path."""
    return self.model_dump(mode="json", exclude={"path"} if clusters else {"path", "clusters"})


class Model(Strict):
  """The `model` section."""

  network: str = "ctr"
  """Name in `lcn_tf.models.networks.NETWORKS`; `ctr` is the skeleton whose slot an extractor fills."""
  extractor: str = "lap"
  """Name in `lcn_tf.interest.EXTRACTORS`, or `none` for a model that reads no history and for networks other than
  `ctr`."""
  options: dict[str, Any] = {}
  """Arguments of the extractor, or of a network other than `ctr`."""
  histories: tuple[DomainName, ...] = pydantic.Field(("target", "source"), min_length=1)
  """Domains whose histories the model reads."""
  max_length: Count = 0
  """Newest behaviours of each history that a candidate sees, among those that the records hold; 0 = all."""
  short_term: Count = 0
  """Newest behaviours of each history that a second target attention (DIN) reads, TWIN's short-term module; 0 =
  none."""
  embedding: Embedding = Embedding()
  """Widths and initial values of the tables."""
  item_dim: Count = 0
  """Width of a linear projection of an item's fields; 0 = their concatenation."""
  pretraining: Pretraining = Pretraining()
  """Item vectors that some extractors search with, and that `embedding.init_from` begins with."""
  mlp: MLP = MLP()
  """Hidden layers of the scorer."""
  crp: CRP | None = None
  """Cross Representation Production; null = off. It needs source-domain records."""
  projection_refresh: Count = 0
  """Steps between two refreshes of a search's copy of the model: TWIN's item projections (`projections: cached`), or
  the search unit of another model (`auxiliary_seed`); 0 = after every epoch."""
  auxiliary_seed: Count | None = None
  """Seed of a second TWIN for TWIN "without parameter consistency". It is trained beside the model on the same batches,
  and its search unit searches for the model. Null = the model searches itself."""

  @pydantic.model_validator(mode="after")
  def _vectors_fit(self) -> "Model":
    for name, width in self.embedding.id_widths().items() if self.embedding.init_from != "none" else ():
      if self.pretraining.dim < width:
        raise ValueError(
          f"embedding.init_from: item vectors are pretraining.dim {self.pretraining.dim} wide, fewer than the {width} "
          f"columns of the table of {name}"
        )
    return self

  @pydantic.model_validator(mode="after")
  def _slots_fit(self) -> "Model":
    if len(set(self.histories)) < len(self.histories):
      raise ValueError(f"histories {list(self.histories)} name one twice")
    if self.auxiliary_seed is not None and self.extractor != "twin":
      raise ValueError(f"auxiliary_seed is of extractor 'twin', but extractor is {self.extractor!r}")
    if self.auxiliary_seed is not None and self.options.get("projections") == "cached":
      raise ValueError("auxiliary_seed and options.projections 'cached' are two ways of searching; set one of them")
    if self.network == "ctr":
      return self
    if "extractor" not in self.model_fields_set:
      object.__setattr__(self, "extractor", "none")
    for name, empty in (("extractor", "none"), ("crp", None), ("short_term", 0)):
      if getattr(self, name) != empty:
        raise ValueError(f"{name} is a slot of network 'ctr', but network is {self.network!r}")
    return self
