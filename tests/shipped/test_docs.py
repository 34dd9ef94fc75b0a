"""README, docs and the heads of configs: links, anchors, flags and files are there, and nothing is left out."""

import importlib
import itertools
import re
import shlex

import pytest

from lcn_tf.analysis.formulas import Sizes, specified
from lcn_tf.interest import EXTRACTORS
from lcn_tf.launching.commands import split
from lcn_tf.models.networks import NETWORKS
from tests.shipped.workspace import CONFIGS, DOCUMENTS, ROOT, commands, head_commands

LINES = [(document, line) for document in DOCUMENTS for line in commands(document)]
LINES += [(file, line) for file in sorted(CONFIGS.glob("**/*.yaml")) for line in head_commands(file)]
PROSE = [*DOCUMENTS, ROOT / "WORKSPACE.md"]


def name_of(path):
  return path.relative_to(ROOT).as_posix()


def without_code(text):
  return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document):
  """The anchors that code hosts give the headings of a page."""
  titles = re.findall(r"^#+ (.*)$", without_code(document.read_text()), re.MULTILINE)
  return {
    re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)).lower().replace(" ", "-") for title in titles
  }


@pytest.mark.parametrize("document", PROSE, ids=name_of)
def test_links_lead_somewhere(document):
  for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text())):
    if target.startswith(("http://", "https://")):
      continue
    path, _, anchor = target.partition("#")
    there = (document.parent / path).resolve() if path else document
    assert there.exists(), f"{target}: no such file"
    if anchor:
      assert anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize(("document", "line"), LINES, ids=[f"{name_of(d)}: {line[10:60]}" for d, line in LINES])
def test_a_printed_command_has_flags_and_configs_that_exist(document, line):
  for command in filter(None, split(shlex.split(line))):
    check_flags(document, *command[2:])


def check_flags(document, module, *arguments):
  flags = importlib.import_module(module)._FLAGS
  given = [argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")]
  known = {name for flag in flags for name in (flag, f"no{flag}")}
  assert set(given) <= known, f"{set(given) - known}"
  required = {flag for flag in flags if any("other than None" in each.message for each in flags[flag].validators)}
  assert required <= set(given)
  made = set(re.findall(r"cat > (\S+)", document.read_text()))
  for name, value in itertools.pairwise(arguments):
    if name == "--config":
      assert value in made or (ROOT / value).is_file(), value


def test_readme_is_a_door():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("system", sorted({*EXTRACTORS, *NETWORKS}))
def test_every_system_has_its_place(system):
  """A section and a row in docs/models.md, and experiments that users can start from."""
  models = (ROOT / "docs" / "models.md").read_text()
  assert f"\n## `{system}`" in models
  assert re.search(rf"^\| .*`{system}`", models, re.MULTILINE)
  if system == "ctr":
    return
  for folder in ("synthetic", "movielens"):
    assert (CONFIGS / folder / f"{'lcn' if system == 'lap' else system}.yaml").is_file()


@pytest.mark.parametrize("system", sorted(EXTRACTORS))
def test_every_extractor_has_a_formula_of_its_mult_adds(system):
  assert specified(system, EXTRACTORS[system](), Sizes(N=2, L=300, D=8, S=4, R=5, C=4, vectors=6))
