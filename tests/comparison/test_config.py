"""What a comparison's YAML may say, and what it says when it is wrong."""

import pytest
import yaml

from lcn_tf.comparison import config
from lcn_tf.comparison.cells import rows_of
from lcn_tf.errors import UserError
from tests.comparison.stubs import load, write_comparison


def test_common_then_set_then_tuned_then_seed_make_the_experiment_of_a_cell(tmp_path):
  loaded = load(tmp_path, tuning={"train.learning_rate": [0.1, 0.01]}, common={"train.epochs": 3, "model.item_dim": 4})
  experiment = loaded.experiment("Fair", {"train.learning_rate": 0.01}, seed=1)
  assert (experiment.train.epochs, experiment.model.item_dim) == (3, 4)
  assert (experiment.train.learning_rate, experiment.train.seed) == (0.01, 1)
  assert experiment.model.options["levels"] == ["csa"]
  assert experiment.name == "Fair"
  assert "levels" not in loaded.experiment("Good", {}, 0).model.options


def test_cells_are_every_model_with_every_combination_and_seed(tmp_path):
  loaded = load(tmp_path, tuning={"train.learning_rate": [0.1, 0.01], "model.item_dim": [4, 8]})
  rows = rows_of(loaded, tmp_path)
  assert [row.label for row in rows] == ["Bad", "Good", "Fair"]
  assert [[len(cells) for cells in row.combinations] for row in rows] == [[2] * 4] * 3
  cells = [cell for row in rows for cells in row.combinations for cell in cells]
  assert len({cell.folder for cell in cells}) == len(cells) == 24
  assert cells[1].folder == tmp_path / "cells" / "bad" / "0_learning_rate=0.1_item_dim=4" / "seed_1"


def test_what_is_dumped_loads_as_the_same_comparison_wherever_it_came_from(tmp_path):
  loaded = load(tmp_path / "configs", tuning={"train.learning_rate": [0.1, 0.01]})
  config.dump(loaded, tmp_path / "out")
  again = config.load(tmp_path / "out" / "comparison.yaml")
  assert again.experiments == loaded.experiments
  assert again.comparison.combinations() == loaded.comparison.combinations()


def test_common_may_say_how_the_records_were_built(tmp_path):
  loaded = load(tmp_path, common={"records.seed": 7})
  assert {experiment.records.seed for experiment in loaded.experiments.values()} == {7}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"models": {"Good": {"config": "lap.yaml", "set": {"records.seed": 3}}}},
      r"models\.Good\.set: records\.seed cannot",
    ),
    ({"replicate": 3}, r"replicate: unknown key\. Did you mean 'replicates'\? Known keys: name, models, "),
    (
      {"models": {"Good": {"confg": "lap.yaml"}}},
      r"models\.Good\.confg: unknown key\. Did you mean 'config'\? Known keys: config, set",
    ),
    ({"models": {"Good": {}}}, r"models\.Good\.config: this key is missing"),
    ({"reference": "Godd"}, r"reference: unknown model 'Godd'\. Did you mean 'Good'"),
    ({"seeds": [0, 0]}, r"seeds \[0, 0\] hold one twice"),
    ({"seeds": []}, r"seeds: .*at least 1"),
    ({"common": {"train.seed": 3}}, r"common: train\.seed comes from seeds"),
    ({"common": {"schema.candidates": 3}}, r"common: schema\.candidates cannot be set: models share the records"),
    ({"tuning": {"train.epochs": [1, 2]}}, r"common: train\.epochs is tuned"),
    ({"tuning": {"train.learning_rate": []}}, r"tuning: train\.learning_rate has no values"),
    ({"tuning": {"model.options.levels": [["csa"]]}}, r"models\.Fair\.set: model\.options\.levels is tuned"),
    (
      {"models": {"Good": {"config": "lap.yaml"}, "good": {"config": "lap.yaml"}}},
      r"'good' and 'Good' would share the folder 'good'",
    ),
    ({"models": {"Good": {"config": "lapp.yaml"}}}, r"models\.Good: .*lapp\.yaml: no such config file\. Did you mean"),
    (
      {"common": {"train.epoch": 3}},
      r"models\.Bad \(.*average_pooling\.yaml\): train\.epoch: unknown key\. Did you mean 'epochs'",
    ),
    ({"tuning": {"train.learning_rate": [0.1, -1]}}, r"models\.Bad: train\.learning_rate: .*greater than 0; found -1"),
    ({"common": {"train.epochs.x": 1}}, r"train\.epochs\.x: 'epochs' holds a value, not further keys"),
  ],
)
def test_a_wrong_comparison_is_told_in_one_message(tmp_path, changes, message):
  file = write_comparison(tmp_path, **changes)
  with pytest.raises(UserError, match=rf"{file}: .*{message}"):
    config.load(file)


@pytest.mark.parametrize("seeds", [["0", "1", "0"], ["1", "01"], ["0", "-1"], ["x"], ["1.5"], [""]])
def test_wrong_seeds_are_told_in_one_message(tmp_path, seeds):
  told = f"--seeds {','.join(seeds)}: expected whole numbers from 0 on, none of them twice: --seeds 0,1"
  with pytest.raises(UserError) as raised:
    load(tmp_path).changed(seeds)
  assert str(raised.value) == told


def test_a_call_changes_nothing_but_what_it_names(tmp_path):
  loaded = load(tmp_path, keep_models=True)
  assert loaded.changed() == loaded
  assert loaded.changed(["4", "2"]).comparison == loaded.comparison.model_copy(update={"seeds": (4, 2)})
  assert not loaded.changed(keep_models=False).comparison.keep_models


def test_no_mapping_is_told_with_the_keys_of_a_comparison(tmp_path):
  (tmp_path / "c.yaml").write_text(yaml.safe_dump([1]))
  with pytest.raises(UserError, match=r"c\.yaml: expected a mapping with the keys name, models, reference, seeds"):
    config.load(tmp_path / "c.yaml")
