"""Measures what building records costs: of a whole log, and of its newest part alone.

The command makes a log of users who come in sessions, with items of falling popularity, in memory. It builds the
records of the whole log, those of all but the newest --part, and that part as an extension of these. Every interaction
is a candidate. The records lie in a temporary folder, which goes.

A record has a user's whole history, so a part costs the more, the more users are active in it. Longer sessions mean
fewer users in a part of the same size.

It leaves no files. It prints one JSON line:

    whole_cpu_seconds, whole_seconds   processor and wall time of building the whole log
    part_cpu_seconds, part_seconds     the same of the extension
    ratio                              part_cpu_seconds / whole_cpu_seconds
    records, part_records              records of the training split of the whole log, and of the part

With --memory the log lies in Parquet files, and a process of its own builds the records of the whole log with that
flag. --whole adds a process without the flag, --spark one with --engine spark, on all cores of this machine. The JSON
line is:

    buckets                            of the first process: seconds, interactions_per_second, cpu_seconds,
                                       anonymous_mb (most memory that all its processes had together, files apart),
                                       resident_mb (most that one of them had, files that are mapped included)
    whole, spark                       the same of the others
    same                               true if all record sets have the same bytes

Examples:

    python -m tools.benchmark_building --interactions 1000000 --session 10
    python -m tools.benchmark_building --interactions 4000000 --memory 500MB --whole --spark
"""

import filecmp
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from absl import flags

from lcn_tf import config, entry
from lcn_tf.errors import UserError

if TYPE_CHECKING:
  from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_INTERACTIONS = flags.DEFINE_integer(
  "interactions", 1_000_000, "Interactions of the whole log, of both domains.", 1000, flag_values=_FLAGS
)
_PER_USER = flags.DEFINE_integer("per_user", 200, "Mean interactions of a user.", 1, flag_values=_FLAGS)
_SESSION = flags.DEFINE_integer("session", 10, "Interactions of a session, seconds apart.", 1, flag_values=_FLAGS)
_ITEMS = flags.DEFINE_integer("items", 20_000, "Items of each domain.", 2, flag_values=_FLAGS)
_PART = flags.DEFINE_float("part", 0.01, "Share of the log that is the newest part.", 0.0, 0.9, flag_values=_FLAGS)
_MEMORY = entry.define_memory(_FLAGS)
_WHOLE = flags.DEFINE_bool("whole", False, "With --memory, build without it as well.", flag_values=_FLAGS)
_SPARK = flags.DEFINE_bool("spark", False, "With --memory, build on Spark as well.", flag_values=_FLAGS)
_DAYS = 100
_FILE = 2_000_000  # interactions of a file


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  if memory := entry.memory_of(_MEMORY):
    found = _in_processes(memory)
    sys.stdout.write(f"{json.dumps(found)}\n")
    return
  with entry.loading():
    from lcn_tf.data.build import builder
    from lcn_tf.data.build.tables import RawTables

  log, items = _log(np.random.default_rng(0), _INTERACTIONS.value), _items()
  start = log["timestamp"].quantile(1 - _PART.value, "nearest")
  older = pl.col("timestamp") < start
  whole = config.from_tree(_tree(), "benchmark")
  part = config.from_tree(_tree(split={"kind": "all_train"}), "benchmark")
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    built, *of_whole = _timed(lambda: builder.build(whole, RawTables(log, items), folder / "whole"))
    base = builder.build(whole, RawTables(log.filter(older), items), folder / "base")
    added, *of_part = _timed(
      lambda: builder.build(part, RawTables(log.filter(~older), None), folder / "part", extend=base)
    )
  found = {
    "interactions": len(log),
    "part_interactions": len(log.filter(~older)),
    "records": built.part("train").records,
    "part_records": added.part("train").records,
    "whole_cpu_seconds": round(of_whole[0], 3),
    "whole_seconds": round(of_whole[1], 3),
    "part_cpu_seconds": round(of_part[0], 3),
    "part_seconds": round(of_part[1], 3),
    "ratio": round(of_part[0] / of_whole[0], 4),
  }
  sys.stdout.write(f"{json.dumps(found)}\n")


def _tree(**records: object) -> dict[str, object]:
  fields = {"item_fields": ["category"]}
  schema = {"user_fields": ["user_id"], "target": fields, "source": fields}
  return {"name": "benchmark", "schema": schema, "records": {"labels": {"kind": "threshold"}, **records}}


def _in_processes(memory: int) -> dict[str, object]:
  """Builds the records of a log in files."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "log").mkdir()
    rng, rows = np.random.default_rng(0), 0
    files = -(-_INTERACTIONS.value // _FILE)
    for number in range(files):
      # one after another, each over the whole time
      frame = _log(rng, _INTERACTIONS.value // files)
      frame.write_parquet(folder / "log" / f"{number:04d}.parquet")
      rows += len(frame)
    _items().write_parquet(folder / "items.parquet")
    (folder / "config.yaml").write_text(json.dumps(_tree()), encoding="utf-8")  # JSON is YAML
    found: dict[str, object] = {"interactions": rows, "memory": memory}
    within = ["--memory", f"{memory / 1e6:.0f}MB"]
    ways = {"buckets": within}
    if _WHOLE.value:
      ways["whole"] = []
    if _SPARK.value:
      ways["spark"] = [*within, "--engine", "spark"]
    for way, more in ways.items():
      found[way] = _measured(folder, way, rows, *more)
    if len(ways) > 1:
      found["same"] = all(_same(folder / "buckets", folder / way) for way in ways)
  return found


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
  """Whether two folders hold the same files."""
  names, others = ([str(p.relative_to(f)) for p in sorted(f.rglob("*")) if p.is_file()] for f in (one, other))
  return names == others and filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def _measured(folder: pathlib.Path, name: str, rows: int, *flags: str) -> dict[str, float]:
  """Time and memory of the command that builds `folder`/`name` of so many interactions."""
  files = {"config": "config.yaml", "interactions": "log", "items": "items.parquet", "output": name}
  named = [f"--{flag}={folder / file}" for flag, file in files.items()]
  processor, wall = _processor(), time.monotonic()
  process = subprocess.Popen([sys.executable, "-m", "pipelines.build_records", *named, *flags])
  anonymous = resident = 0
  while process.poll() is None:
    of_all = [_memory_of(number) for number in _family(process.pid)]
    anonymous = max(anonymous, sum(one for one, _ in of_all))
    resident = max(resident, *(most for _, most in of_all), 0)
    time.sleep(0.05)
  if process.returncode:
    raise UserError(f"pipelines.build_records ended with exit code {process.returncode}")
  seconds = time.monotonic() - wall
  return {
    "seconds": round(seconds, 1),
    "interactions_per_second": round(rows / seconds),
    "cpu_seconds": round(_processor() - processor, 1),
    "anonymous_mb": anonymous // 1000,
    "resident_mb": resident // 1000,
  }


def _family(process: int) -> list[int]:
  """A process and those below it."""
  try:
    threads = list(pathlib.Path(f"/proc/{process}/task").iterdir())
    children = {int(child) for thread in threads for child in (thread / "children").read_text().split()}
  except OSError:  # it has ended
    return []
  return [process, *(one for child in children for one in _family(child))]


def _memory_of(process: int) -> tuple[int, int]:
  """Anonymous memory now, and most resident memory ever, of a process, in kB."""
  try:
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
  except OSError:
    return 0, 0
  facts = {name: value for name, _, value in (line.partition(":") for line in lines)}
  anonymous, most = (int(facts.get(name, "0 kB").split()[0]) for name in ("RssAnon", "VmHWM"))
  return anonymous, most


def _log(rng: np.random.Generator, interactions: int) -> pl.DataFrame:
  """Interactions, by time."""
  sessions, length = -(-interactions // _SESSION.value), _SESSION.value
  users = max(_INTERACTIONS.value // _PER_USER.value, 1)
  count = sessions * length
  start = rng.integers(0, _DAYS * 86_400, sessions)
  log = pl.DataFrame(
    {
      "user_id": np.repeat(rng.integers(0, users, sessions), length),
      "item_id": rng.zipf(1.3, count) % _ITEMS.value,
      "domain": np.where(rng.random(count) < 0.5, "target", "source"),
      "timestamp": np.repeat(start, length) + np.tile(np.arange(length) * 20, sessions),
      "label": (rng.random(count) < 0.3).astype(float),
    }
  ).unique(["user_id", "item_id", "domain", "timestamp"], maintain_order=True)
  return log.sort("timestamp")


def _items() -> pl.DataFrame:
  one = pl.DataFrame({"item_id": np.arange(_ITEMS.value)}).with_columns(category=pl.col("item_id") % 50)
  return pl.concat([one.with_columns(domain=pl.lit(d)) for d in ("target", "source")])


def _timed(work: Callable[[], "RecordSet"]) -> tuple["RecordSet", float, float]:
  """The result of `work`, its processor seconds, those of its processes included, and its wall seconds."""
  processor, wall = _processor(), time.monotonic()
  found = work()
  return found, _processor() - processor, time.monotonic() - wall


def _processor() -> float:
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
  entry.run(main)
