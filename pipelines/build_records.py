"""Builds records from a log of interactions: the record set that training, evaluation and analyses read.

The command reads the sections `schema` and `records` of --config. The log is in Parquet files of yours
(--interactions, --items, --users), whose columns docs/data.md describes, or it is the public or synthetic log that
`records.interactions` of the config names.

It leaves in --output:

    dataset.json                         schema, counts, time ranges, checksums of all files, fingerprint
    train/, validation/, test/           shards of TFRecords, by domain: train/target/part-00000-of-00004.tfrecord.gz
    vocabularies/<name>.parquet          values of a field and their indices
    catalogue/<domain>.npy               fields of every item, as indices
    items/<domain>.parquet               item ids of the catalogue rows
    users.parquet                        user ids and their indices
    rejected.parquet                     rows that were left out, with the reasons
    state/                               what --extend goes on from
    statistics.json                      counts, history lengths, times and values of every field
    report/index.html                    page that shows these

Example:

    python -m pipelines.build_records --config configs/movielens/lcn.yaml --output runs/records/movielens

A log goes on with --extend. The next day's records come from its own interactions (and the items and users that are new
or have changed, if any), and from the records of the day before, which hold what the new candidates need of the past:

    python -m pipelines.build_records --config my_config.yaml --extend records/monday --output records/tuesday \
      --interactions log/tuesday.parquet --items log/new_items.parquet --set 'records.split={kind: all_train}'

A log that does not fit in memory is built with --memory, which gives the same bytes:

    python -m pipelines.build_records --config my_config.yaml --output records --memory 2GB \
      --interactions log --items items.parquet

Spark builds the same records on the machines of a cluster, which share the folder of --output and the log:

    python -m pipelines.build_records --config my_config.yaml --output records --engine spark --master "local[2]" \
      --interactions log --items items.parquet

A trained model can be tested on a later part of its log. Pass its records as --like and the whole log, since the older
part is the users' past. With --set 'records.split.boundaries=[0,T]', candidates from second T on are the test split and
the older ones the validation split.
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import config, entry
from lcn_tf.data.build import engines
from lcn_tf.data.build.spark import Spark
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.sources import log
from lcn_tf.errors import UserError

_FLAGS = flags.FlagValues()
_CONFIG = entry.define_config(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS, "Folder for the record set. It is made if it does not exist.", "new_records")
_INTERACTIONS, _ITEMS, _USERS = entry.define_log(_FLAGS, extends=True)
_STRICT = flags.DEFINE_bool(
  "strict",
  False,
  "End with an error if a row has to be rejected. Without the flag such rows are logged and left out.",
  flag_values=_FLAGS,
)
_OVERWRITE = entry.define_overwrite(_FLAGS)
_LIKE = entry.define_path(
  _FLAGS,
  "like",
  "Record set, run folder or folder assets.extra of an export, whose id mapping the new records take over, so that its "
  "model reads them. Items and values that it does not know become unknown. Without the flag the mapping is new.",
  "records",
)
_EXTEND = entry.define_path(
  _FLAGS,
  "extend",
  "Record set of the log so far, which --interactions continue. The new records have the new candidates alone, whose "
  "histories reach back, and new items and values get rows behind the known ones. Without the flag the log begins.",
  "records",
)
_MEMORY = entry.define_memory(_FLAGS)
_ENGINE = flags.DEFINE_enum(
  "engine",
  "processes",
  ["processes", "spark"],
  "Engine of the build. processes = this machine, spark = a Spark cluster, each task of which has the memory that "
  "--memory says, or 1GB. The records are the same.",
  flag_values=_FLAGS,
)
_MASTER = flags.DEFINE_string(
  "master",
  None,
  "Cluster of --engine spark, as in spark-submit's --master, such as local[2] or spark://host:7077. Without the flag "
  "it is the one of spark-submit, or all cores of this machine.",
  flag_values=_FLAGS,
)
_SET = entry.define_set(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config.load(_CONFIG.value, _SET.value)
  if _LIKE.value and _EXTEND.value:
    raise UserError("--like and --extend exclude each other: --extend takes the id mapping over, too")
  memory, spark = entry.memory_of(_MEMORY), _ENGINE.value == "spark"
  for flag, given in (("--memory", memory), ("--engine spark", spark)):
    if given and _EXTEND.value:
      raise UserError(f"{flag} and --extend exclude each other: an extension reads the new part of a log alone")
  if _MASTER.value is not None and not spark:
    raise UserError(f"--master {_MASTER.value}: only --engine spark has a master")
  engine: engines.Engine = Spark(_MASTER.value) if spark else engines.Processes()
  memory = memory or engine.memory
  like, extend = (RecordSet.open(flag.value) if flag.value else None for flag in (_LIKE, _EXTEND))
  made = log.read(experiment.records, _INTERACTIONS.value, _ITEMS.value, _USERS.value, not _EXTEND.value, memory)
  with entry.loading():
    from lcn_tf.analysis import records_page
    from lcn_tf.data.build import builder

  page = records_page.render
  builder.build(experiment, made, _OUTPUT.value, _STRICT.value, _OVERWRITE.value, like, page, extend, memory, engine)


if __name__ == "__main__":
  entry.run(main)
