"""How long requests take: latency.json, .md and a page.

python -m pipelines.latency --output runs/latency --xla --memory --growth

Without --models all that can be built are timed. --memory and --growth take a few minutes each.
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.errors import UserError

_FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", None, "folder for the results", required=True, flag_values=_FLAGS)
_MODELS = flags.DEFINE_list("models", [], "extractors or networks by name; all if not given", flag_values=_FLAGS)
_LENGTHS = flags.DEFINE_list(
  "lengths", ["500", "2000", "10000"], "behaviours of each history; empty: no latencies", flag_values=_FLAGS
)
_CANDIDATES = flags.DEFINE_integer("candidates", 200, "of a request", 1, flag_values=_FLAGS)
_XLA = flags.DEFINE_bool("xla", False, "also compile with XLA", flag_values=_FLAGS)
_MEMORY = flags.DEFINE_bool(
  "memory", False, "also the memory of one request of 100 candidates and 100,000 behaviours", flag_values=_FLAGS
)
_GROWTH = flags.DEFINE_bool(
  "growth", False, "also the cost of training steps by length, of LCN and TWIN", flag_values=_FLAGS
)
_RUNS = flags.DEFINE_integer("runs", 200, "timed calls of each variant", 1, flag_values=_FLAGS)
_WARM_UP = flags.DEFINE_integer("warm_up", 20, "calls before these", 1, flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  if not all(length.isdigit() for length in _LENGTHS.value):
    raise UserError(f"--lengths {','.join(_LENGTHS.value)}: expected whole numbers")
  from lcn_tf.analysis import latency  # TensorFlow takes seconds to load: not for --help or a wrong flag

  page = latency.run(
    _OUTPUT.value,
    models=_MODELS.value,
    lengths=[int(length) for length in _LENGTHS.value],
    candidates=_CANDIDATES.value,
    xla=_XLA.value,
    with_memory=_MEMORY.value,
    with_growth=_GROWTH.value,
    runs=_RUNS.value,
    warm_up=_WARM_UP.value,
  )
  print(page.markdown())


if __name__ == "__main__":
  entry.run(main)
