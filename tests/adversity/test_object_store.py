"""Paths in an object store: results as with local ones, after kills too, and one message when the store is at fault."""

import re

import numpy as np
import pytest

from lcn_tf.remote import store
from lcn_tf.remote.lease import NAME, SECONDS, Lease
from tests.adversity import jobs
from tests.adversity.jobs import Process
from tests.shipped.workspace import GUIDES, run, succeeds
from tests.support import children
from tests.support.s3 import BUCKET, Server

pytestmark = pytest.mark.config(minutes=4)
URL = f"s3://{BUCKET}"
BUILD, TRAIN = (command.replace("lcn.yaml", "average_pooling.yaml") for command in (jobs.BUILD, jobs.TRAIN))
ENDPOINTS = {*store._ENDPOINTS, "S3_USE_HTTPS", "LCN_TF_PLACES"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  made = Server(tmp_path_factory.mktemp("s3") / "log")
  yield made
  made.end()


@pytest.fixture(autouse=True)
def _environment(server, monkeypatch):
  """Commands reach the server, and leases die soon."""
  for name in ENDPOINTS:
    monkeypatch.setenv(name, "")
  for name, value in (server.environment() | {SECONDS: "6"}).items():
    monkeypatch.setenv(name, value)
  store._system.cache_clear()


def printed():
  """The commands that the page of training prints for object stores."""
  (page,) = (page for page in GUIDES if page.stem == "training")
  lines = [line for line in page.read_text().splitlines() if line.startswith("python -m") and URL in line]
  assert len(lines) == 7
  return {
    line.split()[2].removeprefix("pipelines."): line.replace("/amazon/lcn.yaml", "/amazon/average_pooling.yaml")
    for line in lines
  }


# what is smaller than printed
MORE = {
  "train": ["--bootstrap", "2"],
  "evaluate": ["--bootstrap", "2"],
  "publish": ["--bootstrap", "2"],
  "compare": ["--only", "Avg-Pooling,LCN", "--seeds", "0"],
  "walk": ["--bootstrap", "2", "--set", "walk.period=432000", "--set", "walk.periods=2"],
}


@pytest.fixture
def log(server, workspace):
  """The log that the commands read, in the store."""
  for name in ("interactions.parquet", "items.parquet"):
    server.put(workspace / name, f"log/{name}")


def remote(name, workspace):
  said = succeeds(printed()[name], workspace, *MORE.get(name, []))
  assert "pure virtual method" not in said
  assert "places-" not in said


def local(name, workspace, here):
  succeeds(printed()[name].replace(f"{URL}/log/", "").replace(URL, str(here)), workspace, *MORE.get(name, []))


def got(server, here, folder):
  """A local copy of the bucket, which tells of no copies that commands had; `here` without locks."""
  for lock in here.rglob(".lock"):
    lock.unlink()
  assert not [name for name in server.names("") if NAME in name]
  there = server.get("", folder)
  for file in there.rglob("*"):  # TensorFlow keeps the first paths of assets in a graph
    assert not file.is_file() or file.name == "saved_model.pb" or b"/places-" not in file.read_bytes(), file
  return there


def test_the_printed_commands_leave_what_those_with_local_paths_leave(server, log, workspace, tmp_path):
  here = tmp_path / "here"
  for name in ("build_records", "train", "evaluate", "export"):
    remote(name, workspace)
    local(name, workspace, here)
  there = got(server, here, tmp_path / "there")
  jobs.same_records(there / "my_records", here / "my_records")
  jobs.same_run(there / "my_run", here / "my_run")
  jobs.same_export(there / "served", here / "served")
  one, other = (folder / "my_run" / "validation" / "metrics.json" for folder in (there, here))
  assert jobs.lasting(one) == jobs.lasting(other)
  assert f'"path": "{URL}/my_records"' in one.read_text()
  assert "every checksum agrees" in succeeds(f"python -m tools.show_records --records {URL}/my_records --verify", here)


@pytest.mark.config(minutes=6)
def test_publications_comparisons_and_walks_leave_what_those_with_local_paths_leave(server, log, workspace, tmp_path):
  for name in ("build_records", "train"):
    if not list(server.names({"train": "my_run", "build_records": "my_records"}[name])):
      remote(name, workspace)
  here = tmp_path / "here"
  for folder in ("my_records", "my_run"):
    server.get(folder, here)
  for name in ("publish", "compare", "walk"):
    remote(name, workspace)
    local(name, workspace, here)
  there = got(server, here, tmp_path / "there")
  jobs.same_export(there / "published", here / "published")
  ((mine,), (theirs,)) = (list((folder / "published.results").iterdir()) for folder in (there, here))
  assert jobs.listing(mine) == jobs.listing(theirs)
  for name in ("metrics.json", "gate.json"):
    assert jobs.lasting(mine / name) == jobs.lasting(theirs / name)
  jobs.same_comparison(there / "compared", here / "compared")
  jobs.same_walk(there / "my_walk", here / "my_walk")


@pytest.fixture
def records(server, workspace):
  """Records in the store."""
  if not list(server.names("records")):
    succeeds(f"{BUILD} --output {URL}/records", workspace)
  return f"{URL}/records"


def job(records, folder):
  return f"{TRAIN.replace('adversity/records', records)} --run_dir {URL}/{folder}"


def saved(server, folder):
  """Whether a run in the store has a checkpoint."""
  return any(name.endswith(".index") for name in server.names(folder))


def test_a_job_that_is_killed_goes_on_from_the_store(server, records, workspace, tmp_path, campaign):
  unbroken = jobs.timed(f"{TRAIN.replace('adversity/records', records)} --run_dir", tmp_path / "unbroken", workspace)
  temporary, rng = tmp_path / "temporary", np.random.default_rng(5)
  for number in range(campaign(1, 10)):
    folder = f"run_{number}"
    process = Process(job(records, folder), workspace, temporary)
    assert children.eventually(lambda folder=folder: saved(server, folder)), process.said()
    killed = process.kill_after(jobs.seconds_of(unbroken) / 5 * rng.random())
    process = Process(job(records, folder), workspace, temporary)
    process.succeeds()
    assert not killed or "resumed from step" in process.log.read_text()
    got = server.get(folder, tmp_path / "got")
    (got / ".lock").touch()  # as the unbroken one's, on a disk
    jobs.same_run(got, unbroken)
    jobs.nothing_left(got, temporary)


def fails(command, workspace, code):
  """The one message with which a command ends, and its exit code is that."""
  done = run(command, workspace)
  assert done.returncode == code, done.stderr[-3000:]
  assert "Traceback" not in done.stderr
  assert "pure virtual" not in done.stderr
  (said,) = re.findall(r"^error: (.*)", done.stderr, re.MULTILINE)
  return said


def test_a_folder_that_another_job_writes_is_refused(server, records, workspace):
  lease = Lease(f"{URL}/held")
  assert re.match(f"{URL}/held: another job is at work here: process ", fails(job(records, "held"), workspace, 1))
  lease.check()
  lease.release()
  assert list(server.names("held")) == []


@pytest.mark.parametrize(
  ("records", "said"),
  [("s3://my-bukket/records", "no record set here"), (f"{URL}/recods", "no record set here")],
)
def test_records_that_are_not_there(records, said, workspace):
  assert fails(job(records, "run"), workspace, 1).startswith(f"{records}: {said}")


def test_a_bucket_that_is_not_there(records, workspace):
  command = job(records, "run").replace(f"{URL}/run", "s3://my-bukket/run")
  assert fails(command, workspace, 1) == "s3://my-bukket/run/.lease: no such bucket"


def test_no_rights(records, workspace, tmp_path, monkeypatch):
  closed = Server(tmp_path / "log", checks=True)
  monkeypatch.setenv("AWS_ENDPOINT_URL", closed.endpoint)
  try:
    assert "no access" in fails(job(records, "run"), workspace, 1)
  finally:
    closed.end()


def test_a_server_that_is_not_there_is_an_error_of_storage(server, records, workspace, monkeypatch):
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
  assert "the store cannot be reached" in fails(job(records, "run"), workspace, 74)


def test_a_server_that_ends_while_a_job_trains_is_an_error_of_storage(workspace, tmp_path, monkeypatch):
  own = Server(tmp_path / "log")
  try:
    monkeypatch.setenv("AWS_ENDPOINT_URL", own.endpoint)
    succeeds(f"{BUILD} --output {URL}/records", workspace)
    command = job(f"{URL}/records", "run").replace("train.epochs=2", "train.epochs=100000 --set train.early_stopping=0")
    process = Process(command, workspace, tmp_path / "temporary")
    assert children.eventually(lambda: saved(own, "run")), process.said()
  finally:
    own.end()
  assert process._process.wait(600) == 74, process.said()
  assert process.said().count("error: ") == 1
  assert "Traceback" not in process.said()
