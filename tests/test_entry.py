"""What all commands share: --help, the messages of wrong flags, and that neither waits for TensorFlow."""

import importlib
import json
import pathlib
import shlex
import subprocess
import sys
import textwrap

import pytest
from absl import flags

from lcn_tf import entry
from lcn_tf.errors import UserError
from lcn_tf.launching import commands

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = sorted(
  f"{file.parent.name}.{file.stem}" for room in ("pipelines", "tools") for file in (ROOT / room).glob("[a-z]*.py")
)
RUN_ALL = """
import contextlib, io, json, runpy, sys

found = {}
for module in sys.argv[1:]:
  for flag in ("--help", "--no_such_flag"):
    out, errors = io.StringIO(), io.StringIO()
    sys.argv = [module, flag]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
      try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
      except SystemExit as ended:
        code = ended.code
    loaded = "tensorflow" in sys.modules
    found[f"{module} {flag}"] = {"code": code, "out": out.getvalue(), "errors": errors.getvalue(), "loaded": loaded}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def said():
  """What every command says to --help and to a wrong flag, all of them run in one process."""
  command = [sys.executable, "-c", RUN_ALL, *COMMANDS]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def example(module):
  """The first example of a command's help."""
  text = importlib.import_module(module).__doc__
  return next(line.strip() for line in text.splitlines() if line.strip().startswith("python -m "))


def test_there_are_commands():
  assert len(COMMANDS) == 27


@pytest.mark.parametrize("module", COMMANDS)
def test_help_has_an_example_and_all_flags_and_does_not_load_tensorflow(said, module):
  found = said[f"{module} --help"]
  assert not found["loaded"]
  assert found["code"] == 0
  assert example(module) in found["out"]
  assert found["errors"] == ""
  for name in importlib.import_module(module)._FLAGS:
    assert f"\n  --{name}: " in found["out"] or f"\n  --[no]{name}: " in found["out"]


@pytest.mark.parametrize("module", COMMANDS)
def test_a_wrong_flag_is_told_without_tensorflow(said, module):
  found = said[f"{module} --no_such_flag"]
  assert not found["loaded"]
  assert found["code"] == 1
  assert found["errors"].startswith("error: Unknown command line flag 'no_such_flag'.")
  assert found["out"] == ""


@pytest.mark.parametrize("module", COMMANDS)
def test_the_example_of_a_command_is_accepted(module):
  words, behind = commands.split(shlex.split(example(module)))
  assert words[:3] == ["python", "-m", module]
  for command in filter(None, (words, behind)):
    values = importlib.import_module(command[2])._FLAGS
    entry.parse(values, command[2:])
    if "config" in values:
      assert (ROOT / values["config"].value).is_file()


@pytest.mark.parametrize("module", COMMANDS)
def test_a_help_text_is_a_sentence(module):
  values = importlib.import_module(module)._FLAGS
  for name in values:
    text = entry._help_text(values[name])
    assert text.endswith("."), name
    assert text.rpartition(">: ")[2][0].isupper(), name


def some_flags():
  values = flags.FlagValues()
  entry.define_config(values)
  entry.define_run_dirs(values)
  entry.define_bootstrap(values)
  return values


def test_each_missing_flag_is_told_on_a_line_with_what_it_is():
  values = some_flags()
  with pytest.raises(UserError) as both:
    entry.parse(values, ["command", "--bootstrap=3"])
  assert str(both.value) == (
    "--config is missing: Experiment, a YAML file. The folder configs/ has examples.\n"
    "--run_dir is missing: Run folder that pipelines.train made. May be repeated to compare runs."
  )
  with pytest.raises(UserError, match=r"^--config is missing: [^\n]*$"):
    entry.parse(values, ["command", "--run_dir=a", "--run_dir=b"])


def test_a_wrong_value_and_a_misspelt_name_are_told_before_missing_flags():
  with pytest.raises(UserError, match=r"^flag --bootstrap=-1: -1 is not a non-negative integer$"):
    entry.parse(some_flags(), ["command", "--bootstrap=-1"])
  with pytest.raises(UserError, match=r"^Unknown command line flag 'confg'\. Did you mean 'config'\?$"):
    entry.parse(some_flags(), ["command", "--confg=x"])
  with pytest.raises(UserError, match=r"^unexpected arguments: more$"):
    entry.parse(some_flags(), ["command", "--config=x", "--run_dir=a", "more"])


def test_help_says_what_is_required_and_the_defaults(capsys):
  values = some_flags()
  flags.DEFINE_list("lengths", ["1", "2"], "Lengths.", flag_values=values)
  flags.DEFINE_bool("strict", False, "Strict.", flag_values=values)
  entry.define_set(values)
  with pytest.raises(SystemExit) as ended:
    entry.parse(values, ["command", "--help"])
  assert ended.value.code == 0
  words = " ".join(capsys.readouterr().out.split())
  assert "--run_dir: Run folder that pipelines.train made. May be repeated to compare runs. (required)" in words
  assert "0 = no intervals. (a non-negative integer, default: 200)" in words
  assert "--lengths: Lengths. (a comma separated list, default: 1,2)" in words
  assert "--[no]strict: Strict. (default: false)" in words
  assert words.endswith("Without --set the config stays as it is.")


def test_whole_numbers_are_read_from_a_list():
  values = flags.FlagValues()
  lengths = entry.define_lengths(values, [5, 10])
  entry.parse(values, ["command"])
  assert entry.whole_numbers(lengths) == [5, 10]
  entry.parse(values, ["command", "--lengths="])
  assert entry.whole_numbers(lengths) == []
  entry.parse(values, ["command", "--lengths=5,-1"])
  with pytest.raises(UserError, match=r"^--lengths 5,-1: expected whole numbers$"):
    entry.whole_numbers(lengths)


def test_the_collector_leaves_what_a_command_imports_alone_and_goes_on():
  """In a process of its own, as this one has frozen its objects."""
  code = """
    import gc
    from lcn_tf import entry
    try:
      with entry.loading():
        assert not gc.isenabled()
        import xml.dom.minidom
        raise ImportError
    except ImportError:
      pass
    frozen = gc.get_freeze_count()
    assert frozen > 1000 and gc.isenabled()
    with entry.loading():
      assert gc.isenabled()
      import sqlite3
    assert 0 < gc.get_freeze_count() <= frozen
  """
  done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
