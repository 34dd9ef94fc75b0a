"""Runs the cells of a comparison that are not finished yet."""

import concurrent.futures
import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from absl import logging

from lcn_tf import config, formats
from lcn_tf.comparison.cells import Cell, Row
from lcn_tf.comparison.config import Comparison, Loaded, dump
from lcn_tf.comparison.processes import Runner
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import SettingsError, UserError
from lcn_tf.pages.markup import shown
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.remote import working

Failures = dict[Cell, UserError]
"""Cells that failed, each with the error that its `Runner` raised."""


def open_output(
  loaded: Loaded, record_set: RecordSet, rows: Sequence[Row], output: pathlib.Path, wanted: Sequence[Row] | None = None
) -> None:
  """Makes the output folder, with the effective comparison and the facts of the records in it.

  Models and seeds may be added to the comparison of a folder, or left out. Without tuning it may have more epochs. All
  else has to be as it was.

  Args:
    loaded: Comparison.
    record_set: Records.
    rows: Rows of all models.
    output: Folder of the comparison.
    wanted: Rows of the models to run; None = all.

  Raises:
    UserError: The folder holds another comparison or one of other records, or a run to go on with has no checkpoints.
  """
  file = output / "comparison.yaml"
  if file.is_file():
    before = config.validated(Comparison, config.read_tree(str(file), Comparison), str(file))
    # choices are kept by their number, which the order of the keys decides
    if list(before.tuning.items()) != list(loaded.comparison.tuning.items()):
      raise UserError(
        f"{output} holds another comparison: tuning is {loaded.comparison.tuning} in the config, "
        f"{before.tuning} in the folder. Use another --output."
      )
  if (output / "dataset.json").is_file():
    there = RecordSet.open(output)
    if (there.fingerprint, there.splits) != (record_set.fingerprint, record_set.splits):
      raise UserError(
        f"{output} holds a comparison on other records: fingerprint {there.fingerprint}, {record_set.path} has "
        f"{record_set.fingerprint}{'' if there.fingerprint != record_set.fingerprint else ', but other shards'}. "
        "Use another --output."
      )
  for row in rows:
    for cells in row.combinations:
      for cell in cells:
        cell.check()
      if row.tuning():  # the choice of an earlier call, by a seed that this one may leave out
        seed = row.tuning()["seed"]
        first = cells[0]
        experiment = loaded.experiment(row.label, first.tuned, seed)
        Cell(row.label, seed, first.tuned, experiment, first.folder.with_name(f"seed_{seed}")).check()
  for row in rows if wanted is None else wanted:
    for cell in row.cells():
      cell.check_models()
  output.mkdir(parents=True, exist_ok=True)
  dump(loaded, output)
  record_set.save(output)


@dataclasses.dataclass
class Grid:
  """The runs of a comparison.

  Attributes:
    rows: Rows of the models to run.
    output: Folder of the comparison.
    runner: Worker of the cells.
    fingerprint: Fingerprint of the records.
    keep_models: True if checkpoints, exports and item vectors stay. Those that an earlier call kept stay in any case.
    jobs: Number of cells at the same time.
    say: Receiver of the lines of progress.
  """

  rows: Sequence[Row]
  output: pathlib.Path
  runner: Runner
  fingerprint: str
  keep_models: bool = False
  jobs: int = 1
  say: Callable[[str], None] = logging.info

  def run(self) -> Failures:
    """Tunes, chooses, trains and tests the missing cells, seed by seed: a first whole table comes early.

    Returns:
      Cells that failed; all others are done.
    """
    self._drop_left()
    self._total = sum(1 for _ in self._cells())
    self._done = sum(1 for cell, tested in self._cells() if cell.finished() or (not tested and cell.trained()))
    self._seconds: dict[str, list[float]] = {}
    if self._done:
      self.say(f"{self._done} of {self._total} cells are there already")
    failures = self._train([cell for row in self.rows for cell in _candidates(row)], evaluate=False)
    lost = {cell for cell, error in failures.items() if isinstance(error, SettingsError)}
    for row in self.rows:
      if row.chosen() is None:
        _choose(row, lost)
        for cell in [] if self.keep_models else _losers(row):
          cell.prune()
    failures = {cell: self._with_remedy(cell, error) for cell, error in failures.items()}
    wanted = [cell for cells in zip(*(row.cells() for row in self.rows if row.cells()), strict=True) for cell in cells]
    return failures | self._train(wanted, evaluate=True)

  def _drop_left(self) -> None:
    """Removes the models that a killed call would have removed."""
    for row in self.rows:
      losers = _losers(row)
      for cells in row.combinations:
        for cell in cells:
          if cell.passing.exists() and (cell.finished() or cell in losers):
            if self.keep_models:
              cell.passing.unlink()
            else:
              cell.prune()

  def _with_remedy(self, cell: Cell, error: UserError) -> UserError:
    """The error of a tuning job, with the way to another chance if the choice was made without the job."""
    for row in self.rows:
      if row.chosen() is not None and any(cell is cells[0] for cells in row.combinations):
        remedy = f"left out of the choice for good, unless {row.folder / 'tuning.json'} is removed"
        return type(error)(f"{error}\n    {remedy}")
    return error

  def _cells(self) -> Iterator[tuple[Cell, bool]]:
    """The known cells, each with whether it is tested."""
    for row in self.rows:
      yield from ((cell, False) for cell in _candidates(row))
      chosen = row.chosen()
      yield from ((cell, True) for cell in row.combinations[chosen or 0])

  def _train(self, cells: Sequence[Cell], evaluate: bool) -> Failures:
    left = [cell for cell in cells if not (cell.finished() if evaluate else cell.trained())]
    try:
      failures = self._vectors(left)
    except BaseException:
      self.runner.stop()
      raise
    left = [cell for cell in left if cell not in failures]
    self._done += len(failures)
    for cell, error in failures.items():
      self.say(f"{cell.name}: failed: {error}")
    with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
      pending = {pool.submit(self._one, cell, evaluate): cell for cell in left}
      try:
        for future in concurrent.futures.as_completed(pending):
          cell = pending.pop(future)
          self._done += 1
          where = f"cell {self._done} of {self._total}: {cell.name}"
          try:
            seconds = future.result()
          except UserError as error:
            failures[cell] = error
            self.say(f"{where}: failed: {error}")
            continue
          working.put(self.output)
          self._seconds.setdefault(cell.label, []).append(seconds)
          result = f"AUC {shown(cell.metrics().get('auc'))}" if evaluate else f"val. AUC {cell.best_epoch()[1]:.4f}"
          self.say(f"{where}: {result} in {seconds:.0f} s{self._left(list(pending.values()))}")
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        self.runner.stop()
        raise
    return failures

  def _one(self, cell: Cell, evaluate: bool) -> float:
    self.say(f"{cell.name}: begins; log: {cell.log}")
    began = time.monotonic()
    cell.folder.mkdir(parents=True, exist_ok=True)
    cell.removed.unlink(missing_ok=True)
    if self.keep_models:
      cell.passing.unlink(missing_ok=True)
    else:
      cell.passing.touch()
    self.runner.train(cell, evaluate)
    if not (cell.finished() if evaluate else cell.trained()):
      raise UserError(f"left no {'metrics' if evaluate else 'training'}.json in {cell.folder}")
    if evaluate and not self.keep_models:
      cell.prune()
    return time.monotonic() - began

  def _left(self, cells: Sequence[Cell]) -> str:
    """The time that is left, if each cell takes the mean time of its model, or of all models without one."""
    if not cells:
      return ""
    means = {label: sum(seconds) / len(seconds) for label, seconds in self._seconds.items()}
    usual = sum(means.values()) / len(means)
    seconds = sum(means.get(cell.label, usual) for cell in cells) / self.jobs
    return f"; about {seconds / 60:.0f} min left" if seconds >= 60 else f"; about {seconds:.0f} s left"

  def _vectors(self, cells: Sequence[Cell]) -> Failures:
    """Gives each cell that needs item vectors a copy of those that all cells with its settings share."""
    failures: Failures = {}
    reads = {cell: kinds for cell in cells if (kinds := _reads(cell))}
    # the vectors of the cell that reads most have everything that the others read
    makers: dict[str, Cell] = {}
    for cell, kinds in reads.items():
      if "clusters" in kinds or _key(cell) not in makers:
        makers[_key(cell)] = cell
    for cell, kinds in reads.items():
      mine, shared = cell.folder / "pretrained", self.output / "pretrained" / _key(cell)
      settings = cell.experiment.model.pretraining.settings("clusters" in kinds)
      try:
        if _there(mine, kinds) and Pretrained.open(mine).made_with(settings):
          continue
        maker = makers[_key(cell)]
        if not _there(shared, reads[maker]):
          self.say(f"pre-training item vectors: {shared}")
          shared.mkdir(parents=True, exist_ok=True)
          file = shared.with_suffix(".yaml")
          file.write_text(config.dump(maker.experiment))
          self.runner.pretrain(file, shared)
        Pretrained.open(shared, self.fingerprint).save(mine)
      except UserError as error:
        failures[cell] = type(error)(f"no item vectors: {error}")
    return failures


def describe(rows: Sequence[Row]) -> str:
  """The cells and their states, a line each."""
  lines = []
  for row in rows:
    chosen = row.chosen()
    for place, cells in enumerate(row.combinations):
      for i, cell in enumerate(cells):
        if chosen is not None and place != chosen and not (cell.folder / "experiment.yaml").is_file():
          continue
        if cell.finished():
          state = f"done, AUC {shown(cell.metrics().get('auc'))}"
        elif cell.trained():
          state = f"trained, validation AUC {cell.best_epoch()[1]:.4f}"
        elif chosen is None and i:
          state = "to do if tuning chooses it"
        else:
          state = "begun" if (cell.folder / "experiment.yaml").is_file() else "to do"
        lines.append(f"{cell.name}: {state}")
  return "\n".join(lines)


def _candidates(row: Row) -> list[Cell]:
  """The cells of an open choice: every combination with the first seed."""
  return [] if row.chosen() is not None else [cells[0] for cells in row.combinations]


def _choose(row: Row, lost: Collection[Cell]) -> None:
  """Writes `tuning.json`, once and for all: a later choice would have seen the test.

  A cell that its settings made fail (`lost`) cannot win. A cell that was killed or crashed has its turn first: until
  then there is no choice.
  """
  tried = _candidates(row)
  if not all(cell.trained() or cell in lost for cell in tried) or not any(cell.trained() for cell in tried):
    return
  found: list[dict[str, Any]] = []
  for cell in tried:
    epoch, value = cell.best_epoch() if cell.trained() else (0, None)
    value = value if epoch else None  # of one class: there is none
    found.append({"values": cell.tuned, "val_auc": value, "epoch": epoch, "folder": cell.folder.parent.name})
  if all(tried["val_auc"] is None for tried in found):
    raise UserError(f"{row.label}: nothing to choose by: no job of its tuning has a validation AUC")
  best = max(range(len(found)), key=lambda i: -1.0 if found[i]["val_auc"] is None else found[i]["val_auc"])
  rule = f"best validation AUC with seed {tried[0].seed}; ties: the first"
  formats.write_json(row.folder / "tuning.json", {"rule": rule, "seed": tried[0].seed, "tried": found, "chosen": best})


def _losers(row: Row) -> list[Cell]:
  chosen = row.chosen()
  return [] if chosen is None else [cells[0] for i, cells in enumerate(row.combinations) if i != chosen]


def _reads(cell: Cell) -> tuple[str, ...]:
  """Names of the tables of item vectors that a cell needs, unless it has a path to them."""
  from lcn_tf.models.build import needs_pretrained  # TensorFlow takes seconds to load, and --dry_run needs none of it

  return () if cell.experiment.model.pretraining.path else needs_pretrained(cell.experiment.model)


def _there(folder: pathlib.Path, kinds: Collection[str]) -> bool:
  """Whether a folder holds these tables of item vectors."""
  return Pretrained.there(folder) and Pretrained.open(folder).holds(kinds)


def _key(cell: Cell) -> str:
  """Name of the folder of the vectors that all cells with its settings share."""
  return hashlib.sha256(cell.experiment.model.pretraining.model_dump_json().encode()).hexdigest()[:12]
