"""Counts the mult-adds of one request in the graph of each model.

The models are built with random items, so the command reads no files. The tables have the counts beside the numbers
that the formulas of the papers give, and LAP beside attention over the whole history. The command prints complexity.md
at the end.

It leaves in --output:

    complexity.json   the tables, for programs
    complexity.md     the tables, for people
    index.html        the same with a plot

Example:

    python -m pipelines.complexity --output runs/complexity
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry

_FLAGS = flags.FlagValues()
_OUTPUT = entry.define_output(_FLAGS)
_LENGTHS = entry.define_lengths(_FLAGS, [250, 500, 1000, 2000, 10_000])
_CANDIDATES = entry.define_candidates(_FLAGS, 1)
_MODELS = entry.define_models(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  lengths = entry.whole_numbers(_LENGTHS)
  with entry.loading():
    from lcn_tf.analysis import complexity

  page = complexity.run(_OUTPUT.value, models=_MODELS.value, lengths=lengths, candidates=_CANDIDATES.value)
  print(page.markdown())


if __name__ == "__main__":
  entry.run(main)
