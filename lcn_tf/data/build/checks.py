"""Whether a log, its profiles and its items belong together, and whether a split leaves something for each part."""

import polars as pl
from absl import logging

from lcn_tf.config import Records
from lcn_tf.data.build import tables as raw
from lcn_tf.data.build.indexing import Indexed
from lcn_tf.data.build.shards import Plan
from lcn_tf.data.build.splits import Divided
from lcn_tf.data.record_set import SPLITS, RecordSet
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM


def check_known(indexed: Indexed, like: RecordSet) -> None:
  """Tells of items that other records do not know; an error if they know none of a domain's."""
  for d, count in indexed.unknown_items.items():
    rows, unknown = int(indexed.met[d].sum()), int(indexed.met[d][UNKNOWN_ITEM])
    if count:
      logging.warning(
        "%d items of the %s domain are not in %s: read as the unknown item, which %.0f %% of its interactions are on",
        *(count, d, like.path, 100 * unknown / rows),
      )
    if unknown and unknown == rows:
      raise UserError(
        f"{like.path}: knows none of the {count} items of the {d} domain that the interactions are on. Are these the "
        "records that the log belongs to?"
      )


def check_profiles(indexed: Indexed, checked: raw.Checked, names: tuple[str, str, str]) -> None:
  """Tells of many users without a profile; none with one is an error."""
  without, users = indexed.users_without_profile, len(indexed.active)
  if without < raw.MANY * users or not without:
    return
  known = checked.users["user_id"]
  strange = indexed.active.filter(~pl.col("user_id").is_in(known.implode()))["user_id"][0]
  told = (
    f"{names[2]}: {without} of {users} users of {names[0]} have no profile: {strange!r}, say; profiles are of "
    f"{f'{known[0]!r}' if len(known) else 'nobody'}"
  )
  if without == users:
    raise UserError(f"{told}. Ids compare as texts where one of the files has texts: 7 is '7', and not '007'")
  logging.warning("%s", told)


def check_negatives(indexed: Indexed, records: Records) -> None:
  labels = records.labels
  if labels.kind != "sampled":
    return
  for d in DOMAINS if records.source_records else DOMAINS[:1]:
    items = len(indexed.mapping.items[d])
    if 0 < items <= labels.negatives:
      raise UserError(
        f"records.labels.negatives is {labels.negatives}, but the {d} domain has {items} items, and a user has met one "
        "of them at least: ask for fewer"
      )


def check_split(plans: list[Plan], divided: Divided, records: Records, alone: bool) -> None:
  """Checks that there is something to train on, to validate and to test with; with `alone` one of these is enough.

  Raises:
    UserError: Says which split lacks candidates, and where the splits lie.
  """
  found = {(plan.split, plan.domain) for plan in plans}
  missing = [split for split in SPLITS if (split, "target") not in found]
  if alone and len(missing) < len(SPLITS):
    return
  if missing:
    what = "no split has" if alone else f"the {missing[0]} split has no"
    raise UserError(f"records.split: {what} target-domain candidates. {divided.cuts}")
  if records.source_records and ("train", "source") not in found:
    raise UserError(
      f"records.source_records: there are no source-domain candidates {divided.training_part}. Set it to false if the "
      "source domain has no labels."
    )
