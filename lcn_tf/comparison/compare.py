"""A whole comparison: the missing runs, then the tables of all runs."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from lcn_tf import files, formats, processes
from lcn_tf.comparison import report, results, table
from lcn_tf.comparison.cells import Row, rows_of
from lcn_tf.comparison.config import Loaded
from lcn_tf.comparison.grid import Failures, Grid, open_output
from lcn_tf.comparison.processes import Commands, Runner
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import StorageError, UserError, unknown

_PATIENCE = 20.0


def compare(
  loaded: Loaded,
  record_set: RecordSet,
  output: str | pathlib.Path,
  *,
  jobs: int = 1,
  only: Sequence[str] = (),
  runner: Runner | None = None,
  say: Callable[[str], None] = logging.info,
) -> list[results.Result]:
  """Runs the cells that are not finished, and writes the tables and the report of all that are.

  It leaves in `output`:

      comparison.yaml, experiments/   the effective comparison, first
      cells/<model>/seed_<n>/         the runs; cells/<model>/<values>/seed_<n>/ with tuning
      pretrained/, baselines/         item vectors that several runs read; the trivial baselines
      results.parquet                 a row per model and seed
      paired.json                     every model against the reference, as tools.paired
      table.md, report/index.html     for people

  Args:
    loaded: Comparison.
    record_set: Records.
    output: Folder of the comparison.
    jobs: Number of cells at the same time, which share the cores and the GPUs.
    only: Labels of the models to run; empty = all. The table has all finished cells in any case.
    runner: Worker of the cells; None = processes.
    say: Receiver of the lines of progress.

  Raises:
    UserError: The folder holds another comparison, or the records have another schema. Or cells failed: all others are
      done, and the table is there.
    StorageError: Cells failed, at least one of them for want of space.
  """
  output = pathlib.Path(output)
  rows = rows_of(loaded, output)
  wanted = select(rows, only)
  _check_experiments(loaded, record_set, rows)
  with (
    # cells of a comparison that was killed have some seconds to save what they have
    files.exclusive(output, "another comparison, or one of its cells,", patience=_PATIENCE) as lock,
    processes.lifeline() as (environment, line),
  ):
    open_output(loaded, record_set, rows, output, wanted)
    replicates = loaded.comparison.cell_replicates
    where = record_set.source or record_set.path
    runner = runner or Commands(where, output, replicates, [lock, line], jobs, environment)
    keep = loaded.comparison.keep_models
    failures = Grid(wanted, output, runner, record_set.fingerprint, keep, jobs, say).run()
    found = write(loaded, record_set, rows, failures, output)
  say(f"written: {output / 'table.md'}, {output / 'results.parquet'}, {output / 'report' / 'index.html'}")
  if failures:
    listed = "\n".join(f"  {cell.name}: {error}" for cell, error in failures.items())
    kind = StorageError if any(isinstance(error, StorageError) for error in failures.values()) else UserError
    raise kind(f"{len(failures)} cells failed; the same command runs again what is not left out for good.\n{listed}")
  return found


def _check_experiments(loaded: Loaded, record_set: RecordSet, rows: Sequence[Row]) -> None:
  # TensorFlow takes seconds to load, and --dry_run needs none of it
  from lcn_tf.data.record_set import check_schema, warn_of_other_settings
  from lcn_tf.models.build import check_model

  for label, experiment in loaded.experiments.items():
    try:
      check_schema(experiment.record_schema, record_set)
    except UserError as error:
      raise UserError(f"models.{label}: {error}") from None
  for cell in (cells[0] for row in rows for cells in row.combinations):
    try:
      check_model(record_set.record_schema, cell.experiment.model, cell.experiment.train.jit_compile)
    except UserError as error:
      tuned = f", tuning {cell.tuned}" if cell.tuned else ""
      raise UserError(f"models.{cell.label}{tuned}: {error}") from None
  warn_of_other_settings(next(iter(loaded.experiments.values())).records, record_set)


def select(rows: Sequence[Row], only: Sequence[str]) -> list[Row]:
  """The rows with these labels; all rows without a label.

  Raises:
    UserError: A label is unknown.
  """
  labels = [row.label for row in rows]
  for label in only:
    if label not in labels:
      raise unknown("--only", "model", label, labels)
  return [row for row in rows if not only or row.label in only]


def write(
  loaded: Loaded,
  record_set: RecordSet,
  rows: Sequence[Row],
  failures: Failures,
  output: pathlib.Path,
) -> list[results.Result]:
  """Writes the tables and the report of the finished cells."""
  comparison = loaded.comparison
  baselines = _baselines(record_set, rows, output) if comparison.baselines else {}
  found = results.collect(comparison, rows, output, baselines)
  config = (output / "comparison.yaml").read_text()
  contents: Mapping[str, str | Callable[[pathlib.Path], object]] = {
    "results.parquet": results.frame(found).write_parquet,
    "paired.json": formats.to_json({result.label: result.paired for result in found if result.paired}),
    "report/index.html": report.render(comparison, record_set, rows, found, failures, config),
    "table.md": table.markdown(comparison, record_set, rows, found),
  }
  files.publish(output, "the tables", contents)
  return found


def _baselines(record_set: RecordSet, rows: Sequence[Row], output: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Metrics of the trivial baselines, made once; {} with a warning if a record is broken, as the models are tested."""
  file = output / "baselines" / "baselines.json"
  if not file.is_file():
    from lcn_tf.evaluation import baselines  # reads records with TensorFlow, which takes seconds to load

    experiments = [cell.experiment for row in rows for cells in row.combinations for cell in cells]
    skip = any(experiment.train.on_corrupt == "skip" for experiment in experiments)
    try:
      baselines.run(record_set, file.parent, bootstrap=0, on_corrupt="skip" if skip else "error")
    except UserError as error:
      logging.warning("no rows of the trivial baselines: %s", error)
      return {}
  return formats.read_sealed(file)
