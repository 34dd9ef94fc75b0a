"""TF_CONFIG from what a scheduler tells each of its processes."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from lcn_tf.errors import UserError

_STEP = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
_INDEX = "JOB_COMPLETION_INDEX"


def members(count: int, servers: int = 0) -> list[tuple[str, int]]:
  """The kind and the index of each process of a job: workers alone, or a chief, servers (`ps`) and workers.

  Args:
    count: Number of processes.
    servers: Number of parameter servers; 0 = the job has none, and no chief.

  Raises:
    UserError: No process is left for a worker.
  """
  if not servers:
    return [("worker", index) for index in range(count)]
  workers = count - 1 - servers
  if workers < 1:
    raise UserError(f"{count} processes are too few for a chief, {servers} servers and a worker")
  return [("chief", 0), *(("ps", index) for index in range(servers)), *(("worker", index) for index in range(workers))]


def tf_config(addresses: Sequence[str], index: int, servers: int = 0) -> str:
  """TF_CONFIG of a process, JSON.

  Args:
    addresses: `host:port` of all processes, in the order of `members`.
    index: Index of this one among them.
    servers: Number of parameter servers.

  Raises:
    UserError: There is no such process, or two have the same address, or none is left for a worker.
  """
  kinds = members(len(addresses), servers)
  if not 0 <= index < len(addresses):
    raise UserError(f"this is {'process' if servers else 'worker'} {index}, and they are 0 to {len(addresses) - 1}")
  if twice := sorted({one for one in addresses if addresses.count(one) > 1}):
    raise UserError(f"several workers have the same address: {', '.join(twice)}")
  cluster: dict[str, list[str]] = {}
  for (kind, _), address in zip(kinds, addresses, strict=True):
    cluster.setdefault(kind, []).append(address)
  kind, own = kinds[index]
  return json.dumps({"cluster": cluster, "task": {"type": kind, "index": own}})


def of_hosts(hosts: Sequence[str], index: int, port: int, servers: int = 0) -> str:
  """TF_CONFIG of a process by a list of hosts, each `host` or `host:port`; arguments and errors as of `tf_config`."""
  return tf_config([host if ":" in host else f"{host}:{port}" for host in hosts], index, servers)


def of_kubernetes(environment: Mapping[str, str], workers: int, host: str, port: int, servers: int = 0) -> str:
  """TF_CONFIG of a pod of an Indexed Job, whose pods have stable names in a headless service.

  Args:
    environment: Environment variables.
    workers: Number of pods, `completions` of the Job.
    host: Name of a pod, with `{}` in the place of its index: `JOB-{}.SERVICE`.
    port: Port of every pod.
    servers: Number of parameter servers among them.

  Raises:
    UserError: The environment is not that of such a pod, or `host` has no `{}`.
  """
  if host.count("{}") != 1:
    raise UserError(f"--host {host}: expected the name of a pod with {{}} in the place of its index, JOB-{{}}.SERVICE")
  index = _variables(environment, (_INDEX,), "a pod of an Indexed Job")[_INDEX]
  addresses = [f"{host.replace('{}', str(i))}:{port}" for i in range(workers)]
  return tf_config(addresses, _number(_INDEX, index), servers)


def of_slurm(environment: Mapping[str, str], port: int, servers: int = 0) -> str:
  """TF_CONFIG of a task of a Slurm step.

  Args:
    environment: Environment variables.
    port: Port of the first task of each node; the others of the node have the next ones.
    servers: Number of parameter servers among the tasks.

  Raises:
    UserError: The environment is not that of a task of `srun`, or the tasks are not dealt to the nodes in blocks.
  """
  found = _variables(environment, _STEP, "a task that srun has started")
  nodes, tasks, rank, local = (found[name] for name in _STEP)
  hosts, counts = list(_hosts(nodes)), list(_counts(tasks))
  if len(hosts) != len(counts):
    raise UserError(f"{_STEP[0]} {nodes} has {len(hosts)} nodes, and {_STEP[1]} {tasks} has {len(counts)}")
  addresses = [f"{host}:{port + i}" for host, count in zip(hosts, counts, strict=True) for i in range(count)]
  index = _number(_STEP[2], rank)
  if index < len(addresses) and not addresses[index].endswith(f":{port + _number(_STEP[3], local)}"):
    raise UserError(
      f"task {rank} is number {local} of its node: the tasks are not dealt in blocks, as srun --distribution=block does"
    )
  return tf_config(addresses, index, servers)


def _variables(environment: Mapping[str, str], names: Sequence[str], where: str) -> dict[str, str]:
  missing = [name for name in names if not environment.get(name)]
  if missing:
    raise UserError(f"{', '.join(missing)}: not in the environment; {where} has it")
  return {name: environment[name] for name in names}


def _number(name: str, value: str) -> int:
  if not value.isdecimal():
    raise UserError(f"{name} {value!r}: expected a whole number")
  return int(value)


def _hosts(nodes: str) -> Iterator[str]:
  """The hosts of Slurm's list: `gpu[01-02,5],login` is gpu01, gpu02, gpu5 and login."""
  for one in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", nodes):
    pieces = re.split(r"\[([^\]]*)\]", one)
    choices = [list(_range(piece)) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    yield from map("".join, itertools.product(*choices))


def _range(expression: str) -> Iterator[str]:
  for part in expression.split(","):
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
    if not found:
      raise UserError(f"{_STEP[0]}: [{expression}] is no list of numbers and ranges")
    first, last = found[1], found[2] or found[1]
    yield from (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))


def _counts(tasks: str) -> Iterator[int]:
  """The tasks of each node: `2(x3),1` is 2, 2, 2 and 1."""
  for part in tasks.split(","):
    found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
    if not found:
      raise UserError(f"{_STEP[1]} {tasks}: expected numbers of tasks such as 2(x3),1")
    yield from itertools.repeat(int(found[1]), int(found[2] or 1))
