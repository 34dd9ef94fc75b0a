"""Measures how many of the behaviours that the final attention would choose are found by the search.

The command reads the best checkpoint of each run, and one split of the records. It ranks the visible behaviours of each
candidate by the search and by the final attention (the oracle), and compares the best of both. Runs that differ in
their seed alone are averaged. The command prints consistency.md at the end.

It leaves in --output:

    consistency.json   the tables, for programs
    consistency.md     the tables, for people
    index.html         the same with plots

Example:

    python -m pipelines.consistency --run_dir runs/quickstart --records runs/quickstart/records --output runs/found

--stale_checkpoint measures a search with older weights than the final attention has. Train the run with
--set train.checkpoint_every=100 --set train.keep_checkpoints=20, for example. Then pass the step of each checkpoint in
the run's checkpoints/last that should search for the best checkpoint. TWIN gets a second row per older checkpoint: the
search with the best checkpoint's queries and the older checkpoint's projections of items.
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_RUN = entry.define_run_dirs(_FLAGS)
_RECORDS = entry.define_records(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS)
_SPLIT = entry.define_split(_FLAGS)
_TOP = flags.DEFINE_integer(
  "top", 50, "Size of both sets that are compared: the search's best and the oracle's best.", 1, flag_values=_FLAGS
)
_ORACLE = flags.DEFINE_integer("oracle", 100, "Size of the oracle's set whose hits are counted.", 1, flag_values=_FLAGS)
_REQUESTS = flags.DEFINE_integer("requests", 0, "Requests to read at most. 0 = all.", 0, flag_values=_FLAGS)
_STALE = flags.DEFINE_multi_string(
  "stale_checkpoint",
  [],
  "Older checkpoint, a step or a path, whose search is measured as well. May be repeated. Without the flag only the "
  "best checkpoint searches.",
  flag_values=_FLAGS,
)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  record_set = RecordSet.open(_RECORDS.value)
  with entry.loading():
    from lcn_tf.analysis import consistency

  page = consistency.run(
    _RUN.value,
    record_set,
    _SPLIT.value,
    _OUTPUT.value,
    top=_TOP.value,
    oracle=_ORACLE.value,
    requests=_REQUESTS.value,
    stale=_STALE.value,
  )
  print(page.markdown())


if __name__ == "__main__":
  entry.run(main)
