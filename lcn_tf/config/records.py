"""The `records` section: how interactions become candidates, histories and splits."""

from typing import Any, Literal

import pydantic

from lcn_tf.config.types import Count, Positive, Rate, Share
from lcn_tf.schema import Strict


class Labels(Strict):
  """The rule that makes candidates, labels and behaviours of the interactions."""

  kind: Literal["given", "threshold", "sampled"] = "given"
  """Kind of the rule.

  `given` (impressions): `column` holds 0 or 1. A row with null is no candidate. Rows with 1 or null are behaviours,
  rows with 0 are not. Histories may reach back to times without impressions.

  `threshold`: a row is positive if its `column` is at least `at_least`, and no candidate if it is null. Every
  interaction is a behaviour.

  `sampled`: every interaction is a behaviour and a positive. Each positive gets `negatives` items of its domain and
  moment that the user never meets in the whole log. Interactions with unknown items are behaviours alone.
  """
  column: str = "label"
  """Column of the labels, for `given` and `threshold`."""
  at_least: float = 1.0
  """Smallest value of a positive, for `threshold`."""
  negatives: Positive = 4
  """Negatives of a positive, for `sampled`. Early in the log there may be fewer."""
  popularity_exponent: float = pydantic.Field(1.0, ge=0)
  """Exponent of popularity, for `sampled`: the probability of a negative is proportional to (interactions of the item
  before that moment) ** popularity_exponent."""
  known_items: bool = False
  """Restriction of candidates to items with an interaction of the training part. Without it a shop's new items
  tell their own label: an item that nobody has met cannot be drawn as a negative."""


# the keys of `Split` that each kind reads
_SPLIT_KEYS = {
  "time": ("train", "validation", "boundaries"),
  "per_user": ("validation", "test"),
  "column": ("column",),
  "all_train": (),
}


class Split(Strict):
  """The rule that makes candidates train, validate or test."""

  kind: Literal["time", "per_user", "column", "all_train"] = "time"
  """Kind of the rule. Each kind has its own keys, and those of another one are an error.

  `time` (`train`, `validation`, `boundaries`): two moments cut the candidates of all users. Older ones train, newer
  ones validate, the newest test.

  `per_user` (`validation`, `test`): the last target-domain candidates of each user test, those before them validate.

  `column` (`column`): a column of the interactions says it.

  `all_train` (no key): all candidates train. It is for records that extend others or are numbered like others.
  """
  train: Share = 0.8
  """Quantile of the interactions' times (both domains) before which candidates train, for `time`."""
  validation: float = pydantic.Field(0.1, ge=0)
  """Share of the times behind `train` whose candidates validate, for `time`; for `per_user` the part of each user's
  candidates, as `test`."""
  test: float = pydantic.Field(0.1, ge=0)
  """Part of each user's target-domain candidates that test, for `per_user`: a share below 1, or a whole number of them.
  A share is rounded down, and is one candidate at least."""
  boundaries: tuple[int, int] | None = None
  """Seconds at which validation and test begin, for `time` in place of the two quantiles."""
  column: str = ""
  """Column of the interactions that holds `train`, `validation` or `test`, for `column`. A row with null is no
  candidate."""

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Split":
    own = _SPLIT_KEYS[self.kind]
    if self.kind == "all_train" and self.model_fields_set - {"kind"}:
      raise ValueError("kind all_train has no other key. Set the section as a whole: 'records.split={kind: all_train}'")
    if strange := [name for name in type(self).model_fields if name in self.model_fields_set - {"kind", *own}]:
      raise ValueError(
        f"kind {self.kind} has the keys {', '.join(own)}, and not {', '.join(strange)}. To change the kind, set the "
        f"section as a whole: 'records.split={{kind: {self.kind}, ...}}'"
      )
    if self.kind == "column" and not self.column:
      raise ValueError("kind column needs the key column: the name of a column of the interactions")
    if self.kind == "per_user":
      self._check_parts()
    if self.kind == "time" and not 0 < self.train < self.train + self.validation < 1:
      raise ValueError(f"train {self.train} and validation {self.validation} leave no part for one of the three splits")
    if self.boundaries and self.boundaries[0] >= self.boundaries[1]:
      raise ValueError(f"boundaries {self.boundaries} do not rise")
    return self

  def _check_parts(self) -> None:
    for name, part in (("validation", self.validation), ("test", self.test)):
      if not (0 < part < 1 or part.is_integer()) or not part:
        raise ValueError(
          f"{name} {part:g} is neither a share between 0 and 1 nor a whole number of candidates of a user"
        )
    if max(self.validation, self.test) < 1 <= self.validation + self.test:
      raise ValueError(f"validation {self.validation:g} and test {self.test:g} leave no part to train on")

  @pydantic.model_serializer(mode="wrap")
  def _without_keys_of_other_kinds(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
    """So that what is written down reads back."""
    own = {name: value for name, value in handler(self).items() if name in ("kind", *_SPLIT_KEYS[self.kind])}
    return own | {name: int(part) for name, part in own.items() if isinstance(part, float) and part.is_integer()}


class Synthetic(Strict):
  """The seeded generator with a planted cross-domain interest; see `lcn_tf.data.sources.synthetic`.

  The defaults make a few ten thousand impressions in a second.
  """

  users: Positive = 500
  """Users."""
  target_items: Positive = 400
  """Items of the target domain."""
  source_items: Positive = 400
  """Items of the source domain."""
  topics: Positive = 20
  """Topics of items, shared by both domains. Candidates come from these."""
  interests: Positive = 5
  """Topics that a user cares about."""
  source_only: Count = 3
  """Interests that show in the source history alone."""
  target_only: Count = 1
  """Interests that show in the target history alone."""
  target_length: Positive = 120
  """Mean events of a user in the target domain, impressions not counted."""
  source_length: Positive = 200
  """Mean events of a user in the source domain, impressions not counted."""
  length_spread: float = pydantic.Field(0.4, ge=0)
  """Sigma of the log of a user's length; 0 = equal lengths."""
  noise: Share = 0.5
  """Share of a user's events that follow no interest."""
  sparse: bool = False
  """Needle in a haystack: events that follow an interest lie in the oldest half of the time, and the noise is of topics
  that no candidate has. Neither the newest events nor the average of all events say much."""
  rare: bool = False
  """Items that come and go: most live for a few days and are met a handful of times, and the newest events are of items
  that older ones do not know. A log needs many items then."""
  item_days: Rate = 4.0
  """Median of the days that an item lives, for `rare`. A few live for months, and one item of each topic stays."""
  target_impressions: Positive = 24
  """Candidates shown to a user in the target domain, in whole sessions."""
  source_impressions: Count = 16
  """Candidates shown to a user in the source domain, in whole sessions."""
  session: Positive = 8
  """Impressions of one session, seconds apart."""
  warm_up: Share = 0.3
  """Share of the time, at its beginning, without impressions."""
  relevant: Share = 0.4
  """Share of the impressions whose topic is one of the user's interests. The rest has any topic."""
  base: float = -2.0
  """Log-odds of a click on a topic that the user does not care about."""
  match: float = 3.6
  """Log-odds that an interest adds."""
  popularity: float = pydantic.Field(0.5, ge=0)
  """Standard deviation of an item's own log-odds."""
  topic_field: bool = False
  """Field `topic` of every item. Without it models learn topics from ids."""
  category_topics: Count = 0
  """Topics of a category, which is a field `category` of every item. The two domains divide the topics in different
  ways. 0 = there is no such column."""
  items_per_author: Positive = 4
  """Items of an author, all of one topic."""
  price_effect: float = pydantic.Field(0.0, ge=0)
  """Amplitude of the log-odds that the number `price` of an impression adds: a sine wave over its quantiles. 0 = there
  is no such column."""
  content_width: Count = 0
  """Numbers of the vector `content` of every item: its topic's, plus noise. 0 = there is no such column."""
  taste_width: Count = 0
  """Numbers of the vector `taste` of nine users in ten: the sum of their interests' topics, plus noise. 0 = there is no
  such column."""
  tags: Count = 0
  """Tags of every item, weighted: its topic by 1, and others, drawn at random, by less. 0 = there are no columns `tags`
  and `tag_weights`."""
  days: Positive = 100
  """Days of the log."""
  new_items: float = pydantic.Field(0.0, ge=0, lt=1)
  """Share of the target items that give way each day to new ones, of the same topic and author and with a popularity of
  their own. 0 = items stay."""

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Synthetic":
    if not max(self.source_only, self.target_only) < self.interests <= self.topics:
      raise ValueError(
        f"source_only {self.source_only} and target_only {self.target_only} < interests {self.interests} <= topics "
        f"{self.topics} must hold"
      )
    if self.source_only + self.target_only > self.interests:
      raise ValueError(
        f"source_only {self.source_only} + target_only {self.target_only} exceed interests {self.interests}"
      )
    needed = 2 * self.topics if self.sparse else self.topics
    if min(self.target_items, self.source_items) < needed:
      raise ValueError(f"target_items {self.target_items} and source_items {self.source_items}: at least {needed} each")
    return self


# of `records`: where the log and the shards lie, not what they hold
NOT_CONTENTS = ("raw", "shards", "compression", "state")


class Records(Strict):
  """The `records` section."""

  interactions: Literal["files", "movielens", "complete_journey", "synthetic"] = "files"
  """Source of the log: `files` (the --interactions, --items and --users flags), or a data set that the program makes
  itself."""
  raw: str = ""
  """Folder or wheel with the raw files of `movielens` (an unpacked official `ml-1m`) or `complete_journey`; empty =
  fetched."""
  labels: Labels = Labels()
  """Rule that makes candidates and labels."""
  split: Split = Split()
  """Rule that splits the candidates into training, validation and test."""
  synthetic: Synthetic = Synthetic()
  """Sizes and difficulty of the synthetic log."""
  source_records: bool = True
  """Records of source-domain candidates, which CRP, MiNet, CoNet and pi-Net read."""
  state: bool = True
  """Folder `state` of the record set, by which --extend goes on: the newest behaviours of every user, and counts."""
  grow: bool = True
  """Rows for the new items and values of an extension. Without them new items and values stay unknown."""
  shards: Positive = 8
  """Files per split and domain."""
  compression: Literal["gzip", "none"] = "gzip"
  """Compression of the shards."""
  seed: Count = 0
  """Seed of negatives, shuffling and out-of-vocabulary hashing."""
