"""A store of projections: written whole or not at all, looked up by id, reloaded while it is read."""

import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf import formats
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.errors import DamagedError, StorageError, UserError
from lcn_tf.serving import projecting
from lcn_tf.serving.projecting import project_items
from lcn_tf.serving.projection_store import ProjectionStore
from pipelines import project_items as command
from tests.support.projections import WIDTH, tables_of, write_export
from tests.support.record_sets import ITEMS, tiny_schema, write_record_set


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  return write_record_set(tmp_path_factory.mktemp("records"), tiny_schema(), records={})


@pytest.fixture(scope="module")
def exports(record_set, tmp_path_factory):
  folder = tmp_path_factory.mktemp("exports")
  return [write_export(folder / str(seed), record_set, seed) for seed in (1, 2)]


@pytest.fixture
def store(exports, tmp_path):
  project_items(exports[0], tmp_path / "store", batch=7, workers=3)
  return tmp_path / "store"


def ids_of(record_set, domain):
  items = id_mapping_of(record_set).items[domain]
  return items["item_id"].to_list(), items["row"].to_numpy()


def test_every_item_is_found_with_its_projections(store, exports, record_set):
  opened = ProjectionStore.open(store, model=exports[0])
  assert set(opened.domains) == set(ITEMS)
  for d in ITEMS:
    ids, rows = ids_of(record_set, d)
    found, hit = opened.look_up(d, ids)
    assert hit.all()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tables_of(1)[d][rows])
  assert opened.hit_rate == 1.0


def test_ids_of_any_shape_are_looked_up_and_padding_does_not_count(store, record_set):
  opened, (ids, rows) = ProjectionStore.open(store), ids_of(record_set, "source")
  assert np.isnan(opened.hit_rate)
  found, hit = opened.look_up("source", [[ids[4], "new", ids[0]], [None, ids[0] + "x", ids[1]]])
  assert found.shape == (2, 3, WIDTH)
  np.testing.assert_array_equal(hit, [[True, False, True], [False, False, True]])
  expected = np.where(hit[..., np.newaxis], tables_of(1)["source"][[[rows[4], 0, rows[0]], [0, 0, rows[1]]]], 0.0)
  np.testing.assert_array_equal(found, expected)
  assert (opened.hits, opened.misses, opened.hit_rate) == (3, 3, 0.5)
  found, hit = opened.look_up("source", np.array([ids[4], ids[0], "new"]), real=[True, False, False])
  np.testing.assert_array_equal(hit, [True, False, False])
  np.testing.assert_array_equal(found[1:], 0.0)
  assert (opened.hits, opened.misses) == (4, 3)
  assert opened.look_up("source", np.array([], object))[0].shape == (0, WIDTH)


def test_missing_items_are_an_error_or_are_asked_for(store):
  refusing = ProjectionStore.open(store, misses="error")
  with pytest.raises(UserError, match=r"4 target items are not in the store: 'a', 'b', 'c', \.\.\.$"):
    refusing.look_up("target", ["a", "target-5", "b", "c", "d"])
  asked = []

  def project(domain, ids):
    asked.append((domain, ids))
    return np.full([len(ids), WIDTH], 7.0)

  found, hit = ProjectionStore.open(store, misses=project).look_up("target", ["target-5", "a", "b"])
  assert asked == [("target", ["a", "b"])]
  np.testing.assert_array_equal(found[1:], np.full([2, WIDTH], 7.0))
  np.testing.assert_array_equal(hit, [True, False, False])
  with pytest.raises(UserError, match=r"expected projections of shape \(1, 3\) of target items; found \(1, 2\)"):
    ProjectionStore.open(store, misses=lambda d, ids: np.zeros([1, 2])).look_up("target", ["a"])
  with pytest.raises(UserError, match="misses: expected 'zeros', 'error' or a function; found 'none'"):
    ProjectionStore.open(store, misses="none")
  with pytest.raises(UserError, match="no domain 'video'; it has "):
    refusing.look_up("video", ["a"])


@pytest.mark.parametrize("ids", [[40, -7, 10**15, 3], ["ü", "zz", "z", "a" * 40], []])
def test_ids_are_compared_as_texts(ids, tmp_path):
  """Numbers and texts, in any order in the id mapping, of any length."""
  items = pl.DataFrame({"row": range(2, 2 + len(ids)), "item_id": ids}, {"row": pl.Int64, "item_id": None})
  items = items.with_columns(item_id=pl.col("item_id").cast(pl.Int64 if ids and isinstance(ids[0], int) else pl.String))
  dtype = tf.int64 if items["item_id"].dtype.is_integer() else tf.string

  class Function:
    structured_input_signature = ((), {"source_ids": tf.TensorSpec([None], dtype)})

    def __call__(self, source_ids):
      known = [str(one).encode() for one in ids]
      rows = [known.index(str(one).encode() if dtype == tf.int64 else one) for one in source_ids.numpy()]
      return {"source": tf.constant(rows, tf.float32)[:, tf.newaxis] + [0.0, 0.5]}

  version = tmp_path / "1"
  version.mkdir()
  projecting._write(version, "source", 2, items, Function(), 2, 1)
  sealed = {"made": 0, "weights": "", "export": "", "domains": {"source": {}}, "files": {}}
  formats.write_sealed(version / "store.json", sealed)
  opened = ProjectionStore.open(tmp_path)
  found, hit = opened.look_up("source", ids)
  assert np.all(hit)
  np.testing.assert_array_equal(found.reshape([-1, 2])[:, 0], np.arange(len(ids)))
  others = ["3", 3.0, 2 * 10**15, "üü", 40, "40.0", "040", 2**70, "z", "zzz", "a" * 41, None, True, 2.5]
  expected = [str(int(one)) if isinstance(one, float) and one == 3 else str(one) for one in others]
  known = {str(one) for one in ids}
  np.testing.assert_array_equal(opened.look_up("source", others)[1], [one in known for one in expected])
  # lists of one kind
  for alike in ([3, 40, -8, 2**63, 2**70], [-7, 41], ["z", "40", "y", "a" * 41], ["ü", "zz", "\ud800"]):
    np.testing.assert_array_equal(opened.look_up("source", alike)[1], [str(one) in known for one in alike])


def test_a_newer_version_is_taken_up_between_look_ups(store, exports, record_set):
  opened, (ids, rows) = ProjectionStore.open(store), ids_of(record_set, "target")
  assert not opened.reload()
  first = opened.path
  second = project_items(exports[1], store)
  assert int(second.name) > int(first.name)
  np.testing.assert_array_equal(opened.look_up("target", ids)[0], tables_of(1)["target"][rows])
  assert opened.reload()
  assert opened.path == second
  np.testing.assert_array_equal(opened.look_up("target", ids)[0], tables_of(2)["target"][rows])
  third = project_items(exports[0], store)
  (third / "target.npy").write_bytes(b"x" * (third / "target.npy").stat().st_size)
  with pytest.raises(DamagedError, match=r"target\.npy: damaged: not the file that .*store\.json describes"):
    opened.reload()
  np.testing.assert_array_equal(opened.look_up("target", ids)[0], tables_of(2)["target"][rows])


def test_the_weights_are_those_of_the_model_unless_the_store_may_be_stale(store, exports, record_set, caplog, tmp_path):
  with pytest.raises(UserError, match=r"made \d+ seconds ago with the weights weights 1 of export 1, .* has weights 2"):
    ProjectionStore.open(store, model=exports[1])
  file = next(store.iterdir()) / "store.json"
  formats.write_sealed(file, formats.read_sealed(file) | {"made": int(time.time()) - 7500})
  opened = ProjectionStore.open(store, model=exports[1], stale=True)
  assert 7500 <= opened.age_seconds < 7600
  assert "made 2.1 hours ago with the weights weights 1" in caplog.text
  # no checkpoint, no weights to tell
  unknown = write_export(tmp_path / "3", record_set, 3, weights="")
  project_items(unknown, tmp_path / "unknown")
  with pytest.raises(UserError, match="those of no checkpoint"):
    ProjectionStore.open(tmp_path / "unknown", model=unknown)
  # of the same checkpoint, rounded
  narrow = write_export(tmp_path / "4", record_set, 1, dtype="int8")
  with pytest.raises(UserError, match=r"weights 1 of export 1, and .* has weights 1 in int8\."):
    ProjectionStore.open(store, model=narrow)
  # a newer version of other weights is not taken up by a reader that wants its own
  strict = ProjectionStore.open(store, model=exports[0])
  project_items(exports[1], store)
  with pytest.raises(UserError, match="with the weights weights 2"):
    strict.reload()
  assert strict.look_up("target", ["target-5"])[1].all()


def test_what_is_no_store_and_what_is_damaged_is_said(store, tmp_path):
  with pytest.raises(UserError, match="no projection store here"):
    ProjectionStore.open(tmp_path / "none")
  with pytest.raises(UserError, match="no export here"):
    ProjectionStore.open(store, model=tmp_path / "none")
  (version,) = store.iterdir()
  data = bytearray((version / "source.npy").read_bytes())
  data[-2] ^= 1
  (version / "source.npy").write_bytes(data)
  with pytest.raises(DamagedError, match=r"source\.npy: damaged"):
    ProjectionStore.open(store)
  assert ProjectionStore.open(store, check=False).domains
  (version / "source.npy").write_bytes(data[:-1])
  with pytest.raises(DamagedError, match=r"source\.npy: damaged"):
    ProjectionStore.open(store, check=False)
  (version / "source.npy").unlink()
  with pytest.raises(DamagedError, match="not a complete store"):
    ProjectionStore.open(store)


def test_a_version_that_goes_away_meanwhile_has_a_newer_one_after_it(store, exports, monkeypatch):
  """The oldest version is removed in the moment in which it is read."""
  first, read = next(store.iterdir()), formats.read_sealed

  def removed(path, *args):
    if path.parent == first:
      project_items(exports[1], store, keep=1)
    return read(path, *args)

  monkeypatch.setattr(formats, "read_sealed", removed)
  opened = ProjectionStore.open(store)
  assert opened.path != first
  assert sorted(store.iterdir()) == [opened.path]


@pytest.mark.parametrize("name", ["_put", "_texts", "sha256", "appear"])
def test_a_store_that_cannot_be_written_leaves_what_was_there(name, store, exports, monkeypatch):
  before = sorted(store.rglob("*"))

  def fail(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(projecting, name, fail)
  with pytest.raises(StorageError, match=r"a version could not be written: no space left.*The versions that are there"):
    project_items(exports[1], store, batch=3, workers=2)
  assert sorted(store.rglob("*")) == before


def test_projections_that_are_not_finite_are_not_written(record_set, tmp_path):
  tables = tables_of(1)
  tables["source"][20, 1] = np.nan
  export = write_export(tmp_path / "1", record_set, tables=tables)
  with pytest.raises(UserError, match="projections of the source items are not finite"):
    project_items(export, tmp_path / "store", batch=5)
  assert list((tmp_path / "store").iterdir()) == []


def test_an_export_without_projections_is_refused(record_set, tmp_path):
  export = write_export(tmp_path / "1", record_set, signature="rank")
  with pytest.raises(UserError, match=r"no signature 'project_items': only the search of 'twin' with key: split"):
    project_items(export, tmp_path / "store")
  (export / "assets.extra" / "lcn_tf.json").unlink()
  with pytest.raises(UserError, match=r"no export of lcn_tf \(assets\.extra/lcn_tf\.json is missing\)"):
    project_items(export, tmp_path / "store")
  assert not (tmp_path / "store").exists()


def test_the_command_takes_the_newest_export_keeps_versions_and_says_its_speed(exports, tmp_path, caplog):
  flags = ["project_items", f"--model={exports[0].parent}", f"--output={tmp_path}", "--keep=2", "--batch=16"]
  with caplog.at_level("INFO", logger="absl"):
    for _ in range(3):
      command.main(flags)
  assert len(list(tmp_path.iterdir())) == 2
  written = json.loads((max(tmp_path.iterdir()) / "store.json").read_text())
  assert (written["export"], written["weights"]) == ("2", "weights 2")
  assert f"source: {ITEMS['source'] - 2} items in " in caplog.text
  assert " items/s" in caplog.text


def test_a_reader_needs_no_tensorflow(store):
  program = (
    "import sys; from lcn_tf.serving.projection_store import ProjectionStore; "
    "store = ProjectionStore.open(sys.argv[1]); assert store.look_up('target', ['target-5'])[1].all(); "
    "assert 'tensorflow' not in sys.modules"
  )
  done = subprocess.run([sys.executable, "-c", program, str(store)], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
