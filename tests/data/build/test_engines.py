"""Records are the same bytes whatever engine runs the tasks of their build."""

import contextlib
import errno
import functools
import pathlib
import pickle
import re
import shutil
import sys

import polars as pl
import pytest

from lcn_tf import storage
from lcn_tf.config import Synthetic
from lcn_tf.data.build import bucket_tasks, engines, shards, spark
from lcn_tf.data.sources import synthetic
from lcn_tf.errors import LostWorkerError, StorageError, UserError
from pipelines import build_records
from tests.data import logs, value_logs, vector_logs
from tests.data.build.test_out_of_core import MEMORY, SAMPLED, SCHEMA, bad_log, build, random_log, write
from tests.shipped import workspace

CONFIG = "configs/synthetic/lcn.yaml"


class Elsewhere:
  """An engine as Spark is one: what goes to tasks and comes from them is pickled, some run twice, in any order."""

  memory = MEMORY
  apart = True

  def __init__(self):
    self.ran = []

  def started(self, folder):
    self.share = functools.partial(spark.Spark.share, self)
    self._folder = folder
    return contextlib.nullcontext()

  def map(self, task, arguments, workers=1):
    self.ran.append(task)
    results = {}
    for number in (*range(len(arguments))[::-1], *range(0, len(arguments), 3)):
      ours, argument = pickle.loads(pickle.dumps((task, arguments[number])))
      results[number] = spark._run(ours, self._folder, argument)
    for number in range(len(arguments)):
      yield spark.result(results[number])


def same(folder, **options):
  """Builds the records of a folder in memory and elsewhere, compares the bytes of all files, and gives the records."""
  whole, engine = build(folder, **options), Elsewhere()
  found = build(folder, MEMORY, engine=engine, **options)
  one, two = logs.file_bytes(whole.path), logs.file_bytes(found.path)
  assert one.keys() == two.keys()
  assert [name for name in one if one[name] != two[name]] == []
  drawn = [bucket_tasks.number] if found.records["labels"]["kind"] == "sampled" else []
  first = [bucket_tasks.count_users, bucket_tasks.deal, bucket_tasks.check, bucket_tasks.divide]
  assert engine.ran == [*first, *drawn, bucket_tasks.user_log, shards.write_shard]
  return found


@pytest.mark.parametrize(
  "records",
  [
    {"labels": SAMPLED | {"known_items": True}, "shards": 3},
    {"labels": {"kind": "threshold"}, "split": {"kind": "per_user", "validation": 0.2, "test": 2}},
    {"labels": SAMPLED | {"popularity_exponent": 0.5}, "split": {"kind": "column", "column": "fold"}},
  ],
  ids=["sampled", "shown, per_user", "sampled, column"],
)
def test_tasks_elsewhere_give_the_same_bytes(tmp_path, records):
  write(tmp_path, random_log(), logs.items(12))
  assert same(tmp_path, records=records).part("train").records > 10


def test_bad_rows_of_several_files_are_the_same(tmp_path):
  write(tmp_path, bad_log(), logs.items(12), days=4)
  schema = SCHEMA | {"context_fields": [{"name": "size", "kind": "numeric", "buckets": 2}]}
  found = same(tmp_path, schema=schema, records={"split": {"kind": "column", "column": "fold"}})
  assert len(found.rejected) == 13


def test_fields_and_vectors_of_every_kind_are_the_same(tmp_path):
  write(tmp_path, value_logs.log_of(), value_logs.items_of(), vector_logs.USERS)
  same(tmp_path, schema=vector_logs.SCHEMA)


def test_a_log_from_another_folder_is_found(tmp_path, monkeypatch):
  """Tasks run in whatever folder their machine has."""
  write(tmp_path / "here", random_log(), logs.items(12))
  (tmp_path / "there").mkdir()
  monkeypatch.chdir(tmp_path / "here")

  class Moved(Elsewhere):
    def map(self, task, arguments, workers=1):
      with contextlib.chdir(tmp_path / "there"):
        results = list(super().map(task, arguments))
      yield from results

  found = build(pathlib.Path(), MEMORY, engine=Moved())
  assert found.part("train").records > 10


def test_what_a_task_cannot_read_is_told_as_by_the_build(tmp_path):
  write(tmp_path, random_log(), logs.items(12))
  day = tmp_path / "log" / "day1.parquet"

  class Late(Elsewhere):
    def started(self, folder):
      day.write_text("no longer Parquet")
      return super().started(folder)

  with pytest.raises(UserError, match=rf"^{day}: ") as error:
    build(tmp_path, MEMORY, engine=Late())
  assert error.value.__cause__ is None
  assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet", "log"]


def broken(argument):
  if argument == "user":
    raise UserError("day1.parquet: not there")
  if argument == "full":
    raise OSError(errno.ENOSPC, "No space left on device", "/mount/log")
  if argument == "hidden":
    try:
      broken("full")
    except OSError as error:
      raise ValueError("writing failed") from error
  if argument == "strange":
    raise type("Strange", (Exception,), {})("no class of a module")
  return argument


def outcome(folder, argument):
  return spark.result(spark._run(broken, folder, argument))


def test_an_error_comes_back_as_itself_and_with_its_traceback(tmp_path):
  assert outcome(tmp_path, "well") == "well"
  with pytest.raises(UserError, match=r"^day1\.parquet: not there$") as user:
    outcome(tmp_path, "user")
  assert user.value.__cause__ is None
  with pytest.raises(OSError, match="No space left") as full:
    outcome(tmp_path, "full")
  assert full.value.errno == errno.ENOSPC
  assert "in broken" in str(full.value.__cause__)
  with pytest.raises(ValueError, match="writing failed") as hidden:
    outcome(tmp_path, "hidden")
  assert storage.failure(hidden.value) == "no space left on device"
  with pytest.raises(RuntimeError, match="Strange: no class of a module"):
    outcome(tmp_path, "strange")
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_of_a_task_is_told_as_one_of_the_build(tmp_path, monkeypatch):
  write(tmp_path, random_log(), logs.items(12))

  def full(self, file, **options):
    raise OSError(errno.ENOSPC, "No space left on device", str(file))

  monkeypatch.setattr(pl.DataFrame, "write_ipc", full)
  with pytest.raises(StorageError, match=r"a record set could not be written: no space left .*about .* kB are needed"):
    build(tmp_path, MEMORY, engine=Elsewhere())


@pytest.mark.job
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_results_in_order_and_errors_in_their_place(workers):
  found = engines.Processes().map(broken, ["a", "b", "user"], workers)
  assert [next(found), next(found)] == ["a", "b"]
  with pytest.raises(UserError, match=r"^day1\.parquet: not there$"):
    next(found)


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--engine", "spark", "--extend", "x"], "--engine spark and --extend exclude each other"),
    (["--master", "local[2]"], "--master local[2]: only --engine spark has a master"),
    (["--engine", "spark", "--master", "moon"], "--master moon: expected local[2], say, or spark://host:7077, yarn or"),
    (["--engine", "cluster"], "flag --engine=cluster: value should be one of <processes|spark>"),
  ],
)
def test_wrong_flags_have_one_message(tmp_path, flags, said):
  with pytest.raises(UserError, match=re.escape(said)):
    build_records.main(["", "--config", CONFIG, "--output", str(tmp_path / "out"), *flags])


def test_what_spark_lacks_is_told_before_anything_is_read(tmp_path, monkeypatch):
  arguments = ["", "--config", CONFIG, "--output", str(tmp_path / "out"), "--engine", "spark"]
  monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
  monkeypatch.setenv("JAVA_HOME", str(tmp_path))
  with pytest.raises(UserError, match=rf"no java in {tmp_path}/bin\. Spark 4 needs Java 17 or later"):
    build_records.main(arguments)
  monkeypatch.setitem(sys.modules, "pyspark", None)
  monkeypatch.setattr(spark.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=re.escape("pip install 'lcn_tf[spark]'")):
    build_records.main(arguments)
  assert list(tmp_path.iterdir()) == []


class Context:
  """A Spark whose tasks run here, or fail with an error."""

  def __init__(self, error=None):
    self.error, self.stopped, self.cut = error, False, []

  def parallelize(self, arguments, partitions):
    self.arguments = list(arguments)
    self.cut.append((len(self.arguments), partitions))
    return self

  def map(self, task):
    self.task = task
    return self

  def collect(self):
    if self.error:
      raise self.error
    return [self.task(argument) for argument in self.arguments]

  def stop(self):
    self.stopped = True
    raise ConnectionError("its Java has ended")


@pytest.fixture
def engine(monkeypatch):
  """Spark without Java, on the context that a test gives."""
  monkeypatch.setattr(spark.shutil, "which", lambda name, path: name)

  def on(context):
    monkeypatch.setattr(spark, "_start", lambda master: context)
    return spark.Spark("local[2]")

  return on


def java(text):
  """An error as py4j has it."""
  error = type("Py4JJavaError", (Exception,), {"__module__": "py4j.protocol"})("An error occurred while calling o1")
  error.java_exception = type("Java", (), {"getMessage": lambda self: text})()
  return error


def test_spark_has_a_partition_for_each_task_and_stops_after_an_error(tmp_path, engine):
  context = Context()
  started = engine(context)
  with started.started(tmp_path):
    assert list(started.map(broken, [])) == []
    assert list(started.map(broken, list("abc"))) == list("abc")
    assert started.share("value", [1]).get() == [1]
    assert not context.stopped
  with pytest.raises(UserError, match="not there"), started.started(tmp_path):
    list(started.map(broken, ["a", "user"]))
  assert context.stopped
  assert context.cut == [(1, 1), (3, 3), (1, 1), (2, 2)]


def test_a_folder_that_spark_does_not_see_is_told(tmp_path, engine):
  context = Context()
  with (
    pytest.raises(UserError, match=rf"^{tmp_path}: the machines of Spark do not see this folder\. Give an --output on"),
    engine(context).started(tmp_path / "aside" / "buckets"),
  ):
    raise AssertionError("it goes on")
  assert context.stopped


def test_what_spark_says_is_told_on_one_line(tmp_path, engine):
  python = (
    "Job aborted due to stage failure: Task 0 failed 4 times: PythonException: Traceback (most recent call last):\n"
    "  File \"worker.py\", line 1, in main\nModuleNotFoundError: No module named 'lcn_tf'\n\n"
    "\tat org.apache.spark.api.python.BasePythonRunner.read(PythonRunner.scala:1)\nDriver stacktrace:"
  )
  said = "no task can run. ModuleNotFoundError: No module named 'lcn_tf'"
  with pytest.raises(UserError, match=rf"{re.escape(said)}$"), engine(Context(java(python))).started(tmp_path):
    raise AssertionError("it goes on")
  context = Context()
  started = engine(context)
  lost = "Job aborted: ExecutorLostFailure (executor 1 exited)\nReason: killed\nDriver stacktrace:\n\tat org.x.Y(Z:1)"
  with started.started(tmp_path):
    for error, reason in ((java(lost), "(executor 1 exited) Reason: killed"), (ConnectionError("refused"), "refused")):
      context.error = error
      with pytest.raises(
        LostWorkerError, match=rf"^--engine spark: Spark gave a task up \(broken\)\. .*{re.escape(reason)}$"
      ):
        list(started.map(broken, ["a"]))
    context.error = pickle.PicklingError("a mistake of ours")
    with pytest.raises(pickle.PicklingError):
      list(started.map(broken, ["a"]))


needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is none")
SPARK = '--engine spark --master "local[2]"'


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
  """The folder of a synthetic log in several files, and the flags that name them."""
  folder = tmp_path_factory.mktemp("planted")
  small = {"users": 300, "target_items": 60, "source_items": 60, "topics": 8}
  small |= {"interests": 3, "source_only": 1, "target_only": 1}
  made = synthetic.generate(Synthetic(**small), seed=0)
  write(folder, made.interactions, made.items, made.users)
  made.interactions.write_parquet(folder / "interactions.parquet")
  (folder / "configs").symlink_to(workspace.CONFIGS)
  return folder, "--interactions log --items items.parquet --users users.parquet"


def printed():
  """The command on two cores that the documents print, and the same without Spark."""
  text = (workspace.ROOT / "docs" / "data.md").read_text()
  (line,) = (line for line in text.splitlines() if line.startswith("python -m") and SPARK in line)
  return line, line.replace(SPARK, "").replace("records/cluster", "records/one")


@needs_java
@pytest.mark.config(minutes=3)
@pytest.mark.parametrize("labels", ["given", "sampled"])
def test_spark_leaves_the_folder_of_the_command_without_it(planted, labels):
  folder, log = planted
  spark_command, plain = printed()
  if labels == "given":
    named = "--interactions interactions.parquet --items items.parquet"
    spark_command, plain = (
      line.replace(named, log).replace("amazon/lcn", "synthetic/lcn").replace("runs/records", "runs/given") + more
      for line, more in ((spark_command, " --memory 100MB"), (plain, ""))
    )
  workspace.succeeds(plain, folder)
  said = workspace.succeeds(spark_command, folder, alone=True)
  assert "Traceback" not in said
  above = folder / "runs" / ("records" if labels == "sampled" else "given")
  one, two = logs.file_bytes(above / "one"), logs.file_bytes(above / "cluster")
  assert one.keys() == two.keys()
  assert [name for name in one if one[name] != two[name]] == []
  assert sorted(path.name for path in above.iterdir()) == ["cluster", "one"]


@needs_java
@pytest.mark.config(minutes=1)
def test_spark_tells_an_error_as_one_message(planted, tmp_path):
  folder, log = planted
  frame = pl.read_parquet(folder / "log").with_row_index()
  bad = frame.with_columns(timestamp=pl.when(pl.col("index") % 1000 > 0).then("timestamp").otherwise(-1)).drop("index")
  bad.write_parquet(tmp_path / "bad.parquet")
  log = log.replace("log ", f"{tmp_path}/bad.parquet ")
  build_bad = f"python -m pipelines.build_records --config {CONFIG} --output {tmp_path}/out {log} {SPARK} --strict"
  done = workspace.run(build_bad, folder, alone=True)
  assert done.returncode == 1
  (said,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
  number = -(-len(bad) // 1000)
  reason = f"interactions: negative timestamp: {number}"
  assert said == f"error: {number} rows are rejected, and --strict allows none. {reason}"
  assert "Traceback" not in done.stderr
  assert [path.name for path in tmp_path.iterdir()] == ["bad.parquet"]
