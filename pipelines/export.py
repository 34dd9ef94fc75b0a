"""Exports the best checkpoint of a run as a SavedModel, in the layout that TensorFlow Serving reads.

The command reads the run folder alone. It needs no records, unless they are to say what a narrow --dtype costs. A run
without a finished epoch exports its last checkpoint, with a warning. pipelines.train exports as well, to the folder
`export` of its run. Of averaged weights (train.ema_decay) the averages are exported, unless --weights says otherwise.

It leaves in --output:

    <version>/saved_model.pb    the graph; the version is the time of the export in seconds, or the newest version + 1
    <version>/variables/        weights, item catalogues, frozen item vectors
    <version>/assets.extra/     the id mapping for lcn_tf.serving, lcn_tf.json with facts and checksums, templates of
                                server configurations

Example:

    python -m pipelines.export --run_dir my_run --output served
"""

from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from lcn_tf import entry
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError

_FLAGS = flags.FlagValues()
_RUN_DIR = entry.define_run_dir(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS, "Folder for the version folder. It is made if it does not exist.")
_TRY = flags.DEFINE_boolean(
  "try", True, "Trial of the version before it appears, in a process with TensorFlow alone.", flag_values=_FLAGS
)
_KEEP = entry.define_keep(_FLAGS)
_PROJECTIONS = flags.DEFINE_enum(
  "projections",
  "as_trained",
  ["as_trained", "table", "live"],
  "Place where the search of TWIN reads projections of items: a table of all items in the export, or the weights.",
  flag_values=_FLAGS,
)
_DTYPE = flags.DEFINE_enum(
  "dtype",
  "float32",
  ["float32", "bfloat16", "int8"],
  "Type of the stored embedding tables. int8 has a scale for each row. All else is float32.",
  flag_values=_FLAGS,
)
_RECORDS = entry.define_path(
  _FLAGS,
  "records",
  "Record set of the run. Its validation split is scored with float32 tables and with --dtype: the log has both AUCs. "
  "Without the flag the cost of --dtype is not measured.",
  "records",
)
_WEIGHTS = flags.DEFINE_enum(
  "weights",
  "as_validated",
  ["as_validated", "raw"],
  "Dense weights: those that were validated, which are averages with train.ema_decay, or the raw ones behind averages.",
  flag_values=_FLAGS,
)
_ENCODED_USER = flags.DEFINE_boolean(
  "encoded_user",
  False,
  "Signatures encode_user and rank_encoded, for callers that keep the user's side of a request between requests.",
  flag_values=_FLAGS,
)
_AT_ONCE = flags.DEFINE_integer(
  "at_once",
  None,
  "Most candidates that the export scores at once. A larger call is scored in blocks. 0 = all of a call. The default "
  "is 512 for a processor and 0 for a GPU, by the devices of this machine.",
  lower_bound=0,
  flag_values=_FLAGS,
)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  if _RECORDS.value and _DTYPE.value == "float32":
    raise UserError("--records measures what --dtype bfloat16 or int8 costs; float32 tables cost nothing")
  records = RecordSet.open(_RECORDS.value) if _RECORDS.value else None
  with entry.loading():
    from lcn_tf.training.export_run import export_run

  projections: Any = None if _PROJECTIONS.value == "as_trained" else _PROJECTIONS.value
  version = export_run(
    _RUN_DIR.value,
    _OUTPUT.value,
    tried=_TRY.value,
    keep=_KEEP.value,
    dtype=_DTYPE.value,  # type: ignore[arg-type]
    records=records,
    projections=projections,
    encoded_user=_ENCODED_USER.value,
    raw=_WEIGHTS.value == "raw",
    at_once=_AT_ONCE.value,
  )
  logging.info("exported to %s", version)


if __name__ == "__main__":
  entry.run(main)
