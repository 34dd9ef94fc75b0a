"""Interactions to records.

    python -m pipelines.build_records --config C --output DIR [--interactions F --items F [--users F]] [--like RECORDS]

A log that goes on, on whose part from second T a model trained with RECORDS is to be tested: give all of it, since the
older part is the users' past, whose candidates are the validation split:

    python -m pipelines.build_records ... --like RECORDS --set 'records.split.boundaries=[0,T]'
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import config, entry
from lcn_tf.data.build import tables
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError

_FLAGS = flags.FlagValues()
_CONFIG = flags.DEFINE_string("config", None, "Experiment (YAML).", required=True, flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Record set to make.", required=True, flag_values=_FLAGS)
_INTERACTIONS = flags.DEFINE_string(
  "interactions", None, "Interactions: a Parquet file, or a folder of them.", flag_values=_FLAGS
)
_ITEMS = flags.DEFINE_string("items", None, "Items: a Parquet file, or a folder of them.", flag_values=_FLAGS)
_USERS = flags.DEFINE_string("users", None, "Users: a Parquet file, or a folder of them.", flag_values=_FLAGS)
_STRICT = flags.DEFINE_bool("strict", False, "Rows that have to be rejected are an error.", flag_values=_FLAGS)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the record set at --output.", flag_values=_FLAGS)
_LIKE = flags.DEFINE_string(
  "like",
  None,
  "Number items and values as this record set does, so that models trained with it read the new records; what it does "
  "not know is unknown.",
  flag_values=_FLAGS,
)
_SET = flags.DEFINE_multi_string("set", [], "key.path=value: overrides the config.", flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config.load(_CONFIG.value, _SET.value)
  like = RecordSet.open(_LIKE.value) if _LIKE.value else None
  made = _tables(experiment.records)
  from lcn_tf.data.build import (
    builder,  # imports TensorFlow, which takes seconds: wrong flags and files are told before
  )

  builder.build(experiment, made, _OUTPUT.value, _STRICT.value, _OVERWRITE.value, like)


def _tables(records: config.Records) -> tables.RawTables:
  if _INTERACTIONS.value and _ITEMS.value:
    return tables.read(_INTERACTIONS.value, _ITEMS.value, _USERS.value)
  if _INTERACTIONS.value or _ITEMS.value or _USERS.value:
    raise UserError("--interactions and --items belong together (and --users to them)")
  if records.interactions == "files":
    raise UserError("records.interactions is 'files', so --interactions and --items (and --users) must say which")
  from lcn_tf.data.sources import public

  return public.prepare(records)


if __name__ == "__main__":
  entry.run(main)
