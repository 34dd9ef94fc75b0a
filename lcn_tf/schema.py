"""The schema: what a record holds, said once.

The record parser, the embedding tables and the serving signature are three readings of a `Schema`.
It is part of the experiment config (without sizes) and of a record set's `dataset.json` (with sizes).
"""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import pydantic

from lcn_tf.errors import unknown

DomainName = Literal["target", "source"]
DOMAINS: tuple[DomainName, ...] = ("target", "source")

PADDING = 0  # of every vocabulary and of every item catalogue
UNKNOWN_ITEM = 1  # the catalogue row of an item that the catalogue does not hold


class Strict(pydantic.BaseModel):
  """Immutable, and refuses unknown keys."""

  model_config = pydantic.ConfigDict(
    extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
  )


class Vocabulary(Strict):
  """The values of one or several fields, indexed 0 = padding, 1..oov = out of vocabulary, then by falling frequency."""

  min_count: int = pydantic.Field(1, ge=1)
  """Training interactions with a value below which it is out of vocabulary."""
  oov: int = pydantic.Field(1, ge=1)
  """Rows that the out-of-vocabulary values share by hash."""
  max_known: int = pydantic.Field(0, ge=0)
  """Largest number of values with a row of their own; 0 = no bound. The most frequent values have one. Where records
  are extended, new values take the rows of those that were not met for the longest time."""
  size: int = pydantic.Field(0, ge=0)
  """Rows in all, padding and out-of-vocabulary rows included. The builder sets it."""


class Feature(Strict):
  """A field with an embedding: of each of its values if it is categorical, of buckets of values if it is numeric."""

  name: str
  """Column of the log."""
  kind: Literal["categorical", "numeric"] = "categorical"
  """Kind of the values: `categorical`, integers or texts; `numeric`, numbers whose order counts."""
  vocabulary: str = ""
  """Vocabulary of the values; empty = one with the field's own name. Fields of one vocabulary share an embedding
  table, numeric fields their buckets too."""
  max_values: int = pydantic.Field(1, ge=1)
  """Values of a row that are kept. With more than 1 the column holds lists, whose embeddings are averaged."""
  weights: str = ""
  """Column of the weights of a field's values, lists as long as its own; empty = all values of a row count alike. The
  average of the embeddings is then a weighted one."""
  buckets: int = pydantic.Field(32, ge=2)
  """Buckets of a numeric field, between quantiles of its values in the training interactions. Values that are equal
  share a bucket, so there may be fewer."""
  standardise: bool = False
  """Addition of a numeric field's standardised value, times a learned vector, to the embedding of its bucket. Mean and
  deviation are those of the training interactions."""
  log1p: bool = False
  """Replacement of a number x by log(1 + x) before it is standardised, for numbers of at least 0."""
  clip: tuple[float | None, float | None] | None = None
  """Limits that numbers are cut at before `log1p` and before they are standardised; null = no such limit."""

  @pydantic.model_validator(mode="before")
  @classmethod
  def _from_name(cls, value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value

  @pydantic.model_validator(mode="after")
  def _own_vocabulary(self) -> "Feature":
    if not self.vocabulary:
      object.__setattr__(self, "vocabulary", self.name)
    if self.kind == "numeric" and self.max_values > 1:
      raise ValueError(f"{self.name!r}: a numeric field holds one value (max_values: 1)")
    self._check_values()
    return self

  def _check_values(self) -> None:
    if self.standardise and not self.numeric:
      raise ValueError(f"{self.name!r}: standardise is of numeric fields (kind: numeric)")
    if (self.log1p or self.clip is not None) and not self.standardise:
      name = "log1p" if self.log1p else "clip"
      raise ValueError(f"{self.name!r}: {name} is of standardised values, which the field has with standardise: true")
    low, high = self.clip or (None, None)
    limits = [limit for limit in (low, high) if limit is not None]
    if self.clip is not None and (not all(map(math.isfinite, limits)) or limits != sorted(set(limits)) or not limits):
      raise ValueError(
        f"{self.name!r}: clip {list(self.clip)} is not two finite limits that rise, one of which may be null"
      )
    if self.log1p and any(limit < 0 for limit in limits):
      raise ValueError(f"{self.name!r}: clip {list(self.clip or ())} leaves numbers below 0, which log1p does not take")
    if self.weights and (self.numeric or self.max_values == 1):
      raise ValueError(f"{self.name!r}: weights are of the values of a list (max_values of at least 2)")
    if self.weights == self.name:
      raise ValueError(f"{self.name!r}: weights names the column of the values themselves")

  @property
  def numeric(self) -> bool:
    """Whether the values are numbers."""
    return self.kind == "numeric"

  @property
  def refuses_negative(self) -> bool:
    """Whether a number below 0 has no standardised value: it has no logarithm, and no limit cuts it."""
    return self.log1p and (self.clip is None or self.clip[0] is None)

  @property
  def value_columns(self) -> int:
    """Float columns that the field takes: a standardised value, or the weights of its values, or none."""
    return self.max_values if self.standardise or self.weights else 0


class ItemVector(Strict):
  """A vector of every item that is known before training, of its text or picture, say. It stays as it is."""

  name: str
  """Column of the items, lists of numbers."""
  width: int = pydantic.Field(ge=1)
  """Numbers of a vector."""
  dtype: Literal["float32", "float16"] = "float32"
  """Type of the numbers in the catalogue and in the model."""


class UserVector(Strict):
  """A vector of every user that is known before training, of a lasting taste, say. It stays as it is."""

  name: str
  """Column of the users, lists of numbers."""
  width: int = pydantic.Field(ge=1)
  """Numbers of a vector."""
  dtype: Literal["float32"] = "float32"
  """Type of the numbers in records and requests."""

  @property
  def value_columns(self) -> int:
    """Float columns that the vector takes."""
    return self.width


class Domain(Strict):
  """One of the two domains."""

  item_fields: tuple[Feature, ...] = ()
  """Inherent fields of the items, besides the item id."""
  item_vectors: tuple[ItemVector, ...] = ()
  """Frozen vectors of the items. A linear projection of each, which all domains with a vector of that name share, is a
  part of the item representation."""
  cross_fields: tuple[Feature, ...] = ()
  """Side information of every behaviour, one value each."""
  max_length: int = pydantic.Field(200, ge=1)
  """Behaviours L that a candidate may see at most."""
  items: int = pydantic.Field(0, ge=0)
  """Rows of the item catalogue, padding and unknown item included. The builder sets it."""


class Schema(Strict):
  """Everything that a record holds, by the name of its field. WORKSPACE.md has the design in short."""

  user_fields: tuple[Feature, ...] = ()
  """Profile fields. `user_id` may be one of them."""
  user_vectors: tuple[UserVector, ...] = ()
  """Vectors of the users. A linear projection of each is a part of the embedded profile."""
  context_fields: tuple[Feature, ...] = ()
  """Fields of the candidate's moment, from the row of its interaction, one value each."""
  target: Domain = Domain()
  """Domain whose clicks are predicted."""
  source: Domain = Domain()
  """Domain with the other history of the same users."""
  candidates: int = pydantic.Field(16, ge=1)
  """Candidates N of one user that a record holds at most."""
  extra_length: float = pydantic.Field(0.25, ge=0, le=1)
  """Share of `max_length` that a record may hold beyond it, so that candidates of different moments each see
  `max_length` behaviours of their own."""
  vocabularies: dict[str, Vocabulary] = {}
  """Vocabularies by name. Those that a field names and that are not declared get the defaults."""

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Schema":
    used = {feature.vocabulary for feature in self.features()} | {item_vocabulary(domain) for domain in DOMAINS}
    for name in sorted(used | set(self.vocabularies)):
      if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a vocabulary: it names a file")
    for name in self.vocabularies:
      if name not in used:
        raise ValueError(str(unknown("vocabularies", "vocabulary", name, used)))
    for name in sorted(used - set(self.vocabularies)):
      self.vocabularies[name] = Vocabulary()
    groups = [("user_fields", self.user_fields), ("context_fields", self.context_fields)]
    for domain in DOMAINS:
      groups += [(f"{domain}.item_fields", self.domain(domain).item_fields)]
      groups += [(f"{domain}.cross_fields", self.domain(domain).cross_fields)]
    for where, features in groups:
      names = [feature.name for feature in features]
      if len(set(names)) < len(names):
        raise ValueError(f"{where}: a field is named twice: {', '.join(names)}")
      if where.endswith(("cross_fields", "context_fields")) and any(f.max_values > 1 for f in features):
        raise ValueError(f"{where}: these fields hold one value each (max_values: 1)")
    self._check_numeric()
    self._check_vectors()
    return self

  def _check_numeric(self) -> None:
    """Checks that fields of one vocabulary or one column are of one kind."""
    for name in sorted({f.vocabulary for f in self.features()}):
      kinds = {
        (f.kind, f.buckets if f.numeric else 0, f.standardise, f.log1p, f.clip): f.name
        for f in self.features()
        if f.vocabulary == name
      }
      if len(kinds) > 1:
        raise ValueError(
          f"the vocabulary {name!r} is of fields that differ in kind, buckets, standardise, log1p or clip: "
          f"{', '.join(kinds.values())}"
        )
      if self.numeric(name) and self.vocabularies[name].model_copy(update={"size": 0}) != Vocabulary():
        raise ValueError(f"vocabularies: {name!r} is of a numeric field, which has no min_count, oov and max_known")
    events = [self.context_fields, self.target.cross_fields, self.source.cross_fields]
    for groups in (events, [self.target.item_fields, self.source.item_fields]):
      kind_of: dict[str, str] = {}
      for feature in (feature for group in groups for feature in group):
        if kind_of.setdefault(feature.name, feature.kind) != feature.kind:
          raise ValueError(f"the column {feature.name!r} is of a categorical and of a numeric field")

  def _check_vectors(self) -> None:
    known: dict[str, ItemVector] = {}
    for d in DOMAINS:
      fields = [f.name for f in self.domain(d).item_fields]
      for vector in self.domain(d).item_vectors:
        if fields.count(vector.name) or vector.name == "item_id":
          raise ValueError(f"{d}.item_vectors: {vector.name!r} is a field too, or is named twice")
        fields.append(vector.name)
        if set(vector.name) & set("/\\\0"):
          raise ValueError(f"{d}.item_vectors: {vector.name!r} is no name of a vector: it names a file")
        if known.setdefault(vector.name, vector) != vector:
          raise ValueError(f"item_vectors: {vector.name!r} differs between the domains")
    taken = {"user_id", *(f.name for f in self.user_fields), *(f.weights for f in self.user_fields)}
    for user_vector in self.user_vectors:
      if user_vector.name in taken:
        raise ValueError(f"user_vectors: {user_vector.name!r} is a column of the users too, or is named twice")
      taken.add(user_vector.name)

  def numeric(self, vocabulary: str) -> bool:
    """Whether a vocabulary is of numeric fields."""
    return any(feature.numeric for feature in self.features() if feature.vocabulary == vocabulary)

  def standardised(self, vocabulary: str) -> Feature | None:
    """One of the fields of a vocabulary, all of which are standardised alike; None if they are not standardised."""
    return next((f for f in self.features() if f.standardise and f.vocabulary == vocabulary), None)

  def features(self) -> Iterator[Feature]:
    """Every field but the item ids."""
    yield from self.user_fields
    yield from self.context_fields
    for domain in DOMAINS:
      yield from self.domain(domain).item_fields
      yield from self.domain(domain).cross_fields

  def user_parts(self) -> tuple[Feature | UserVector, ...]:
    """What is said of a user, in the order of the columns: the fields, then the vectors."""
    return (*self.user_fields, *self.user_vectors)

  def domain(self, name: DomainName) -> Domain:
    return self.target if name == "target" else self.source

  def catalogue_features(self, name: DomainName) -> tuple[Feature, ...]:
    """The fields of an item, in the order of the catalogue's columns: the id, then `item_fields`."""
    return (Feature(name="item_id", vocabulary=item_vocabulary(name)), *self.domain(name).item_fields)

  def capacity(self, name: DomainName) -> int:
    """Behaviours that a record holds at most."""
    length = self.domain(name).max_length
    return length + int(length * self.extra_length)

  def fingerprint(self) -> str:
    """Tells schemas (with their sizes) apart; a record set adds its vocabularies to it."""
    text = json.dumps(_without_defaults(self.model_dump(mode="json")), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_defaults(tree: Any) -> Any:
  """A dumped schema without keys that say nothing, and that fingerprints of older record sets do not count."""
  if isinstance(tree, list):
    return [_without_defaults(one) for one in tree]
  if not isinstance(tree, dict):
    return tree
  silent: dict[str, Any] = {"kind": "categorical", "item_vectors": [], "user_vectors": [], "max_known": 0}
  silent |= {"standardise": False, "log1p": False, "clip": None, "weights": ""}
  if tree.get("kind") == "categorical":
    silent["buckets"] = tree["buckets"]
  return {
    name: _without_defaults(value) for name, value in tree.items() if not (name in silent and value == silent[name])
  }


def other_domain(domain: DomainName) -> DomainName:
  return "source" if domain == "target" else "target"


def columns(features: tuple[Feature, ...]) -> int:
  """Integer columns that `features` take, side by side: one per value."""
  return sum(feature.max_values for feature in features)


def placed(features: tuple[Feature, ...]) -> Iterator[tuple[Feature, slice]]:
  """Each field with its integer columns among those of `features`."""
  first = 0
  for feature in features:
    yield feature, slice(first, first + feature.max_values)
    first += feature.max_values


def value_columns(features: tuple[Feature | UserVector, ...]) -> int:
  """Float columns that `features` take, side by side: the *values* of a group of fields."""
  return sum(feature.value_columns for feature in features)


def item_vocabulary(domain: DomainName) -> str:
  """The vocabulary of the domain's item ids."""
  return f"{domain}_item"


def with_sizes(schema: Schema, vocabularies: dict[str, int], items: dict[DomainName, int]) -> Schema:
  """The schema with the sizes that building the records found."""
  sized = {name: v.model_copy(update={"size": vocabularies[name]}) for name, v in schema.vocabularies.items()}
  update: dict[str, Any] = {name: schema.domain(name).model_copy(update={"items": items[name]}) for name in DOMAINS}
  return schema.model_copy(update=update | {"vocabularies": sized})
