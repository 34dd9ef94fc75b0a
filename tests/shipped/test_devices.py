"""What users run on several devices: every shipped experiment, as a process of its own, on 1, 2 and 4 of them.

Without --campaign the experiments of synthetic and fields run on 1 and 2, and those of movielens, which are of the same
systems, on 1 and 4.

python -m pytest -m config tests/shipped/test_devices.py --campaign -rP    # with the table of losses
"""

import shlex

import numpy as np
import polars as pl
import pytest

from tests.shipped.workspace import CONFIGS, built, experiments, head_commands, succeeds

FILES = experiments("synthetic", "movielens", "fields")


def name_of(file):
  return file.relative_to(CONFIGS).with_suffix("").as_posix()


@pytest.mark.config
@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_one_two_and_four_devices_give_the_same_losses(file, workspace, campaign):
  build, train = head_commands(file)
  built(build, workspace)
  run = shlex.split(train)[-1]
  found = {}
  counts = campaign([1, 4] if file.parent.name == "movielens" else [1, 2], [1, 2, 4])
  for replicas in counts:
    succeeds(f"{train}_{replicas}", workspace, "--noevaluate", "--set", f"train.replicas={replicas}")
    found[replicas] = pl.read_csv(workspace / f"{run}_{replicas}" / "history.csv")
    print(name_of(file), replicas, found[replicas].row(0, named=True))
  losses = [column for column in found[1].columns if "loss" in column]
  assert {"loss", "ctr_loss", "val_logloss"} <= set(losses)
  for replicas in counts[1:]:
    assert found[replicas].columns == found[1].columns
    expected, there = (frame.select(losses).to_numpy() for frame in (found[1], found[replicas]))
    np.testing.assert_allclose(there, expected, rtol=1e-4, err_msg=f"{replicas} devices: {losses}")
