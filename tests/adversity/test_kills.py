"""kill -9 and SIGTERM at any moment: the same command goes on, to the results of an unbroken one, and cleans up."""

import shutil
import threading

import numpy as np
import pytest

from lcn_tf.data.id_mapping import items_of
from lcn_tf.serving.projection_store import ProjectionStore
from tests.adversity import jobs
from tests.adversity.jobs import Killer, Process
from tests.data.logs import file_bytes
from tests.shipped.workspace import succeeds
from tests.support.projections import tables_of, write_export
from tests.support.record_sets import tiny_schema, write_record_set

pytestmark = pytest.mark.config
CHAIN = 5  # kills of one job


def begun(unbroken, tmp_path):
  """A copy of a finished run, as if it had been trained with `--noevaluate`."""
  run = tmp_path / "run"
  shutil.copytree(unbroken, run)
  shutil.rmtree(run / "export")
  return run


def killed_and_gone_on(command, count, killer, workspace, temporary, folder, same):
  """Kills runs of a job until there were `count` kills; whatever is left of each run is then finished and compared.

  Args:
    command: Job without its run folder.
    count: Number of kills.
    killer: Killer, which counts them.
    workspace: Folder in which the job runs.
    temporary: Folder for temporary files of the job.
    folder: Folder for the run folders.
    same: Function that compares a run folder with an undisturbed one.
  """
  while killer.kills < count:
    run = folder / f"run_{killer.kills}"
    job = f"{command} --run_dir {run}"
    # until it ends by itself, or has had enough
    until = min(killer.kills + CHAIN, count)
    while killer.kills < until and killer(Process(job, workspace, temporary)):
      pass
    Process(job, workspace, temporary).succeeds()
    same(run)
    jobs.nothing_left(run, temporary)
    shutil.rmtree(run)


def test_training(workspace, unbroken, tmp_path, campaign):
  count, temporary, killer = campaign(2, 30), tmp_path / "temporary", Killer(jobs.seconds_of(unbroken), 0)
  killed_and_gone_on(
    jobs.TRAIN, count, killer, workspace, temporary, tmp_path, lambda run: jobs.same_run(run, unbroken)
  )
  print(f"training: {killer.kills} kills, results equal, nothing left")


def test_a_build(workspace, records, tmp_path, campaign):
  whole = jobs.seconds(lambda: succeeds(f"{jobs.BUILD} --output {tmp_path / 'timed'}", workspace))
  temporary, killer = tmp_path / "temporary", Killer(whole, 1)
  while killer.kills < campaign(2, 10):
    number = killer.kills
    output = tmp_path / "built" / str(number)
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(exist_ok=True)
    command = f"{jobs.BUILD} --output {output}"
    if overwrite := number % 2 == 0:
      shutil.copytree(records, output)
      command += " --overwrite"
    process = Process(command, workspace, temporary)
    killer(process)
    process.group_ends()
    if overwrite and output.exists():
      jobs.same_records(output, records)
    if overwrite or not output.exists():
      Process(command, workspace, temporary).succeeds()
    jobs.same_records(output, records)
    jobs.nothing_left(output.parent, temporary)
  print(f"a build: {killer.kills} kills, results equal, nothing left")


def test_an_export(workspace, unbroken, tmp_path, campaign):
  run, temporary = begun(unbroken, tmp_path), tmp_path / "temporary"
  command = f"python -m pipelines.export --run_dir {run} --output"
  whole = jobs.seconds(lambda: succeeds(f"{command} {tmp_path / 'timed'}", workspace))
  (timed,) = (tmp_path / "timed").iterdir()
  before = file_bytes(run)
  killer = Killer(whole, 2)
  while killer.kills < campaign(2, 20):
    output = tmp_path / f"export_{killer.kills}"
    shutil.rmtree(output, ignore_errors=True)
    killer(Process(f"{command} {output}", workspace, temporary))
    # the next one removes what a killed one has left; what has the name of a version is whole
    Process(f"{command} {output}", workspace, temporary).succeeds()
    for version in output.iterdir():
      jobs.same_weights(version / "variables" / "variables", timed / "variables" / "variables")
    jobs.nothing_left(output, temporary)
  assert file_bytes(run) == before
  print(f"an export: {killer.kills} kills, results equal, nothing left")


def test_a_publication(workspace, unbroken, tmp_path, campaign):
  served, temporary = tmp_path / "served", tmp_path / "temporary"
  (version,) = (unbroken / "export").iterdir()
  command = (
    f"python -m pipelines.publish --model {version} --records adversity/records --gate configs/gates/release.yaml "
    f"--bootstrap 2 --output {served}"
  )
  killer = Killer(jobs.seconds(lambda: succeeds(command, workspace)), 5)
  whole = file_bytes(served / version.name)
  shutil.rmtree(served)
  while killer.kills < campaign(2, 20):
    killer(Process(command, workspace, temporary))
    # what a server finds is a whole version, or none yet
    assert [file_bytes(path) for path in served.glob("[0-9]*")] in ([], [whole])
    Process(command, workspace, temporary).succeeds()
    assert [file_bytes(path) for path in served.glob("[0-9]*")] == [whole]
    jobs.nothing_left(served, temporary)
    shutil.rmtree(served)
    shutil.rmtree(tmp_path / "served.results")
  print(f"a publication: {killer.kills} kills, results equal, nothing left")


class Reader(threading.Thread):
  """Opens and reloads a projection store again and again: both domains have the projections of one export.

  Attributes:
    seen: Version folders that it has read.
    error: First error that it has met; None = none.
  """

  def __init__(self, folder, expected):
    super().__init__()
    self.seen, self.error = set(), None
    self._folder, self._expected, self._end = folder, expected, threading.Event()

  def run(self):
    try:
      kept = ProjectionStore.open(self._folder)
      while not self._end.is_set():
        kept.reload()
        for store in (kept, ProjectionStore.open(self._folder)):
          self._compare(store)
    except BaseException as error:
      self.error = error

  def stop(self):
    self._end.set()
    self.join()

  def _compare(self, store):
    matching = []
    for domain, (ids, tables) in self._expected.items():
      found, hit = store.look_up(domain, ids)
      assert hit.all()
      matching.append([name for name, table in tables.items() if np.array_equal(found, table)])
    assert matching[0] == matching[1]
    assert len(matching[0]) == 1
    self.seen.add(store.path)


def test_a_projection_store(workspace, tmp_path, campaign):
  records = write_record_set(tmp_path / "records", tiny_schema(), records={})
  exports = [write_export(tmp_path / "exports" / str(seed), records, seed, work=1000) for seed in (1, 2)]
  expected = {}
  for d, items in items_of(records).items():
    tables = {f"weights {seed}": tables_of(seed)[d][items["row"].to_numpy()] for seed in (1, 2)}
    expected[d] = items["item_id"].to_list(), tables
  output, temporary, number = tmp_path / "store", tmp_path / "temporary", 0

  def command():
    return f"python -m pipelines.project_items --model {exports[number % 2]} --output {output} --keep 2 --batch 2"

  killer = Killer(jobs.seconds(lambda: succeeds(command(), workspace)), 5)
  reader = Reader(output, expected)
  reader.start()
  try:
    while killer.kills < campaign(4, 20):
      number += 1
      killer(Process(command(), workspace, temporary))
      if number % 4 == 0:
        Process(command(), workspace, temporary).succeeds()
    Process(command(), workspace, temporary).succeeds()
  finally:
    reader.stop()
  assert reader.error is None, reader.error
  assert len(reader.seen) > 1
  assert len(list(output.iterdir())) == 2
  jobs.nothing_left(output, temporary)
  print(f"a projection store: {killer.kills} kills, {len(reader.seen)} versions read, each complete, nothing left")


def test_a_comparison_whose_cells_end_with_it(workspace, compared, tmp_path, campaign):
  output, temporary = tmp_path / "compared", tmp_path / "temporary"
  command = f"{jobs.COMPARE} --jobs 2 --output {output}"
  killer = Killer(jobs.seconds_of(compared), 3)
  while killer.kills < campaign(1, 5):
    if not killer(Process(command, workspace, temporary)):
      shutil.rmtree(output)
  # at once: cells of the killed one are on their way out
  Process(command, workspace, temporary).succeeds()
  jobs.same_comparison(output, compared)
  jobs.nothing_left(output, temporary)
  print(f"a comparison: {killer.kills} kills of the parent alone, results equal, nothing left")


def test_a_walk(workspace, walked, tmp_path, campaign):
  count, temporary, killer = campaign(1, 10), tmp_path / "temporary", Killer(jobs.seconds_of(walked), 4)
  killed_and_gone_on(jobs.WALK, count, killer, workspace, temporary, tmp_path, lambda run: jobs.same_walk(run, walked))
  print(f"a walk: {killer.kills} kills, results equal, nothing left")
