"""Mult-adds of every model's inference, counted from its graph: complexity.json, .md and a page.

python -m pipelines.complexity --output runs/complexity
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.errors import UserError

_FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", None, "folder for the results", required=True, flag_values=_FLAGS)
_LENGTHS = flags.DEFINE_list(
  "lengths", ["250", "500", "1000", "2000", "10000"], "behaviours of each history", flag_values=_FLAGS
)
_CANDIDATES = flags.DEFINE_integer("candidates", 1, "of the request", 1, flag_values=_FLAGS)
_MODELS = flags.DEFINE_list("models", [], "extractors or networks by name; all if not given", flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  if not all(length.isdigit() for length in _LENGTHS.value):
    raise UserError(f"--lengths {','.join(_LENGTHS.value)}: expected whole numbers")
  from lcn_tf.analysis import complexity  # TensorFlow takes seconds to load: not for --help or a wrong flag

  page = complexity.run(
    _OUTPUT.value,
    models=_MODELS.value,
    lengths=[int(length) for length in _LENGTHS.value],
    candidates=_CANDIDATES.value,
  )
  print(page.markdown())


if __name__ == "__main__":
  entry.run(main)
