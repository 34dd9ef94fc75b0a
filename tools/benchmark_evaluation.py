"""Measures what the metrics of many candidates cost: memory and processor time of pipelines.evaluate --predictions.

The command makes scored candidates of users who see some requests each, piece by piece, and evaluates them in a process
of its own, with intervals and with slices of their histories, the hour and a field. The files lie in a temporary
folder, which goes.

It leaves no files. It prints one JSON line:

    candidates, users      as asked for
    peak_memory_bytes      largest memory of the evaluating process
    cpu_seconds, seconds   its processor and wall time
    auc                    AUC of the candidates

Example:

    python -m tools.benchmark_evaluation --candidates 1000000 --users 50000
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import polars as pl
from absl import flags

from lcn_tf import entry

_FLAGS = flags.FlagValues()
_CANDIDATES = entry.define_candidates(_FLAGS, 10_000_000, "Candidates in all.")
_USERS = flags.DEFINE_integer("users", 500_000, "Users.", lower_bound=1, flag_values=_FLAGS)
_BOOTSTRAP = entry.define_bootstrap(_FLAGS)
_SLICES = "history_target,history_source,hour,country"
_PIECE = 2**18


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    rng = np.random.default_rng(0)
    for first in range(0, _CANDIDATES.value, _PIECE):
      rows = np.arange(first, min(first + _PIECE, _CANDIDATES.value))
      _scored(rng, rows).write_parquet(folder / f"{first:012d}.piece")
    pieces = sorted(folder.glob("*.piece"))
    pl.scan_parquet(pieces, glob=False).sink_parquet(folder / "scored.parquet")
    command = [sys.executable, "-m", "pipelines.evaluate", f"--predictions={folder / 'scored.parquet'}"]
    command += [f"--output={folder / 'out'}", f"--slices={_SLICES}", f"--bootstrap={_BOOTSTRAP.value}"]
    began = time.monotonic()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    if code:
      sys.exit(code)
    found = {
      "candidates": _CANDIDATES.value,
      "users": _USERS.value,
      "peak_memory_bytes": used.ru_maxrss * 1024,
      "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
      "seconds": round(time.monotonic() - began, 1),
      "auc": json.loads((folder / "out" / "metrics.json").read_text())["auc"],
    }
  sys.stdout.write(f"{json.dumps(found)}\n")


def _scored(rng: np.random.Generator, rows: np.ndarray) -> pl.DataFrame:
  """Candidates with these numbers, four to a request."""
  label = rng.random(len(rows)) < 0.2
  return pl.DataFrame(
    {
      "user": rows // 4 % _USERS.value,
      "timestamp": 1_700_000_000 + rows // 4,
      "label": label,
      "probability": np.clip(rng.normal(0.2 + 0.1 * label, 0.1), 0.001, 0.999).astype(np.float32),
      "history_target": rng.integers(0, 300, len(rows)),
      "history_source": rng.integers(0, 3000, len(rows)),
      "country": pl.Series(rng.integers(0, 30, len(rows))).cast(pl.String),
    }
  )


if __name__ == "__main__":
  entry.run(main)
