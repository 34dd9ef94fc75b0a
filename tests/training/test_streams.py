"""The batches that validation reads."""

import numpy as np
import pytest

from lcn_tf.config import Train
from lcn_tf.training.streams import StepSize, validation_stream
from tests.support.record_sets import tiny_schema, write_record_set


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  """70 records with candidates, of `tiny_schema`, in the validation split."""
  folder = tmp_path_factory.mktemp("records")
  return write_record_set(folder, tiny_schema(), records={"train": 8, "validation": 70, "test": 8})


@pytest.mark.parametrize(
  ("at_once", "replicas", "requests"), [(0, 1, 66), (0, 2, 64), (8, 1, 2), (11, 2, 2), (1, 1, 1), (512, 4, 70)]
)
def test_a_batch_has_what_is_best_scored_at_once_or_the_share_of_a_replica(records, at_once, replicas, requests):
  each = records.record_schema.candidates
  assert each == 4
  size = StepSize(requests=66, second_requests=66, candidates=66 * each, steps=1)
  read = validation_stream(records, Train(global_batch_size=66 * each), size, replicas, at_once)
  for _ in range(2):  # from the start each time
    batches = list(read())
    sizes = [len(batch["label"]) for batch in batches]
    assert sizes == [requests] * (70 // requests) + [70 % requests] * (70 % requests > 0)
    numbers = np.concatenate([batch["record"] for batch in batches])
    np.testing.assert_array_equal(np.sort(numbers), np.arange(70))
