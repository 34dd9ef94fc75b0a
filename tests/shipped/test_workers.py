"""Shipped experiments with two workers, each a process of its own.

Workers read a share of the records each, so their batches are other ones than one process has, but for two cases:

* The shares stay with a job, so one worker goes on with the batches of two. Without --campaign, two experiments do so;
  with it, all of synthetic and movielens.
* A step reads all of the records: then everything that does not depend on the order of a batch's rows is the same. CRP
  draws by the place of a row, so its weight is 0 there.

python -m pytest -m config tests/shipped/test_workers.py --campaign -rP    # with the losses
"""

import shlex
import shutil

import polars as pl
import pytest
from numpy.testing import assert_allclose

from lcn_tf import config
from lcn_tf.data.build.builder import build
from lcn_tf.data.sources import public
from lcn_tf.training.trainer import train
from tests.shipped.losses import expect_same_losses, launched
from tests.shipped.workspace import CONFIGS, built, experiments, head_commands, succeeds
from tests.support.workers import Job

FILES = [file for file in experiments("synthetic") if file.stem in ("lcn", "minet")]
ALL = experiments("synthetic", "movielens")


@pytest.mark.config(minutes=2)
@pytest.mark.parametrize("file", ALL, ids=lambda file: file.relative_to(CONFIGS).with_suffix("").as_posix())
def test_one_worker_goes_on_as_two_do(file, workspace, campaign):
  if file not in campaign(FILES, ALL):
    pytest.skip("--campaign takes all")
  build, train = head_commands(file)
  built(build, workspace)
  run = shlex.split(train)[-1]
  flags = ["--noevaluate", "--set", "train.strategy=multi_worker", "--set", "train.early_stopping=0", "--set"]
  succeeds(f"{launched(train, workers=2)}_workers", workspace, *flags, "train.epochs=1")
  two, one = workspace / f"{run}_workers", workspace / f"{run}_worker"
  shutil.copytree(two, one)
  succeeds(f"{launched(train, workers=2)}_workers", workspace, *flags, "train.epochs=2")
  succeeds(f"{launched(train, workers=1)}_worker", workspace, *flags, "train.epochs=2")
  expect_same_losses(f"{file.parent.name}/{file.stem}", two, one, [0, 1])


def whole_batches(file, folder):
  """The experiment on a small log, with steps that read all of its records: an even number of either domain's."""
  small = ["target_items=40", "source_items=40", "topics=8", "interests=3", "source_only=1", "target_only=1"]
  small += ["target_length=20", "source_length=30"]
  for users in range(40, 80):
    settings = [f"records.synthetic.{setting}" for setting in [*small, f"users={users}"]]
    made = config.load(str(file), settings)
    record_set = build(made, public.prepare(made.records), folder / str(users))
    target, source = (record_set.part("train", d).records for d in ("target", "source"))
    if target % 2 == 0 and source % 2 == 0:
      batch = [
        f"train.global_batch_size={target * made.record_schema.candidates}",
        f"train.source_ratio={source / target}",
      ]
      steps = ["train.epochs=3", "train.early_stopping=0"]
      still = ["model.crp.weight=0"] if made.model.crp else []
      return config.load(str(file), [*settings, *batch, *steps, *still]), record_set
  raise AssertionError("no log has even numbers of records")


@pytest.mark.config
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_two_workers_train_what_two_replicas_of_one_process_do(file, tmp_path):
  experiment, record_set = whole_batches(file, tmp_path / "records")
  replicas, workers = (
    experiment.model_copy(update={"train": experiment.train.model_copy(update=update)})
    for update in ({"replicas": 2}, {"strategy": "multi_worker"})
  )
  job = Job(tmp_path / "job", workers, record_set.path)
  assert job.wait() == [0, 0], job.logs()
  train(replicas, record_set, tmp_path / "here")
  one, other = (pl.read_csv(run / "history.csv") for run in (tmp_path / "here", job.run))
  columns = [name for name in one.columns if name != "crp_loss"]
  assert len(one) == 3
  assert_allclose(other.select(columns).to_numpy(), one.select(columns).to_numpy(), rtol=1e-4)
  assert (job.run / "metrics.json").is_file()
  # a worker that has ended is no fault of the others
  assert "UNAVAILABLE" not in job.logs()
