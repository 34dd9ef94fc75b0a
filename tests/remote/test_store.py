import json
import pathlib

import pytest

from lcn_tf import command_paths, entry, files, formats, places, running
from lcn_tf.data.read import diagnosis
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import StorageError, UserError
from lcn_tf.remote import mirror, store, working
from tests.support.record_sets import tiny_schema, write_record_set
from tests.support.stores import BUCKET, folder_store


@pytest.fixture
def there(tmp_path, monkeypatch):
  made = folder_store(tmp_path / "store", monkeypatch)
  return made, tmp_path / "store" / "bucket"


@pytest.mark.parametrize(
  ("path", "url"),
  [("runs/a", None), (None, None), ("s3://b/a/", "s3://b/a"), (pathlib.Path("gs://b/a"), "gs://b/a")],
)
def test_a_path_is_local_or_a_url(path, url):
  assert store.url(path) == url


@pytest.mark.parametrize("path", ["https://host/a", "s3://"])
def test_a_url_that_is_not_supported_is_refused(path):
  with pytest.raises(UserError, match=f"^{path}: (only local or mounted paths, and s3://|expected s3://BUCKET/PATH)"):
    store.url(path)


@pytest.mark.parametrize(
  ("error", "kind", "said"),
  [
    (FileNotFoundError(2, "No such file"), UserError, "not found"),
    (OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation"), UserError, "no such bucket"),
    (OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied"), UserError, "no access"),
    (OSError("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation"), UserError, "no access"),
    (OSError("Unable to load libjvm"), UserError, "hdfs:// needs Hadoop"),
    (OSError("AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 7"), store.LostError, "cannot be reached"),
  ],
)
def test_what_a_store_says_is_one_message(error, kind, said):
  with pytest.raises(UserError, match=f"^s3://b/a: .*{said}") as found, store.reaching("s3://b/a"):
    raise error
  assert type(found.value) is kind
  assert "\n" not in str(found.value)


def test_a_full_disk_is_no_fault_of_the_store():
  with pytest.raises(OSError, match="No space left"), store.reaching("s3://b/a"):
    raise OSError(28, "No space left on device")


def test_settings_of_the_standard_variables_are_those_of_tensorflow_too(monkeypatch):
  for name in (*store._ENDPOINTS, *store._REGIONS, "S3_USE_HTTPS"):
    monkeypatch.delenv(name, raising=False)
  assert store._settings() == (None, None)
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://host:9000")
  monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
  assert store._settings() == ("http://host:9000", "eu-west-1")
  environment = {name: store.os.environ[name] for name in ("S3_ENDPOINT", "S3_USE_HTTPS", "AWS_REGION")}
  assert environment == {"S3_ENDPOINT": "http://host:9000", "S3_USE_HTTPS": "0", "AWS_REGION": "eu-west-1"}


def test_people_read_urls_where_a_command_works_on_copies(there, capsys):
  _, bucket = there
  (bucket / "a b").mkdir(parents=True)
  (bucket / "a b" / "x").write_text("1")
  copy = mirror.copied(f"{BUCKET}/a b")
  assert (pathlib.Path(copy) / "x").read_text() == "1"
  assert places.stands_for(copy) == f"{BUCKET}/a b"
  assert places.stands_for(bucket) is None
  formats.write_json(bucket / "said.json", {"path": pathlib.Path(copy), "text": f"of {copy}/x"})
  assert json.loads((bucket / "said.json").read_text()) == {"path": f"{BUCKET}/a b", "text": f"of {BUCKET}/a b/x"}
  formats.write_sealed(bucket / "sealed.json", {"path": copy})
  assert formats.read_sealed(bucket / "sealed.json")["path"] == f"{BUCKET}/a b"
  files.write_text(bucket / "page.html", f"<td>{copy}</td>")
  assert (bucket / "page.html").read_text() == f"<td>{BUCKET}/a b</td>"
  with pytest.raises(SystemExit):
    running._end(f"{copy}/x: wrong", 1)
  assert capsys.readouterr().err == f"error: {BUCKET}/a b/x: wrong\n"


def test_of_an_export_the_newest_version_comes_and_what_its_report_reads(there):
  _, bucket = there
  for name in ("run/export/9/saved_model.pb", "run/export/10/saved_model.pb", "run/export/11/half", "run/history.csv"):
    (bucket / name).parent.mkdir(parents=True, exist_ok=True)
    (bucket / name).write_text(name)
  (bucket / "run" / "checkpoint").touch()
  copy = pathlib.Path(mirror.copied_model(f"{BUCKET}/run/export"))
  came = sorted(path.relative_to(copy.parent).as_posix() for path in copy.parent.rglob("*") if path.is_file())
  assert came == ["export/10/saved_model.pb", "history.csv"]


def test_flags_of_paths_have_the_local_ones(there, monkeypatch):
  made, bucket = there
  monkeypatch.setattr(working, "_open", [])
  monkeypatch.setattr("lcn_tf.remote.lease._SETTLED", 0.0)
  (bucket / "log").mkdir(parents=True)
  (bucket / "log" / "part.parquet").write_text("1")
  values = entry.flags.FlagValues()
  records, output = entry.define_records(values), entry.define_output(values)
  log = entry.define_path(values, "log", "A log.", "input", multiple=True)
  local = command_paths.define_path(values, "other", "A file.", "input")
  with working.finishing():
    entry.parse(
      values,
      ["x", f"--records={BUCKET}/r", f"--output={BUCKET}/o", f"--log={BUCKET}/log", "--log=mine", "--other=a"],
    )
    assert (records.value, local.value) == (f"{BUCKET}/r", "a")
    first, second = log.value
    assert pathlib.Path(first, "part.parquet").read_text() == "1"
    assert second == "mine"
    pathlib.Path(output.value).mkdir()
    pathlib.Path(output.value, "result").write_text("2")
  assert (bucket / "o" / "result").read_text() == "2"


@pytest.fixture
def stored(there, monkeypatch):
  """A record set in a store, whose shards TensorFlow reads from the folder that the store is."""
  made, bucket = there
  write_record_set(bucket / "records", tiny_schema())
  monkeypatch.setattr(store, "for_tensorflow", lambda where: where.replace(BUCKET, str(bucket)))
  return made, bucket / "records"


def test_a_record_set_in_a_store_is_read_without_a_copy_of_its_shards(stored):
  _, folder = stored
  here, remote = RecordSet.open(folder), RecordSet.open(f"{BUCKET}/records")
  assert remote.source == f"{BUCKET}/records"
  assert (remote.catalogue("target") == here.catalogue("target")).all()
  assert not remote.has("nothing.parquet")
  shard = remote.part("train").shards[0]
  assert [found.reason for found in diagnosis.scan(remote, shard, "target")] == [None] * shard.records
  assert not list(remote.path.rglob("*.tfrecord*"))
  assert remote.shard_size(shard) == here.shard_size(shard)
  assert remote.shard_ends(shard) == here.shard_ends(shard)
  file = folder / shard.file
  file.write_bytes(file.read_bytes()[:-1])
  assert not diagnosis.is_described(remote, shard)
  assert places.shown(diagnosis.not_described(remote, shard, "target")).startswith(f"{BUCKET}/records/{shard.file}: ")


def test_a_store_that_is_lost_is_never_a_record_set_that_is_not_there(stored):
  made, folder = stored
  remote = RecordSet.open(f"{BUCKET}/records")
  with pytest.raises(UserError, match="no record set here") as found:
    RecordSet.open(f"{BUCKET}/recods")
  assert not isinstance(found.value, StorageError)
  made.lost = True
  for call in (lambda: RecordSet.open(f"{BUCKET}/records"), lambda: remote.read("catalogue/target.npy")):
    with pytest.raises(store.LostError):
      call()
  with pytest.raises(store.LostError), diagnosis.guard(remote, "train"):
    raise diagnosis.tf.errors.NotFoundError(None, None, f"Object {BUCKET}/records/x does not exist")
