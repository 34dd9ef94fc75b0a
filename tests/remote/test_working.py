import os
import pathlib

import pytest

from lcn_tf import files
from lcn_tf.errors import StorageError, UserError
from lcn_tf.remote import store, working
from lcn_tf.remote.working import WorkingCopy, in_order
from tests.support.stores import BUCKET, Killed, folder_store


@pytest.fixture
def there(tmp_path, monkeypatch):
  """The store, and the folder that it is."""
  monkeypatch.setattr(working, "_open", [])
  monkeypatch.setattr("lcn_tf.remote.lease._SETTLED", 0.0)
  made = folder_store(tmp_path / "store", monkeypatch)
  return made, tmp_path / "store" / "bucket"


def write(folder, **contents):
  """Writes files, `a__b` as `a/b`, each some time after the one before it."""
  for name, text in contents.items():
    file = folder / name.replace("__", "/").replace("_dot_", ".")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    write.time += 10**9
    os.utime(file, ns=(write.time, write.time))


write.time = 10**18


def contents(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_text()
    for path in folder.rglob("*")
    if path.is_file() and not path.name.startswith(".")
  }


def test_what_is_written_comes_back_and_nothing_else_is_touched(there):
  _, bucket = there
  write(bucket, run__old="1", run__sub__same="2", run2__other="3")
  copy = WorkingCopy(f"{BUCKET}/run")
  assert contents(copy.path) == {"old": "1", "sub/same": "2"}
  (copy.path / "old").unlink()
  write(copy.path, sub__new="4")
  (copy.path / f".x.{files.ASIDE}").touch()
  copy.put()
  copy.release()
  assert contents(bucket) == {"run/sub/same": "2", "run/sub/new": "4", "run2/other": "3"}
  assert not list(bucket.rglob(".lease"))
  assert store.listing(f"{BUCKET}/run") == {"sub/new": 1, "sub/same": 1}


def test_a_folder_may_hold_one_of_its_own_name(there):
  _, bucket = there
  write(bucket, run__bucket__run__x="1")
  assert store.listing(f"{BUCKET}/run") == {"bucket/run/x": 1}


def test_only_what_has_changed_is_written_again(there):
  made, bucket = there
  write(bucket, run__a="1", run__b="2")
  copy = WorkingCopy(f"{BUCKET}/run")
  write(copy.path, a="1", b="3")
  before = len(made.calls)
  copy.put()
  assert made.calls[before:] == ["write bucket/run/b"]
  copy.put()
  assert len(made.calls) == before + 1
  copy.release()


def test_the_order_is_that_of_writing_and_what_belongs_together_ends_with_the_file_that_says_so():
  names = ["export/7/saved_model.pb", "history.csv", "export/7/assets/x", "c/ckpt-1.data", "c/ckpt-1.index", "metrics"]
  times = {name: place for place, name in enumerate(names)} | {"c/ckpt-1.index": 3}
  expected = ["history.csv", "export/7/assets/x", "export/7/saved_model.pb", *names[3:]]
  assert in_order(times) == expected
  assert in_order({"dataset.json": 1, "train/x": 2, "report/index.html": 3})[-1] == "dataset.json"
  # of a run, it is an early file
  assert in_order({"dataset.json": 1, "experiment.yaml": 2, "checkpoint": 3})[-1] == "checkpoint"


def save(run, number, keep=1):
  """What a checkpoint writes, in the order of `Store.save`."""
  write(run, history_dot_csv=str(number))
  write(run, **{f"last__ckpt-{number}_dot_data": str(number)}, **{f"last__ckpt-{number}_dot_index": str(number)})
  write(run, last__checkpoint=str(number))
  for name in ("index", "data"):
    (run / f"last/ckpt-{number - keep}.{name}").unlink(missing_ok=True)


def test_a_process_that_is_killed_at_any_moment_leaves_a_checkpoint_that_is_whole(there):
  made, bucket = there
  for dies_at in range(40):
    made.dies_at, made.calls = None, []
    url = f"{BUCKET}/{dies_at}"
    copy = WorkingCopy(url)
    made.calls, made.dies_at = [], dies_at
    saved = 0
    try:
      for number in range(4):
        save(copy.path, number)
        copy.put()
        saved = number
    except Killed:
      pass
    copy._lease._ended.set()
    made.dies_at = None
    left = contents(bucket / str(dies_at))
    whole = {int(name[10:-6]) for name in left if name.endswith(".index")}
    assert all(left[f"last/ckpt-{number}.data"] == str(number) for number in whole)
    assert not left.get("last/checkpoint") or int(left["last/checkpoint"]) in whole
    assert dies_at < 4 or whole & {saved, saved + 1}, (dies_at, left)
  assert saved == 3
  assert len(made.calls) < 40


def test_metrics_of_other_predictions_go_before_these_come(there):
  made, bucket = there
  write(bucket, run__metrics_dot_json="old", run__predictions="old")
  copy = WorkingCopy(f"{BUCKET}/run")
  write(copy.path, predictions="new", metrics_dot_json="new")
  before = len(made.calls)
  copy.put()
  copy.release()
  changes = ["delete bucket/run/metrics.json", "write bucket/run/predictions", "write bucket/run/metrics.json"]
  assert made.calls[before : before + 3] == changes


def test_a_record_set_takes_the_place_of_another_as_a_whole(there):
  made, bucket = there
  write(bucket, records__dataset_dot_json="1", records__train__a="1", records__train__b="1")
  copy = WorkingCopy(f"{BUCKET}/records", "records")
  assert contents(copy.path) == {"dataset.json": "1", "train/a": "", "train/b": ""}
  copy.put()  # of a build that has failed
  assert contents(bucket / "records")["train/a"] == "1"
  for file in (copy.path / "train").iterdir():
    file.unlink()
  write(copy.path, dataset_dot_json="2", train__a="2")
  before = len(made.calls)
  copy.put()
  copy.release()
  assert contents(bucket / "records") == {"dataset.json": "2", "train/a": "2"}
  assert [call.rpartition("records/")[2] for call in made.calls[before:-1]] == [
    "dataset.json",
    "train/a",
    "dataset.json",
    "train/b",
  ]


def test_a_command_that_fails_leaves_what_a_disk_would_have(there):
  _, bucket = there

  def fail():
    with working.finishing():
      write(pathlib.Path(working.working(f"{BUCKET}/run")), part="1")
      raise UserError("mistake")

  with pytest.raises(UserError, match="mistake"):
    fail()
  assert contents(bucket) == {"run/part": "1"}
  assert working.working("local/run") == "local/run"


def test_a_store_that_is_lost_is_one_error_of_storage_and_is_not_tried_again(there):
  made, bucket = there
  write(bucket, run__a="1")

  def lose():
    with working.finishing():
      folder = working.working(f"{BUCKET}/run")
      write(pathlib.Path(folder), b="1")
      made.lost = True
      working.put(f"{folder}/checkpoints")

  with pytest.raises(StorageError, match=r"^s3://bucket/run\S*: the store cannot be reached, or fails: AWS"):
    lose()
  assert made.refused == 1
  assert working._open == []
  made.lost = False
  assert contents(bucket) == {"run/a": "1"}


def test_what_somebody_else_has_taken_is_not_written(there):
  _, bucket = there
  copy = WorkingCopy(f"{BUCKET}/run")
  (bucket / "run" / ".lease").write_text('{"owner": "x", "process": 7, "host": "h"}')
  write(copy.path, a="1")
  with pytest.raises(UserError, match=r"^s3://bucket/run: process 7 on h has taken this folder"):
    copy.put()
  assert contents(bucket) == {}
  copy.release()
  assert (bucket / "run" / ".lease").exists()
