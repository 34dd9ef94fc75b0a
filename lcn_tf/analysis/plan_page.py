"""A plan as text."""

from collections.abc import Sequence
from typing import NamedTuple

from lcn_tf.analysis.plan import Plan, libraries
from lcn_tf.config import Experiment
from lcn_tf.storage import readable


class Records(NamedTuple):
  """Training split of a record set.

  Attributes:
    candidates: Candidates; 0 = not known.
    records: Records.
    size: Bytes on disk.
  """

  candidates: int
  records: int
  size: int


class Servers(NamedTuple):
  """Machines that could hold the tables in parts.

  Attributes:
    counts: Numbers of servers, rising.
    memory: Bytes of a server.
  """

  counts: Sequence[int]
  memory: int


def page(
  experiment: Experiment,
  plan: Plan,
  device: str,
  memory: int,
  records: Records,
  rate: float | None,
  servers: Servers | None = None,
) -> str:
  """The tables of a plan, in Markdown.

  Args:
    experiment: Experiment that is planned.
    plan: Its plan.
    device: Kind of device, `cpu` or the name of a GPU.
    memory: Bytes of a device.
    records: Training split.
    rate: Candidates per second of the whole job; None = not known.
    servers: Servers for `train.strategy=parameter_server`, with devices of this kind as workers; None = no servers.
  """
  free = memory - libraries(device)
  fits = [count for count in plan.shares if plan.memory(count) <= free]
  lines = [
    f"{experiment.name} on {device}: {readable(memory)}, of which {readable(free)} are free for tensors",
    "",
    "| every device holds | |",
    "| --- | ---: |",
    f"| embedding tables | {readable(plan.tables)} |",
    f"| other weights | {readable(plan.dense)} |",
    f"| state of the optimizers ({experiment.train.preset}) | {readable(plan.slots)} |",
    f"| catalogues, frozen vectors, cached projections | {readable(plan.frozen)} |",
    f"| together | {readable(plan.variables)} |",
    "",
    "| devices | candidates each | tensors of a step | peak | sent per step | mult-adds per step | fits |",
    "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
  ]
  batch = experiment.train.global_batch_size
  for count, share in plan.shares.items():
    cells = [str(count), f"{batch // count:,}", readable(share.activations), readable(plan.memory(count))]
    cells += [readable(plan.sent(count)), f"{share.mult_adds:.3g}", "yes" if count in fits else "no"]
    lines.append(f"| {' | '.join(cells)} |")
  verdict = _verdict(experiment, plan, free, fits)
  if servers:
    table, found = _on_servers(experiment, plan, free, servers)
    lines += ["", *table]
    verdict = verdict if fits else f"{verdict}\n{found}"
  lines += ["", *_records(experiment, plan, records, rate), "", verdict, ""]
  return "\n".join(lines)


def _on_servers(experiment: Experiment, plan: Plan, free: int, servers: Servers) -> tuple[list[str], str]:
  """Tables of workers and servers, and the fewest of both that fit."""
  batch, part_bytes = experiment.train.global_batch_size, experiment.train.table_part_bytes
  lines = [
    f"With tables on servers (train.strategy=parameter_server) of {readable(servers.memory)}, devices as workers:",
    "",
    "| workers | candidates each | peak of a worker | gets per step | gradients per step | fits |",
    "| ---: | ---: | ---: | ---: | ---: | --- |",
  ]
  workers = [count for count in plan.shares if plan.worker_memory(count) <= free]
  for count in plan.shares:
    cells = [str(count), f"{batch // count:,}"]
    cells += map(readable, (plan.worker_memory(count), plan.worker_read(count), plan.worker_sent(count)))
    lines.append(f"| {' | '.join([*cells, 'yes' if count in workers else 'no'])} |")
  fewest = min(workers, default=max(plan.shares))
  lines += [
    "",
    f"| servers (workers: {fewest}) | peak of a server | sends per step | gradients per step | fits |",
    "| ---: | ---: | ---: | ---: | --- |",
  ]
  room = servers.memory - libraries("cpu")
  peaks = {count: plan.server_memory(count, fewest, part_bytes) for count in servers.counts}
  enough = [count for count, peak in peaks.items() if peak <= room]
  for count, peak in peaks.items():
    cells = [str(count), readable(peak)]
    cells += [readable(fewest * each(fewest) // count) for each in (plan.worker_read, plan.worker_sent)]
    lines.append(f"| {' | '.join([*cells, 'yes' if count in enough else 'no'])} |")
  lines += [
    "",
    "The chief is not planned. Unless --noevaluate is given it exports, which needs memory for whole tables.",
  ]
  if workers and enough:
    return lines, f"fits on servers: servers {min(enough)}, workers {fewest}, the fewest that do"
  what = [name for name, fitting in (("workers", workers), ("servers", enough)) if not fitting]
  return lines, f"does not fit on servers: more {' and '.join(what)}, or larger ones, are needed"


def _records(experiment: Experiment, plan: Plan, records: Records, rate: float | None) -> list[str]:
  count = experiment.record_schema.candidates
  lines = [f"A record takes {readable(plan.record)} before compression, with {count} candidates."]
  if records.candidates:
    each = records.size / records.candidates
    steps = records.candidates // experiment.train.global_batch_size
    lines.append(
      f"The training split has {records.candidates:,} candidates in {records.records:,} records: "
      f"{readable(records.size)}, {steps:,} steps per epoch."
    )
    if rate:
      hours = records.candidates / rate / 3600
      lines.append(f"{rate:,.0f} candidates/s read {readable(rate * each)}/s; an epoch takes {hours:,.1f} hours.")
  return lines


def _verdict(experiment: Experiment, plan: Plan, free: int, fits: list[int]) -> str:
  if fits:
    return f"fits: {min(fits)} of {', '.join(map(str, plan.shares))} devices, the fewest that do"
  least = min(plan.shares, key=lambda count: (plan.memory(count), -count))
  if plan.variables <= free:
    return (
      f"does not fit: {least} devices need {readable(plan.memory(least))} each. A smaller train.global_batch_size, "
      "more devices or shorter histories lower the tensors of a step"
    )
  step = plan.dense + plan.shares[least].activations
  share = max(free - plan.dense - plan.frozen - step, 0) / (plan.tables + plan.slots)
  return (
    f"does not fit: every device holds all tables and their state, {readable(plan.tables + plan.slots)}. They would "
    f"have to shrink to {share:.1%}: by a smaller model.embedding.dim, or fewer rows (min_count, max_known). "
    "Or servers hold them: --servers plans that"
  )
