"""Files and functions stay short enough to be read at once."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [path for folder in ("lcn_tf", "pipelines", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_has_at_most_350_lines_and_its_functions_80(path):
  text = path.read_text()
  assert len(text.splitlines()) <= 350
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      assert node.end_lineno - node.lineno + 1 <= 80, node.name
