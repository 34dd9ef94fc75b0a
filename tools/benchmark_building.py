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

Example:

    python -m tools.benchmark_building --interactions 1000000 --session 10
"""

import json
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from absl import flags

from lcn_tf import config, entry

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
_DAYS = 100


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  with entry.loading():
    from lcn_tf.data.build import builder
    from lcn_tf.data.build.tables import RawTables

  log, items = _log(np.random.default_rng(0))
  start = log["timestamp"].quantile(1 - _PART.value, "nearest")
  older = pl.col("timestamp") < start
  fields = {"item_fields": ["category"]}
  tree = {"name": "benchmark", "schema": {"user_fields": ["user_id"], "target": fields, "source": fields}}
  labels = {"kind": "threshold"}
  whole = config.from_tree(tree | {"records": {"labels": labels}}, "benchmark")
  part = config.from_tree(tree | {"records": {"labels": labels, "split": {"kind": "all_train"}}}, "benchmark")
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


def _log(rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
  """Interactions and items."""
  sessions, length = -(-_INTERACTIONS.value // _SESSION.value), _SESSION.value
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
  one = pl.DataFrame({"item_id": np.arange(_ITEMS.value)}).with_columns(category=pl.col("item_id") % 50)
  return log.sort("timestamp"), pl.concat([one.with_columns(domain=pl.lit(d)) for d in ("target", "source")])


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
