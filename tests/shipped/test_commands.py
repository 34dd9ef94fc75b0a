"""Every command that the documents and the heads of the configs print is run as printed, on small logs."""

import json
import pathlib
import re
import shlex
import shutil

import pytest

from tests.shipped import workspace as workspaces
from tests.shipped.workspace import CONFIGS, ROOT, commands, experiments, head_commands, succeeds

# what costs minutes at the printed size: (part of a command, what it is run with instead, what is added)
SMALLER = [
  ("tools.benchmark_training", "", ["--steps", "1", "--items", "500", "--seq_len", "60"]),
  ("tools.benchmark_job", "", ["--steps", "4", "--rounds", "1", "--set", "train.log_every=2"]),
  # the sizes of papers take a minute to trace
  ("--samples 46G --rate 500000 --devices 8", "", [f"--set=schema.{d}.max_length=50" for d in ("target", "source")]),
  ("tools.benchmark_building", "", ["--interactions", "20000"]),
  ("tools.benchmark_serving", "", ["--candidates", "5", "--length", "20", "--users", "2", "--runs", "2"]),
  ("tools.simulate_online", "", ["--users", "4", "--requests", "2", "--candidates", "10", "--bootstrap", "20"]),
  ("tools.benchmark_evaluation", "", ["--candidates", "2000", "--users", "100", "--bootstrap", "2"]),
  ("tools.benchmark_projections", "", ["--items", "500", "--seq_len", "200", "--repeats", "2"]),
  ("pipelines.embedding_map", "", ["--items", "300"]),
  ("pipelines.complexity", "", ["--models", "lap,twin", "--lengths", "60"]),
  # memory and growth are of sizes of their own: tests/analysis/test_latency.py
  (" --memory --growth", "", []),
  ("pipelines.latency", "", ["--models", "lap,twin", "--lengths", "60", "--runs", "2", "--warm_up", "1"]),
  (" --stale_checkpoint 311 --stale_checkpoint 286 --stale_checkpoint 161", " --stale_checkpoint 3", []),
  # drift of a log of a few users ends it with 2
  ("tools.compare_records", "", ["--psi", "1000", "--new_ids", "1", "--positive_rate", "1000"]),
  ("train.checkpoint_every=25", "train.checkpoint_every=1", []),
  ("TWIN 25,TWIN 50,TWIN 100,TWIN 200,LCN w/o CRP 25,LCN w/o CRP 50,LCN w/o CRP 100,LCN w/o CRP 200", "TWIN 200", []),
  ("LCN,MiNet,SIM Soft,SIM Cluster,TWIN", "LCN", []),
  ("ETA,DARE,TWIN,LCN", "LCN", []),
  ("rare_start.yaml", "", ["--only", "LCN w/o CRP"]),
  ("amazon_start.yaml", "", ["--only", "LCN w/o CRP"]),
  ("LCN,LCN w/o CRP,Avg-Pooling,TWIN", "LCN", []),
  ("{oov: 4000000}", "{oov: 4000}", []),
  ("train.epochs=8", "train.epochs=2", []),
  ("walk.periods=10", "walk.periods=2", []),
]
OTHERS = experiments("amazon", "complete_journey", "movielens_rating", "synthetic_sparse", "rare")
COMPARISONS = sorted((CONFIGS / "compare").glob("*.yaml"))


def name_of(file):
  return file.relative_to(CONFIGS).with_suffix("").as_posix()


def in_a_document(file):
  """Whether a document prints the commands of a comparison's head, with flags of its own or without."""
  build, compare = head_commands(file)
  lines = [line for document in workspaces.DOCUMENTS for line in commands(document)]
  return build in lines and any(line == compare or line.startswith(f"{compare} --") for line in lines)


def smaller(command):
  more = []
  for part, instead, added in SMALLER:
    if part in command:
      command = command.replace(part, instead) if not added else command
      more += added
  return command, more


def quickstart():
  """What `make quickstart` runs."""
  makefile = (ROOT / "Makefile").read_text()
  values = dict(re.findall(r"^(\w+) :?\??= (.*)$", makefile, re.MULTILINE))
  recipe = makefile.split("\nquickstart:")[1].split("\n\n")[0]
  lines = [line.strip() for line in recipe.splitlines() if "python -m" in line]
  return [re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], line.replace("$(BIN)/", "")) for line in lines]


def first_of_their_kind():
  """Of each module that the documents run, the command that they print first."""
  found = {}
  for line in [*quickstart(), *(line for document in workspaces.DOCUMENTS for line in commands(document))]:
    found.setdefault(shlex.split(line)[2], line)
  return set(found.values())


def follow(documents, folder, done):
  """Runs what documents have their reader run, in their order; a command that was run is not run again."""
  alone = first_of_their_kind()
  for document in documents:
    for kind, text in workspaces.blocks(document):
      if kind != "command":
        workspaces.runs(kind, text, folder)
      elif text not in done:
        command, more = smaller(text)
        succeeds(command, folder, *more, alone=text in alone)
        done.append(text)


@pytest.fixture(scope="session")
def begun(workspace):
  """What a reader of the README and of `make quickstart` has, and the commands that have made it."""
  folder, done = workspace.with_name("begun"), workspace.with_name("begun.json")

  def make():
    shutil.rmtree(folder, ignore_errors=True)
    workspaces.make(folder)
    lines = quickstart()
    for line in lines:
      succeeds(line, folder, alone=True)
    assert len(lines) == 2
    follow(workspaces.GUIDES[:1], folder, lines)
    done.write_text(json.dumps(lines))

  workspaces.once(done, make)
  return folder, json.loads(done.read_text())


# pages that take up what the ones before them have made, and minutes: who comes first makes `begun`
CHAINS = {"training launching serving": 12, "evaluation comparing faq glossary": 4, "data": 3, "models": 2}


@pytest.mark.parametrize("chain", [pytest.param(c, marks=pytest.mark.config(minutes=m)) for c, m in CHAINS.items()])
def test_the_guides_run_after_the_readme_in_the_order_in_which_they_are_read(chain, begun, tmp_path):
  folder, lines = begun
  shutil.copytree(folder, tmp_path / "workspace", symlinks=True)
  done = list(lines)
  follow([page for page in workspaces.GUIDES if page.stem in chain.split()], tmp_path / "workspace", done)
  assert len(done) > len(lines)


def test_every_guide_is_in_a_chain():
  assert sorted(["README", *" ".join(CHAINS).split()]) == sorted(page.stem for page in workspaces.GUIDES)


@pytest.mark.config(minutes=3)
@pytest.mark.parametrize("page", workspaces.RESULTS, ids=lambda page: page.stem)
def test_a_page_of_results_prints_all_commands_that_it_needs(page, tmp_path):
  done = []
  follow([page], workspaces.make(tmp_path / "workspace"), done)
  assert done


@pytest.mark.config
@pytest.mark.parametrize("file", OTHERS, ids=name_of)
def test_the_head_of_an_experiment_runs(file, workspace):
  """Of synthetic and movielens: test_devices.py."""
  build, train = head_commands(file)
  assert f"--config configs/{name_of(file)}.yaml " in build
  workspaces.built(build, workspace)
  succeeds(train, workspace, "--bootstrap", "2")
  run = pathlib.Path(workspace, train.split()[-1])
  for left in (
    "experiment.yaml",
    "metrics.json",
    "predictions.parquet",
    "report/index.html",
    "checkpoints",
    "tensorboard",
  ):
    assert (run / left).exists(), left
  assert list((run / "export").glob("*/saved_model.pb"))


@pytest.mark.config
@pytest.mark.parametrize("file", [file for file in COMPARISONS if not in_a_document(file)], ids=name_of)
def test_the_head_of_a_comparison_that_no_document_runs(file, workspace):
  build, compare = head_commands(file)
  workspaces.built(build, workspace)
  assert "| model |" in succeeds(compare, workspace)
