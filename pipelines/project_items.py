"""Writes the projections of all items of an export to a store, for requests of the signature rank_projected.

The command asks the export's signature project_items for every item that its id mapping has, of each domain whose
history the model searches. A version of the store is written aside and renamed when it is whole, so a reader
(lcn_tf.serving.projection_store) never meets half of one.

It leaves in --output:

    <version>/<domain>.npy      projections, float32 [items, H * E], in the order of the ids
    <version>/<domain>_ids.npy  item ids, rising
    <version>/store.json        fingerprint and digest of the weights of the export, time, checksums

Example:

    python -m pipelines.project_items --model served --output store
"""

from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import entry

_FLAGS = flags.FlagValues()
_MODEL = entry.define_model(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS, "Folder for the version folder. It is made if it does not exist.")
_BATCH = flags.DEFINE_integer("batch", 8192, "Items in a call of the model.", lower_bound=1, flag_values=_FLAGS)
_WORKERS = flags.DEFINE_integer("workers", 2, "Calls at once, in threads.", lower_bound=1, flag_values=_FLAGS)
_KEEP = entry.define_keep(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  with entry.loading():
    from lcn_tf.evaluation.scoring import version_folder
    from lcn_tf.serving.projecting import project_items

  version = version_folder(_MODEL.value)
  written = project_items(version, _OUTPUT.value, batch=_BATCH.value, workers=_WORKERS.value, keep=_KEEP.value)
  logging.info("written to %s", written)


if __name__ == "__main__":
  entry.run(main)
