import numpy as np
import pytest

from lcn_tf.data.build.requests import CandidateColumns, EventColumns, record_spans, user_requests
from lcn_tf.schema import Schema

NONE = np.zeros(0, np.int64)


def spans(times, groups, candidates, target=NONE, source=NONE, max_length=4, extra_length=0.5):
  schema = Schema(
    target={"max_length": max_length},
    source={"max_length": max_length},
    candidates=candidates,
    extra_length=extra_length,
  )
  return record_spans(np.array(times), np.array(groups), {"target": target, "source": source}, schema)


def test_a_user_without_candidates_has_no_record():
  assert spans([], [], 4) == []


@pytest.mark.parametrize(
  ("groups", "candidates", "expected"),
  [
    ([0, 1, 2, 3, 4], 2, [(0, 2), (2, 4), (4, 5)]),
    ([0, 0, 0, 1, 1, 1], 5, [(0, 3), (3, 6)]),
    ([0, 0, 0, 1, 1, 1], 6, [(0, 6)]),
    ([0, 0, 0, 0, 0, 1], 2, [(0, 2), (2, 4), (4, 6)]),
    ([0, 0, 0, 1, 1], 2, [(0, 2), (2, 3), (3, 5)]),
  ],
)
def test_a_group_is_cut_only_where_it_is_larger_than_a_record(groups, candidates, expected):
  assert spans(np.zeros(len(groups)), groups, candidates) == expected


@pytest.mark.parametrize("domain", ["target", "source"])
def test_a_record_ends_before_its_candidates_moments_drift_apart_by_more_than_the_extra_behaviours(domain):
  behaviours = {domain: np.arange(100)}
  # 4 + 2 behaviours: two more may lie between the oldest and the newest candidate.
  assert spans([10, 12, 13, 14, 16], range(5), 16, **behaviours) == [(0, 2), (2, 4), (4, 5)]


def test_behaviours_of_one_second_keep_their_order_and_do_not_see_candidates_of_it():
  times = np.array([5, 5, 5, 7])
  behaviours = EventColumns(np.array([2, 3, 4, 5], np.int32), times, np.zeros((4, 0), np.int32))
  ones = np.ones(3, np.float32)
  candidates = CandidateColumns(
    np.array([2, 3, 4], np.int32), np.array([5, 6, 7]), np.zeros((3, 0), np.int32), ones, ones, np.arange(3)
  )
  empty = EventColumns(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 0), np.int32))
  (request,) = user_requests(
    3, np.array([1, 2], np.int32), {"target": behaviours, "source": empty}, candidates, Schema(candidates=8)
  )
  assert request.target.items.tolist() == [4, 3, 2]
  assert request.target.first_visible.tolist() == [3, 0, 0]
  assert request.source.first_visible.tolist() == [0, 0, 0]
  assert (request.user, request.user_fields.tolist()) == (3, [1, 2])
