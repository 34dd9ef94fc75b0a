"""Runs a training job of several workers on this machine, as several machines would run it.

The command behind -- is started once per worker, each with free ports of localhost in its TF_CONFIG. Workers share the
cores and the GPUs of the machine. Their lines come side by side, [worker 0] in front.

SIGTERM and Ctrl-C are passed on to all workers. When one fails, the others are ended. None outlives the launcher. The
exit code is that of the first worker that failed, and 0 if all have finished.

--restarts starts all workers again when one was ended by a signal, or has lost another one: the job goes on from its
last checkpoint. Errors of the config, of the settings or of a full disk end the command.

--servers is for train.strategy parameter_server: a chief and the servers are started besides the workers.

Examples:

    python -m tools.launch_local --workers 2 -- python -m pipelines.train --config configs/amazon/lcn.yaml --records my_records --run_dir my_run --set train.strategy=multi_worker
    python -m tools.launch_local --workers 2 --servers 2 -- python -m pipelines.train --config configs/amazon/lcn.yaml --records my_records --run_dir my_run --set train.strategy=parameter_server
"""  # noqa: E501 (one line to copy)

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from lcn_tf import entry
from lcn_tf.launching import commands, local

_FLAGS = flags.FlagValues()
_WORKERS = flags.DEFINE_integer(
  "workers", None, "Workers of the job.", required=True, lower_bound=1, flag_values=_FLAGS
)
_SERVERS = flags.DEFINE_integer(
  "servers",
  0,
  "Parameter servers of the job, which has a chief besides then. 0 = none.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_RESTARTS = flags.DEFINE_integer(
  "restarts",
  0,
  "Times that all workers are started again when one was lost. 0 = never.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_LOGS = flags.DEFINE_string(
  "logs", None, "Folder for a log file of each worker. Without the flag there are none.", flag_values=_FLAGS
)


def main(argv: Sequence[str]) -> None:
  own, command = commands.split(argv)
  entry.parse(_FLAGS, own)
  logs = pathlib.Path(_LOGS.value) if _LOGS.value else None
  program = commands.program(command)
  code = local.launch(program, _WORKERS.value, _RESTARTS.value, logs, servers=_SERVERS.value)
  if code:
    sys.exit(code)


if __name__ == "__main__":
  entry.run(main)
