"""Every experiment in configs/ is a valid one."""

import pathlib
import typing

import pytest
import yaml

from lcn_tf import config
from lcn_tf.config import Experiment
from lcn_tf.errors import UserError
from lcn_tf.schema import Strict

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# configs/compare: tests/comparison/test_configs.py
FILES = sorted(file for file in CONFIGS.glob("**/*.yaml") if file.parent.name not in ("compare", "gates"))


def name_of(file: pathlib.Path) -> str:
  return file.relative_to(CONFIGS).as_posix()


def test_there_are_configs_of_every_data_set():
  assert {name_of(file).split("/")[0] for file in FILES} >= {
    "amazon",
    "complete_journey",
    "movielens",
    "movielens_rating",
    "rare",
    "synthetic",
  }


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_config_is_valid_and_survives_a_round_trip(file):
  experiment = config.load(str(file))
  assert config.from_tree(yaml.safe_load(config.dump(experiment)), "dumped") == experiment


def test_a_mistake_of_the_whole_experiment_is_told_after_the_name_of_the_file():
  file = str(CONFIGS / "movielens" / "lcn.yaml")
  with pytest.raises(
    UserError, match=rf"^{file}: train\.global_batch_size 60 is not a multiple of schema\.candidates 16$"
  ):
    config.load(file, ["train.global_batch_size=60", "schema.candidates=16"])
  with pytest.raises(UserError, match=rf"^{file}: train\.epochs: .*; found 'many'$"):
    config.load(file, ["train.epochs=many"])


@pytest.mark.parametrize(
  "text",
  [
    "name: x\nmodel: &here\n  options: *here\n",
    "name: x\nschema: {}\nmodel:\n  options: &here {kept: [1, *here]}\n",
    "&here [*here]",
    "name: x\nnotes: 2024-13-45\n",
    "[" * 5000,
    "name: [",
    "name: \xff",
  ],
)
def test_what_is_no_tree_is_told_in_one_message(text, tmp_path):
  file = tmp_path / "x.yaml"
  file.write_bytes(text.encode("latin-1"))
  with pytest.raises(UserError, match=rf"^{file}: not YAML: .+$"):
    config.load(str(file))
  if text.isascii() and "\n" not in text:
    with pytest.raises(UserError, match=r"^--set name=.* is not a YAML value$"):
      config.load(str(CONFIGS / "movielens" / "lcn.yaml"), [f"name={text}"])


def test_an_alias_of_what_stands_elsewhere_is_a_tree(tmp_path):
  file = tmp_path / "x.yaml"
  file.write_text("name: x\nschema: {target: &same {max_length: 7}, source: *same}\n")
  assert config.load(str(file)).record_schema.source.max_length == 7


def test_aliases_of_aliases_are_looked_at_once(tmp_path):
  """Each line stands for ten of the one before: 10^40 nodes, if they were told apart."""
  lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 41))]
  file = tmp_path / "x.yaml"
  file.write_text("\n".join(lines))
  assert len(config.read_tree(str(file), config.Experiment)["a40"]) == 10


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_header_says_how_to_run_it(file):
  header = file.read_text().split("\nname:")[0]
  assert all(line.startswith("#") for line in header.strip().splitlines())
  for command in ("pipelines.build_records", "pipelines.train"):
    assert f"python -m {command} --config configs/{name_of(file)} " in header


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=name_of)
def test_configs_of_one_folder_share_their_records(folder):
  """So that one record set serves a comparison."""
  experiments = [config.load(str(file)) for file in sorted(folder.glob("*.yaml"))]
  for experiment in experiments:
    assert experiment.record_schema == experiments[0].record_schema
    assert experiment.records == experiments[0].records


def sections(model):
  """A config class and those of its fields."""
  yield model
  for field in model.model_fields.values():
    options = [field.annotation]
    while options:
      option = options.pop()
      if isinstance(option, type) and issubclass(option, Strict):
        yield from sections(option)
      options += typing.get_args(option)


@pytest.mark.parametrize("section", sorted(set(sections(Experiment)), key=lambda section: section.__name__))
def test_every_key_says_what_it_is(section):
  for name, field in section.model_fields.items():
    assert field.description, f"{section.__name__}.{name}"
    assert not field.description.startswith(("Of ", "How ", "What ", "Which ", "Whether "))
