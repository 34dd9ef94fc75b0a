"""Makes the item vectors and clusters that SIM Soft and SIM Cluster search with, and item tables may begin with.

The command reads the train split of --records, and the section `model` of --config. Training makes the vectors itself
for a model that needs them. This command is for vectors that several runs share: pass its --output to pipelines.train
as --set model.pretraining.path=runs/vectors/amazon.

Clusters take longest. They are made if the model of --config searches by them, or if it reads no item vectors at all.
If --output holds the same vectors without the clusters that the model reads, the command adds the clusters.

It leaves in --output:

    pretrained.npz    vectors of all items, by domain, and clusters
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
from lcn_tf.pretraining.vectors import KINDS

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
  with entry.loading():
    from lcn_tf.data.record_set import check_schema
    from lcn_tf.models.build import needs_pretrained
    from lcn_tf.pretraining.run import pretrain, to_write

  check_schema(experiment.record_schema, record_set)
  settings, on_corrupt = experiment.model.pretraining, experiment.train.on_corrupt
  kinds = needs_pretrained(experiment.model) or KINDS
  if _OVERWRITE.value:
    made = pretrain(settings, record_set, on_corrupt, kinds)
  else:
    made = to_write(output, settings, record_set, on_corrupt, kinds)
  made.save(output)
  for name, value in made.notes.items():
    logging.info("%s: %s", name, value)


if __name__ == "__main__":
  entry.run(main)
