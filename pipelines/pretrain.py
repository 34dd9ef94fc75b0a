"""Makes the frozen item vectors and clusters that SIM Soft and SIM Cluster search with, from training records alone.

    python -m pipelines.pretrain --config C --records DIR --output VEC [--set key.path=value ...]

Training makes them itself where a model needs them; this command is for vectors that several runs share: give them to
pipelines.train with --set model.pretraining.path=VEC. Section model.pretraining of the config says how they are made.
"""

import pathlib
from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import config, entry
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.pretraining.vectors import Pretrained

_FLAGS = flags.FlagValues()
_CONFIG = flags.DEFINE_string("config", None, "The experiment, a YAML file.", required=True, flag_values=_FLAGS)
_RECORDS = flags.DEFINE_string(
  "records", None, "The record set that pipelines.build_records made.", required=True, flag_values=_FLAGS
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the vectors.", required=True, flag_values=_FLAGS)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the vectors at --output.", flag_values=_FLAGS)
_SET = flags.DEFINE_multi_string(
  "set", [], "key.path=value, instead of what the config says. May be repeated.", flag_values=_FLAGS
)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config.load(_CONFIG.value, _SET.value)
  record_set = RecordSet.open(_RECORDS.value)
  output = pathlib.Path(_OUTPUT.value)
  if output.exists() and not output.is_dir():
    raise UserError(f"{output}: exists and is not a folder. Choose another --output")
  if Pretrained.there(output) and not _OVERWRITE.value:
    raise UserError(f"{output}: holds item vectors already. Choose another --output, or replace them with --overwrite")
  # TensorFlow only now: what is wrong is told at once
  from lcn_tf.data.record_set import check_schema
  from lcn_tf.pretraining.run import pretrain

  check_schema(experiment.record_schema, record_set)
  made = pretrain(experiment.model.pretraining, record_set, experiment.train.on_corrupt)
  made.save(output)
  for name, value in made.notes.items():
    logging.info("%s: %s", name, value)


if __name__ == "__main__":
  entry.run(main)
