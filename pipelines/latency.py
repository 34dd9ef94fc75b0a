"""Measures how long a request takes, by model and length of the history.

The models are built with random items, so the command reads no files. The tables have milliseconds (minimum, median and
99th percentile) of one request, and of the merged requests of two users, and LAP beside attention over the whole
history. The command prints latency.md at the end. --memory, --growth and --sizes take minutes.

It leaves in --output:

    latency.json   the tables, for programs
    latency.md     the tables, for people
    index.html     the same with plots

Example:

    python -m pipelines.latency --output runs/latency --models lap,twin --lengths 500 --runs 60
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry

_FLAGS = flags.FlagValues()
_OUTPUT = entry.define_output(_FLAGS)
_MODELS = entry.define_models(_FLAGS)
_LENGTHS = entry.define_lengths(
  _FLAGS, [500, 2000, 10_000], "Behaviours of each history. Empty (--lengths=) = no latencies."
)
_CANDIDATES = entry.define_candidates(_FLAGS, 200)
_XLA = flags.DEFINE_bool("xla", False, "Also time the models compiled with XLA.", flag_values=_FLAGS)
_MEMORY = flags.DEFINE_bool(
  "memory",
  False,
  "Also measure the memory of a request with 100 candidates and 100,000 behaviours.",
  flag_values=_FLAGS,
)
_GROWTH = flags.DEFINE_bool(
  "growth", False, "Also measure the cost of training steps by length, of LCN and TWIN.", flag_values=_FLAGS
)
_SIZES = flags.DEFINE_bool(
  "sizes", False, "Also measure the CPU time of a candidate by users and candidates of a call.", flag_values=_FLAGS
)
_RUNS = flags.DEFINE_integer("runs", 200, "Timed calls of each variant.", 1, flag_values=_FLAGS)
_WARM_UP = flags.DEFINE_integer("warm_up", 20, "Calls of each variant before the timed ones.", 1, flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  lengths = entry.whole_numbers(_LENGTHS)
  with entry.loading():
    from lcn_tf.analysis import latency

  page = latency.run(
    _OUTPUT.value,
    models=_MODELS.value,
    lengths=lengths,
    candidates=_CANDIDATES.value,
    xla=_XLA.value,
    with_memory=_MEMORY.value,
    with_growth=_GROWTH.value,
    with_sizes=_SIZES.value,
    runs=_RUNS.value,
    warm_up=_WARM_UP.value,
  )
  print(page.markdown())


if __name__ == "__main__":
  entry.run(main)
