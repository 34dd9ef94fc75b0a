"""Parts of one graph that exchange tensors, as replicas do: each is traced in a thread, and one thread runs at a time.

Parts that are traced one after another could not exchange anything: the second one's tensors are not there yet when the
first one needs them.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import tensorflow as tf

T = TypeVar("T")


class _Abandoned(BaseException):
  """Ends a thread whose graph nobody needs any more."""


class Part:
  """One of the parts, as its thread sees it.

  Attributes:
    index: Index of the part.
    count: Number of parts.
  """

  def __init__(self, index: int, count: int, run: Callable[[int], Any]):
    self.index, self.count = index, count
    self._ended = False
    self._result: Any = None
    self._error: BaseException | None = None
    self._given: tuple[str, tf.Tensor] | None = None
    self._all: Sequence[tf.Tensor] = ()
    self._abandoned = False
    self._exchanges = 0
    self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
    self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._main, run), daemon=True)
    self._graph = tf.compat.v1.get_default_graph()

  def resume(self) -> None:
    """Lets the thread run until it waits for the other parts, or ends."""
    if self._thread.ident is None:
      self._thread.start()
    else:
      self._turn.release()
    self._back.acquire()

  def end(self) -> None:
    """Ends the thread, whatever it waits for."""
    if self._thread.ident is None:
      return
    self._abandoned = True
    if not self._ended:
      self.resume()
    self._thread.join()

  def _main(self, run: Callable[[int], Any]) -> None:
    _PART.set(self)
    try:
      with self._graph.as_default():
        # AutoGraph, which a new thread does not know to be off, would rewrite all of tf-keras
        self._result = tf.autograph.experimental.do_not_convert(run)(self.index)
    except BaseException as error:  # raised again by `in_lockstep`
      self._error = error
    self._ended = True
    self._back.release()

  def _exchange(self, what: str, value: tf.Tensor) -> Sequence[tf.Tensor]:
    if not self._abandoned:
      self._given = (what, value)
      self._back.release()
      self._turn.acquire()
    if self._abandoned:
      raise _Abandoned
    return self._all

  def _name(self) -> str:
    self._exchanges += 1
    return str(self._exchanges)

  def concat(self, rows: tf.Tensor) -> tf.Tensor:
    """The rows `[B of all parts, ...]` of all parts, in their order, of rows `[B, ...]`.

    A gradient returns to the part of its row.
    """
    name = self._name()

    @tf.custom_gradient
    def together(own: tf.Tensor) -> Any:
      # what other parts have done has its gradients there
      parts = [own if i == self.index else tf.stop_gradient(x) for i, x in enumerate(self._exchange(name, own))]
      ends = tf.cumsum([tf.shape(part, out_type=tf.int64)[0] for part in parts])
      begin, end = ends[self.index - 1] if self.index else 0, ends[self.index]

      def rows_of(gradient: tf.Tensor) -> tf.Tensor:
        with tf.device(gradient.device):  # the rows alone leave the device of the other part
          return gradient[begin:end]

      def back(gradient: tf.Tensor) -> tf.Tensor:
        return tf.add_n([rows_of(each) for each in self._exchange(f"gradient of {name}", gradient)])

      return tf.concat(parts, axis=0), back

    return together(rows)

  def sum(self, value: tf.Tensor) -> tf.Tensor:
    """The sum over all parts of a tensor of one shape."""
    name = self._name()

    @tf.custom_gradient
    def together(own: tf.Tensor) -> Any:
      return tf.add_n(self._exchange(name, own)), lambda g: tf.add_n(self._exchange(f"gradient of {name}", g))

    return together(value)


class _Alone:
  """A part whose others are not traced: what they would give is taken to be what it gives."""

  index = 0

  def __init__(self, count: int):
    self.count = count

  def concat(self, rows: tf.Tensor) -> tf.Tensor:
    return tf.tile(rows, [self.count] + [1] * (rows.shape.rank - 1))

  def sum(self, value: tf.Tensor) -> tf.Tensor:
    return value * tf.cast(self.count, value.dtype)


_PART: contextvars.ContextVar[Part | _Alone | None] = contextvars.ContextVar("part", default=None)


def current_part() -> Part | _Alone | None:
  """The part that is traced in this thread, or that `one_of` has; None if there is one part."""
  return _PART.get()


@contextlib.contextmanager
def one_of(count: int) -> Iterator[None]:
  """Traces within the block one of `count` equal parts, to see its tensors and operations. Its values mean nothing."""
  token = _PART.set(_Alone(count) if count > 1 else None)
  try:
    yield
  finally:
    _PART.reset(token)


def in_lockstep(run: Callable[[int], T], count: int) -> list[T]:
  """Traces the parts of a graph, which is being traced, and lets them exchange tensors.

  Within `run`, `lcn_tf.layers.replicas` takes the parts for the replicas of a strategy.

  Args:
    run: Function of the index of a part. All parts must exchange the same, in the same order.
    count: Number of parts.

  Returns:
    What `run` has returned, by part.

  Raises:
    RuntimeError: The parts exchange different things. What `run` raises is raised as it is.
  """
  tf.compat.v1.get_default_graph().switch_to_thread_local()  # each thread has its own devices and control dependencies
  parts = [Part(index, count, run) for index in range(count)]
  try:
    while not all(part._ended for part in parts):
      for part in parts:
        part.resume()
        if part._error is not None:
          raise part._error
      _hand_out(parts)
  finally:
    for part in parts:
      part.end()
  return [part._result for part in parts]


def _hand_out(parts: Sequence[Part]) -> None:
  """Gives each part what all of them have given."""
  given = [None if part._ended else part._given for part in parts]
  names = {None if one is None else one[0] for one in given}
  if len(names) > 1:
    raise RuntimeError(f"parts of a step exchange different things: {names}")
  for part in parts:
    part._all = [one[1] for one in given if one is not None]
