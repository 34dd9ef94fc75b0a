"""Whether items of one category lie together, within and across domains: embedding_map.json, .md and a page.

python -m pipelines.embedding_map --run_dir runs/lcn --run_dir runs/lap --records records/movielens --field genres \
  --output runs/map
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
_FIELD = flags.DEFINE_string(
  "field", None, "the item field that is the category, shared by both domains", required=True, flag_values=_FLAGS
)
_ITEMS = flags.DEFINE_integer("items", 5000, "drawn at most, over both domains", 6, flag_values=_FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "of the draw and of the map", lower_bound=0, flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  from lcn_tf.analysis import embedding_map  # TensorFlow takes seconds to load: not for --help or a wrong flag

  page = embedding_map.run(
    _RUN.value,
    RecordSet.open(_RECORDS.value),
    _OUTPUT.value,
    field=_FIELD.value,
    items=_ITEMS.value,
    seed=_SEED.value,
  )
  print(page.markdown())


if __name__ == "__main__":
  entry.run(main)
