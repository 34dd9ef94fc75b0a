"""Makes the TF_CONFIG of a process from what its scheduler tells it.

--cluster slurm reads the variables that srun sets for each task. --cluster kubernetes reads JOB_COMPLETION_INDEX of a
pod of an Indexed Job. --cluster hosts takes --hosts and --index.

The command behind -- runs with this TF_CONFIG, in the place of this process. Without one TF_CONFIG is printed.

Examples:

    python -m tools.cluster_config --cluster hosts --hosts 10.0.0.1,10.0.0.2 --index 0
    srun python -m tools.cluster_config --cluster slurm -- python -m pipelines.train --config configs/amazon/lcn.yaml --records my_records --run_dir /shared/my_run --set train.strategy=multi_worker
"""  # noqa: E501 (one line to copy)

import os
from collections.abc import Sequence

from absl import flags

from lcn_tf import entry, processes
from lcn_tf.errors import UserError
from lcn_tf.launching import cluster, commands

_FLAGS = flags.FlagValues()
_CLUSTER = flags.DEFINE_enum(
  "cluster", None, ["slurm", "kubernetes", "hosts"], "Scheduler of the workers.", required=True, flag_values=_FLAGS
)
_WORKERS = flags.DEFINE_integer(
  "workers", None, "Number of workers, for kubernetes: completions of the Job.", lower_bound=1, flag_values=_FLAGS
)
_HOST = flags.DEFINE_string(
  "host", None, "Name of a pod with {} in the place of its index, for kubernetes: JOB-{}.SERVICE.", flag_values=_FLAGS
)
_HOSTS = flags.DEFINE_list("hosts", [], "Hosts of all workers, host or host:port, for hosts.", flag_values=_FLAGS)
_INDEX = flags.DEFINE_integer("index", None, "Index of this worker, for hosts.", lower_bound=0, flag_values=_FLAGS)
_PORT = flags.DEFINE_integer(
  "port",
  2222,
  "Port of a worker. On a node with several of them the first one has it.",
  lower_bound=1,
  upper_bound=65535,
  flag_values=_FLAGS,
)
_SERVERS = flags.DEFINE_integer(
  "servers",
  0,
  "Number of parameter servers. The first process is the chief then, the next ones are the servers, and the others the "
  "workers.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_NEEDS = {"slurm": (), "kubernetes": ("workers", "host"), "hosts": ("hosts", "index")}


def main(argv: Sequence[str]) -> None:
  own, command = commands.split(argv)
  entry.parse(_FLAGS, own)
  program = commands.program(command) if "--" in argv else []
  made = _made(_CLUSTER.value)
  if program:
    processes.become(program, {"TF_CONFIG": made})
  print(made)


def _made(kind: str) -> str:
  for name in ("workers", "host", "hosts", "index"):
    given = _FLAGS[name].value not in (None, [])
    if given != (name in _NEEDS[kind]):
      raise UserError(f"--cluster {kind} {'takes no' if given else 'needs'} --{name}")
  if kind == "slurm":
    return cluster.of_slurm(os.environ, _PORT.value, _SERVERS.value)
  if kind == "kubernetes":
    return cluster.of_kubernetes(os.environ, _WORKERS.value or 0, _HOST.value or "", _PORT.value, _SERVERS.value)
  return cluster.of_hosts(_HOSTS.value, _INDEX.value or 0, _PORT.value, _SERVERS.value)


if __name__ == "__main__":
  entry.run(main)
