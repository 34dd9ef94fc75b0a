"""Requests of several users in one call of a model (LCN, section 4.4: merged requests)."""

import collections
import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Tensors = Mapping[str, np.ndarray]
Call = Callable[[dict[str, np.ndarray]], np.ndarray]


class _Waiting(NamedTuple):
  """A request that waits for its call."""

  tensors: Tensors
  answer: "concurrent.futures.Future[np.ndarray]"


class RequestMerger:
  """Merges requests that wait at the same time into one call of `rank` or `rank_raw`.

  A small request costs a call more than it costs the model, so calls of many small requests save time. A large one
  gains nothing: it goes alone, as does all that `most_cells` does not let in. Calls take requests in the order in which
  these came. A request that the model refuses fails alone: those of its call are then asked one by one.

  Threads may share an instance. `close` it, or use it in a `with` statement.

  Args:
    call: Function from the tensors of a signature, B rows, to probabilities `[B, N]`.
    most_requests: Number of requests in a call at most.
    most_cells: Sum at most, over the requests of a call, of padded candidates times padded behaviours.
    wait: Seconds at most that a request waits for others. With 0 only those are merged that came during calls.
    calls: Number of calls at the same time; 0 = one per core.
  """

  def __init__(self, call: Call, most_requests: int = 32, most_cells: int = 500_000, wait: float = 0.0, calls: int = 0):
    if most_requests < 1 or most_cells < 1 or wait < 0 or calls < 0:
      raise ValueError(
        f"expected positive bounds, wait >= 0 and calls >= 0, found {most_requests}, {most_cells}, {wait} and {calls}"
      )
    self._call = call
    self._most_requests, self._most_cells, self._wait = most_requests, most_cells, wait
    self._waiting: collections.deque[_Waiting] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False
    self._threads = [
      threading.Thread(target=self._serve, name=f"request-merger-{number}", daemon=True)
      for number in range(calls or len(os.sched_getaffinity(0)))
    ]
    for thread in self._threads:
      thread.start()

  def submit(self, tensors: Tensors) -> "concurrent.futures.Future[np.ndarray]":
    """The answer of a request, `[N]`, when it is there.

    Args:
      tensors: Tensors of one request, B = 1, of the signature that `call` asks.

    Raises:
      RuntimeError: The merger is closed.
    """
    waiting = _Waiting(tensors, concurrent.futures.Future())
    with self._changed:
      if self._closed:
        raise RuntimeError("the merger is closed")
      self._waiting.append(waiting)
      self._changed.notify()
    return waiting.answer

  def rank(self, tensors: Tensors) -> np.ndarray:
    """As `submit`, but waits for the answer."""
    return self.submit(tensors).result()

  def close(self) -> None:
    """Answers what waits, then ends. No request is taken any more."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    for thread in self._threads:
      thread.join()

  def __enter__(self) -> "RequestMerger":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _serve(self) -> None:
    while (group := self._next()) is not None:
      self._answer(group)

  def _next(self) -> list[_Waiting] | None:
    """The requests of the next call; None when the merger is closed and nothing waits."""
    with self._changed:
      self._changed.wait_for(lambda: self._waiting or self._closed)
      until = time.monotonic() + self._wait
      while self._waiting and not self._closed and len(self._fitting()) == len(self._waiting) < self._most_requests:
        large = _cells([self._waiting[-1].tensors]) >= self._most_cells
        if large or not self._changed.wait(until - time.monotonic()):
          break
      group = self._fitting()
      for _ in group:
        self._waiting.popleft()
      return None if self._closed and not group else group

  def _fitting(self) -> list[_Waiting]:
    """The first requests that wait, as many as a call takes; at least one if one waits."""
    group: list[_Waiting] = []
    for one in self._waiting:
      more = [*group, one]
      if group and (len(more) > self._most_requests or _cells([each.tensors for each in more]) > self._most_cells):
        break
      group = more
    return group

  def _answer(self, group: list[_Waiting]) -> None:
    group = [one for one in group if one.answer.set_running_or_notify_cancel()]
    if not group:
      return
    try:
      found = self._call(merged([one.tensors for one in group]))
    except Exception as error:
      if len(group) == 1:
        group[0].answer.set_exception(error)
      for one in group if len(group) > 1 else []:
        self._alone(one)
      return
    for one, row in zip(group, found, strict=True):
      one.answer.set_result(row[: _candidates(one.tensors)])

  def _alone(self, one: _Waiting) -> None:
    try:
      one.answer.set_result(self._call(dict(one.tensors))[0])
    except Exception as error:
      one.answer.set_exception(error)


def merged(requests: Sequence[Tensors]) -> dict[str, np.ndarray]:
  """The tensors of several requests as one: rows below each other, padded to the widest on the second axis.

  Padding is 0, or the empty text. A tensor with one column for all candidates has that column repeated if another
  request has more.

  Args:
    requests: Tensors of requests, all of one signature.
  """
  joined = {}
  for name in requests[0]:
    parts = [np.asarray(one[name]) for one in requests]
    if parts[0].ndim > 1:
      width = max(part.shape[1] for part in parts)
      of_candidates = name.endswith("first_visible") or name.startswith("context_")
      parts = [
        np.repeat(part, width, axis=1) if of_candidates and part.shape[1] == 1 else _padded(part, width)
        for part in parts
      ]
    joined[name] = np.concatenate(parts)
  return joined


def _padded(part: np.ndarray, width: int) -> np.ndarray:
  padding: Any = "" if part.dtype == object else 0
  more = np.full((len(part), width - part.shape[1], *part.shape[2:]), padding, part.dtype)
  return np.concatenate([part, more], axis=1)


def _candidates(tensors: Tensors) -> int:
  return int(np.asarray(tensors["candidate_ids" if "candidate_ids" in tensors else "candidate_items"]).shape[1])


def _cells(requests: Sequence[Tensors]) -> int:
  """Candidates times behaviours of a call, with its padding."""
  behaviours = [name for name in requests[0] if name in ("target_items", "source_items", "target_ids", "source_ids")]
  lengths = sum(max(np.asarray(one[name]).shape[1] for one in requests) for name in behaviours)
  return len(requests) * max(map(_candidates, requests)) * max(lengths, 1)
