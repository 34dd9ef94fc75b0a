"""Tasks on Spark: each is a partition of an RDD, whose Python reads and writes the folder that all machines share.

Arguments go to the tasks as Spark sends them. Results, and values that many tasks read, go through files of the folder.
Spark runs a task again whose machine was lost. An error of a task's own ends the build, as it would anywhere.
"""

import contextlib
import functools
import logging
import os
import pathlib
import pickle
import re
import shutil
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib import util
from typing import Any, Generic

from lcn_tf import processes
from lcn_tf.data.build.engines import A, R, Shared, T, whole
from lcn_tf.errors import LostWorkerError, UserError, one_line

MEMORY = 1_000_000_000  # bytes; a task takes about as much besides for TensorFlow and the ids of users and items
_MASTERS = r"local($|\[|-cluster\[)|spark://.|k8s://.|yarn$"
_SETTINGS = {
  "spark.app.name": "lcn_tf build_records",
  "spark.ui.enabled": "false",
  "spark.ui.showConsoleProgress": "false",
  "spark.log.level": "FATAL",
  "spark.sql.execution.arrow.pyspark.enabled": "false",
}


class Spark:
  """An engine whose tasks run on a Spark cluster, or on this machine as on one.

  Args:
    master: Cluster, as in spark-submit's --master; None = that of spark-submit or of Spark's settings, else `local[*]`.

  Raises:
    UserError: PySpark or Java is missing, or the master is none of Spark's.
  """

  memory: int | None = MEMORY
  apart = True

  def __init__(self, master: str | None = None):
    if master is not None and not re.match(_MASTERS, master):
      raise UserError(f"--master {master}: expected local[2], say, or spark://host:7077, yarn or k8s://host:443")
    if not util.find_spec("pyspark"):
      raise UserError("--engine spark: PySpark is not installed. Install it: pip install 'lcn_tf[spark]'")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has started Java
    if not submitted and not shutil.which("java", path=_java_path()):
      raise UserError(f"--engine spark: no java in {_java_path()}. Spark 4 needs Java 17 or later: install it")
    self._master = master
    self._context: Any = None
    self._folder: pathlib.Path

  @contextlib.contextmanager
  def started(self, folder: pathlib.Path) -> Iterator[None]:
    """A block in which Spark runs.

    Raises:
      UserError: Spark does not start, or its tasks do not see the folder or this package.
    """
    self._folder = folder.absolute()
    self._context = _start(self._master)
    try:
      self._check()
      yield
    finally:
      with contextlib.suppress(Exception):  # its Java may have ended
        self._context.stop()

  def _check(self) -> None:
    """Runs a task that looks for the folder."""
    try:
      (seen,) = self._context.parallelize([self._folder], 1).map(_sees).collect()
    except Exception as error:
      raise UserError(f"--engine spark: no task can run. {_reason(error)}") from None
    if not seen:
      raise UserError(
        f"{self._folder.parent.parent}: the machines of Spark do not see this folder. Give an --output on a mount that "
        "all of them share with this one"
      )

  def share(self, name: str, value: T) -> Shared[T]:
    path = self._folder / f"{name}.pickle"
    path.write_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    return Kept(path)

  def map(self, task: Callable[[A], R], arguments: Sequence[A], workers: int = 1) -> Generator[R, None, None]:
    if not arguments:
      return
    run = functools.partial(_run, task, self._folder)
    try:
      results = self._context.parallelize(arguments, len(arguments)).map(run).collect()
    except Exception as error:
      if not isinstance(error, ConnectionError) and not type(error).__module__.startswith("py4j"):
        raise
      raise LostWorkerError(f"--engine spark: Spark gave a task up ({task.__name__}). {_reason(error)}") from None
    yield from (result(path) for path in results)


class Kept(Generic[T]):
  """A value in a file; a process keeps those that it read last."""

  def __init__(self, path: pathlib.Path):
    self._path = path

  def get(self) -> T:
    return _read(self._path)  # type: ignore[no-any-return]


@functools.lru_cache(2)  # no task reads more
def _read(path: pathlib.Path) -> Any:
  return pickle.loads(path.read_bytes())


def _sees(folder: pathlib.Path) -> bool:
  return folder.is_dir()


def _run(task: Callable[[A], R], folder: pathlib.Path, argument: A) -> pathlib.Path:
  """Runs a task on a machine of Spark; gives the file with its result, or with its error."""
  found: R | _Failed
  try:
    found = task(argument)
  except (KeyboardInterrupt, SystemExit):
    raise
  except BaseException as error:  # a panic of polars is no Exception
    found = _Failed.of(error)
  path = folder / f"{uuid.uuid4().hex}.result"
  with whole(path) as file:
    file.write_bytes(pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
  return path


def result(path: pathlib.Path) -> Any:
  """The result of a task, whose file goes; an error of it is raised."""
  found = pickle.loads(path.read_bytes())
  path.unlink()
  if isinstance(found, _Failed):
    found.again()
  return found


class _Failed:
  """The error of a task; `text` is its traceback, which has the errors that it came from."""

  def __init__(self, error: BaseException, text: str):
    self._error, self._text = error, text

  @classmethod
  def of(cls, error: BaseException) -> "_Failed":
    text = "".join(traceback.format_exception(error))
    try:
      pickle.loads(pickle.dumps(error))
    except Exception:
      error = RuntimeError(f"{type(error).__name__}: {one_line(error)}")
    return cls(error, text)

  def again(self) -> None:
    """Raises the error; a `UserError` needs no traceback."""
    raise self._error from (None if isinstance(self._error, UserError) else RuntimeError(f"in a task:\n{self._text}"))


def _start(master: str | None) -> Any:
  """The context of Spark.

  Raises:
    UserError: There is none.
  """
  import pyspark

  # tasks need the Python that has this package, where nobody says another one
  os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
  logging.getLogger("py4j").setLevel(logging.CRITICAL)  # its errors are told here
  settings = dict(_SETTINGS)
  for name, value in (processes.python_path() | {"TF_CPP_MIN_LOG_LEVEL": "3"}).items():
    settings[f"spark.executorEnv.{name}"] = value
  if master:
    settings["spark.master"] = master
    if master.startswith("local"):
      # whatever the name of this machine leads to
      settings |= {"spark.driver.host": "localhost", "spark.driver.bindAddress": "127.0.0.1"}
      settings["spark.driver.extraJavaOptions"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
      if "SPARK_LOCAL_DIRS" not in os.environ:
        settings["spark.local.dir"] = tempfile.gettempdir()
  conf = pyspark.SparkConf()
  for name, value in settings.items():
    conf.set(name, value)
  try:
    return pyspark.SparkContext(conf=conf)
  except Exception as error:
    where = f"--master {master}" if master else "--engine spark"
    exited = "JAVA_GATEWAY_EXITED" in str(error)
    reason = "Its Java ended at once and has said why. Spark 4 needs Java 17 or later" if exited else _reason(error)
    raise UserError(f"{where}: Spark did not start. {reason}") from None


def _java_path() -> str:
  """Where Spark looks for Java."""
  home = os.environ.get("JAVA_HOME")
  return str(pathlib.Path(home, "bin")) if home else os.environ.get("PATH", "")


def _reason(error: Exception) -> str:
  """What Spark says, on one line: of an error in Python its last line."""
  java = getattr(error, "java_exception", None)
  text = str(java.getMessage() or java.toString()) if java is not None else str(error)
  text = re.split(r"\n\s*at [\w.$]+\(|\nDriver stacktrace:", text)[0]
  if "Traceback (most recent call last)" in text:
    text = text.rstrip().rpartition("\n")[2]
  return one_line(RuntimeError(text))
