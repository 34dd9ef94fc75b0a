"""Exports the best checkpoint of a run as a SavedModel, `OUTPUT/<version>`.

python -m pipelines.export --run_dir RUN --output DIR
"""

from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import entry

_FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run folder of pipelines.train.", required=True, flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Where the version folder goes.", required=True, flag_values=_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  from lcn_tf.training.export_run import export_run

  logging.info("exported to %s", export_run(_RUN_DIR.value, _OUTPUT.value))


if __name__ == "__main__":
  entry.run(main)
