"""Which cells run, in which order, and what an interruption or a failure leaves; the cells are stubs."""

import json

import numpy as np
import polars as pl
import pytest

from lcn_tf import config, formats
from lcn_tf.comparison import grid, report
from lcn_tf.comparison.cells import Cell, rows_of
from lcn_tf.comparison.compare import compare
from lcn_tf.comparison.grid import describe
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import SettingsError, StorageError, UserError
from lcn_tf.files import exclusive
from lcn_tf.models.build import needs_pretrained
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.training.trainer import train
from tests.comparison.stubs import Stub, load, summary, write_predictions
from tests.data.logs import file_bytes
from tests.support.record_sets import small_schema, write_record_set


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  sizes = {"train": 4, "validation": 2, "test": 2}
  return write_record_set(tmp_path_factory.mktemp("records"), small_schema(), records=sizes)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
  """The page takes a second; test_results.py looks at it."""
  monkeypatch.setattr(report, "render", lambda *arguments: f"{arguments[4]}")


def test_every_cell_runs_once_seed_by_seed(record_set, tmp_path):
  stub = Stub()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=stub)
  expected = [(label, seed, {}, True) for seed in (0, 1) for label in ("Bad", "Good", "Fair")]
  assert stub.calls == expected


def test_finished_cells_are_not_run_again(record_set, tmp_path):
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  tables = [(tmp_path / "out" / name).read_bytes() for name in ("table.md", "paired.json")]
  again = Stub()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=again)
  assert again.calls == []
  assert [(tmp_path / "out" / name).read_bytes() for name in ("table.md", "paired.json")] == tables

  (tmp_path / "out" / "cells" / "fair" / "seed_1" / "metrics.json").unlink()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=again)
  assert again.calls == [("Fair", 1, {}, True)]


def test_seeds_and_models_can_be_added(record_set, tmp_path):
  compare(load(tmp_path, seeds=[0]), record_set, tmp_path / "out", runner=Stub())
  stub = Stub()
  compare(load(tmp_path, seeds=[0, 1]), record_set, tmp_path / "out", runner=stub)
  assert [call[:2] for call in stub.calls] == [("Bad", 1), ("Good", 1), ("Fair", 1)]


def test_seeds_of_one_call_are_all_that_its_tables_show_and_other_calls_go_on(record_set, tmp_path):
  loaded, out = load(tmp_path, seeds=[0, 1, 2]), tmp_path / "out"

  def call(*seeds):
    stub = Stub()
    compare(loaded.changed(seeds), record_set, out, runner=stub)
    shown = pl.read_parquet(out / "results.parquet")["seed"].unique().sort().to_list()
    pairs = json.loads((out / "paired.json").read_text())["Fair"]["b"]
    assert pairs == [f"cells/good/seed_{seed}/predictions.parquet" for seed in shown]
    assert "seeds)" not in (out / "table.md").read_text()  # as in "Fair (1 of 2 seeds)"
    return sorted({called[1] for called in stub.calls}), len(stub.calls), shown

  assert call("1") == ([1], 3, [1])
  assert call("0", "1") == ([0], 3, [0, 1])
  assert call() == ([2], 3, [0, 1, 2])
  before = {file: file.stat().st_mtime_ns for file in (out / "cells").rglob("*")}
  assert call("2") == ([], 0, [2])
  assert {file: file.stat().st_mtime_ns for file in (out / "cells").rglob("*")} == before
  assert call() == ([], 0, [0, 1, 2])


def epochs_of(output, label, seed=0):
  return json.loads((output / "cells" / label / f"seed_{seed}" / "training.json").read_text())["epochs"]


@pytest.fixture
def shorter(record_set, tmp_path):
  """Folder of a comparison of three epochs whose models were kept."""
  compare(load(tmp_path, keep_models=True), record_set, tmp_path / "out", runner=Stub())
  return tmp_path / "out"


def test_more_epochs_make_the_cells_go_on(record_set, tmp_path, shorter):
  longer, stub = load(tmp_path, common={"train.epochs": 4}, keep_models=True), Stub()
  assert describe(rows_of(longer, shorter)).splitlines()[0] == "Bad, seed 0: begun"
  stub.interrupt_after = 4
  with pytest.raises(KeyboardInterrupt):
    compare(longer, record_set, shorter, runner=stub)
  assert (epochs_of(shorter, "bad"), epochs_of(shorter, "fair", 1)) == (4, 3)
  after = Stub()
  compare(longer, record_set, shorter, runner=after)
  assert len(stub.calls) == 4
  assert sorted(call[:2] for call in stub.calls + after.calls) == [
    (label, seed) for label in ("Bad", "Fair", "Good") for seed in (0, 1)
  ]
  assert pl.read_parquet(shorter / "results.parquet")["epochs"].to_list() == [4] * 6
  with pytest.raises(UserError, match=r"holds another comparison: experiment\.train\.epochs is 3 in the config, 4 in"):
    compare(load(tmp_path), record_set, shorter, runner=Stub())


def test_cells_of_fewer_epochs_are_in_no_table(record_set, tmp_path, shorter):
  longer = load(tmp_path, common={"train.epochs": 4}, keep_models=True)
  compare(longer, record_set, shorter, runner=Stub(), only=["Good"])
  assert set(pl.read_parquet(shorter / "results.parquet")["model"]) == {"Good"}


@pytest.mark.parametrize(
  ("length", "goes_on"),
  [
    # of the three epochs the second is the best
    ({"epochs": 3, "early_stopping": 0}, False),
    ({"epochs": 9, "early_stopping": 1}, False),
    ({"epochs": 9, "early_stopping": 2}, True),
    ({"epochs": 9, "early_stopping": 1, "early_stopping_after": 3}, True),
    ({"epochs": 9, "early_stopping": 0}, True),
  ],
)
def test_cells_that_stopped_early_go_on_with_more_patience_alone(length, goes_on, record_set, tmp_path):
  def asked(**train):
    common = {f"train.{key}": value for key, value in train.items()}
    return load(tmp_path, common=common, seeds=[0], keep_models=True)

  out, stub = tmp_path / "out", Stub()
  compare(asked(epochs=3, early_stopping=1), record_set, out, runner=Stub())
  compare(asked(**length), record_set, out, runner=stub)
  assert bool(stub.calls) == goes_on
  if goes_on:
    with pytest.raises(UserError, match=r"holds another comparison: experiment\.train\.early_stopping(_after)? is"):
      compare(asked(epochs=9, early_stopping=1), record_set, out, runner=Stub())


def test_cells_without_their_checkpoints_cannot_go_on_and_stay(record_set, tmp_path):
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  before = file_bytes(tmp_path / "out")
  with pytest.raises(UserError, match=r"bad/seed_0 was trained for 3 epochs, train\.epochs is 4, and its checkpoints"):
    compare(load(tmp_path, common={"train.epochs": 4}), record_set, tmp_path / "out", runner=Stub())
  assert file_bytes(tmp_path / "out") == before


@pytest.mark.config
def test_a_real_cell_goes_on_from_its_checkpoint(record_set, tmp_path):
  class Trains(Stub):
    def train(self, cell, evaluate):
      self.steps = train(cell.experiment, record_set, cell.folder).steps
      write_predictions(cell.predictions, 0.5, 0)
      formats.write_sealed(cell.folder / "metrics.json", summary(cell.predictions))

  def asked(epochs):
    models = {"Good": {"config": "average_pooling.yaml", "set": {"model.extractor": "none"}}}
    small = {"train.global_batch_size": 16, "model.histories": ["target"]}
    return load(tmp_path, models=models, seeds=[0], common={"train.epochs": epochs} | small, keep_models=True)

  runner = Trains()
  compare(asked(1), record_set, tmp_path / "out", runner=runner)
  assert runner.steps == 1
  compare(asked(3), record_set, tmp_path / "out", runner=runner)
  assert runner.steps == 2
  assert epochs_of(tmp_path / "out", "good") == 3


def test_only_runs_what_it_names_and_the_table_shows_dashes_for_the_others(record_set, tmp_path):
  stub = Stub()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=stub, only=["Good"])
  assert {call[0] for call in stub.calls} == {"Good"}
  rows = (tmp_path / "out" / "table.md").read_text().splitlines()
  assert "| Bad | - | - | - | - | - | - | - | - | - |" in rows
  with pytest.raises(UserError, match=r"--only: unknown model 'God'\. Did you mean 'Good'"):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=stub, only=["God"])


def test_an_interruption_leaves_the_finished_cells(record_set, tmp_path):
  stub = Stub()
  stub.interrupt_after = 2
  with pytest.raises(KeyboardInterrupt):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=stub)
  assert stub.stopped
  after = Stub()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=after)
  assert sorted(call[:2] for call in stub.calls + after.calls) == [
    (label, seed) for label in ("Bad", "Fair", "Good") for seed in (0, 1)
  ]


def test_a_failing_cell_stops_no_other_and_is_told_at_the_end(record_set, tmp_path):
  stub = Stub(failing=("Fair",))
  with pytest.raises(
    UserError, match=r"(?s)2 cells failed.*Fair, seed 0: exit code 3; .*log\.txt ends with.*out of memory"
  ):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=stub)
  assert len(stub.calls) == 6
  table = pl.read_parquet(tmp_path / "out" / "results.parquet")
  assert table["model"].unique().sort().to_list() == ["Bad", "Good"]
  assert "| Fair | - " in (tmp_path / "out" / "table.md").read_text()
  assert "out of memory" in (tmp_path / "out" / "report" / "index.html").read_text()
  healed = Stub()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=healed)
  assert [call[:2] for call in healed.calls] == [("Fair", 0), ("Fair", 1)]


def test_a_cell_that_leaves_nothing_has_failed(record_set, tmp_path):
  class Lazy(Stub):
    def train(self, cell, evaluate):
      pass

  with pytest.raises(UserError, match=r"6 cells failed[^\n]*\n.*left no metrics\.json in .*bad.seed_0"):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=Lazy())


def test_another_comparison_in_the_folder_is_refused_before_anything_runs(record_set, tmp_path):
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  before = (tmp_path / "out" / "comparison.yaml").read_text()
  stub = Stub()
  with pytest.raises(UserError, match=r"holds another comparison: experiment\.train\.epochs is 2 in the config, 3 in"):
    compare(load(tmp_path, common={"train.epochs": 2}), record_set, tmp_path / "out", runner=stub)
  with pytest.raises(UserError, match=r"holds another comparison: tuning is .*learning_rate"):
    compare(load(tmp_path, tuning={"train.learning_rate": [1]}), record_set, tmp_path / "out", runner=stub)
  assert stub.calls == []
  assert (tmp_path / "out" / "comparison.yaml").read_text() == before


def test_what_could_not_read_its_records_may_leave_the_broken_ones_out(record_set, tmp_path):
  with pytest.raises(UserError, match="2 cells failed; the same command runs again"):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub(failing=("Good",)))
  stub = Stub()
  changed = {"train.epochs": 3, "train.on_corrupt": "skip", "train.checkpoint_minutes": 1.0}
  compare(load(tmp_path, common=changed), record_set, tmp_path / "out", runner=stub)
  assert [call[:2] for call in stub.calls] == [("Good", 0), ("Good", 1)]


def test_a_wrong_value_of_tuning_is_told_before_anything_runs(record_set, tmp_path):
  stub = Stub()
  loaded = load(tmp_path, tuning={"model.options.levels": [["csa"], ["csb"]]}, models={"Good": {"config": "lap.yaml"}})
  with pytest.raises(UserError, match=r"models\.Good, tuning \{'model\.options\.levels': \['csb'\]\}: .*csb"):
    compare(loaded, record_set, tmp_path / "out", runner=stub)
  assert stub.calls == []
  assert not (tmp_path / "out").exists()


def test_tuning_in_another_order_is_another_one(record_set, tmp_path):
  """Choices are kept by their number."""
  tuning = {"train.learning_rate": [0.1, 0.2], "train.row_decay": [0.3, 0.4]}
  compare(load(tmp_path, tuning=tuning), record_set, tmp_path / "out", runner=Stub())
  with pytest.raises(UserError, match=r"holds another comparison: tuning is .*row_decay.* in the config"):
    compare(load(tmp_path, tuning=dict(reversed(tuning.items()))), record_set, tmp_path / "out", runner=Stub())


def test_other_records_are_refused(record_set, tmp_path):
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  other = write_record_set(tmp_path / "other", small_schema(), seed=1, records={"train": 4, "validation": 2, "test": 2})
  assert other.fingerprint == record_set.fingerprint
  with pytest.raises(UserError, match=r"holds a comparison on other records: .*, but other shards"):
    compare(load(tmp_path), other, tmp_path / "out", runner=Stub())


def test_records_of_another_schema_are_refused_before_anything_runs(tmp_path):
  other = write_record_set(tmp_path / "other", small_schema(max_length=5))
  stub = Stub()
  told = r"models\.Bad: .*built with another schema: schema\.source\.max_length is 48 in the config, 10 in the records"
  with pytest.raises(UserError, match=told):
    compare(load(tmp_path), other, tmp_path / "out", runner=stub)
  assert stub.calls == []
  assert not (tmp_path / "out").exists()


def test_two_comparisons_do_not_share_a_folder_at_once(record_set, tmp_path, monkeypatch):
  monkeypatch.setattr("lcn_tf.comparison.compare._PATIENCE", 0.0)
  with (
    exclusive(tmp_path / "out", "somebody"),
    pytest.raises(UserError, match=r"out: another comparison.* at work here"),
  ):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())


def models_of(cell):
  (found,) = (cell / "checkpoints").iterdir()
  return found.name


def test_checkpoints_are_dropped_unless_they_are_wanted(record_set, tmp_path):
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  compare(load(tmp_path, keep_models=True), record_set, tmp_path / "kept", runner=Stub())
  assert {models_of(cell) for cell in (tmp_path / "out").rglob("seed_*")} == {"removed.txt"}
  assert {models_of(cell) for cell in (tmp_path / "kept").rglob("seed_*")} == {"best"}
  assert len(list((tmp_path / "out").rglob("predictions.parquet"))) == 6


class KilledAtTheEnd(Stub):
  """The comparison is killed when its first cell has left its results."""

  def train(self, cell, evaluate):
    if not self.calls:
      super().train(cell, evaluate)
    raise KeyboardInterrupt


@pytest.mark.parametrize(("keep", "left"), [(False, "removed.txt"), (True, "best")])
def test_models_that_a_killed_comparison_has_left_go_with_the_next_one(keep, left, record_set, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=KilledAtTheEnd())
  (cell,) = (path.parent for path in (tmp_path / "out").rglob("metrics.json"))
  assert models_of(cell) == "best"
  stub = Stub()
  compare(load(tmp_path, keep_models=keep), record_set, tmp_path / "out", runner=stub)
  assert len(stub.calls) == 5
  assert models_of(cell) == left
  assert not list((tmp_path / "out").rglob(".models_go"))


def test_models_of_values_that_lost_go_though_a_killed_comparison_had_just_chosen(record_set, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(Cell, "prune", interrupted)
    with pytest.raises(KeyboardInterrupt):
      compare(load(tmp_path, tuning=TUNING), record_set, tmp_path / "out", runner=Stub())
  compare(load(tmp_path, tuning=TUNING), record_set, tmp_path / "out", runner=Stub())
  assert {models_of(cell) for cell in (tmp_path / "out").rglob("seed_*")} == {"removed.txt"}


def interrupted(cell):
  raise KeyboardInterrupt


def test_models_are_kept_by_the_call_that_asks_for_it_and_stay(record_set, tmp_path):
  loaded, out = load(tmp_path), tmp_path / "out"
  compare(loaded.changed(["0"]), record_set, out, runner=Stub())
  stub = Stub()
  compare(loaded.changed(["0", "1"], keep_models=True), record_set, out, runner=stub)
  assert {call[1] for call in stub.calls} == {1}
  compare(loaded, record_set, out, runner=Stub())
  for label in ("bad", "good", "fair"):
    cells = out / "cells" / label
    assert [models_of(cells / f"seed_{seed}") for seed in (0, 1)] == ["removed.txt", "best"]
    assert "keep_models" in (cells / "seed_0" / "checkpoints" / "removed.txt").read_text()
  # a run that is trained anew has its models
  (out / "cells" / "bad" / "seed_0" / "metrics.json").unlink()
  compare(loaded.changed(keep_models=True), record_set, out, runner=Stub())
  assert models_of(out / "cells" / "bad" / "seed_0") == "best"


def test_progress_counts_the_cells_and_says_how_long_the_rest_may_take(record_set, tmp_path):
  said = []
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub(), say=said.append)
  lines = [line for line in said if line.startswith("cell ")]
  assert len(lines) == 6
  assert lines[0].startswith("cell 1 of 6: Bad, seed 0: AUC 0.")
  assert lines[0].endswith("; about 0 s left")
  assert lines[5].startswith("cell 6 of 6: Fair, seed 1: AUC 0.")
  assert "left" not in lines[5]
  (tmp_path / "out" / "cells" / "bad" / "seed_0" / "metrics.json").unlink()
  said.clear()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub(), say=said.append)
  assert said[0] == "5 of 6 cells are there already"
  assert any(line.startswith("cell 6 of 6: Bad, seed 0: ") for line in said)


def test_several_jobs_give_the_same_table(record_set, tmp_path):
  for jobs in (1, 3):
    compare(load(tmp_path), record_set, tmp_path / str(jobs), runner=Stub(), jobs=jobs)
  assert (tmp_path / "1" / "table.md").read_text() == (tmp_path / "3" / "table.md").read_text()


TUNING = {"train.learning_rate": [0.1, 0.01, 0.02]}  # the stub's validation is best at 0.01


def test_tuning_chooses_by_validation_and_no_loser_meets_the_test(record_set, tmp_path):
  stub = Stub()
  compare(load(tmp_path, tuning=TUNING), record_set, tmp_path / "out", runner=stub)
  tried, tested = [call for call in stub.calls if not call[3]], [call for call in stub.calls if call[3]]
  assert len(tried) == 9
  assert {call[1] for call in tried} == {0}
  assert {(label, seed) for label, seed, _, _ in tested} == {(m, s) for m in ("Bad", "Good", "Fair") for s in (0, 1)}
  assert [call[2] for call in tested] == [{"train.learning_rate": 0.01}] * 6
  for name in ("metrics.json", "predictions.parquet"):
    assert {file.parent.parent.name for file in (tmp_path / "out").rglob(name)} == {"1_learning_rate=0.01"}
  table = pl.read_parquet(tmp_path / "out" / "results.parquet")
  assert table["tuned"].unique().to_list() == ['{"train.learning_rate": 0.01}']
  assert "| Good | train.learning_rate 0.01 | 0.7000 | chosen |" in (tmp_path / "out" / "table.md").read_text()
  assert {models_of(cell) for cell in (tmp_path / "out").rglob("seed_*")} == {"removed.txt"}


def test_a_choice_stays_and_is_told_as_it_was_whatever_the_seeds_of_a_later_call(record_set, tmp_path):
  loaded, out = load(tmp_path, tuning=TUNING), tmp_path / "out"
  compare(loaded.changed(["0"]), record_set, out, runner=Stub())
  later, stub = loaded.changed(["1"]), Stub()
  lines = describe(rows_of(later, out)).splitlines()
  assert lines == [f"{label}, seed 1, train.learning_rate 0.01: to do" for label in ("Bad", "Good", "Fair")]
  compare(later, record_set, out, runner=stub)
  assert stub.calls == [(label, 1, {"train.learning_rate": 0.01}, True) for label in ("Bad", "Good", "Fair")]
  text = (out / "table.md").read_text()
  assert "by validation AUC with seed 0: " in text
  assert "| Good | train.learning_rate 0.01 | 0.7000 | chosen |" in text
  assert "| Good | train.learning_rate 0.1 | 0.6100 |  |" in text


def test_a_choice_made_under_another_experiment_is_refused_whatever_the_seeds(record_set, tmp_path):
  compare(load(tmp_path, tuning=TUNING).changed(["0"]), record_set, tmp_path / "out", runner=Stub())
  stub, other = Stub(), load(tmp_path, tuning=TUNING, common={"train.epochs": 50})
  with pytest.raises(UserError, match=r"seed_0 holds another comparison: experiment\.train\.epochs is 50"):
    compare(other.changed(["1"]), record_set, tmp_path / "out", runner=stub)
  assert stub.calls == []


def test_tuning_is_resumed_and_its_choice_is_final(record_set, tmp_path):
  stub = Stub()
  stub.interrupt_after = 4
  with pytest.raises(KeyboardInterrupt):
    compare(load(tmp_path, tuning=TUNING), record_set, tmp_path / "out", runner=stub)
  assert not list((tmp_path / "out").rglob("metrics.json"))
  after = Stub()
  compare(load(tmp_path, tuning=TUNING), record_set, tmp_path / "out", runner=after)
  assert len([call for call in after.calls if not call[3]]) == 9 - 4
  # even if the validation of a loser were better now
  (tmp_path / "out" / "cells" / "good" / "0_learning_rate=0.1" / "seed_0" / "history.csv").write_text(
    "epoch,val_auc\n0,1"
  )
  last = Stub()
  compare(load(tmp_path, tuning=TUNING), record_set, tmp_path / "out", runner=last)
  assert last.calls == []


class FailsAtOneRate(Stub):
  """Good at the rate of 0.01."""

  def train(self, cell, evaluate):
    self.failing = ("Good",) if cell.experiment.train.learning_rate == 0.01 else ()
    super().train(cell, evaluate)


def test_a_combination_that_diverges_cannot_win(record_set, tmp_path):
  runner = FailsAtOneRate()
  runner.error = SettingsError
  told = r"1 cells failed(.*\n)*    left out of the choice for good, unless .*good/tuning\.json is removed"
  with pytest.raises(UserError, match=told):
    compare(load(tmp_path, tuning=TUNING), record_set, tmp_path / "out", runner=runner)
  chosen = json.loads((tmp_path / "out" / "cells" / "good" / "tuning.json").read_text())
  assert (chosen["chosen"], chosen["tried"][1]["val_auc"]) == (2, None)


@pytest.mark.parametrize(("error", "whole"), [(StorageError, StorageError), (SettingsError, UserError)])
def test_cells_that_found_no_space_make_it_a_failure_of_the_disk(error, whole, record_set, tmp_path):
  runner = Stub(failing=("Good",))
  runner.error = error
  with pytest.raises(UserError, match="2 cells failed") as raised:
    compare(load(tmp_path), record_set, tmp_path / "out", runner=runner)
  assert type(raised.value) is whole


def test_a_combination_that_was_killed_has_its_turn_before_the_choice(record_set, tmp_path):
  loaded = load(tmp_path, tuning=TUNING)
  with pytest.raises(UserError, match="1 cells failed"):
    compare(loaded, record_set, tmp_path / "out", runner=FailsAtOneRate())
  assert not (tmp_path / "out" / "cells" / "good" / "tuning.json").exists()
  assert (tmp_path / "out" / "cells" / "bad" / "tuning.json").exists()
  again = Stub()
  compare(loaded, record_set, tmp_path / "out", runner=again)
  assert again.calls[0] == ("Good", 0, {"train.learning_rate": 0.01}, False)
  chosen = json.loads((tmp_path / "out" / "cells" / "good" / "tuning.json").read_text())
  assert None not in [tried["val_auc"] for tried in chosen["tried"]]


def test_an_interruption_while_item_vectors_are_made_ends_their_process(record_set, tmp_path):
  class Interrupted(Stub):
    def pretrain(self, config, folder):
      raise KeyboardInterrupt

  models = {"Good": {"config": "lap.yaml", "set": {"model.extractor": "sim_soft", "model.options": {}}}}
  runner = Interrupted()
  with pytest.raises(KeyboardInterrupt):
    compare(load(tmp_path, models=models), record_set, tmp_path / "out", runner=runner)
  assert runner.stopped


def test_description_says_what_is_done(record_set, tmp_path):
  loaded = load(tmp_path, tuning=TUNING)
  rows = rows_of(loaded, tmp_path / "out")
  lines = describe(rows).splitlines()
  assert len(lines) == 18
  assert lines[0] == "Bad, seed 0, train.learning_rate 0.1: to do"
  assert lines[1] == "Bad, seed 1, train.learning_rate 0.1: to do if tuning chooses it"
  compare(loaded, record_set, tmp_path / "out", runner=Stub())
  lines = describe(rows).splitlines()
  assert len(lines) == 12
  assert lines[0] == "Bad, seed 0, train.learning_rate 0.1: trained, validation AUC 0.6100"
  assert lines[1].startswith("Bad, seed 0, train.learning_rate 0.01: done, AUC 0.")


def test_item_vectors_are_made_once_and_every_cell_gets_them(record_set, tmp_path, monkeypatch):
  class Vectors(Stub):
    def pretrain(self, config, folder):
      super().pretrain(config, folder)
      assert config.is_file()
      arrays = {d: np.ones((3, 2), np.float32) for d in ("target", "source")}
      Pretrained(arrays, arrays, {}, record_set.fingerprint).save(folder)

    def train(self, cell, evaluate):
      assert Pretrained.there(cell.folder / "pretrained") == (cell.label != "Bad")
      super().train(cell, evaluate)

  monkeypatch.setattr(grid, "_reads", lambda cell: () if cell.label == "Bad" else ("vectors",))
  stub = Vectors()
  compare(load(tmp_path), record_set, tmp_path / "out", runner=stub)
  assert [folder.parent for folder in stub.vectors] == [tmp_path / "out" / "pretrained"]
  assert len(stub.calls) == 6


def test_clusters_are_made_where_a_cell_reads_them_and_added_for_one_that_comes_later(record_set, tmp_path):
  class Vectors(Stub):
    def pretrain(self, file, folder):
      super().pretrain(file, folder)
      experiment = config.load(str(file))
      self.kinds = needs_pretrained(experiment.model)
      table = {d: np.ones((3, 2), np.float32) for d in ("target", "source")}
      clusters = {d: np.ones((3, 2), np.int64) for d in table} if "clusters" in self.kinds else {}
      notes = {"settings": experiment.model.pretraining.settings(bool(clusters))}
      Pretrained(table, clusters, notes, record_set.fingerprint).save(folder)

    def train(self, cell, evaluate):
      reads = needs_pretrained(cell.experiment.model)
      assert not reads or Pretrained.open(cell.folder / "pretrained").holds(reads)
      super().train(cell, evaluate)

  def asked(**extractors):
    models = {
      label: {"config": "average_pooling.yaml", "set": {"model.extractor": extractor}}
      for label, extractor in extractors.items()
    }
    models["Fair"] = {"config": "average_pooling.yaml", "set": {"model.embedding.init_from": "pretrained"}}
    return load(tmp_path, models=models, reference="Fair", seeds=[0])

  stub = Vectors()
  compare(asked(), record_set, tmp_path / "out", runner=stub)
  assert (len(stub.vectors), stub.kinds) == (1, ("vectors",))
  compare(asked(Good="sim_soft", Bad="sim_cluster"), record_set, tmp_path / "out", runner=stub)
  assert (len(stub.vectors), stub.kinds) == (2, ("clusters",))
  assert stub.vectors[0] == stub.vectors[1]


def test_cells_without_their_item_vectors_fail_and_others_do_not(record_set, tmp_path, monkeypatch):
  monkeypatch.setattr(grid, "_reads", lambda cell: ("vectors",) if cell.label == "Good" else ())
  stub = Stub()
  with pytest.raises(
    UserError, match=r"2 cells failed(?s:.)*Good, seed 1: no item vectors: .*no pre-trained item vectors"
  ):
    compare(load(tmp_path), record_set, tmp_path / "out", runner=stub)
  assert {call[0] for call in stub.calls} == {"Bad", "Fair"}


def test_the_folder_says_whose_records_it_is(record_set, tmp_path):
  compare(load(tmp_path), record_set, tmp_path / "out", runner=Stub())
  assert RecordSet.open(tmp_path / "out").fingerprint == record_set.fingerprint


def test_item_vectors_of_an_interrupted_call_are_made_anew_if_other_ones_are_asked_for(
  record_set, tmp_path, monkeypatch
):
  class Vectors(Stub):
    def pretrain(self, file, folder):
      dim = config.load(str(file)).model.pretraining.dim
      table = {d: np.full((record_set.record_schema.domain(d).items, 2), dim, np.float32) for d in ("target", "source")}
      clusters = {d: np.ones(values.shape, np.int64) for d, values in table.items()}
      settings = config.load(str(file)).model.pretraining.model_dump(mode="json", exclude={"path"})
      Pretrained(table, clusters, {"settings": settings}, record_set.fingerprint).save(folder)

  monkeypatch.setattr(grid, "_reads", lambda cell: ("vectors", "clusters"))
  stub = Vectors()
  stub.interrupt_after = 0
  with pytest.raises(KeyboardInterrupt):
    compare(load(tmp_path, seeds=[0]), record_set, tmp_path / "out", runner=stub)
  for folder in (tmp_path / "out" / "cells").rglob("experiment.yaml"):
    folder.unlink()
  other = load(tmp_path, seeds=[0], common={"model.pretraining.dim": 16}, keep_models=True)
  compare(other, record_set, tmp_path / "out", runner=Vectors())
  folders = [row.cells()[0].folder for row in rows_of(other, tmp_path / "out")]
  assert all((Pretrained.open(folder / "pretrained").vectors["target"] == 16).all() for folder in folders)


def test_a_broken_record_costs_the_trivial_baselines_and_not_the_table(tmp_path, caplog):
  sizes = {"train": 4, "validation": 2, "test": 4}
  whole = write_record_set(tmp_path / "records", small_schema(), records=sizes, compression="none")
  shard = tmp_path / "records" / whole.part("test").shards[1].file
  shard.write_bytes(shard.read_bytes()[:-3])
  compare(load(tmp_path, baselines=True), whole, tmp_path / "out", runner=Stub())
  assert "no rows of the trivial baselines: " in caplog.text
  assert "| Good |" in (tmp_path / "out" / "table.md").read_text()
  assert "item mean" not in (tmp_path / "out" / "table.md").read_text()


def test_without_a_validation_auc_tuning_chooses_nothing(record_set, tmp_path):
  class OneClass(Stub):
    def train(self, cell, evaluate):
      super().train(cell, evaluate)
      history = cell.folder / "history.csv"
      head, *rows = history.read_text().splitlines()
      place = head.split(",").index("val_auc")
      rows = [",".join("" if i == place else v for i, v in enumerate(row.split(","))) for row in rows]
      history.write_text("\n".join([head, *rows]) + "\n")

  loaded = load(tmp_path, seeds=[0], tuning={"train.learning_rate": [0.001, 0.01]})
  with pytest.raises(UserError, match=r"nothing to choose by: no job of its tuning has a validation AUC"):
    compare(loaded, record_set, tmp_path / "out", runner=OneClass())
