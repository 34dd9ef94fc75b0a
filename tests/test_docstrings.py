"""Entries of docstrings begin with a noun: what an argument is comes before what is said of it."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [file for room in ("lcn_tf", "pipelines", "tools") for file in sorted((ROOT / room).glob("**/*.py"))]
SECTION = re.compile(r"^ *(Args|Attributes|Call arguments):\n((?: +.*\n?|\n)*)", re.MULTILINE)
NO_NOUN = re.compile(r"^ +\w+(?:, \w+)*: (?:Of|How|Whose|Which|Where|What|Whether|Whom|Likewise)\b.*$", re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_entries_begin_with_a_noun(file):
  tree = ast.parse(file.read_text())
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
  texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
  entries = [section[2] for text in texts for section in SECTION.finditer(f"{text}\n")]
  assert [line.strip() for entry in entries for line in NO_NOUN.findall(entry)] == []
