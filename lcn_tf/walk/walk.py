"""A whole walk: a base, then period after period, each scored before it is trained on.

It leaves in its folder:

    walk.yaml, walk.json             the effective experiment; where the log is cut
    records/00000, run/00000         those of the base, as pipelines.build_records and pipelines.train make them
    records/<period>, run/<period>   those of a period; the run has period.json when the period is finished
    predictions/<period>/            walked.parquet, frozen.parquet: scores of the period's candidates
    days.parquet, report/index.html  a row per period and model; the same for people
"""

import dataclasses
import gc
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from lcn_tf import config as config_lib
from lcn_tf import files, formats
from lcn_tf.analysis import records_page
from lcn_tf.config import Experiment, Records, Split, Walk
from lcn_tf.data.build import builder
from lcn_tf.data.build.tables import RawTables
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.remote import working
from lcn_tf.schema import DomainName
from lcn_tf.training.checkpoint_store import begun
from lcn_tf.training.export_run import export_run, exported
from lcn_tf.training.job import run_job
from lcn_tf.training.run_folder import read_run
from lcn_tf.training.trainer import train
from lcn_tf.walk import days, page
from lcn_tf.walk.periods import Cut, cut, part_of

EXPERIMENT = "walk.yaml"
_CUT = "walk.json"
_PERIOD = "period.json"
_REMOVED = "Removed by pipelines.walk, since walk.keep is {keep}; with walk.keep 0 all checkpoints stay."
# of `walk`: what another call of the same walk may have otherwise
_MAY_DIFFER = ("periods", "keep")


def walk(
  experiment: Experiment, tables: RawTables, run_dir: str | pathlib.Path, export: bool = False, bootstrap: int = 200
) -> pathlib.Path:
  """Walks along a log. The same call again goes on where the last one stopped.

  Args:
    experiment: Experiment, whose section `walk` says how the log is cut.
    tables: Whole log.
    run_dir: Folder of the walk, made if it is missing.
    export: True if the model of every period is exported, to `run/<period>/export`.
    bootstrap: Bootstrap samples of the intervals of the base's test metrics.

  Returns:
    `days.parquet`.

  Raises:
    UserError: The folder holds another walk or one of another log, the log cannot be cut, or as building and training.
  """
  _check(experiment)
  folder = files.local(run_dir)
  with files.exclusive(folder, "another walk"):
    this = _open(experiment, tables, folder)
    this.base(bootstrap)
    working.put(folder)
    for number in range(1, 1 + len(this.cut.starts)):
      this.period(number, export)
      working.put(folder)
      # graphs of models that are gone
      keras.backend.clear_session()
      gc.collect()
    return this.publish()


def _check(experiment: Experiment) -> None:
  if experiment.train.strategy != "mirrored":
    raise UserError(
      f"train.strategy is {experiment.train.strategy}, but pipelines.walk trains on one machine: mirrored"
    )
  if not experiment.records.state:
    raise UserError("records.state is false, but a walk extends its records, and needs their state")


def _open(experiment: Experiment, tables: RawTables, folder: pathlib.Path) -> "_Walk":
  """The walk in a folder, which is the one that is asked for, or begins."""
  file, start = folder / EXPERIMENT, None
  if file.is_file():
    formats.check_text(file)
    there = config_lib.load(str(file))
    may_differ = {name: getattr(experiment.walk, name) for name in _MAY_DIFFER}
    there = there.model_copy(update={"walk": there.walk.model_copy(update=may_differ)})
    if found := config_lib.differs(experiment, there):
      raise UserError(f"{folder} holds another walk: {found}. Use another --run_dir.")
    start = formats.read_sealed(folder / _CUT)["start"]
  elif (folder / "experiment.yaml").is_file() or (folder / "dataset.json").is_file():
    raise UserError(f"{folder}: holds a run or records, and no walk. Use another --run_dir.")
  needs: tuple[DomainName, ...] = ("target",)
  if experiment.model.crp or experiment.model.network != "ctr":
    needs = ("target", "source")
  parts = cut(tables, experiment.walk, experiment.records.labels, needs, start)
  this = _Walk(experiment, tables, folder, parts)
  if start is not None:
    this.check_log()
  else:
    formats.write_sealed(folder / _CUT, {"start": parts.starts[0], "base_rows": parts.rows(0)})
  formats.write_checked(file, config_lib.dump(experiment))
  return this


def _all_train(experiment: Experiment) -> Records:
  """The section `records` of a period, all of whose candidates train."""
  return experiment.records.model_copy(update={"split": Split(kind="all_train")})


@dataclasses.dataclass(frozen=True)
class _Walk:
  """A walk in its folder.

  Attributes:
    experiment: Effective experiment.
    tables: Whole log.
    folder: Folder.
    cut: Parts of the log.
  """

  experiment: Experiment
  tables: RawTables
  folder: pathlib.Path
  cut: Cut

  def records(self, number: int) -> pathlib.Path:
    return self.folder / "records" / f"{number:05d}"

  def run(self, number: int) -> pathlib.Path:
    return self.folder / "run" / f"{number:05d}"

  def finished(self, number: int) -> dict[str, Any] | None:
    """What a finished period has left; None if it is not finished."""
    file = self.run(number) / _PERIOD
    return formats.read_sealed(file) if file.is_file() else None

  def check_log(self) -> None:
    """Checks that the log still has the interactions that were walked.

    Raises:
      UserError: Some part has more or fewer.
    """
    walked = {
      number: found["rows"] for number in range(1, 1 + len(self.cut.starts)) if (found := self.finished(number))
    }
    walked[0] = formats.read_sealed(self.folder / _CUT)["base_rows"]
    for number, rows in sorted(walked.items()):
      if rows != self.cut.rows(number):
        what = f"period {number}" if number else "the base"
        raise UserError(
          f"{self.folder}: {what} was walked with {rows} interactions, and now has {self.cut.rows(number)}. A walk "
          "goes on with the same log, or with more of it behind the periods that are finished. Use another --run_dir."
        )

  def base(self, bootstrap: int) -> None:
    """Builds the records of the base, and trains, exports and evaluates its run."""
    if (self.run(0) / "metrics.json").is_file():
      return
    records = self._built(0, self.experiment, None)
    own = self.experiment.model_copy(update={"walk": Walk()})
    run_job(own, records, self.run(0), bootstrap)

  def _built(self, number: int, experiment: Experiment, extend: RecordSet | None) -> RecordSet:
    """The records of a part, which are built if they are not there."""
    output = self.records(number)
    if (output / "dataset.json").is_file():
      return RecordSet.open(output)
    part = part_of(self.tables, self.cut, number)
    return builder.build(experiment, part, output, page=records_page.render, extend=extend)

  def period(self, number: int, export: bool) -> None:
    """Builds, scores, trains and keeps one period; what of it is there already is not done again."""
    if not self.finished(number):
      logging.info("period %d of %d: from second %d on", number, len(self.cut.starts), self.cut.starts[number - 1])
      before = RecordSet.open(self.records(number - 1))
      building = self.experiment.model_copy(update={"records": _all_train(self.experiment)})
      records = self._built(number, building, before)
      rows = self._scored(number, records, before)
      train(self._training(number, records), records, self.run(number))
      found = {"rows": self.cut.rows(number), "fingerprint": records.fingerprint, "days": rows}
      formats.write_sealed(self.run(number) / _PERIOD, found)
      self.publish()
    if export and (self.run(number) / "checkpoints" / "last").is_dir():
      exported(self.run(number), self.run(number) / "export") or export_run(
        self.run(number), self.run(number) / "export"
      )
    self._remove(number)

  def _scored(self, number: int, records: RecordSet, before: RecordSet) -> list[dict[str, Any]]:
    """Rows of `days.parquet`; scores that are there were made before the first step on the period."""
    rows, on_corrupt = [], self.experiment.train.on_corrupt
    base = RecordSet.open(self.run(0))
    part = records.part("train")
    moments = {"first_time": part.first_time, "last_time": part.last_time}
    for name, run in {"walked": number - 1, **({"frozen": 0} if self.experiment.walk.frozen else {})}.items():
      file = self.folder / "predictions" / f"{number:05d}" / f"{name}.parquet"
      if not file.is_file() and name == "frozen" and number == 1:  # the walked model is the base's
        files.make(file.parent)
        with files.replacing(file) as aside:
          aside.write_bytes(file.with_name("walked.parquet").read_bytes())
      if not file.is_file():
        days.score(read_run(self.run(run)), records, file, on_corrupt)
      rows.append(days.day(number, name, file, records, before, base) | moments)
    return rows

  def _training(self, number: int, records: RecordSet) -> Experiment:
    """The experiment of a period: it goes on from the run before, with all records of the period."""
    if begun(self.run(number)):
      return read_run(self.run(number)).experiment
    experiment = self.experiment
    changed = {
      "epochs": experiment.walk.epochs,
      "validates": False,
      "steps_per_epoch": 0,
      "global_batch_size": self._batch(number, records),
      "warm_start": str(self.run(number - 1).absolute()),
    }
    # the vectors are those of the run before
    pretraining = experiment.model.pretraining.model_copy(update={"path": ""})
    return experiment.model_copy(
      update={
        "walk": Walk(),
        "records": _all_train(experiment),
        "model": experiment.model.model_copy(update={"pretraining": pretraining}),
        "train": experiment.train.model_copy(update=changed),
      }
    )

  def _batch(self, number: int, records: RecordSet) -> int:
    """Candidates of a step: at most those of the experiment, and so many that hardly a record is left out.

    Raises:
      UserError: The period has fewer records than there are replicas.
    """
    each, there = records.record_schema.candidates, records.part("train").records
    replicas = self.experiment.train.replicas or max(1, len(tf.config.list_physical_devices("GPU")))
    steps = -(-there // (self.experiment.train.global_batch_size // each))
    if there < replicas:
      raise UserError(
        f"{records.path}: period {number} has {there} records, which {replicas} replicas cannot share. Set "
        "walk.period to more seconds."
      )
    return max(there // steps // replicas, 1) * replicas * each

  def _remove(self, number: int) -> None:
    """Removes records and checkpoints of the periods that `walk.keep` does not count, after a period is finished."""
    keep = self.experiment.walk.keep
    for old in range(number - keep + 1) if keep else ():
      shutil.rmtree(self.records(old), ignore_errors=True)
      checkpoints = self.run(old) / "checkpoints"
      if checkpoints.is_dir() and (old or not self.experiment.walk.frozen):
        (checkpoints / "removed.txt").write_text(_REMOVED.format(keep=keep))
        for kind in ("last", "best"):
          shutil.rmtree(checkpoints / kind, ignore_errors=True)

  def publish(self) -> pathlib.Path:
    """Writes the table and the page of the periods that are finished."""
    found = [one for number in range(1, 1 + len(self.cut.starts)) if (one := self.finished(number))]
    table = days.table([row for one in found for row in one["days"]])
    facts = {"period of": f"{self.experiment.walk.period} seconds", "base": f"up to second {self.cut.starts[0] - 1}"}
    contents: Mapping[str, str | Callable[[pathlib.Path], object]] = {
      "report/index.html": page.render(self.experiment.name, table, facts),
      "days.parquet": table.write_parquet,
    }
    files.publish(self.folder, "the table of periods", contents)
    return self.folder / "days.parquet"
