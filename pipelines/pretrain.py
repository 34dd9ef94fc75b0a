"""Makes the frozen item vectors and clusters that SIM Soft and SIM Cluster search with.

The command reads the train split of --records, and the section `model.pretraining` of --config. Training makes the
vectors itself for a model that needs them. This command is for vectors that several runs share: pass its --output to
pipelines.train as --set model.pretraining.path=runs/vectors/amazon.

It leaves in --output:

    pretrained.npz    vectors and clusters of all items, by domain
    pretrained.json   settings, counts and the fingerprint of the records

Example:

    python -m pipelines.pretrain --config configs/amazon/sim_soft.yaml --records my_records --output runs/vectors/amazon
"""

import pathlib
from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import config, entry
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.pretraining.vectors import Pretrained

_FLAGS = flags.FlagValues()
_CONFIG = entry.define_config(_FLAGS)
_RECORDS = entry.define_records(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS, "Folder for the vectors. It is made if it does not exist.")
_OVERWRITE = entry.define_overwrite(_FLAGS)
_SET = entry.define_set(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  experiment = config.load(_CONFIG.value, _SET.value)
  record_set = RecordSet.open(_RECORDS.value)
  output = pathlib.Path(_OUTPUT.value)
  if output.exists() and not output.is_dir():
    raise UserError(f"{output}: exists and is not a folder. Choose another --output")
  if Pretrained.there(output) and not _OVERWRITE.value:
    raise UserError(f"{output}: holds item vectors already. Choose another --output, or replace them with --overwrite")
  # TensorFlow takes seconds to load: not for --help, a wrong flag or a wrong config
  from lcn_tf.data.record_set import check_schema
  from lcn_tf.pretraining.run import pretrain

  check_schema(experiment.record_schema, record_set)
  made = pretrain(experiment.model.pretraining, record_set, experiment.train.on_corrupt)
  made.save(output)
  for name, value in made.notes.items():
    logging.info("%s: %s", name, value)


if __name__ == "__main__":
  entry.run(main)
