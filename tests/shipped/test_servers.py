"""Shipped experiments with their tables on servers: each goes on from a checkpoint of one process as that does.

Without --campaign, systems of each way of wiring; with it, all of configs/synthetic.
"""

import shlex
import shutil

import pytest

from tests.shipped.losses import expect_same_losses, launched
from tests.shipped.workspace import built, experiments, head_commands, succeeds

FILES = experiments("synthetic")
ON_SERVERS = ["--set", "train.strategy=parameter_server", "--set", "train.table_part_bytes=400"]
OF_EACH_KIND = ("lcn", "twin", "sim_soft", "minet", "pi_net")


@pytest.mark.config(minutes=2)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_job_goes_on_with_tables_on_servers(file, workspace, campaign):
  if file.stem not in campaign(OF_EACH_KIND, [one.stem for one in FILES]):
    pytest.skip("one of its kind is enough; --campaign takes all")
  build, train = head_commands(file)
  built(build, workspace)
  run = shlex.split(train)[-1]
  still = ["--noevaluate", "--set", "train.early_stopping=0", "--set"]
  succeeds(f"{train}_here", workspace, *still, "train.epochs=1")
  here, there = workspace / f"{run}_here", workspace / f"{run}_servers"
  shutil.copytree(here, there)
  succeeds(f"{train}_here", workspace, *still, "train.epochs=2")
  said = succeeds(f"{launched(train, workers=2, servers=2)}_servers", workspace, *still, "train.epochs=2", *ON_SERVERS)
  assert "workers 2, servers 2" in said
  expect_same_losses(file.stem, here, there, [0, 1])


@pytest.mark.config(minutes=2)
def test_a_warm_start_with_tables_on_servers_is_that_of_one_process(workspace):
  (file,) = (one for one in FILES if one.stem == "lcn")
  build, train = head_commands(file)
  built(build, workspace)
  run = shlex.split(train)[-1]
  once = ["--noevaluate", "--set", "train.epochs=1", "--set", "train.log_every=2"]
  succeeds(f"{train}_earlier", workspace, *once)
  warm = [*once, "--set", f"train.warm_start={run}_earlier"]
  succeeds(f"{train}_warm_here", workspace, *warm)
  said = succeeds(f"{launched(train, workers=1, servers=2)}_warm_servers", workspace, *warm, *ON_SERVERS)
  assert "begins with the weights of" in said
  here, there = workspace / f"{run}_warm_here", workspace / f"{run}_warm_servers"
  expect_same_losses(file.stem, here, there, [0])
  assert {"lcn_tf_gradient_norm", "lcn_tf_input_wait_share"} <= {
    line.split("{")[0] for line in (there / "metrics.prom").read_text().splitlines()
  }
