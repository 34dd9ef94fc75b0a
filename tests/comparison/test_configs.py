"""Every comparison in configs/compare is a valid one, and so is every experiment that it asks for."""

import pathlib

import pytest

from lcn_tf.comparison import config
from lcn_tf.comparison.cells import rows_of
from lcn_tf.models.base import Blueprint
from lcn_tf.models.networks import NETWORKS
from lcn_tf.schema import DOMAINS, with_sizes

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
FILES = sorted((CONFIGS / "compare").glob("*.yaml"))
SYSTEMS = "Avg-Pooling, DIN, SIM Hard, SIM Soft, SIM Cluster, SIM Cluster+, ETA, SDIM, TWIN, MiNet, CoNet, pi-Net, "
SYSTEMS += "LCN w/o CRP, LCN w/o LAP, LCN, Avg-Pooling target only, TWIN target only, LCN target only"
LATER = ("DARE",)  # than both papers
_made: set[str] = set()


def test_there_is_a_comparison_for_every_table():
  assert {file.stem for file in FILES} == {
    "amazon",
    "amazon_start",
    "crp_ablation",
    "lap_ablation",
    "length",
    "movielens",
    "movielens_rating",
    "rare",
    "rare_start",
    "synthetic",
    "synthetic_scarce",
    "synthetic_sparse",
    "twin_ablation",
    "twin_protocol",
  }


def make(experiment):
  """Makes the model, once for all files: unknown extractors, options and values raise. Its weights are not built."""
  key = experiment.model.model_dump_json() + experiment.record_schema.model_dump_json()
  if key not in _made:
    schema = experiment.record_schema
    sized = with_sizes(schema, dict.fromkeys(schema.vocabularies, 12), dict.fromkeys(DOMAINS, 12))
    NETWORKS[experiment.model.network](Blueprint(sized, experiment.model))
    _made.add(key)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_experiments_of_a_comparison_are_valid_and_share_budget_and_records(file, tmp_path):
  loaded = config.load(file)
  first = next(iter(loaded.experiments.values()))
  for experiment in loaded.experiments.values():
    assert experiment.record_schema == first.record_schema
    assert experiment.records == first.records
    for name in ("epochs", "early_stopping", "global_batch_size", "preset", "learning_rate"):
      assert getattr(experiment.train, name) == getattr(first.train, name)
    make(experiment)
  assert len(rows_of(loaded, tmp_path)) == len(loaded.comparison.models)
  assert loaded.comparison.seeds == (0, 1, 2)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_two_rows_are_the_same_experiment(file):
  loaded = config.load(file)
  dumps = [e.model_copy(update={"name": ""}).model_dump_json() for e in loaded.experiments.values()]
  assert len(set(dumps)) == len(dumps)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_header_says_how_to_run_it(file):
  header = file.read_text().split("\nname:")[0]
  assert all(line.startswith("#") for line in header.strip().splitlines())
  assert "python -m pipelines.build_records --config configs/" in header
  assert f"python -m pipelines.compare --config configs/compare/{file.name} --records " in header


@pytest.mark.parametrize("name", ["amazon", "movielens", "movielens_rating", "synthetic"])
def test_the_tables_of_the_papers_hold_every_system_in_order(name):
  loaded = config.load(CONFIGS / "compare" / f"{name}.yaml")
  left_out = ["SIM Hard"] if name == "amazon" else []  # no item fields, so no category
  of_papers = [label for label in loaded.comparison.models if label not in LATER]
  assert of_papers == [label for label in SYSTEMS.split(", ") if label not in left_out]
  models = {label: experiment.model for label, experiment in loaded.experiments.items()}
  assert models["LCN w/o CRP"] == models["LCN"].model_copy(update={"crp": None})
  assert (models["LCN w/o LAP"].extractor, models["LCN w/o LAP"].crp) == ("average_pooling", models["LCN"].crp)
  assert all(models[label].histories == ("target",) for label in models if label.endswith("target only"))
