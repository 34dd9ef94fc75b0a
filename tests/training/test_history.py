"""One row per epoch in `history.csv` and in TensorBoard, whatever the job went through."""

import csv
import shutil

import numpy as np
import pytest

from lcn_tf.training.callbacks import Validation
from lcn_tf.training.checkpoints import Checkpoints
from lcn_tf.training.history import Curves, History
from lcn_tf.training.progress import Progress
from lcn_tf.training.trainer import train
from tests.support.callbacks import Copy
from tests.support.curves import points
from tests.support.damage import truncate
from tests.support.experiments import tiny_experiment

EXPERIMENT = tiny_experiment(checkpoint_every=1)


def rows(run):
  """Of `history.csv`, as numbers."""
  with (run / "history.csv").open(newline="") as file:
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def curves(run):
  """Of TensorBoard: every value that an epoch has, by curve."""
  folders = {folder.name: points(folder, torn=True) for folder in run.glob("tensorboard/*")}
  return {f"{name}/{tag}": sorted(values) for name, found in folders.items() for tag, values in found.items()}


def expect_same(run, other):
  mine, theirs = rows(run), rows(other)
  assert [row["epoch"] for row in theirs] == [0, 1]
  assert [row.keys() for row in mine] == [row.keys() for row in theirs]
  for row, expected in zip(mine, theirs, strict=True):
    for name, value in row.items():
      # another order of the sums in float32, at most
      np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)
  drawn, expected = curves(run), curves(other)
  assert drawn.keys() == expected.keys()
  for name, values in drawn.items():
    np.testing.assert_allclose(values, expected[name], rtol=1e-6, err_msg=name)


# a kill -> who has not done its part of the first epoch, the epochs that have a row, the steps that are left
KILLS = {
  "within an epoch": (None, [0], 1),
  "while it validates": (Validation, [], 5),
  "between the row and the checkpoint": (Checkpoints, [0], 5),
  "between the checkpoint and the curves": (Curves, [0], 4),
}


@pytest.fixture(scope="module")
def jobs(tiny_set, tmp_path_factory):
  """The folders of a job that ended, and of the same job as each kill would have left it."""
  folder = tmp_path_factory.mktemp("jobs")
  run = folder / "unbroken"

  def copying(on_epoch_end, kill):
    def copied(*arguments):
      if not (folder / kill).exists():
        shutil.copytree(run, folder / kill)
      on_epoch_end(*arguments)

    return copied

  with pytest.MonkeyPatch.context() as patch:
    for kill, (owner, _, _) in KILLS.items():
      if owner:
        patch.setattr(owner, "on_epoch_end", copying(owner.on_epoch_end, kill))
    train(EXPERIMENT, tiny_set, run, (Copy(7, run, folder / "within an epoch"),))
  return folder


@pytest.fixture(scope="module")
def unbroken(jobs):
  return jobs / "unbroken"


@pytest.fixture
def run(unbroken, tmp_path):
  return shutil.copytree(unbroken, tmp_path / "run")


@pytest.mark.job
def test_history_and_curves_hold_the_same_numbers_of_every_epoch_once(unbroken):
  found = rows(unbroken)
  assert [row["epoch"] for row in found] == [0, 1]
  names = {
    **{name: f"train/epoch_{name}" for name in ("loss", "ctr_loss")},
    **{f"val_{name}": f"validation/epoch_{name}" for name in ("auc", "gauc", "logloss")},
  }
  assert set(found[0]) == {"epoch", *names}
  drawn = curves(unbroken)
  assert set(drawn) == set(names.values())
  for name, tag in names.items():
    np.testing.assert_allclose(drawn[tag], [(row["epoch"], row[name]) for row in found], rtol=1e-6)


@pytest.mark.job
@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_job_that_goes_on_has_the_rows_of_an_unbroken_one(kill, jobs, unbroken, tiny_set):
  run, (_, written, steps) = jobs / kill, KILLS[kill]
  assert ([row["epoch"] for row in rows(run)] if written else list(run.glob("history.csv"))) == written
  assert train(EXPERIMENT, tiny_set, run).steps == steps
  expect_same(run, unbroken)


def progress(epoch):
  found = Progress()
  found.epoch.assign(epoch)
  return found


def begun(run, epoch):
  """The history of a job that goes on after so many epochs."""
  history = History(run, progress(epoch))
  history.on_train_begin()
  return history


@pytest.mark.job
def test_rows_of_epochs_that_the_checkpoint_does_not_know_are_written_anew(run):
  history = begun(run, 1)
  assert [row["epoch"] for row in history.rows] == ["0"]
  history.on_epoch_end(1, {"loss": 0.25, "val_auc": 0.75})
  first, second = csv.DictReader((run / "history.csv").open(newline=""))
  assert first == history.rows[0]
  assert second == {"epoch": "1", "loss": "0.25", "val_auc": "0.75", "ctr_loss": "", "val_gauc": "", "val_logloss": ""}


def test_curves_are_drawn_of_epochs_that_a_checkpoint_knows_and_of_each_once(tmp_path):
  history = begun(tmp_path, 1)
  history.on_epoch_end(0, {"loss": 0.5, "val_auc": 0.75})
  history.on_epoch_end(1, {"loss": 0.25, "val_auc": float("nan")})
  for epoch in (1, 1, 2, 2):
    known = Curves(tmp_path / "tensorboard", history, progress(epoch))
    known.on_train_begin()
    known.on_epoch_end(epoch - 1)
    drawn = curves(tmp_path)
    assert drawn["train/epoch_loss"] == [(0, 0.5), (1, 0.25)][:epoch]
    np.testing.assert_array_equal(drawn["validation/epoch_auc"], [(0, 0.75), (1, float("nan"))][:epoch])


@pytest.mark.parametrize("lost", [1, 2, 5, 30])
def test_a_truncated_row_is_no_row_and_is_told(lost, run, caplog):
  """A number that lost its last digits is another number."""
  file = run / "history.csv"
  whole = begun(run, 2).rows
  assert not caplog.text
  truncate(file, file.stat().st_size - lost)
  assert begun(run, 2).rows == whole[:1]
  assert f"{file}: damaged: the rows of epochs ['0'] alone are whole" in caplog.text


@pytest.mark.parametrize("text", ["", "epo", "epoch,loss\r\n", "\x00\xff,\n\n1,2,3\n", "loss\r\n0.5\r\n"])
def test_a_history_without_a_whole_row_begins_anew(text, run):
  (run / "history.csv").write_bytes(text.encode("latin-1"))
  history = begun(run, 2)
  assert history.rows == []
  history.on_epoch_end(2, {"loss": 0.25})
  assert rows(run) == [{"epoch": 2, "loss": 0.25}]


def test_a_number_that_is_damaged_makes_no_row(run):
  file = run / "history.csv"
  lines = file.read_text().splitlines(keepends=True)
  file.write_text("".join([lines[0], lines[1].replace("0.", "0:", 1), lines[2]]), newline="")
  assert [row["epoch"] for row in begun(run, 2).rows] == ["1"]


@pytest.mark.parametrize("folder", ["train", "validation"])
@pytest.mark.parametrize("lost", [5, 120])
def test_what_a_killed_job_had_not_drawn_of_an_epoch_is_drawn_by_the_next(folder, lost, run, unbroken):
  file = sorted((run / "tensorboard" / folder).glob("events.*"))[-1]
  truncate(file, file.stat().st_size - lost)
  Curves(run / "tensorboard", begun(run, 2), progress(2)).on_train_begin()
  assert len(list((run / "tensorboard" / folder).iterdir())) == 3
  assert curves(run) == curves(unbroken)
