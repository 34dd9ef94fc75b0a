"""The processes of one job, and their agreements."""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from lcn_tf.errors import LostWorkerError
from lcn_tf.training.cluster import LOST, tasks, with_servers

# what TensorFlow says of a process that has begun anew
_OF_ANOTHER_START = (
  "unknown device",
  "Unable to find the relevant tensor remote_handle",
  "Primary device is not remote",
  "is neither a type of a primitive operation nor a name of a function registered",
)


class Workers:
  """The processes that train one model together, this one among them; one process alone agrees with itself.

  Every method that returns or waits must be called by all workers, in the same order.

  Args:
    strategy: Strategy of `make_strategy`.

  Attributes:
    strategy: Strategy of the job.
    count: Number of workers.
    index: Index of this worker. Worker 0 is the chief, who alone writes the run folder.
    readers: Number of processes that read records: all workers, or those of a chief that reads none.
    replicas: Number of parts of a step, each of which one device computes.
    led: True for the chief of a job with servers, which leads workers and reads no records.
  """

  def __init__(self, strategy: tf.distribute.Strategy):
    together = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    named, index = tasks() if together else ([""], 0)
    self.count, self.index = len(named), index
    self.strategy = strategy
    self.led = isinstance(strategy, tf.distribute.ParameterServerStrategy)
    self.readers = len(with_servers().workers) if self.led else self.count
    self.replicas = self.readers if self.led else strategy.num_replicas_in_sync
    self._each = strategy.num_replicas_in_sync // self.count

  @property
  def chief(self) -> bool:
    return self.index == 0

  def chiefs(self, values: Sequence[float]) -> list[float]:
    """The chief's values, for all workers."""
    return self._sums([value if self.chief else 0.0 for value in values])

  def any(self, mine: Sequence[bool]) -> list[bool]:
    """For each of the values, whether it is true for at least one worker."""
    return [found > 0.0 for found in self._sums([float(value) for value in mine])]

  def wait(self) -> None:
    """Waits until all workers call it."""
    self._sums([0.0])

  @contextlib.contextmanager
  def chief_first(self) -> Iterator[None]:
    """The others enter the block when the chief has left it."""
    if not self.chief:
      self.wait()
    yield
    if self.chief:
      self.wait()

  @contextlib.contextmanager
  def together(self) -> Iterator[None]:
    """Names the end of another process within the block as the cause of this one's error.

    Raises:
      LostWorkerError: Another worker, or a server, has ended.
    """
    try:
      yield
    except tf.errors.OpError as error:
      if not self._lost(error):
        raise
      reason = str(error).strip().splitlines()[0][:200]
      if self.led:
        raise LostWorkerError(
          f"a worker or a server was lost, whose log says why ({reason}). Start all of them again: the job goes on "
          "from its last checkpoint."
        ) from error
      raise LostWorkerError(
        f"worker {self.index} of {self.count} has lost another one, whose log says why ({reason}). Start all of them "
        "again: the job goes on from its last checkpoint."
      ) from error

  def _lost(self, error: tf.errors.OpError) -> bool:
    """Whether an error is of another process that has ended."""
    if self.count == 1 and not self.led:
      return False
    return isinstance(error, LOST) or (self.led and any(said in str(error) for said in _OF_ANOTHER_START))

  def _sums(self, values: Sequence[float]) -> list[float]:
    if self.count == 1:
      return list(values)
    with self.together():
      return [float(value) for value in self._sum(tf.constant(list(values), tf.float64)).numpy()]

  @tf.function(autograph=False, reduce_retracing=True)
  def _sum(self, mine: tf.Tensor) -> tf.Tensor:
    def replica() -> tf.Tensor:
      context = tf.distribute.get_replica_context()
      # one replica speaks for its worker
      speaks = tf.equal(context.replica_id_in_sync_group % self._each, 0)
      return context.all_reduce("SUM", tf.where(speaks, mine, tf.zeros_like(mine)))

    return self.strategy.experimental_local_results(self.strategy.run(replica))[0]
