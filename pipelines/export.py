"""Exports the best checkpoint of a run as a SavedModel, `OUTPUT/<version>`.

    python -m pipelines.export --run_dir RUN --output DIR
"""

from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import entry

_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run folder of pipelines.train.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Where the version folder goes.", required=True)


def main(argv: Sequence[str]) -> None:
  del argv
  from lcn_tf.serving.export import export_run

  logging.info("exported to %s", export_run(_RUN_DIR.value, _OUTPUT.value))


if __name__ == "__main__":
  entry.run(main)
