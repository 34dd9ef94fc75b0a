"""Measures whether the embeddings of items of one category lie together, within a domain and across the two.

The command reads the best checkpoint of each run, and the item catalogues of the records. The tables have the share of
an item's nearest neighbours that are of its category, and the silhouette. The page has maps (t-SNE). The runs have to
read both histories. The command prints embedding_map.md at the end.

It leaves in --output:

    embedding_map.json   the table, for programs
    embedding_map.md     the table, for people
    index.html           the same with a map per run and domain

Example:

    python -m pipelines.embedding_map --run_dir runs/quickstart --records runs/quickstart/records --output runs/map --field genres
"""  # noqa: E501

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_RUN = entry.define_run_dirs(_FLAGS)
_RECORDS = entry.define_records(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS)
_FIELD = flags.DEFINE_string(
  "field",
  None,
  "Item field, shared by both domains, whose first value is an item's category.",
  required=True,
  flag_values=_FLAGS,
)
_ITEMS = flags.DEFINE_integer(
  "items", 5000, "Items to draw at most, over both domains.", lower_bound=6, flag_values=_FLAGS
)
_SEED = entry.define_seed(_FLAGS, "Seed of the drawn items and of the map.")


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  record_set = RecordSet.open(_RECORDS.value)
  with entry.loading():
    from lcn_tf.analysis import embedding_map

  page = embedding_map.run(
    _RUN.value, record_set, _OUTPUT.value, field=_FIELD.value, items=_ITEMS.value, seed=_SEED.value
  )
  print(page.markdown())


if __name__ == "__main__":
  entry.run(main)
