"""How much of what the final attention would choose the search finds: consistency.json, .md and a page.

python -m pipelines.consistency --run_dir runs/lcn --run_dir runs/twin --records records/movielens --output runs/found

Staleness: train with --set train.checkpoint_every=100 --set train.keep_checkpoints=20 (say), then pass
--stale_checkpoint STEP for each older checkpoint of RUN/checkpoints/last that shall search for the best one. Of TWIN
also told: the search by the best one's queries with the projections of items that the older one would have kept.
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_RUN = flags.DEFINE_multi_string(
  "run_dir", None, "folder that pipelines.train left; repeat to compare", required=True, flag_values=_FLAGS
)
_RECORDS = flags.DEFINE_string(
  "records", None, "record set, as pipelines.build_records leaves it", required=True, flag_values=_FLAGS
)
_OUTPUT = flags.DEFINE_string("output", None, "folder for the results", required=True, flag_values=_FLAGS)
_SPLIT = flags.DEFINE_string("split", "test", "the split that is read", flag_values=_FLAGS)
_TOP = flags.DEFINE_integer("top", 50, "the best of search and oracle that are compared", 1, flag_values=_FLAGS)
_ORACLE = flags.DEFINE_integer("oracle", 100, "the oracle's best that hits are counted of", 1, flag_values=_FLAGS)
_REQUESTS = flags.DEFINE_integer("requests", 0, "read no more than so many requests; 0: all", 0, flag_values=_FLAGS)
_STALE = flags.DEFINE_multi_string(
  "stale_checkpoint", [], "also search with this older checkpoint: a step, or a path; repeat", flag_values=_FLAGS
)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  from lcn_tf.analysis import consistency  # TensorFlow takes seconds to load: not for --help or a wrong flag

  page = consistency.run(
    _RUN.value,
    RecordSet.open(_RECORDS.value),
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
