"""A refactoring leaves losses and predictions as they are; a change of method renews golden.json, and says why.

The same run shows that a killed job of the experiment ends with the weights of an unbroken one.
"""

import json

import numpy as np
import pytest

from lcn_tf.training.trainer import train
from tests.golden import golden
from tests.support.callbacks import Copy

EXPECTED = json.loads(golden.FILE.read_text())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  return golden.build(tmp_path_factory.mktemp("golden") / "records")


@pytest.mark.config
@pytest.mark.parametrize("file", golden.CONFIGS, ids=lambda file: file.stem)
def test_losses_and_predictions_are_as_they_were_and_a_killed_job_ends_with_the_weights(file, records, tmp_path):
  kill = Copy(golden.KILLED, tmp_path / "run", tmp_path / "killed")
  found, expected = golden.numbers(file, records, tmp_path / "run", [kill]), EXPECTED[file.stem]
  assert len(found["losses"]) == golden.STEPS
  np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-3)
  np.testing.assert_allclose(found["predictions"], expected["predictions"], rtol=1e-3, atol=1e-3)
  job = train(golden.experiment(file), records, tmp_path / "killed")
  assert job.steps == golden.STEPS - golden.KILLED
  for one, other in zip(kill.model.variables, job.model.variables, strict=True):
    if "catalogue" not in one.name and one.shape.rank:
      np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6, err_msg=one.name)


def test_every_synthetic_experiment_has_golden_numbers():
  assert sorted(EXPECTED) == [file.stem for file in golden.CONFIGS]
