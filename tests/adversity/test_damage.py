"""A byte that flips in a file of ours is named, or changes nothing: no silent result, no traceback, nothing removed."""

import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.models.build import build_model
from lcn_tf.schema import DOMAINS
from lcn_tf.serving.encoder import RequestEncoder
from lcn_tf.serving.export import describe
from lcn_tf.training import cost
from lcn_tf.training.checkpoint_store import Store, begun
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.progress import Progress
from lcn_tf.training.run_folder import open_run, read_run
from tests.adversity import jobs
from tests.data.logs import file_bytes
from tests.shipped.workspace import run as command
from tests.shipped.workspace import succeeds
from tests.support.damage import flip

pytestmark = pytest.mark.config


@pytest.fixture
def run(unbroken, tmp_path):
  shutil.copytree(unbroken, tmp_path / "run")
  return tmp_path / "run"


def flips(path, count, seed=0):
  """Flips a byte of a file at a time, anywhere, and puts it back."""
  whole, rng = path.read_bytes(), np.random.default_rng(seed)
  for _ in range(count):
    place, change = int(rng.integers(len(whole))), int(rng.integers(1, 256))
    flip(path, place, change)
    yield place
    path.write_bytes(whole)


def survives(path, read, right, same, count, told=True):
  """Reads after each flip: an error names the file, or what is read is right; every file is as it was.

  Args:
    told: True if some flips have to be told, False if none: another file takes the place of this one. None = any
      number; much of the file is not read.
  """
  folder, named = path.parent, 0
  assert same(read(), right)
  for place in flips(path, count):
    before = file_bytes(folder)
    found, error = outcome(read)
    if error is None:
      assert same(found, right), f"{path}: byte {place} was changed, and nobody noticed"
    else:
      assert str(path) in error or str(path.parent) in error, (place, error)
      named += 1
    assert file_bytes(folder) == before
  assert told is None or bool(named) == told
  print(f"{path.name}: {count} flips, {named} named, {count - named} harmless, 0 silent, 0 deletions")


def outcome(read):
  """What is read, and what an error says."""
  try:
    return read(), None
  except UserError as error:
    return None, str(error)


def equal(one, other):
  return one == other


def alike(one, other):
  return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def names(run):
  return sorted(path.relative_to(run) for path in run.glob("**/*"))


def restored(run, checkpoint):
  """What a start of the same command takes up."""
  there = read_run(run)
  open_run(there.experiment, there.record_set, run)
  assert begun(run)
  return Store(run, "last").restore(checkpoint)


@pytest.fixture
def model(run):
  """The model of a run as it is trained, and the checkpoint by which it is taken up."""
  there = read_run(run)
  catalogues = {d: there.record_set.catalogue(d) for d in DOMAINS}
  model = build_model(there.record_set.record_schema, there.experiment.model, seed=1, catalogues=catalogues)
  model.compile(optimizer=make_optimizer(model, there.experiment.train))
  return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer, progress=Progress())


def values(model):
  """Its weights, and what its optimizer keeps of each."""
  optimizer = getattr(model, "optimizer", None)
  variables = [*model.variables, *(optimizer.variables() if optimizer else ())]
  return {f"{i} {variable.name}": variable.numpy() for i, variable in enumerate(variables)}


def kept(run, model, checkpoint):
  """The weights of each checkpoint in `last/`."""
  store, found = Store(run, "last"), {}
  for number in store.numbers():
    checkpoint.read(store.path(number)).assert_consumed()
    found[number] = values(model)
  return found


def test_a_state_file_of_tensorflow(run, model, campaign):
  model, checkpoint = model
  right = kept(run, model, checkpoint)
  newest, file = max(right), run / "checkpoints" / "last" / "checkpoint"
  before, count = names(run), campaign(20, 400)
  for _ in flips(file, count):
    assert restored(run, checkpoint) == newest
    assert alike(values(model), right[newest])
    assert names(run) == before
  print(f"{file.name}: {count} flips, all harmless, 0 deletions")


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
def test_the_newest_checkpoint(run, model, part, campaign, caplog):
  model, checkpoint = model
  right = kept(run, model, checkpoint)
  newest, before, count, told = max(right), names(run), campaign(20, 400), 0
  assert len(right) == 2
  file = run / "checkpoints" / "last" / f"ckpt-{newest}.{part}"
  for place in flips(file, count):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      number = restored(run, checkpoint)
    assert alike(values(model), right[number]), place
    assert (number != newest) == (f"ckpt-{newest}: damaged, or not whole" in caplog.text)
    assert names(run) == before
    told += number != newest
  print(f"{file.name}: {count} flips, {told} named and the one before taken, {count - told} harmless, 0 deletions")
  assert told


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
def test_the_best_checkpoint(run, part, campaign):
  """The last one of the same epoch, which holds the same weights, takes its place."""
  (file,) = (run / "checkpoints" / "best").glob(f"ckpt-*.{part}")
  right = values(read_run(run).best()[0])
  survives(file, lambda: values(read_run(run).best()[0]), right, alike, campaign(1, 10), told=False)
  shutil.rmtree(run / "checkpoints" / "last")
  told = True if part == "index" else None  # most of the data is slots of the optimizer
  survives(file, lambda: values(read_run(run).best()[0]), right, alike, campaign(2, 10), told)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("place", ["records", "run", "export"])
def test_a_catalogue(place, domain, records, run, tmp_path, campaign):
  folder = numbering(place, records, run, tmp_path)
  right = RecordSet.open(folder).catalogue(domain)
  file = folder / "catalogue" / f"{domain}.npy"
  survives(file, lambda: RecordSet.open(folder).catalogue(domain), right, np.array_equal, campaign(20, 400))


@pytest.mark.parametrize("place", ["records", "run", "export"])
def test_vocabularies_and_items(place, records, run, tmp_path, campaign):
  folder = numbering(place, records, run, tmp_path)
  tables = sorted(folder.glob("vocabularies/*")) + sorted(folder.glob("items/*"))
  assert len(tables) == 9
  for file in tables:
    name = file.relative_to(folder).as_posix()
    right = RecordSet.open(folder).table(name)
    survives(
      file,
      lambda name=name: RecordSet.open(folder).table(name),
      right,
      lambda one, other: one.equals(other),
      campaign(5, 45),
    )
    for _ in flips(file, 1):
      with pytest.raises(DamagedError, match=file.name):
        RequestEncoder(RecordSet.open(folder))
      assert any(file.name in problem for problem in RecordSet.open(folder).verify_tables())


@pytest.mark.parametrize("place", ["records", "run", "export"])
def test_dataset_json(place, records, run, tmp_path, campaign):
  folder = numbering(place, records, run, tmp_path)
  right = RecordSet.open(folder)
  survives(folder / "dataset.json", lambda: RecordSet.open(folder), right, equal, campaign(20, 400))


def numbering(place, records, run, tmp_path):
  """A folder with the id mapping: of the records, or a copy."""
  if place == "records":
    shutil.copytree(records, tmp_path / "records")
    return tmp_path / "records"
  if place == "run":
    return run
  (version,) = (run / "export").iterdir()
  return version / "assets.extra"


def test_training_json(run, campaign):
  right = cost.read(run / "training.json")
  survives(run / "training.json", lambda: cost.read(run / "training.json"), right, equal, campaign(20, 400))


def test_an_effective_experiment(run, campaign):
  right = read_run(run).experiment
  survives(run / "experiment.yaml", lambda: read_run(run).experiment, right, equal, campaign(20, 400))


def test_the_description_of_an_export_and_its_files(run, campaign):
  (version,) = (run / "export").iterdir()
  right = describe(version)
  survives(version / "assets.extra" / "lcn_tf.json", lambda: describe(version), right, equal, campaign(20, 400))
  for name in ("saved_model.pb", "variables/variables.index", "fingerprint.pb"):
    for _ in flips(version / name, campaign(5, 50)):
      with pytest.raises(DamagedError, match=name):
        describe(version)


EVALUATE = "python -m pipelines.evaluate --model {run}/export --records {records} --output {output}"
EXPORT = "python -m pipelines.export --run_dir {run} --output {output}"
DAMAGED = {  # a file of a run, and a command that reads it
  "dataset.json": EXPORT,
  "experiment.yaml": EXPORT,
  "catalogue/target.npy": EXPORT,
  "training.json": f"{jobs.TRAIN} --run_dir {{run}}",
  "export/*/assets.extra/lcn_tf.json": EVALUATE,
  "export/*/saved_model.pb": EVALUATE,
  "export/*/variables/variables.data-*": EVALUATE,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_command_says_what_is_damaged_in_one_line(name, workspace, run, records, tmp_path):
  (file,) = run.glob(name)
  data = bytearray(file.read_bytes())
  for place in range(len(data) // 2, min(len(data) // 2 + 64, len(data))):
    data[place] ^= 1
  file.write_bytes(bytes(data))
  before = file_bytes(run)
  line = DAMAGED[name].format(run=run, records=records, output=tmp_path / "output")
  done = command(line, workspace)
  assert done.returncode == 1, done.stderr
  assert "Traceback" not in done.stderr
  (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert "damaged" in told or "cannot be read" in told
  assert str(file.parent.parent if "export" in name else file) in told
  assert file_bytes(run) == before


def test_verify_names_every_table_that_changed(workspace, records, tmp_path):
  damaged = tmp_path / "records"
  shutil.copytree(records, damaged)
  tables = [damaged / "catalogue" / "source.npy", damaged / "vocabularies" / "genre.parquet"]
  for file in tables:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
  done = command(f"python -m tools.show_records --records {damaged} --verify", workspace)
  assert done.returncode == 1
  assert all(str(file) in done.stdout + done.stderr for file in tables)
  assert "Traceback" not in done.stderr
  succeeds(f"python -m tools.show_records --records {records} --verify", workspace)
