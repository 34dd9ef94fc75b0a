"""Compares two record sets: drift of fields, history lengths, hours and the positive rate from --a to --b.

Typical record sets are those of training (--a) and those of a new day (--b), whether built with --like or on their own.
The command reads their statistics.json, no records. It prints one table with, for every distribution, the population
stability index (PSI), the PSI that sampling alone leaves on average, the Jensen-Shannon divergence (JS, 0 to 1) and the
share of ids that --a does not know. It leaves no files.

It ends with exit code 0 below all thresholds, and with 2 if one is exceeded. 1 is an error, as everywhere.

Example:

    python -m tools.compare_records --a my_records --b runs/records/later --split_b test
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

from absl import flags

from lcn_tf import entry, formats, places
from lcn_tf.data.record_set import RecordSet

DRIFT = 2  # exit code

_FLAGS = flags.FlagValues()
_A = entry.define_path(
  _FLAGS,
  "a",
  "Record set to compare with.",
  "records",
  required=True,
)
_B = entry.define_path(
  _FLAGS,
  "b",
  "Record set that may have drifted.",
  "records",
  required=True,
)
_SPLITS = "train, validation or test. Without the flag the training split, or the newest one of records without it."
_SPLIT_A = flags.DEFINE_string("split_a", None, f"Split of --a: {_SPLITS}", flag_values=_FLAGS)
_SPLIT_B = flags.DEFINE_string("split_b", None, f"Split of --b: {_SPLITS}", flag_values=_FLAGS)
_PSI = flags.DEFINE_float(
  "psi",
  0.2,
  "Threshold of the PSI, after the one that sampling leaves is subtracted.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_NEW_IDS = flags.DEFINE_float(
  "new_ids", 0.1, "Threshold of the share of values that --a does not know.", lower_bound=0, flag_values=_FLAGS
)
_POSITIVE_RATE = flags.DEFINE_float(
  "positive_rate",
  0.2,
  "Threshold of the change of the share of positives, relative to that of --a.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_JSON = flags.DEFINE_bool("json", False, "Print one line of JSON instead of the table.", flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  from lcn_tf.analysis import drift

  a, b = RecordSet.open(_A.value), RecordSet.open(_B.value)
  splits = (_SPLIT_A.value or drift.default_split(a), _SPLIT_B.value or drift.default_split(b))
  limits = drift.Limits(_PSI.value, _NEW_IDS.value, _POSITIVE_RATE.value)
  found = drift.compare(a, b, *splits, limits)
  if _JSON.value:
    paths = {"a": a.path, "b": b.path, "limits": limits._asdict()}
    tree = {**paths, **dataclasses.asdict(found), "drift": found.found}
    print(json.dumps(formats.jsonable(tree), allow_nan=False))
  else:
    told = f"A: {a.path}, {found.split_a} split\nB: {b.path}, {found.split_b} split\n\n{drift.table(found)}"
    print(places.shown(told))
  if found.found:
    sys.exit(DRIFT)


if __name__ == "__main__":
  entry.run(main)
